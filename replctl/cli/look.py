"""One look at one cluster, as every command takes it: observe, interpret with the history, remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replctl.core.report import Report, report
from replctl.errors import UsageError

if TYPE_CHECKING:
    from replctl.inventory import Inventory

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
    return seen
