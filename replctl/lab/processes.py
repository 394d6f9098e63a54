"""The processes of a lab's servers: found by data directory and parentage, never by name alone.

A process that has exited but was not collected by its parent (a zombie, state Z) counts as gone here:
its pid still answers signal 0, which is why PostgreSQL's own check of a stale lock file is fooled by it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from replctl.errors import LabError

GONE_TIMEOUT_S = 20.0
_FROZEN_TIMEOUT_S = 5.0
_POLL_S = 0.005
_PROC = Path("/proc")
_PROC_TELLS = (_PROC / "self" / "stat").exists()
# What `lab up` starts, and so what a lab up that was shot may have left behind.
_BUILDERS = frozenset({"initdb", "postgres", "pg_ctl", "cp"})


@dataclass(frozen=True, slots=True)
class Process:
    """A line of the process table. `state` is its first letter: T = stopped by a signal, Z = zombie."""

    pid: int
    parent: int
    state: str
    name: str


def table() -> dict[int, Process]:
    """Every process of this machine that we may see."""
    found = _from_proc() if _PROC_TELLS else _from_ps()
    return {process.pid: process for process in found}


def _from_proc() -> Iterator[Process]:
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError, ValueError):
            text = (entry / "stat").read_text(errors="replace")
            # The name stands in parentheses and may itself hold some.
            name, _, rest = text.partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            yield Process(pid=int(entry.name), parent=int(parent), state=state, name=name)


def _from_ps() -> Iterator[Process]:
    done = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat=,comm="], capture_output=True, text=True, timeout=10, check=True
    )
    for line in done.stdout.splitlines():
        pid, parent, state, name = line.split(None, 3)
        yield Process(pid=int(pid), parent=int(parent), state=state[0], name=Path(name.strip()).name)


def arguments(pid: int) -> tuple[str, ...]:
    """The command line of a process; empty when it is gone."""
    if _PROC_TELLS:
        try:
            raw = (_PROC / str(pid) / "cmdline").read_bytes()
        except OSError:
            return ()
        return tuple(part.decode(errors="replace") for part in raw.split(b"\0") if part)
    done = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False
    )
    return tuple(done.stdout.split())


def _works_in(pid: int, directory: str) -> bool:
    """Whether a process has this working directory; False where that may not be seen."""
    try:
        return str((_PROC / str(pid) / "cwd").readlink()) == directory
    except OSError:
        return False


def postmaster(data_directory: Path, processes: dict[int, Process] | None = None) -> Process | None:
    """The running postmaster of a data directory, frozen or not; None when there is none.

    The pid in postmaster.pid is believed only where that process was started with this directory.
    """
    try:
        pid = int((data_directory / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None
    process = (table() if processes is None else processes).get(pid)
    if process is None or process.state == "Z" or str(data_directory) not in arguments(pid):
        return None
    return process


def family(data_directory: Path) -> list[int]:
    """The pids of a server: the postmaster first, then its descendants and what it left behind."""
    processes = {pid: p for pid, p in table().items() if p.state != "Z"}
    head = postmaster(data_directory, processes)
    found = [head.pid] if head is not None else []
    for pid in found:  # grows while it is walked: children, then theirs
        found.extend(p.pid for p in processes.values() if p.parent == pid)
    directory = str(data_directory)
    orphans = (
        p.pid
        for p in processes.values()
        if p.name == "postgres" and _works_in(p.pid, directory) and not _stands_alone(p.pid)
    )
    return list(dict.fromkeys((*found, *orphans)))


def _stands_alone(pid: int) -> bool:
    """Whether this is no server, but initdb's or the lab's own work on a data directory."""
    return bool({"--boot", "--single", "--check"} & set(arguments(pid)[:2]))


def builders(directory: Path) -> list[int]:
    """Programs at work below this directory, the servers' postmasters among them."""
    below = f"{directory}/"
    return [
        p.pid
        for p in table().values()
        if p.state != "Z" and p.name in _BUILDERS and any(a.startswith(below) for a in arguments(p.pid))
    ]


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal processes; one that is gone is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze(data_directory: Path) -> list[int]:
    """Stop a whole server where it stands, the postmaster first: it forks nothing meanwhile."""
    stopped: list[int] = []
    deadline_s = time.monotonic() + _FROZEN_TIMEOUT_S
    while new := [pid for pid in family(data_directory) if pid not in stopped]:
        send(new[:1] if not stopped else new, signal.SIGSTOP)
        stopped.extend(new[:1] if not stopped else new)
        if time.monotonic() > deadline_s:
            raise LabError(f"the server in {data_directory} starts processes faster than they can be stopped")
    wait_until(
        lambda: all(p.state in "TtZ" for pid, p in table().items() if pid in stopped),
        _FROZEN_TIMEOUT_S,
        f"processes of {data_directory} did not stop",
    )
    return stopped


def thaw(data_directory: Path) -> None:
    """Let a frozen server run on."""
    send(reversed(family(data_directory)), signal.SIGCONT)


def kill(data_directory: Path) -> None:
    """SIGKILL the postmaster and all its children at once, and wait until they are gone."""
    pids = freeze(data_directory)
    send(pids, signal.SIGKILL)
    wait_gone(pids, f"the server in {data_directory}")


def wait_gone(pids: Iterable[int], what: str, timeout_s: float = GONE_TIMEOUT_S) -> None:
    """Wait until none of these processes runs. Raises LabError after the limit."""
    left = set(pids)

    def gone() -> bool:
        now = table()
        left.intersection_update(pid for pid, p in now.items() if p.state != "Z")
        return not left

    wait_until(gone, timeout_s, f"{what} is still running")


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until the condition holds. Raises LabError saying `what` after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise LabError(f"{what} after {timeout_s:g} s")
        time.sleep(_POLL_S)
