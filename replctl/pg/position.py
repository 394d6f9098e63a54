"""What an application's own connection is asked for tokens: where a write is, and whether a replica has it.

Written without any driver, so that sync and async connections share it: `execute` runs one statement in
autocommit and returns its only row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

from replctl.core.model import Lsn
from replctl.core.routing import Position
from replctl.pg.queries import POSITION, WAIT_REPLAYED, capabilities

POLL_S = 0.005
Row = Sequence[Any] | None
_Steps = Generator[str | float, Row, bool]

POSITION_SQL = POSITION.for_version(140000)
"""After a commit, on the same connection to the primary: a row for `position`. An error on a replica."""


def position(system: str, row: Sequence[Any]) -> Position:
    """The position that the row of POSITION_SQL tells. `system` is the snapshot's."""
    return Position(system, int(row[0]), Lsn(row[1]))


def wait_replayed(
    execute: Callable[[str], Row], lsn: Lsn, limit_s: float, *, server_version_num: int = 140000
) -> bool:
    """Wait until this replica has replayed so far; False where it has not after `limit_s`."""
    steps, answer = _steps(lsn, limit_s, server_version_num), None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            return bool(done.value)
        if isinstance(step, str):
            answer = execute(step)
        else:
            time.sleep(step)


async def wait_replayed_async(
    execute: Callable[[str], Awaitable[Row]], lsn: Lsn, limit_s: float, *, server_version_num: int = 140000
) -> bool:
    """The same for a task."""
    steps, answer = _steps(lsn, limit_s, server_version_num), None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            return bool(done.value)
        if isinstance(step, str):
            answer = await execute(step)
        else:
            await asyncio.sleep(step)


def _steps(lsn: Lsn, limit_s: float, server_version_num: int) -> _Steps:
    """A statement to run (its row is sent back) or a time to wait, until it is there or the time is over."""
    until_s = time.monotonic() + limit_s
    text = WAIT_REPLAYED.for_version(server_version_num)
    if "wait_for_lsn" in capabilities(server_version_num):
        text = text.format(lsn=lsn, limit_ms=max(1, round(limit_s * 1000)))
        row = yield text
        return row is not None and row[0] == "success"
    while True:
        row = yield text
        # A node that was promoted meanwhile replays no more, and is behind nobody.
        if row is not None and (row[0] is None or row[0] >= lsn):
            return True
        if (left_s := until_s - time.monotonic()) <= 0:
            return False
        yield min(POLL_S, left_s)
