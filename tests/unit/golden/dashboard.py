"""A dashboard whose looks come from memory: what test_display_dashboard.py runs on a terminal of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from replctl.core.report import Report
from replctl.display.dashboard import Dashboard
from replctl.display.screen import Screen, Seen
from replctl.display.style import medium
from replctl.display.terminal import Terminal
from tests.unit.golden import INVENTORY, troubled_report


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--interval", type=float, default=2.0)
    parser.add_argument("--look-takes", type=float, default=0.0)
    parser.add_argument("--fail-after", type=int, default=0)
    parser.add_argument("--ignore-hangup", action="store_true")
    parser.add_argument("--as-job", action="store_true")
    given = parser.parse_args()
    if given.as_job:
        become_a_job()
    if given.ignore_hangup:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    count = 0

    async def look() -> Report:
        nonlocal count
        count += 1
        await asyncio.sleep(given.look_takes)
        if given.fail_after and count > given.fail_after:
            raise RuntimeError("no more looks")
        found = troubled_report(time.time())
        evidence = replace(found.diagnosis, evidence=(f"look {count} of this test",))
        return replace(found, diagnosis=evidence)

    async def run() -> int:
        screen = Screen(
            clusters=(Seen(settings=INVENTORY),),
            medium=medium(sys.stdout, "auto", os.environ),
            height=24,
            interval_s=given.interval if not given.fail_after else 0.05,
        )
        return await Dashboard(screen, [look], Terminal(0, 1)).run()

    return asyncio.run(run())


def become_a_job() -> None:
    """Go on in a child that has a shell above it, as far as stopping goes: a process group of its own.

    A process group without such a parent cannot be stopped by the terminal.
    """
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
