"""How far a replica is behind: bytes from two positions, seconds from the history of the primary's.

Seconds are not read from the servers. `now() - pg_last_xact_replay_timestamp()` grows on an idle primary,
`receive = replay` says zero on a replica that is cut off, and `replay_lag` stops when traffic does. What
holds in all these cases: remember when the primary passed which position; the lag of a replica is the
time since the primary first passed the position the replica has replayed. It needs no server's clock.

Negative bytes are not noise when replicas are sampled before their primary: such a replica is ahead, so
its history is another one. Nothing is clamped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from replctl.core.model import ClusterState, Lsn, NodeFacts, Sender

MARKS_MAX = 2000
POINTS_MAX = 120
COARSE_GAP_S = 5.0  # a longer sampling interval than this makes a value a bound, not exact
SPARSE_GAP_S = 600.0  # looks further apart than this tell nothing about the time between them
TREND_S = 10.0  # a trend that turns is believed after so long; one taken over less is jitter
OVERLAP_S = 3.0  # looks of several processes that share a history come in out of order by less than this
NEAR_CLOCK_S = 1.0  # a clock further from ours than this makes the time of a commit worthless
WAITS_FOR_WAL = "RecoveryWalStream"  # the startup process has replayed all that was received


class LagSource(StrEnum):
    """Where a number of seconds comes from, best first."""

    CAUGHT_UP = "caught_up"
    HISTORY = "history"
    PROBE = "probe"
    REPLAY_LAG = "replay_lag"
    LAST_XACT = "last_xact"


class LagBound(StrEnum):
    """What a number of seconds is: the lag itself, or the least or the most that it can be."""

    EXACT = "exact"
    LOWER = "lower"
    UPPER = "upper"


@dataclass(frozen=True, slots=True)
class Seconds:
    """Lag in seconds with its source. `value_s` None = not known."""

    value_s: float | None = None
    source: LagSource | None = None
    bound: LagBound | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """The primary was seen at `lsn` from `first_at` to `last_at` (our Unix time)."""

    first_at: float
    last_at: float
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class Point:
    """One replica at one look."""

    at: float
    replayed_lsn: Lsn
    lag_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LagHistory:
    """The primary's positions over time, and each replica's recent points. `record` returns another."""

    origin: tuple[str, str, int] | None = None  # system identifier, node, timeline of the primary
    marks: tuple[Mark, ...] = ()
    points: dict[str, tuple[Point, ...]] = field(default_factory=dict)

    def record(self, primary: NodeFacts | None, at: float, points: dict[str, Point]) -> LagHistory:
        """Add one look. A new primary, a new timeline or a clock that went back starts afresh."""
        kept = self
        if primary is not None and primary.write_lsn is not None and primary.timeline is not None:
            origin = (primary.system_identifier, primary.node, primary.timeline)
            mark = Mark(at, at, primary.write_lsn)
            if origin != self.origin or (self.marks and not _follows(self.marks[-1], mark)):
                kept = LagHistory(origin=origin)
            kept = replace(kept, marks=_appended(kept.marks, mark))
        joined = {
            name: (*kept.points.get(name, ())[-(POINTS_MAX - 1) :], point) for name, point in points.items()
        }
        return replace(kept, points={**kept.points, **joined})

    def seconds_behind(self, replayed_lsn: Lsn, at: float) -> Seconds:
        """Time since the primary first passed `replayed_lsn`, at time `at`; unknown without marks.

        Between two marks the moment is interpolated. A replica exactly at the earlier one is behind by
        what came later, at a moment nobody saw. Seen just now, that may be no time at all; a replica that
        was still there after the later mark is taken to have been passed half way between them.
        """
        if not self.marks:
            return Seconds()
        if replayed_lsn < self.marks[0].lsn:
            return Seconds(max(0.0, at - self.marks[0].first_at), LagSource.HISTORY, LagBound.LOWER)
        for before, after in zip(reversed(self.marks[:-1]), reversed(self.marks[1:]), strict=True):
            if before.lsn <= replayed_lsn < after.lsn:
                gap_s = after.first_at - before.last_at
                if replayed_lsn == before.lsn or gap_s > SPARSE_GAP_S:
                    fine = gap_s <= COARSE_GAP_S
                    passed_at = after.first_at - (gap_s / 2 if fine and at > after.first_at else 0.0)
                    bound = LagBound.EXACT if fine else LagBound.LOWER
                else:
                    share = (replayed_lsn - before.lsn) / (after.lsn - before.lsn)
                    passed_at = before.last_at + share * gap_s
                    bound = LagBound.EXACT
                return Seconds(max(0.0, at - passed_at), LagSource.HISTORY, bound)
        return Seconds(0.0, LagSource.CAUGHT_UP, LagBound.EXACT)  # at or past the newest mark

    def advanced_since(self, node: str, replayed_lsn: Lsn, at: float, within_s: float) -> bool | None:
        """Whether the node replayed anything in the last `within_s`, or since it was last looked at.

        None with nothing to compare.
        """
        points = self.points.get(node, ())
        earlier = [p for p in points if p.at >= at - within_s] or points[-1:]
        return replayed_lsn > earlier[0].replayed_lsn if earlier else None

    def trend_bytes_per_s(self, node: str, window_s: float = TREND_S) -> float | None:
        """How fast the lag grows (or, negative, shrinks): a least-squares slope over the last points.

        Where looks are further apart than `window_s`, as from cron, over the last two.
        """
        known = [p for p in self.points.get(node, ()) if p.lag_bytes is not None]
        recent = [p for p in known if p.at >= known[-1].at - window_s]
        if len(recent) < 2:
            recent = [p for p in known[-2:] if p.at >= known[-1].at - SPARSE_GAP_S]
        if len(recent) < 2:
            return None
        mean_at = sum(p.at for p in recent) / len(recent)
        mean_lag = sum(p.lag_bytes or 0 for p in recent) / len(recent)
        spread = sum((p.at - mean_at) ** 2 for p in recent)
        if spread == 0:
            return None
        return sum((p.at - mean_at) * ((p.lag_bytes or 0) - mean_lag) for p in recent) / spread


def _follows(last: Mark, mark: Mark) -> bool:
    """Whether a look can belong to the same history as the last one.

    Another process may have looked and written its mark between our look and our reading of the history.
    """
    if mark.first_at >= last.last_at:
        return mark.lsn >= last.lsn
    return mark.first_at >= last.last_at - OVERLAP_S


def _appended(marks: tuple[Mark, ...], mark: Mark) -> tuple[Mark, ...]:
    """Add a mark. An unchanged position only stretches the last one; an earlier one is known already."""
    if not marks:
        return (mark,)
    last = marks[-1]
    if mark.lsn < last.lsn:
        return marks
    at = max(mark.last_at, last.last_at)
    if mark.lsn == last.lsn:
        return (*marks[:-1], replace(last, last_at=at))
    return (*thinned(marks), Mark(at, at, mark.lsn))


def thinned(marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """Fewer than MARKS_MAX: at the limit the older half loses every second mark, so the oldest go far back.

    The times when the primary stood still are kept: between two marks it is taken to write steadily.
    """
    while len(marks) >= MARKS_MAX:
        middle = len(marks) // 2
        older = tuple(
            m for i, m in enumerate(marks[:middle]) if i % 2 == 0 or m.last_at - m.first_at > COARSE_GAP_S
        )
        if len(older) == middle:  # it stood still most of the time
            older = older[middle // 4 :]
        marks = (*older, *marks[middle:])
    return marks


@dataclass(frozen=True, slots=True)
class Reference:
    """What replicas are measured against: the primary's position, or the last that anybody heard of it."""

    lsn: Lsn
    flush_lsn: Lsn | None
    is_live: bool  # False: the primary did not answer, so every lag is at least this much


