"""A primary dies, nothing else happens; a controller is killed after each step, and another takes over."""

from __future__ import annotations

import asyncio

from replctl.controller.run import carry_out
from replctl.core.model import ClusterState
from replctl.core.outcome import Ending, StepResult
from replctl.core.plan import Plan, plan_failover
from replctl.core.situation import Request
from replctl.core.steps import Cut, FenceCommand, ProveSilence, Step, TakeVotes
from tests.sim import clock
from tests.sim.looks import Memory, facts_of, remember
from tests.sim.story import Story, build
from tests.sim.world import SimWorld

TAKEOVERS_MAX = 40
OF_ONE_RUN = (TakeVotes, ProveSilence, FenceCommand)  # what each run has to do anew


class _KilledError(Exception):
    """The controller ends in the midst of its work."""


def resume(seed: int) -> str | None:
    """What was wrong with the takeovers of this seed; None = nothing."""
    return clock.run(_take_over_and_over(build(seed)))


async def _take_over_and_over(story: Story) -> str | None:
    cluster, memory = story.cluster, Memory()  # which is kept on disk
    cluster.slow_share = 0.0
    asyncio.get_running_loop().create_task(cluster.live(60.0))
    await asyncio.sleep(0.6)
    remember(memory, ClusterState(nodes=tuple(facts_of(cluster, n) for n in cluster.nodes.values())))
    cluster.crash("pg1")
    for node in cluster.nodes.values():
        node.in_conflict = node.deaf = node.slow = False
    await asyncio.sleep(0.3)
    planned: list[Step] | None = None
    target: str | None = None
    for _ in range(TAKEOVERS_MAX):
        world = SimWorld(
            cluster=cluster,
            settings=story.settings,
            controller="c1",
            request=Request(lost="pg1", automatic=True),
            memory=memory,
            fence_commands=story.fence_commands,
        )
        plan = plan_failover(await world.observe())
        if not isinstance(plan, Plan):
            # A refusal may come first, never after something was done.
            return None if planned is None else f"seed {story.seed}: refused in the midst: {plan.reasons}"
        steps = [s for s in plan.steps if not isinstance(s, OF_ONE_RUN)]
        if any(isinstance(s, Cut) and s.means == "replay" for s in steps):
            return None  # it will show more than it does now, and may then be the better one
        if planned is not None and ([s for s in steps if s not in planned] or plan.target != target):
            return f"seed {story.seed}: planned {planned}, then {steps}"
        if not steps:
            return None
        planned, target = steps, plan.target
        if (problem := await _until_the_first_step(world)) is not None:
            return f"seed {story.seed}: {problem}"
        await asyncio.sleep(0.1)
    return f"seed {story.seed}: not done after {TAKEOVERS_MAX} takeovers"


async def _until_the_first_step(world: SimWorld) -> str | None:
    """Run until something that lasts was done, then die."""

    def tell(result: StepResult) -> None:
        if not isinstance(result.step, OF_ONE_RUN) and result.error is None:
            raise _KilledError

    async def go_on(plan: Plan) -> bool:
        return True

    try:
        outcome = await carry_out(world, tell, go_on)
    except _KilledError:
        return None
    finally:
        world.close()
    return None if outcome.ending is Ending.DONE else f"{outcome.ending}: {outcome.problem}"
