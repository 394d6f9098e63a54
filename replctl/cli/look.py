"""One look at one cluster, as every command takes it: observe, interpret with the history, remember."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from replctl.core.report import Report, report
from replctl.errors import UsageError

if TYPE_CHECKING:
    from replctl.core.routing import Snapshot
    from replctl.inventory import Inventory

AGAIN_S = 0.5  # between two looks that show which of two primaries goes on
DEFAULT_LIMIT_S = 10.0


def limit_of(text: str | None, option: str = "--timeout", default_s: float = DEFAULT_LIMIT_S) -> float:
    """Seconds of a time given on the command line. Raises UsageError."""
    from replctl.core.units import parse_duration

    if text is None:
        return default_s
    try:
        limit_s = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}", why=str(error), hint=f"for example {option} 10s") from None
    if limit_s <= 0:
        raise UsageError(f"{option} {text}", why="expected more than 0", hint=f"for example {option} 10s")
    return limit_s


async def look(inventory: Inventory, *, limit_s: float, probe_s: float | None = None) -> Report:
    """Observe every node within `limit_s` and interpret it with the lag history of earlier runs.

    With `probe_s`, replicas that are behind are then watched for so long until they catch up.
    """
    import asyncio

    from replctl.journal import load_history, save_history
    from replctl.noticed import leave_changes
    from replctl.pg.observe import Observer

    name = inventory.settings.name
    async with Observer(inventory) as observer:
        state = await observer.observe(limit_s=limit_s)
        seen = report(state, inventory.settings, load_history(name))
        if probe_s is not None:
            from replctl.core.report import reported
            from replctl.pg.probe import probe_replay

            left_s = max(0.0, limit_s - state.took_s)
            found = await probe_replay(observer, seen.status, min(probe_s, left_s))
            seen = reported(seen.status.with_seconds(found))
    # In a thread: another run may hold the lock for a while, and other clusters are being looked at.
    await asyncio.to_thread(save_history, name, seen.status.history)
    await asyncio.to_thread(leave_changes, seen.status)
    return seen


async def look_at_roles(
    inventory: Inventory, *, limit_s: float, zone: str | None = None
) -> tuple[Snapshot, float]:
    """The snapshot of an application that looks for the first time, and the Unix time of that look.

    Only where two primaries answer it looks twice: which of them goes on, a second look tells.
    """
    import asyncio

    from replctl.core.routing import Memory, Reason, advance, choose_writer, make_snapshot

    until_s = time.monotonic() + limit_s
    memory = Memory()
    for last in (False, True):
        status = (await look(inventory, limit_s=max(0.1, until_s - time.monotonic()))).status
        now_s = status.state.observed_at_s
        memory = advance(memory, status, now_s, status.observed_at)
        memory, writer = choose_writer(memory, status, now_s)
        if last or writer.reason is not Reason.TWO_PRIMARIES or until_s - time.monotonic() < 2 * AGAIN_S:
            break
        await asyncio.sleep(AGAIN_S)
    snapshot = make_snapshot(
        memory,
        status,
        writer,
        turns=itertools.count(),
        taken_s=now_s,
        stale_at_s=now_s + limit_s,
        zone=zone,
    )
    return snapshot, status.observed_at
