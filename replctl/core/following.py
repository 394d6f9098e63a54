"""What remains when there is a new primary: slots, upstreams, the control file."""

from __future__ import annotations

from replctl.core.evidence import require_votes
from replctl.core.model import NodeFacts
from replctl.core.refusals import Reason
from replctl.core.rivals import rival_of
from replctl.core.situation import Situation
from replctl.core.steps import Checkpoint, CreateSlot, Repoint, Step
from replctl.core.topology import upstream_of


def next_following(situation: Situation, primary: NodeFacts) -> Step | Reason | None:
    """Slots and upstreams of the others, then the control file. Upstreams are changed under the votes only:
    another controller may be cutting the same replicas.
    """
    spec = situation.settings
    followers = [f for f in situation.replicas if _should_follow(situation, f, primary)]
    astray = [f for f in followers if not Repoint(f.node, primary.node).done(situation)]
    for facts in astray:
        if (reason := rival_of(situation, primary, facts)) is not None:
            return reason
    if astray and (votes := require_votes(situation)) is not None:
        return votes
    for facts in astray:
        slot = spec.slot_name(facts.node)
        if slot is not None and not CreateSlot(primary.node, slot).done(situation):
            return CreateSlot(primary.node, slot)
    for facts in astray:
        return Repoint(facts.node, primary.node)
    checkpoint = Checkpoint(primary.node)
    return None if checkpoint.done(situation) else checkpoint


def _should_follow(situation: Situation, facts: NodeFacts, primary: NodeFacts) -> bool:
    """Replicas that lost their upstream. A cascade stays below its own; one that is ahead needs a rewind."""
    upstream = upstream_of(facts, situation.state, situation.settings)
    names = {n.name for n in situation.settings.nodes}
    if upstream in names - {situation.request.lost, primary.node}:
        return False
    return not is_past_fork(situation, facts, primary)


def is_past_fork(situation: Situation, facts: NodeFacts, primary: NodeFacts) -> bool:
    """Whether it has replayed WAL of its timeline from after the point where the new one began.

    Received is not replayed: the beginning of a record that the lost primary never finished lies behind
    the fork on every replica, and hinders none.
    """
    if facts.timeline is None or facts.timeline == primary.timeline or facts.replayed_lsn is None:
        return False
    fork_lsn = situation.forks.get(facts.timeline)
    return fork_lsn is not None and facts.replayed_lsn > fork_lsn
