"""Which replicas are cut off from the lost primary, by what means, and whether that proves anything."""

from __future__ import annotations

from replctl.core.candidates import is_orphan, is_proof, newest_line, position_of, rank, strays
from replctl.core.evidence import require_death
from replctl.core.model import NodeFacts
from replctl.core.objections import may_lose
from replctl.core.refusals import GRANTS, Reason, RefusalCode
from replctl.core.situation import Situation, is_cut, is_held
from replctl.core.steps import Cut, Step


def require_cuts(situation: Situation) -> Step | Reason | None:
    """Every orphan that can be cut; with a rule at least n-k+1 of its members."""
    for facts in situation.replicas:
        if is_cut(facts) or not is_orphan(situation, facts) or not facts.upstream_known:
            continue
        means = _means(situation, facts)
        if means is not None and facts.node not in situation.stubborn:
            return Cut(facts.node, means)
    if situation.rule is None or is_proven(situation):
        return None
    if may_lose(situation):  # what may be lost is given up, not that there is one primary
        return require_death(situation, "replicas that are not cut may go on confirming its commits")
    return twins(situation) or _too_few(situation)


def _too_few(situation: Situation) -> Reason:
    """Each member that does not count, why, and what would make it count."""
    members, ranking = situation.members, rank(situation)
    proof = [m for m in members if is_proof(situation, m)]
    reasons = {c.node: c.reason for c in ranking.candidates}
    lacking, remedies = [], []
    for member in (m for m in members if m not in proof):
        facts = situation.facts(member)
        held = facts is not None and not is_cut(facts) and is_held(facts) and _means(situation, facts) is None
        lacking.append(
            f"{member} {'keeps its receiver while replay is held up' if held else reasons[member]}"
        )
        position = position_of(situation, facts) if facts is not None else None
        if facts is None:
            remedies.append(f"bring {member} back")
        elif held or (position is not None and position.incomplete is not None):
            remedies.append(f"replctl failover --allow-replay {member}")
        elif member in situation.stubborn:
            remedies.append("replctl doctor")
        elif facts.in_recovery and (not facts.upstream_known or position is None):
            remedies.append(GRANTS)
    lacking += [f"{name} is not in the inventory" for name in situation.outsiders]
    return Reason(
        code=RefusalCode.TOO_FEW_CUT,
        message=f"{len(proof)} of {situation.able} synchronous members can be cut, "
        f"{situation.cuts_needed} prove that nothing is lost; {'; '.join(lacking)}",
        remedy=", or ".join([*dict.fromkeys(remedies), "replctl failover --allow-loss unknown"]),
    )


def is_proven(situation: Situation) -> bool:
    """Whether enough members are cut for every acknowledged commit to be on one of them."""
    cut = [m for m in situation.members if is_proof(situation, m)]
    return situation.rule is not None and len(cut) >= situation.cuts_needed


def _means(situation: Situation, facts: NodeFacts) -> str | None:
    """How this replica can be cut; None where it cannot, or is outside the rule and not named."""
    named = facts.node in situation.request.allow_replay
    may = named or situation.settings.failover.allow_replay_changes
    position = position_of(situation, facts)
    if may and position is not None and position.incomplete is not None:
        return "replay"  # what it has but does not show, only its replay can tell
    if not is_held(facts):
        return "plain"
    if situation.rule is not None and facts.node not in situation.members and not named:
        return None  # it confirms nothing
    if facts.receiver is None and facts.receiver_processes == 0:
        return "plain"  # nothing has to let go
    if facts.node not in situation.members and not named:
        return None
    if "wal_receiver_timeout_cut" in facts.capabilities:
        return "timeout"
    return "replay" if may else None


def twins(situation: Situation) -> Reason | None:
    """Two histories of one timeline: which one the commits are on, nobody can tell."""
    newest = newest_line(situation)
    end = situation.facts(newest) if newest is not None else None
    for facts in situation.replicas:
        reason = strays(situation, facts.node) if is_cut(facts) else None
        if reason is not None and end is not None and facts.timeline == end.timeline:
            return Reason(
                code=RefusalCode.TWO_HISTORIES,
                message=f"{facts.node} {reason}",
                remedy="decide which one is right, and take the other out of the inventory",
            )
    return None
