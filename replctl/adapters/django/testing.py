"""For an application's own tests: all aliases become the writer's, and replicas can be made to look late.

    with collapsed() as decisions:          # also a decorator
        client.get("/orders/")
    assert decisions[0].replica             # it would have gone to a replica

    with lagging():                         # no replica has replayed what anybody has just written
        client.post("/orders/", …)
        client.get("/orders/")              # goes where `on_behind` says

A test cannot make a replica see an old database inside its own transaction, so reads are decided as in
production and then served by the writer. `TestCase` needs neither: it is one long `atomic`, in which all
goes to the writer; but code under it decides nothing either. In pytest:
`pytest_plugins = ["replctl.adapters.django.pytest_plugin"]`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from django.db import DEFAULT_DB_ALIAS

from replctl.adapters.django.clusters import Cluster, cluster_of
from replctl.adapters.django.errors import as_django
from replctl.core.model import Lsn
from replctl.core.routing import Decision, Need, Scope, Snapshot, decide
from replctl.pg.monitor import refusal

Decide = Callable[[Need, Scope | None], Decision]


@contextlib.contextmanager
def collapsed(writer: str = DEFAULT_DB_ALIAS) -> Iterator[list[Decision]]:
    """Serve all reads by the writer; yields what was decided for each, to be looked at. For all threads."""
    cluster = cluster_of(writer)
    with _standing_in(cluster, cluster.decide) as decisions:
        yield decisions


@contextlib.contextmanager
def lagging(writer: str = DEFAULT_DB_ALIAS) -> Iterator[list[Decision]]:
    """The same, with replicas that are fit but have replayed nothing that anybody has just written."""
    cluster = cluster_of(writer)

    def as_if_behind(need: Need, scope: Scope | None) -> Decision:
        snapshot = _behind(cluster.monitor.snapshot or cluster.monitor.ensure())
        decision = decide(need, scope, snapshot, time.monotonic())
        if decision.node is None:
            raise as_django(refusal(decision))
        return decision

    with _standing_in(cluster, as_if_behind) as decisions:
        yield decisions


@contextlib.contextmanager
def _standing_in(cluster: Cluster, decide_so: Decide) -> Iterator[list[Decision]]:
    decisions: list[Decision] = []

    def collapse(need: Need, scope: Scope | None) -> Decision:
        decision = decide_so(need, scope)
        if not need.write:
            decisions.append(decision)
        return decision

    before = dict(vars(cluster))
    vars(cluster).update(decide=collapse, alias_of=lambda _: cluster.writer)
    try:
        yield decisions
    finally:
        for name in ("decide", "alias_of"):
            del vars(cluster)[name]
        vars(cluster).update({name: before[name] for name in ("decide", "alias_of") if name in before})


def _behind(snapshot: Snapshot) -> Snapshot:
    nothing = tuple(0 for _ in snapshot.ranked_lsns)
    return replace(
        snapshot,
        lsns=tuple(0 for _ in snapshot.lsns),
        floor=0,
        ranked_lsns=nothing,
        unfit_lsn=None if snapshot.unfit_lsn is None else Lsn(0),
    )
