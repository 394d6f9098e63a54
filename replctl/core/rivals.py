"""What another run may have done that cannot be seen: above all, promoted a node that does not answer.

Votes keep two runs apart only while both last: a run that has promoted gives them back, and one that dies
leaves none. What outlives it are its traces on replicas. So a run that finds such traces promotes nobody
before the silent nodes have answered; nor does an automatic one that sees too few replicas to be sure of
finding them. A person who runs it knows more, and sees in the ranking who is silent.
"""

from __future__ import annotations

from replctl.core.evidence import connected_to_lost
from replctl.core.model import NodeFacts
from replctl.core.refusals import Reason, RefusalCode
from replctl.core.situation import Situation, is_cut
from replctl.core.topology import upstream_of


def rival(situation: Situation) -> Reason | None:
    """Why a silent node may have been promoted already; None where that is ruled out."""
    silent = _silent(situation, situation.request.lost)
    if not silent:
        return None
    left = [f.node for f in situation.replicas if is_cut(f) and f.node not in situation.own_cuts]
    if left:
        return _reason(silent, f"somebody has cut {', '.join(left)}, and left it so")
    for facts in situation.replicas:
        if (upstream := upstream_of(facts, situation.state, situation.settings)) in silent:
            return _reason([upstream], f"somebody has made {facts.node} follow it")
    # Whoever promotes cuts every replica that votes for him. Has each majority one that we see?
    voters = [v for v in situation.voters if v != situation.request.lost]
    unseen = [v for v in voters if v not in {f.node for f in situation.replicas}]
    if situation.request.automatic and len(unseen) >= situation.majority:
        return _reason(
            silent, f"the votes of {', '.join(unseen)} are enough for that, and would leave no trace"
        )
    return None


def unseen_promotion(situation: Situation) -> Reason | None:
    """Why the lost primary itself may have been promoted out of our sight, in place of another silent node.

    Replicas that were given to it and never heard from it are still on the timeline before: whoever of
    them is promoted begins a second one of the same number. A controller that has seen it as the primary
    knows better, and so does one that finds a replica still connected to it, before it cuts that.
    """
    lost = situation.request.lost
    before = sorted(situation.silent - {lost} - situation.request.fenced - situation.watched)
    known = situation.lost_timeline is not None or situation.silence_proven or situation.own_cuts
    if not situation.request.automatic or lost is None or not before or known or connected_to_lost(situation):
        return None
    return Reason(
        code=RefusalCode.MAY_BE_PROMOTED,
        message=f"{lost} was not seen while it was the primary, and may have been promoted in place of"
        f" {' or '.join(before)}: then it is on a newer timeline than any replica that answers",
        remedy=f"bring {lost} or {before[0]} back; or look at both, and run replctl failover",
    )


def rival_of(situation: Situation, primary: NodeFacts, replica: NodeFacts) -> Reason | None:
    """Why a cut replica is not given to this primary: it may have been cut in favour of a silent node."""
    is_ours = replica.node in situation.own_cuts or replica.timeline != primary.timeline
    silent = [] if is_ours or not is_cut(replica) else _silent(situation, primary.node)
    if not silent:
        return None
    return _reason(silent, f"somebody has cut {replica.node} from its upstream, and left it so")


def _silent(situation: Situation, lost: str | None) -> list[str]:
    """Nodes that do not answer, and could have been promoted since they were seen last."""
    off = {lost, *situation.request.fenced, *situation.watched}
    return [n for n in sorted(situation.silent) if n not in off and situation.spec(n).promote != "never"]


def _reason(silent: list[str], why: str) -> Reason:
    return Reason(
        code=RefusalCode.MAY_BE_PROMOTED,
        message=f"{' and '.join(silent)} may have been promoted, and cannot be asked: {why}",
        remedy=f"bring {silent[0]} back; if it is off: replctl failover --fenced {silent[0]}",
    )
