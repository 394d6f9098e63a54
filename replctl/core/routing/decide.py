"""Which node serves this need, and why. No I/O, no clock, no lock; about a microsecond."""

from __future__ import annotations

from dataclasses import dataclass

from replctl.core.model import Lsn
from replctl.core.routing.decision import Decision
from replctl.core.routing.reasons import Reason
from replctl.core.routing.scope import Scope
from replctl.core.routing.snapshot import Snapshot
from replctl.core.routing.token import Position, later

PROBES = 4
"""Slots of the wheel that are tried before the replicas that have replayed enough are looked up."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a caller wants: to write, or to read; `after` = having seen this position."""

    write: bool = False
    after: Position | None = None


WRITE = Need(write=True)
READ = Need()


def read_after(position: Position | None) -> Need:
    """The need to read what includes this position."""
    return READ if position is None else Need(after=position)


def decide(need: Need, scope: Scope | None, snapshot: Snapshot, now_s: float) -> Decision:
    """Where this need goes. `scope` None = outside of any unit of work: nothing is known that must be seen.

    `now_s` is of the clock of `snapshot.taken_s`. The decision may be nowhere; it never is a guess.
    """
    after = need.after
    if scope is not None and scope.after is not None:
        after = later(after, scope.after)
    if after is not None and after.timeline > snapshot.timeline and after.system == snapshot.system:
        # Somebody has seen a primary that is newer than ours, so ours must not be written to, or believed.
        return Decision(None, Reason.TIMELINE_AHEAD, detail=_ahead(after, snapshot))
    if need.write:
        return snapshot.write
    if scope is not None:
        if scope.forced:
            return snapshot.primary[Reason.FORCED]
        if scope.writes > scope.positioned:
            return snapshot.primary[Reason.WROTE]
        if scope.sticky_until_s > now_s:
            return snapshot.primary[Reason.STICKY_WINDOW]
    if now_s > snapshot.stale_at_s:
        return snapshot.on_stale if after is None else snapshot.primary[Reason.SNAPSHOT_STALE]
    if scope is not None and scope.last_read is not None:
        return _same_node(scope.last_read, after, snapshot)
    wheel = snapshot.wheel
    if after is not None:
        required = snapshot.required(after)
        if required is None:
            return snapshot.primary[Reason.OTHER_CLUSTER]
        if not wheel or required > snapshot.floor:
            return _among_those_that_reached(required, snapshot)
    return wheel[next(snapshot.turns) % len(wheel)] if wheel else snapshot.on_unfit


def _ahead(after: Position, snapshot: Snapshot) -> str:
    return f"the token is of timeline {after.timeline}, the newest seen here is {snapshot.timeline}"


def _same_node(node: str, after: Position | None, snapshot: Snapshot) -> Decision:
    """Monotonic reads: the same replica never goes back, and the primary is behind nobody."""
    required = 0 if after is None else snapshot.required(after)
    if required is not None:
        for decision, lsn in zip(snapshot.ranked, snapshot.ranked_lsns, strict=True):
            if decision.node == node and lsn >= required:
                return Decision(node, Reason.MONOTONIC, replica=True)
    return snapshot.primary[Reason.MONOTONIC]


def _among_those_that_reached(required: int, snapshot: Snapshot) -> Decision:
    """A fit replica that has replayed enough, by the wheel where it has one soon; else `on_behind`."""
    reached = snapshot.reached(required)
    if not reached:
        # Takes no turn: whoever reads in a pattern would otherwise meet the same replica every time.
        return _behind(required, snapshot)
    wheel, lsns, turn = snapshot.wheel, snapshot.lsns, next(snapshot.turns)
    for slot in range(turn, turn + min(PROBES, len(wheel))):
        if lsns[slot % len(wheel)] >= required:
            return wheel[slot % len(wheel)]
    return snapshot.ranked[-1 - turn % reached]


def _behind(required: int, snapshot: Snapshot) -> Decision:
    """No fit replica has replayed enough."""
    if not snapshot.wheel:
        unfit = snapshot.on_unfit
        enough = not unfit.replica or (snapshot.unfit_lsn or 0) >= required
        return unfit if enough else snapshot.primary[Reason.LSN_BEHIND]
    if snapshot.on_behind == "wait":
        best = snapshot.ranked[-1]
        return best._replace(reason=Reason.LSN_WAIT, wait_lsn=Lsn(required), wait_s=snapshot.wait_s)
    if snapshot.on_behind == "stale":
        return snapshot.ranked[-1]._replace(reason=Reason.LSN_STALE)
    if snapshot.on_behind == "error":
        return Decision(None, Reason.LSN_BEHIND, detail="no fit replica has replayed it")
    return snapshot.primary[Reason.LSN_BEHIND]
