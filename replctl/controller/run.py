"""Carrying out a plan: observe, decide, do one step, observe again.

It is handed what observes and what acts, so the same loop runs on servers and on a simulated cluster.
Nothing it remembers is needed to go on: after a crash, running the command again plans the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Protocol

from replctl.core.outcome import Ending, Outcome, StepResult
from replctl.core.plan import Plan, Refusal, plan_failover
from replctl.core.rivals import rival
from replctl.core.situation import Situation, is_cut
from replctl.core.steps import CreateSlot, Cut, FastForward, Promote, Repoint, Step
from replctl.errors import ReplctlError

ROUNDS_MAX = 60


class World(Protocol):
    """What a run sees and what it can do."""

    async def observe(self) -> Situation:
        """Everything that a failover is decided from, as it is now."""

    async def prove(self, situation: Situation) -> None:
        """Show in one round that a majority of votes is still ours and every cut still holds.

        Raises ReplctlError where that is not so.
        """

    async def apply(self, step: Step, situation: Situation) -> None:
        """Do one step. Raises ReplctlError when it does not lead to what proves it.

        A promotion is given up where more than PROMOTE_WITHIN_S have passed since the last proof.
        """

    async def restore(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        """Give cut nodes their upstream back. Returns those for which that failed.

        That is all of them unless a majority of the votes is shown to be held still: else another
        controller may count on these cuts.
        """


Tell = Callable[[StepResult], None]


async def carry_out(world: World, tell: Tell, go_on: Callable[[Plan], Awaitable[bool]]) -> Outcome:
    """Run the failover that the situation calls for. `go_on` is asked once, with the first plan."""
    situation = await world.observe()
    plan = plan_failover(situation)
    outcome = Outcome(ending=Ending.NOTHING, plan=plan)
    if isinstance(plan, Refusal):
        outcome.ending = Ending.REFUSED
        return outcome
    if not plan.steps or not await go_on(plan):
        return outcome
    if situation.promoted is not None:
        outcome.promoted = situation.promoted.node
    failed: dict[Step, str] = {}
    for _ in range(ROUNDS_MAX):
        results = await _do(world, _together([s for s in plan.steps if s not in failed]), situation)
        for result in results:
            outcome.results.append(result)
            tell(result)
        failed |= {r.step: r.error for r in results if r.error is not None}
        situation = _remember(await world.observe(), situation, outcome, failed)
        if _asked_for_promotion(outcome) and not _is_promoted(situation, outcome):
            # Whether it is the primary is not known, and no other may become one.
            said = [*failed.values(), "the promoted node does not answer as primary"]
            return await _stop(world, outcome, situation, "; ".join(said))
        following = plan_failover(situation)
        if situation.promoted is not None:
            outcome.promoted = situation.promoted.node
        if isinstance(following, Refusal):
            reasons = [*failed.values(), *(f"{r.code}: {r.message}" for r in following.reasons)]
            return await _stop(world, outcome, situation, "; ".join(reasons))
        plan = following
        if not plan.steps:
            outcome.ending = Ending.DONE
            return outcome
        before = situation.promoted is None and any(not isinstance(s, Cut) for s in failed)
        if before or all(s in failed for s in plan.steps):
            return await _stop(world, outcome, situation, "; ".join(failed.values()))
    return await _stop(world, outcome, situation, f"not done after {ROUNDS_MAX} rounds")


def _remember(seen: Situation, before: Situation, outcome: Outcome, failed: dict[Step, str]) -> Situation:
    """A look, with what this run knows beside it."""
    # A replica that does not let go is done without, where enough others do.
    stubborn = frozenset(s.node for s in failed if isinstance(s, Cut))
    own_cuts = frozenset(r.step.node for r in outcome.results if isinstance(r.step, Cut))
    watched = before.watched
    if len(seen.votes_held) >= seen.majority:
        watched |= {f.node for f in seen.replicas}
    return replace(seen, stubborn=stubborn, own_cuts=own_cuts, watched=watched)


def _asked_for_promotion(outcome: Outcome) -> frozenset[str]:
    """The node that this run has asked to become the primary."""
    return frozenset(r.step.node for r in outcome.results if isinstance(r.step, Promote) and r.begun)


def _is_promoted(situation: Situation, outcome: Outcome) -> bool:
    return situation.promoted is not None and situation.promoted.node in _asked_for_promotion(outcome)


async def _stop(world: World, outcome: Outcome, situation: Situation, reason: str | None) -> Outcome:
    """Before the promotion everything is put back; after it, what is missing is said.

    Whatever was touched is put back, also where it does not answer now or took no notice: what was written
    may take effect later. So is what another run left behind: with the votes, its cuts are ours to undo,
    unless it may have promoted a node.
    """
    outcome.problem = reason
    asked = _asked_for_promotion(outcome)
    if _is_promoted(situation, outcome) if asked else situation.promoted is not None:
        outcome.ending = Ending.PARTIAL
        return outcome
    touched = {r.step.node for r in outcome.results if isinstance(r.step, Cut | FastForward)}
    cut = {f.node for f in situation.replicas if is_cut(f) and rival(situation) is None}
    if asked:
        # Whether it became the primary is not known: given back, the others could confirm for the old one.
        outcome.left_cut = tuple(sorted(touched | cut | asked))
    elif touched or (cut and len(situation.votes_held) >= situation.majority):
        outcome.left_cut = await world.restore(tuple(sorted(touched | cut)))
    repointed = any(isinstance(r.step, Repoint) for r in outcome.results)  # to a primary that is silent now
    stopped = Ending.PARTIAL if repointed else Ending.REFUSED
    outcome.ending = Ending.NOT_RESTORED if outcome.left_cut else stopped
    return outcome


def _together(steps: list[Step]) -> list[Step]:
    """The first step, with those after it of the same kind that do not depend on each other."""
    first = steps[0]
    group: list[Step] = []
    for step in steps:
        if type(step) is not type(first):
            break
        group.append(step)
        if not isinstance(first, Cut | CreateSlot | Repoint):
            break
    return group


async def _do(world: World, steps: list[Step], situation: Situation) -> list[StepResult]:
    async def one(step: Step) -> StepResult:
        started_s, error, begun = monotonic(), None, False
        try:
            if isinstance(step, Promote):
                await world.prove(situation)
            begun = True
            await world.apply(step, situation)
        except ReplctlError as caught:
            error = str(caught)
        return StepResult(step=step, took_s=monotonic() - started_s, error=error, begun=begun)

    return list(await asyncio.gather(*(one(step) for step in steps)))
