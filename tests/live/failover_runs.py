"""Failovers inside the test's own process: to look, disturb or end them between any two steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from replctl.controller.run import carry_out
from replctl.core.outcome import Outcome, StepResult
from replctl.core.plan import Plan
from replctl.core.situation import lost_primary
from replctl.inventory import load_one
from replctl.journal import load_history
from replctl.pg.observe import Observer
from replctl.pg.world import Servers
from tests.live.failover_support import environment

Tell = Callable[[StepResult], None]
Begin = Callable[[Plan], None]


class KilledError(BaseException):
    """The process that runs the failover is gone: nothing of it is undone."""


def attempt(inventory: Path, tell: Tell, begin: Begin = lambda plan: None) -> Outcome:
    """One run of what `replctl failover --yes` does; `tell` and `begin` may raise KilledError."""
    return asyncio.run(_attempt(inventory, tell, begin))


async def _attempt(path: Path, tell: Tell, begin: Begin) -> Outcome:
    from replctl.core.situation import Request

    inventory = load_one(None, environment(path))

    async def go_on(plan: Plan) -> bool:
        begin(plan)
        return True

    async with Observer(inventory) as observer:
        lost = lost_primary(await observer.observe(), inventory.settings)
        name = inventory.settings.name
        world = Servers(inventory, observer, Request(lost=lost), load_history(name))
        try:
            return await carry_out(world, tell, go_on)
        finally:
            await world.close()
