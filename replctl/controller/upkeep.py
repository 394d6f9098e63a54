"""What a controller does while a primary answers: fence stale ones, finish what was left, mind sync."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from replctl.core.model import ClusterState, NodeFacts
from replctl.core.quorum import SyncRule, parse_sync_rule, same_rule, sync_name
from replctl.core.report import Report
from replctl.core.settings import ClusterSettings
from replctl.core.situation import is_cut, lost_primary
from replctl.core.status import NodeState

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


def stale_primaries(seen: Report) -> tuple[str, ...]:
    """Nodes that accept writes on an older timeline than the primary's."""
    return tuple(n.name for n in seen.status.nodes if n.state is NodeState.STALE_PRIMARY)


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


def sync_short(seen: Report) -> SyncShort | None:
    """Whether commits wait for replicas that are not there; None where all is well or not known."""
    settings, primary = seen.status.settings, seen.status.primary_node
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


def sync_restorable(seen: Report) -> bool:
    """Whether enough replicas stream again for what the inventory says."""
    rule, primary = _rule(seen.status.settings), seen.status.primary_node
    return (
        rule is not None
        and primary is not None
        and primary.facts is not None
        and (confirming(primary.facts, rule) >= rule.confirmations)
    )


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
