"""Sending writes to a new primary through the proxies, while a failover goes on.

It begins as soon as the promotion is done, beside the repointing of replicas; after an interruption, with
what is left to do. Whatever goes wrong with it is told, and never fails the failover.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from replctl.core.model import ClusterState, NodeFacts
from replctl.core.routing.token import fingerprint
from replctl.core.situation import Situation
from replctl.errors import ReplctlError
from replctl.inventory import Inventory
from replctl.proxies.astray import astray
from replctl.proxies.changes import Report
from replctl.proxies.places import Moved
from replctl.proxies.roles import Target, Wish, after_promotion, apply, targets
from replctl.render.placement import Placement
from replctl.render.rendered import Tenure

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
        self.begin(writer, situation.state, situation.request.lost)

    def begin(self, writer: str, state: ClusterState, lost: str | None) -> None:
        """The same, from a look and the node that is lost."""
        found = self._targets()
        if self._task is None and found:
            self._task = asyncio.create_task(self._move(found, self._placement(writer, state, lost)))

    async def astray(self, writer: str, state: ClusterState, lost: str | None) -> bool:
        """Whether a file, or a proxy that answers, sends writes to another node than this one."""
        placement = self._placement(writer, state, lost)

        async def one(target: Target) -> bool:
            try:
                async with asyncio.timeout(LIMIT_S):
                    present = await asyncio.to_thread(target.place.read)
                    change = await target.change(placement, Wish(), present=present, lost=True)
                    return await astray(target, change, writer)
            except (TimeoutError, ReplctlError):
                return False  # nothing that a failover left behind: --watch and --apply say what is wrong

        return any(await asyncio.gather(*(one(target) for target in self._targets())))

    def _placement(self, writer: str, state: ClusterState, lost: str | None) -> Placement:
        marks, now_at = state.marks, time.time()
        return after_promotion(
            self._inventory.settings,
            writer,
            lost=lost,
            answering=[f.node for f in state.facts if f.in_recovery],
            drained=[] if marks is None else [n for n, m in marks.drained.items() if m.holds(now_at)],
            tenure=_tenure(writer, state),
        )

    def _targets(self) -> list[Target]:
        found = [t for name in ("pgbouncer", "haproxy") for t in targets(self._inventory, name)]
        return [target for target in found if target.doors]

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


def _tenure(writer: str, state: ClusterState) -> Tenure | None:
    """The timeline of the new primary, which may have been promoted after this look."""
    found = state[writer]
    if not isinstance(found, NodeFacts) or found.timeline is None:
        return None
    # PostgreSQL takes the next one of which it finds no history: this one, or a later.
    timeline = found.timeline + 1 if found.in_recovery else found.timeline
    return Tenure(writer=writer, timeline=timeline, system=fingerprint(found.system_identifier))


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
