"""Who takes writes and who takes reads, as a proxy's file can say it: from a snapshot, or from nothing.

A file cannot follow lag from one read to the next, so `least-lag` is rendered as equal shares of the fit
replicas; everything else is the policy's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from replctl.core.routing import Fitness, Snapshot
from replctl.core.settings import ClusterSettings, NodeSpec
from replctl.errors import NoPrimary
from replctl.render.rendered import Tenure

_BY_WEIGHT = ("weighted", "zone")
# What a proxy's own check sees as well as we do, where it decides about roles itself.
_SEEN_BY_CHECKS = (Fitness.PRIMARY, Fitness.UNREACHABLE)
_NOT_OF_IT = (Fitness.UNREACHABLE, Fitness.WRONG_CLUSTER)
# What no check sees: nodes that must not be written to, whatever role they show.
_BARRED = (
    Fitness.STALE_PRIMARY,
    Fitness.FENCED,
    Fitness.DIVERGED,
    Fitness.OLDER_HISTORY,
    Fitness.WRONG_CLUSTER,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A node that serves reads. `weight` is its share; those that are `near` come first."""

    name: str
    weight: int
    near: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Roles of one moment. `readers` are sorted by name; none = no replica is fit.

    `spare` then gets the reads (None = nobody). For a proxy that checks roles itself: `checkable` are nodes
    that it may try for reads too, `barred` those that it may not try for writes. `tenure` = on which timeline
    the writer was seen (None = not known).
    """

    writer: str
    readers: tuple[Reader, ...]
    spare: str | None
    checkable: frozenset[str] = frozenset()
    barred: frozenset[str] = frozenset()
    tenure: Tenure | None = None


def from_snapshot(
    settings: ClusterSettings, snapshot: Snapshot, zone: str | None = None, before: Tenure | None = None
) -> Placement:
    """The roles that applications would route by; `before` = what the file says that is to be replaced.

    Raises NoPrimary where nobody provably takes writes.
    """
    if snapshot.writer is None:
        raise NoPrimary(
            snapshot.write.reason.sentence, why=snapshot.write.detail or None, hint="replctl route --explain"
        )
    if before is not None:
        _refuse_replaced(settings, snapshot, snapshot.writer, before)
    fit = {view.name for view in snapshot.nodes if view.fit}
    unfit = snapshot.on_unfit
    if not fit and unfit.replica and unfit.node is not None:
        fit = {unfit.node}
    return Placement(
        writer=snapshot.writer,
        readers=_readers(settings, fit, zone),
        spare=None if fit else unfit.node,
        checkable=frozenset(v.name for v in snapshot.nodes if v.fitness in _SEEN_BY_CHECKS),
        barred=frozenset(v.name for v in snapshot.nodes if v.fitness in _BARRED),
        tenure=Tenure(writer=snapshot.writer, timeline=snapshot.timeline, system=snapshot.system),
    )


def _refuse_replaced(settings: ClusterSettings, snapshot: Snapshot, writer: str, before: Tenure) -> None:
    """Raise NoPrimary for a primary that the file's writer has replaced, or that is of another cluster.

    One look, or a process that has just begun, knows no timeline but those that answer now. The file does:
    on a timeline nobody but its first writer takes writes, and nobody goes back to an older one.
    """
    why = f"the file says that {before}"
    if snapshot.system != before.system:
        # The whole cluster was made anew, as after pg_upgrade; fewer are strangers at some addresses.
        ours = [view for view in snapshot.nodes if view.fitness not in _NOT_OF_IT]
        if 2 * len(ours) >= len(snapshot.nodes):
            return
        what = f"{writer} is of another system, as are too few nodes for a cluster that was made anew"
    else:
        known = {spec.name for spec in settings.nodes}
        stays = writer == before.writer or before.writer not in known
        if snapshot.timeline > before.timeline or (snapshot.timeline == before.timeline and stays):
            return
        what = f"{writer} takes writes on timeline {snapshot.timeline}, and may have been replaced"
    raise NoPrimary(what, why=why, hint=f"if it is the right one: --offline --primary {writer}")


def from_inventory(settings: ClusterSettings, writer: str, zone: str | None = None) -> Placement:
    """The roles where no server is asked: `writer`, and every other node with a weight reads."""
    others = {spec.name for spec in settings.nodes if spec.name != writer and spec.weight > 0}
    spare = None if others or settings.routing.on_all_unfit == "error" else writer
    return Placement(
        writer=writer,
        readers=_readers(settings, others, zone),
        spare=spare,
        checkable=frozenset({writer}),
    )


def near_to(settings: ClusterSettings, placement: Placement, zone: str | None) -> Placement:
    """The same for a proxy that is in this zone."""
    weights = {reader.name: reader.weight for reader in placement.readers}
    readers = _readers(settings, set(weights), zone)
    return replace(placement, readers=tuple(replace(r, weight=weights[r.name]) for r in readers))


def client_host(spec: NodeSpec) -> tuple[str, str]:
    """Where clients and proxies find this node, and the key that says so."""
    return (spec.host, "host") if spec.client_host is None else (spec.client_host, "client_host")


def client_port(spec: NodeSpec) -> tuple[int, str]:
    """The same of its port."""
    return (spec.port, "port") if spec.client_port is None else (spec.client_port, "client_port")


def _readers(settings: ClusterSettings, names: set[str], zone: str | None) -> tuple[Reader, ...]:
    policy = settings.routing.policy
    specs = sorted((spec for spec in settings.nodes if spec.name in names), key=lambda spec: spec.name)
    near = {s.name for s in specs if policy != "zone" or zone is None or s.zone == zone}
    weights = [max(1, spec.weight) if policy in _BY_WEIGHT else 1 for spec in specs]
    divisor = math.gcd(*weights) or 1
    return tuple(
        Reader(name=spec.name, weight=weight // divisor, near=not near or spec.name in near)
        for spec, weight in zip(specs, weights, strict=True)
    )
