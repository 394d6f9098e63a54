"""What a controller finds to do while a primary answers: fence stale ones, finish what was left."""

from __future__ import annotations

import time

from replctl.controller.sync import confirming, rule_of
from replctl.core.model import ClusterState, NodeFacts
from replctl.core.settings import ClusterSettings
from replctl.core.situation import is_cut, lost_primary
from replctl.core.status import ClusterStatus, NodeState, NodeStatus


def stale_primaries(seen: ClusterStatus) -> tuple[str, ...]:
    """Nodes that accept writes on an older timeline than the primary's, and were replaced by it."""
    disputed = disputing(seen)
    return tuple(n.name for n in _older(seen) if n.name not in disputed)


def disputing(seen: ClusterStatus) -> tuple[str, ...]:
    """Nodes that accept writes on an older timeline, but were never replaced: another was promoted by hand.

    A quorum still streams from them or, without a rule, more replicas than from the newer one. Which of the
    two is right is not for a controller to say.
    """
    rule, newest = rule_of(seen.settings), seen.primary_node
    followed = _followers(newest, seen.settings) if newest is not None else 0
    return tuple(
        n.name
        for n in _older(seen)
        if n.facts is not None
        and (
            confirming(n.facts, rule) >= rule.confirmations
            if rule is not None
            else _followers(n, seen.settings) > followed
        )
    )


def _older(seen: ClusterStatus) -> list[NodeStatus]:
    return [n for n in seen.nodes if n.state is NodeState.STALE_PRIMARY and n.facts is not None]


def _followers(node: NodeStatus, settings: ClusterSettings) -> int:
    """How many nodes of the inventory stream from this one."""
    names = {n.application_name for n in settings.nodes}
    senders = node.facts.senders if node.facts is not None else ()
    return sum(s.state == "streaming" and s.application_name in names for s in senders)


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


def block_mark(lost: str | None, block_s: float) -> dict[str, object]:
    """The mark that keeps a second automatic failover from following the first at once."""
    now = time.time()
    reason = f"{lost or 'the primary'} was replaced"
    return {"reason": reason, "since_at": now, "until_at": now + block_s}
