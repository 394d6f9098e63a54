"""What decisions are made from: one look and all before it, made ready so that a decision is an index.

Immutable, and replaced as a whole. Only `turns` moves: a counter that all snapshots of a process share, so
that a new one goes on where the last one was. Taking the next number of it needs no lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from replctl.core.model import Lsn
from replctl.core.routing.decision import Decision
from replctl.core.routing.policies import POLICIES, Candidate
from replctl.core.routing.pool import Memory
from replctl.core.routing.reasons import SOFT, Fitness, Reason
from replctl.core.routing.token import Position, fingerprint
from replctl.core.settings import ClusterSettings
from replctl.core.status import ClusterStatus, NodeStatus

STICKY_LAG_FACTOR = 2.0
"""The sticky window is at least this many times the lag of the replicas that serve reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node as routing sees it. `fit` = it serves reads as a replica."""

    name: str
    fit: bool
    fitness: Fitness
    reason: str  # the same as a sentence
    zone: str | None = None
    weight: int = 100
    timeline: int | None = None
    replayed_lsn: Lsn | None = None
    lag_bytes: int | None = None
    lag_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything `decide` needs. Times are seconds of the monotonic clock of whoever looks."""

    taken_s: float
    stale_at_s: float  # from then on it says nothing of any replica
    system: str  # fingerprint; "" = unknown
    timeline: int  # the newest one seen; 0 = unknown
    writer: str | None
    nodes: tuple[NodeView, ...]
    write: Decision
    primary: dict[Reason, Decision] = field(repr=False)  # to the primary for this reason, or nowhere
    wheel: tuple[Decision, ...]  # what reads take in turn
    lsns: tuple[int, ...]  # how far each slot of the wheel had replayed
    floor: int  # the least of them
    ranked: tuple[Decision, ...]  # every fit replica, the most advanced last
    ranked_lsns: tuple[int, ...]
    on_unfit: Decision
    unfit_lsn: int | None  # how far the replica of `on_unfit` had replayed
    on_stale: Decision
    on_behind: str
    wait_s: float
    sticky_s: float
    began_by: Lsn | None  # the newest timeline began no later than here
    turns: Iterator[int]

    def required(self, after: Position) -> int | None:
        """The LSN that a node of the newest timeline must have replayed; None where no replica can tell.

        Of an older timeline nothing is left beyond the point where the newest one left it, so a token of
        such WAL asks for no more than that.
        """
        if after.system != self.system or after.timeline > self.timeline:
            return None
        if after.timeline == self.timeline or self.began_by is None:
            return after.lsn
        return min(after.lsn, self.began_by)

    def reached(self, required: int) -> int:
        """How many fit replicas have replayed this far; they are the last ones of `ranked`."""
        return len(self.ranked) - bisect_left(self.ranked_lsns, required)


