"""`status --watch` where nobody presses keys: one frame or one document after the other, as text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from replctl.core.report import Report
from replctl.display.dashboard import Look


async def stream(
    looks: Sequence[Look], interval_s: float, form: Callable[[Sequence[Report]], str], out: TextIO
) -> None:
    """Write one text per interval, each flushed, until cancelled. BrokenPipeError when nobody reads."""
    while True:
        started_s = time.monotonic()
        reports = await asyncio.gather(*(look() for look in looks))
        out.write(form(reports))
        out.flush()
        await asyncio.sleep(max(0.0, started_s + interval_s - time.monotonic()))
