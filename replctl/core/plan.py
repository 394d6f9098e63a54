"""From a situation to a plan: which steps, in which order, or why not.

`next_step` looks at one situation and names the one thing to do now. A plan is what comes of doing so
again and again on the projected situations; so planning again after any step of an undisturbed run gives
exactly the steps that remained, and a converged cluster the empty plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from replctl.core.candidates import Ranking, rank
from replctl.core.cuts import require_cuts
from replctl.core.evidence import require_silence, require_votes
from replctl.core.following import is_past_fork, next_following
from replctl.core.objections import doubt, no_failover, no_step_at_all
from replctl.core.promotion import Loss, loss_of, next_promotion
from replctl.core.refusals import Reason
from replctl.core.rivals import rival, unseen_promotion
from replctl.core.situation import Situation, is_held
from replctl.core.steps import Promote, Step
from replctl.core.topology import is_fenced

STEPS_MAX = 200
REJOIN = "pg_rewind or pg_basebackup, docs/failover.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps that lead to a primary with replicas. Empty = there already."""

    steps: tuple[Step, ...]
    target: str | None
    ranking: Ranking
    loss: Loss
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Nothing is done."""

    reasons: tuple[Reason, ...]
    ranking: Ranking


def plan_failover(situation: Situation) -> Plan | Refusal:
    """Every step from here to the end, or the reasons for which there is no way."""
    ranking, target, loss = rank(situation), None, None
    steps: list[Step] = []
    now = situation
    for _ in range(STEPS_MAX):
        following = next_step(now)
        if isinstance(following, Reason):
            return Refusal(reasons=(following,), ranking=ranking)
        if following is None:
            break
        if isinstance(following, Promote):
            target, loss = following.node, loss_of(now, following.node)
            if (uncertain := doubt(situation)) is not None:  # a cut replica no longer shows all of it
                loss = replace(loss, proven_zero=False, known_bytes=None, basis=uncertain.message)
        steps.append(following)
        now = following.project(now)
    if target is None and now.promoted is not None:
        target = now.promoted.node
    return Plan(
        steps=tuple(steps),
        target=target,
        ranking=ranking,
        loss=loss or Loss(proven_zero=True, known_bytes=0, observed_age_s=None, basis="nothing is promoted"),
        warnings=_warnings(now),
    )


def next_step(situation: Situation) -> Step | Reason | None:
    """The one thing to do now; a reason where that is nothing; None when all is done."""
    if (reason := no_step_at_all(situation)) is not None:
        return reason
    if situation.promoted is not None:
        return next_following(situation, situation.promoted)
    return (
        no_failover(situation)
        or require_votes(situation)
        or unseen_promotion(situation)
        or require_silence(situation)
        or require_cuts(situation)
        or rival(situation)
        or next_promotion(situation)
    )


def _warnings(end: Situation) -> tuple[str, ...]:
    """What is left to do by hand when the plan is through."""
    found: list[str] = []
    primary = end.promoted
    if primary is None:
        return ()
    for facts in end.state.facts:
        if not facts.in_recovery and facts.node != primary.node and not is_fenced(facts):
            found.append(f"{facts.node} accepts writes on an older timeline: replctl fence {facts.node}")
    lost = end.request.lost
    if lost is not None:
        back = "" if end.facts(lost) is not None else " when it is back"
        found.append(f"{lost} has to be made a replica again{back}: {REJOIN}")
    for facts in end.replicas:
        if is_held(facts):
            found.append(f"{facts.node} follows {primary.node} only when its replay goes on")
        if is_past_fork(end, facts, primary):
            found.append(f"{facts.node} is ahead of {primary.node} and has to be rewound: {REJOIN}")
    return tuple(found)