def make_snapshot(
    memory: Memory,
    status: ClusterStatus,
    write: Decision,
    *,
    turns: Iterator[int],
    taken_s: float,
    stale_at_s: float,
    zone: str | None = None,
) -> Snapshot:
    """The snapshot after the look that made `memory` and chose who is to `write`."""
    settings = status.settings
    routing = settings.routing
    views = tuple(_view(settings, memory, node) for node in status.nodes)
    if write.node is None:
        write = write._replace(detail=_detail(views))
    primary = {r: write if write.node is None else write._replace(reason=r) for r in Reason}
    fit = [_candidate(view) for view in views if view.fit]
    chosen = POLICIES[routing.policy](fit, zone)
    reasons = {candidate.name: reason for candidate, reason in chosen}
    elsewhere = Reason.OTHER_ZONE if routing.policy == "zone" else next(iter(reasons.values()), Reason.ZONE)
    ranked = sorted(fit, key=lambda c: c.replayed_lsn)
    on_unfit, unfit_lsn = _on_unfit(views, settings, primary)
    return Snapshot(
        taken_s=taken_s,
        stale_at_s=stale_at_s,
        system=fingerprint(memory.system) if memory.system else "",
        timeline=memory.newest,
        writer=write.node,
        nodes=views,
        write=write,
        primary=primary,
        wheel=tuple(Decision(c.name, reason, replica=True) for c, reason in chosen),
        lsns=tuple(c.replayed_lsn for c, _ in chosen),
        floor=min((c.replayed_lsn for c, _ in chosen), default=0),
        ranked=tuple(Decision(c.name, reasons.get(c.name, elsewhere), replica=True) for c in ranked),
        ranked_lsns=tuple(c.replayed_lsn for c in ranked),
        on_unfit=on_unfit,
        unfit_lsn=unfit_lsn,
        on_stale=(
            Decision(None, Reason.SNAPSHOT_STALE, detail=_detail(views))
            if routing.on_all_unfit == "error"
            else primary[Reason.SNAPSHOT_STALE]
        ),
        on_behind=routing.on_behind,
        wait_s=routing.wait_s,
        sticky_s=max([routing.sticky_s, *(STICKY_LAG_FACTOR * (v.lag_s or 0.0) for v in views if v.fit)]),
        began_by=memory.began_by,
        turns=turns,
    )


def _view(settings: ClusterSettings, memory: Memory, node: NodeStatus) -> NodeView:
    member = memory.members.get(node.name)
    fitness = Fitness.UNREACHABLE if member is None else member.fitness
    spec = settings.node(node.name)
    if member is not None and member.fitness not in (Fitness.PRIMARY, Fitness.UNREACHABLE):
        if node.name in memory.drained:
            fitness = Fitness.DRAINED
        elif spec.weight == 0:
            fitness = Fitness.WEIGHT_ZERO
    fit = member is not None and member.in_pool and fitness in (Fitness.FIT, Fitness.SUSPECT)
    why = fitness.sentence
    if not node.reachable and node.message is not None:
        why = f"{why}: {node.cause} ({node.message})"
    return NodeView(
        name=node.name,
        # A suspect's last look may not have told them.
        fit=fit and node.replayed_lsn is not None and node.lag.lag_bytes is not None,
        fitness=fitness,
        reason=why,
        zone=spec.zone,
        weight=spec.weight,
        timeline=node.timeline,
        replayed_lsn=node.replayed_lsn,
        lag_bytes=node.lag.lag_bytes,
        lag_s=node.lag_s,
    )


def _candidate(view: NodeView) -> Candidate:
    assert view.replayed_lsn is not None
    assert view.lag_bytes is not None
    return Candidate(
        name=view.name,
        zone=view.zone,
        weight=view.weight,
        lag_bytes=view.lag_bytes,
        replayed_lsn=view.replayed_lsn,
    )


def _on_unfit(
    views: tuple[NodeView, ...], settings: ClusterSettings, primary: dict[Reason, Decision]
) -> tuple[Decision, int | None]:
    """Where reads go when no replica is fit, and how far that one had replayed."""
    policy = settings.routing.on_all_unfit
    usable = (Fitness.PROBATION, Fitness.HELD, *SOFT)
    behind = [v for v in views if v.fitness in usable and v.replayed_lsn is not None]
    known = [v for v in behind if v.lag_bytes is not None]
    never = (Fitness.PRIMARY, Fitness.WEIGHT_ZERO, Fitness.DELAYED, Fitness.FENCED)
    reason = Reason.NO_REPLICA if all(v.fitness in never for v in views) else Reason.ALL_UNFIT
    if policy == "error":
        return Decision(None, reason, detail=_detail(views)), None
    if policy == "least-lag" and known:
        least = min(known, key=lambda v: (v.lag_bytes or 0, v.name))
        return Decision(least.name, reason, replica=True), least.replayed_lsn
    return primary[reason], None


def _detail(views: tuple[NodeView, ...]) -> str:
    return "; ".join(f"{v.name} {v.reason}" for v in views) or "the inventory has no nodes"
