"""Sending writes to a new primary through the proxies, while a failover goes on.

It begins as soon as the promotion is done, beside the repointing of replicas. Whatever goes wrong with it is
told, and never fails the failover.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from replctl.core.situation import Situation
from replctl.errors import ReplctlError
from replctl.inventory import Inventory
from replctl.proxies.changes import Moved, Report
from replctl.proxies.roles import Target, Wish, after_promotion, apply, targets
from replctl.render.placement import Placement

LIMIT_S = 30.0
TRIES = 3

Tell = Callable[..., object]
"""event, sentence, facts by name"""


class Traffic:
    """The proxies of one inventory, moved once. Nothing to do where it names no file or no way to them."""

    def __init__(self, inventory: Inventory, tell: Tell) -> None:
        self._inventory = inventory
        self._tell = tell
        self._task: asyncio.Task[list[str]] | None = None

    def move(self, writer: str, situation: Situation) -> None:
        """Begin. Does not wait; a second call changes nothing."""
        found = [t for name in ("pgbouncer", "haproxy") for t in self._targets(name)]
        if self._task is not None or not found:
            return
        marks, now_at = situation.state.marks, time.time()
        placement = after_promotion(
            self._inventory.settings,
            writer,
            lost=situation.request.lost,
            answering=[f.node for f in situation.state.facts if f.in_recovery],
            drained=[] if marks is None else [n for n, m in marks.drained.items() if m.holds(now_at)],
        )
        self._task = asyncio.create_task(self._move(found, placement))

    def _targets(self, name: str) -> list[Target]:
        return [target for target in targets(self._inventory, name) if target.doors]

    async def end(self) -> str | None:
        """Wait until it is done; what went wrong, as a sentence."""
        if self._task is None:
            return None
        task, self._task = self._task, None
        return "; ".join(await task) or None

    async def _move(self, found: list[Target], placement: Placement) -> list[str]:
        results = await asyncio.gather(*(self._one(target, placement) for target in found))
        return [sentence for sentences in results for sentence in sentences]

    async def _one(self, target: Target, placement: Placement) -> list[str]:
        """One file and all that read it; what went wrong."""
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(LIMIT_S):
                report = await _applied(target, placement)
        except TimeoutError:
            problems = [f"{target.place} is not applied within {LIMIT_S:g} s"]
        except ReplctlError as error:
            problems = [str(error)]
        else:
            problems = report.problems
            done = "; ".join(report.done) or f"{target.place} is as it should be"
            took_s = round(time.monotonic() - started_s, 4)
            self._tell("proxy", f"writes go to {placement.writer}: {done}", took_s=took_s)
        for problem in problems:
            self._tell("proxy_failed", problem)
        return problems


async def _applied(target: Target, placement: Placement) -> Report:
    for left in reversed(range(TRIES)):
        try:
            present = await asyncio.to_thread(target.place.read)
            change = await target.change(placement, Wish(), present=present, lost=True)
            return await apply(change)
        except Moved:  # by a process that keeps the file
            if not left:
                raise
    raise AssertionError("unreachable")
