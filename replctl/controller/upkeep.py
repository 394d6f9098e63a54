"""What a controller does while a primary answers: fence stale ones, finish what was left, mind sync."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from replctl.core.model import ClusterState, Lsn, NodeFacts
from replctl.core.quorum import SyncRule, parse_sync_rule, same_rule, sync_name
from replctl.core.settings import ClusterSettings
from replctl.core.situation import is_cut, lost_primary
from replctl.core.status import ClusterStatus, NodeState

SEEN_TWICE_S = 1.0  # what is to be mended has been so for at least this long


@dataclass
class Patience:
    """Since when something has been so without interruption."""

    _since_s: dict[str, float] = field(default_factory=dict)

    def has_lasted(self, what: str, holds: bool, at_s: float, limit_s: float = SEEN_TWICE_S) -> bool:
        """Whether it holds, and has held at every call for `limit_s`."""
        if not holds:
            self._since_s.pop(what, None)
            return False
        return at_s - self._since_s.setdefault(what, at_s) >= limit_s


def stale_primaries(seen: ClusterStatus) -> tuple[str, ...]:
    """Nodes that accept writes on an older timeline than the primary's.

    One to which a quorum still streams was not replaced: somebody has promoted another node by hand.
    """
    rule = _rule(seen.settings)
    stale = [n for n in seen.nodes if n.state is NodeState.STALE_PRIMARY and n.facts is not None]
    return tuple(
        n.name
        for n in stale
        if rule is None or n.facts is None or confirming(n.facts, rule) < rule.confirmations
    )


def unfinished(state: ClusterState, settings: ClusterSettings, primary: str) -> bool:
    """Whether a run was left in the middle: cut replicas, or some that follow a primary that was replaced."""
    lost = lost_primary(state, settings)
    if lost == primary or all(f.node != primary for f in state.facts):
        return False
    if lost is None:
        return any(is_cut(f) and _streamed_once(f) for f in state.facts)
    return True


def _streamed_once(facts: NodeFacts) -> bool:
    """Not a replica that is fed from an archive and never had an upstream: a cut leaves its slot."""
    return not facts.settings.get("restore_command") or facts.primary_slot_name is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncShort:
    """Fewer replicas stream to the primary than have to confirm a commit."""

    wanted: str  # what the inventory says
    instead: str  # what can be satisfied now; "" = nobody confirms
    streaming: int
    needed: int


def sync_short(seen: ClusterStatus) -> SyncShort | None:
    """Whether commits wait for replicas that are not there; None where all is well or not known."""
    settings, primary = seen.settings, seen.primary_node
    rule = _rule(settings)
    if rule is None or primary is None or primary.facts is None or not primary.facts.monitor_privilege:
        return None
    if not same_rule(primary.facts.synchronous_standby_names or "", settings.failover.synchronous or ""):
        return None
    count = confirming(primary.facts, rule)
    if count >= rule.confirmations:
        return None
    names = ", ".join("*" if m == "*" else sync_name(m) for m in rule.members)
    instead = f"{rule.method} {count} ({names})" if count else ""
    return SyncShort(
        wanted=settings.failover.synchronous or "",
        instead=instead,
        streaming=count,
        needed=rule.confirmations,
    )


def sync_restorable(seen: ClusterStatus) -> bool:
    """Whether enough replicas stream again for what the inventory says."""
    rule, primary = _rule(seen.settings), seen.primary_node
    return (
        rule is not None
        and primary is not None
        and primary.facts is not None
        and (confirming(primary.facts, rule) >= rule.confirmations)
    )


def sync_is_restored(seen: ClusterStatus) -> bool:
    """Whether the primary has the rule of the inventory."""
    primary, wanted = seen.primary_node, seen.settings.failover.synchronous
    return (
        primary is not None
        and primary.facts is not None
        and same_rule(primary.facts.synchronous_standby_names, wanted) is True
    )


def flushed_by_enough(seen: ClusterStatus, lsn: Lsn) -> bool:
    """Whether as many members as the inventory says have the WAL up to there.

    Before, a commit of the time when fewer confirmed may be on fewer: the cuts of a failover would not
    prove that it is found.
    """
    rule, primary = _rule(seen.settings), seen.primary_node
    if rule is None or primary is None or primary.facts is None:
        return False
    members = {m.lower() for m in rule.members}
    names = {
        s.application_name.lower()
        for s in primary.facts.senders
        if s.flush_lsn is not None and s.flush_lsn >= lsn
    }
    return len(names & members) >= rule.confirmations


def confirming(primary: NodeFacts, rule: SyncRule) -> int:
    """How many members of the rule stream from this primary."""
    members = {m.lower() for m in rule.members}
    names = {s.application_name.lower() for s in primary.senders if s.state == "streaming"}
    return len(names & members)


def _rule(settings: ClusterSettings) -> SyncRule | None:
    try:
        return parse_sync_rule(settings.failover.synchronous or "")
    except ValueError:
        return None


def block_mark(lost: str | None, block_s: float) -> dict[str, object]:
    """The mark that keeps a second automatic failover from following the first at once."""
    now = time.time()
    reason = f"{lost or 'the primary'} was replaced"
    return {"reason": reason, "since_at": now, "until_at": now + block_s}
