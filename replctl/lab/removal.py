"""Removes a lab: every process and every file that it made, whatever state it is in."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from replctl.errors import LabError, RefusedError
from replctl.lab import layout, processes, shared_memory
from replctl.lab.layout import INVENTORY, LEDGERS, LOCK, MARKER, Layout

_REMOVE_TIMEOUT_S = 30.0
_BUILDERS_TIMEOUT_S = 10.0
_POLL_S = 0.02


def remove(directory: Path) -> bool:
    """Remove the lab in a directory, finished or not. False when there is none. Raises RefusedError."""
    target = layout.resolved(directory)
    if not target.exists():
        return False
    if not (target / MARKER).exists() and not layout.is_empty(target):
        raise RefusedError(f"{target} holds no lab", why=f"it is not empty and has no {MARKER}")
    layout.check_owner(target)
    with layout.locked(target):
        if (target / MARKER).exists():
            remove_all(layout.load(target))
        else:
            _remove_files(target, directory_too=True)
    return True


def remove_all(plan: Layout) -> None:
    """End every process and remove every file of the lab, finished or not."""
    deadline_s = time.monotonic() + _REMOVE_TIMEOUT_S
    while True:
        _end_processes(plan)
        try:
            _remove_files(plan.directory, [s.name for s in plan.servers], directory_too=plan.made_directory)
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise LabError(f"cannot remove {plan.directory}", why=str(error)) from None
        else:
            return


def _end_processes(plan: Layout) -> None:
    """Kill every server, and let what a `lab up` that was shot left at work come to its end."""
    patience_s = time.monotonic() + _BUILDERS_TIMEOUT_S
    while True:
        for data in (plan.data_directory(s.name) for s in plan.servers):
            if processes.family(data):
                processes.kill(data)
            shared_memory.release(data)
        at_work = processes.builders(plan.directory)
        if not at_work:
            return
        # initdb and single-user mode take a second, and shot they would leave shared memory behind.
        if time.monotonic() > patience_s:
            processes.send(at_work, signal.SIGKILL)
            processes.wait_gone(at_work, f"what was at work in {plan.directory}")
        time.sleep(_POLL_S)


def _remove_files(directory: Path, servers: Iterable[str] = (), *, directory_too: bool) -> None:
    """Remove what a lab makes and nothing else; lab.json near the end, so that this can be repeated."""
    for name in (*servers, "server"):
        if (directory / name).exists():
            shutil.rmtree(directory / name)
    for path in (directory / INVENTORY, *directory.glob(LEDGERS), directory / f"{MARKER}.new"):
        path.unlink(missing_ok=True)
    (directory / MARKER).unlink(missing_ok=True)
    (directory / LOCK).unlink(missing_ok=True)
    if directory_too and not any(directory.iterdir()):
        directory.rmdir()