def reference(primary: NodeFacts | None, state: ClusterState, history: LagHistory) -> Reference | None:
    """The primary's write LSN; without it the greatest that a receiver was told, or that was recorded."""
    if primary is not None and primary.write_lsn is not None:
        return Reference(primary.write_lsn, primary.flush_lsn, True)
    heard = [f.receiver.latest_end_lsn for f in state.facts if f.receiver and f.receiver.latest_end_lsn]
    heard += [f.received_lsn for f in state.facts if f.received_lsn is not None]
    if history.marks:
        heard.append(history.marks[-1].lsn)
    return Reference(max(heard), None, False) if heard else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """The three byte lags and the seconds of one replica."""

    lag_bytes: int | None = None
    transport_lag_bytes: int | None = None
    apply_lag_bytes: int | None = None
    seconds: Seconds = field(default_factory=Seconds)


def measure(
    replica: NodeFacts, sender: Sender | None, against: Reference | None, history: LagHistory, at: float
) -> Lag:
    """All lags of one replica. `at` is when it was sampled, on the history's clock."""
    replayed, received = replica.replayed_lsn, replica.received_lsn
    if replayed is None:
        return Lag()
    apply_lag = None if received is None else received - replayed
    if against is None:
        return Lag(apply_lag_bytes=apply_lag)
    lag_bytes = against.lsn - replayed
    return Lag(
        lag_bytes=lag_bytes,
        transport_lag_bytes=None if received is None else against.lsn - received,
        apply_lag_bytes=apply_lag,
        seconds=_seconds(replica, sender, against, history, at, lag_bytes),
    )


