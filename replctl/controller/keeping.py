"""Keeping a proxy applied: what `replctl render-… --watch` runs.

The monitor of applications says who takes writes and who serves reads, with the pool's hysteresis. A change
of that changes the file, in a proxy whatever somebody changed by hand is changed back, and where nothing
differs nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

from replctl.core.routing import Snapshot
from replctl.errors import NoPrimary, NoReplica, ReplctlError
from replctl.pg.monitor import Monitor, refusal
from replctl.proxies.changes import Report
from replctl.proxies.places import Moved, Place
from replctl.proxies.roles import Target, Wish, apply
from replctl.render.placement import Placement, from_snapshot
from replctl.render.rendered import facts_of

CHECK_EVERY_S = 5.0  # whether the running proxy still is as its file
RETRY_S = 1.0  # after a failure; twice as long after each
RETRY_MAX_S = 30.0
LOOK_S = 5.0  # for a look that began after the file was read

Say = Callable[[str, str], object]
"""event, sentence"""


class Keeper:
    """One process that keeps the files of one proxy. `stopping` ends it between two turns."""

    def __init__(self, found: list[Target], wish: Wish, say: Say, stopping: asyncio.Event) -> None:
        self._targets, self._wish, self._say = found, wish, say
        self._stopping = stopping
        # A machine that does not answer holds up no other: each has its own turns.
        self._changed = {target.place: asyncio.Event() for target in found}
        self._said: dict[Place, str] = {}
        self._monitor = Monitor(found[0].inventory, zone=wish.zone or None)

    async def run(self, ready: Callable[[], object] = lambda: None) -> None:
        """Until told to stop. `ready` is called after the first turn of each."""
        loop = asyncio.get_running_loop()
        to_begin = set(self._changed)

        def changed(*_: object) -> None:
            for event in self._changed.values():
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(event.set)

        def begun(place: Place) -> None:
            if place in to_begin:
                to_begin.remove(place)
                if not to_begin:
                    ready()

        self._monitor.listeners.append(changed)
        try:
            await asyncio.gather(*(self._keep(target, begun) for target in self._targets))
        finally:
            await asyncio.to_thread(self._monitor.close)

    async def _keep(self, target: Target, begun: Callable[[Place], object]) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._changed[target.place].clear()
            failures = 0 if await self._turn(target) else failures + 1
            begun(target.place)
            limit_s = min(RETRY_MAX_S, RETRY_S * 2 ** (failures - 1)) if failures else CHECK_EVERY_S
            await self._pause(self._changed[target.place], limit_s)

    async def _pause(self, changed: asyncio.Event, limit_s: float) -> None:
        """Until roles change, it is time to look, or there is an end."""
        waits = [asyncio.ensure_future(event.wait()) for event in (changed, self._stopping)]
        try:
            await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _turn(self, target: Target) -> bool:
        """Look, compare, and make true what differs. Whether all is well; never raises for a proxy's sake."""
        try:
            report, placement = await self._applied(target)
        except Moved:
            self._changed[target.place].set()  # whoever it was: look again at once
            return True
        except ReplctlError as error:
            self._once(target, str(error))
            return False
        if report.changed:
            readers = ", ".join(reader.name for reader in placement.readers) or placement.spare or "nobody"
            self._say("proxy", f"writes to {placement.writer}, reads to {readers}: {'; '.join(report.done)}")
        self._once(target, "; ".join(report.problems))
        return not report.problems

    async def _applied(self, target: Target) -> tuple[Report, Placement]:
        read_s = time.monotonic()
        present = await asyncio.to_thread(target.place.read)
        snapshot = await self._monitor.ensure_async()
        before = target.writer_of(present)
        if snapshot.writer != before:
            # A look from before another process moved the writes would move them back.
            snapshot = await self._newer(snapshot, read_s)
        tenure = facts_of(present).tenure
        placement = from_snapshot(target.inventory.settings, snapshot, before=tenure)
        moved = before is not None and placement.writer != before
        try:
            change = await target.change(placement, self._wish, present=present, lost=moved)
        except NoReplica:
            if not moved:
                raise
            # An alias for reading must lead somewhere, and writes shall not wait for it.
            placement = replace(placement, spare=placement.writer)
            change = await target.change(placement, self._wish, present=present, lost=moved)
        return await apply(change), placement

    async def _newer(self, snapshot: Snapshot, than_s: float) -> Snapshot:
        """A snapshot of a look that began later (monotonic). Raises NoPrimary where none comes."""
        until_s = time.monotonic() + LOOK_S
        while snapshot.taken_s <= than_s:
            left_s = until_s - time.monotonic()
            found = await self._monitor.wait_async(snapshot, left_s) if left_s > 0 else None
            if found is None:
                raise NoPrimary("no node has answered since", why=refusal(snapshot.write).why)
            snapshot = found
        return snapshot

    def _once(self, target: Target, sentence: str) -> None:
        """Say a problem when it is another than before, and when it is over."""
        before = self._said.get(target.place, "")
        if sentence != before:
            self._said[target.place] = sentence
            well = f"{target.place}: all is well again"
            self._say("proxy_failed" if sentence else "proxy", sentence or well)