def _seconds(
    replica: NodeFacts,
    sender: Sender | None,
    against: Reference,
    history: LagHistory,
    at: float,
    lag_bytes: int,
) -> Seconds:
    """The best known source: caught up, history, replay_lag, last transaction, nothing."""
    live = LagBound.EXACT if against.is_live else LagBound.LOWER
    if lag_bytes == 0 or _is_residue(replica, against, lag_bytes):
        return Seconds(0.0, LagSource.CAUGHT_UP, live)
    if lag_bytes < 0 or replica.replayed_lsn is None:
        return Seconds()  # ahead: it is not behind, and not of this history
    found = history.seconds_behind(replica.replayed_lsn, at)
    if not against.is_live and found.value_s is not None:
        found = Seconds(found.value_s, LagSource.HISTORY, LagBound.LOWER)
    # A history that begins just now knows only "at least 0 s", which the servers' own estimates beat.
    if found.value_s is not None and (found.bound is LagBound.EXACT or found.value_s >= 1.0):
        return found
    said = _said_by_servers(replica, sender)
    return found if said.value_s is None and found.value_s else said


def _said_by_servers(replica: NodeFacts, sender: Sender | None) -> Seconds:
    """What is left without a history: replay_lag as the least, the age of the last commit as the most.

    replay_lag is as old as the replica's last reply, so it may be of a time when the replica was further
    behind: what exceeds the most that it can be now is no lower bound.
    """
    most_s = None
    if replica.last_replayed_xact_age_s is not None and abs(replica.clock_skew_s or 0.0) < NEAR_CLOCK_S:
        most_s = max(0.0, replica.last_replayed_xact_age_s)
    least_s = sender.replay_lag_s if sender is not None else None
    if least_s is not None and (most_s is None or least_s <= most_s + NEAR_CLOCK_S):
        return Seconds(least_s, LagSource.REPLAY_LAG, LagBound.LOWER)
    if most_s is not None:
        return Seconds(most_s, LagSource.LAST_XACT, LagBound.UPPER)
    return Seconds()


def _is_residue(replica: NodeFacts, against: Reference, lag_bytes: int) -> bool:
    """Whether all that lacks is the beginning of a record that the primary has not finished.

    The walsender ships up to a WAL page boundary, so during an open transaction a replica that has
    everything cannot replay the last, incomplete record. Then its startup process waits for more WAL.
    Where that cannot be seen, the position tells: at a page boundary, less than two pages; but not of a
    replica that holds back what it could replay.
    """
    # What is written and not yet flushed is not sent to anybody, and no commit of it is acknowledged.
    sendable = against.lsn if against.flush_lsn is None else against.flush_lsn
    if replica.received_lsn is None or replica.received_lsn < sendable or lag_bytes <= 0:
        return False
    if replica.startup_wait_event is not None:
        return replica.startup_wait_event == WAITS_FOR_WAL
    if replica.replay_pause != "not paused" or replica.apply_delay_s:
        return False
    block_bytes = int(replica.settings.get("wal_block_size", "8192"))
    at_boundary = against.flush_lsn is not None and against.flush_lsn % block_bytes == 0
    return at_boundary and lag_bytes < 2 * block_bytes
