"""One server of a lab: start, stop, look at it, connect to it."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path
from typing import Any, Literal

import psycopg

from replctl.errors import LabError, RefusedError
from replctl.lab import processes
from replctl.lab.account import account_named, run
from replctl.lab.layout import Layout, option
from replctl.lab.ports import HOST

START_TIMEOUT_S = 60.0
# A fast shutdown waits until every walsender is rid of its WAL or has run into wal_sender_timeout (60 s).
STOP_TIMEOUT_S = 75.0
_CONNECT_TIMEOUT_S = 5
_LOG_TAIL_BYTES = 16384
_ENTRY = re.compile(r"\b(LOG|WARNING|ERROR|FATAL|PANIC):\s+(.*)")
_COMPLAINT = re.compile(r"could not|cannot|invalid|unrecognized|not permitted|not exist")

State = Literal["running", "stopped", "frozen"]
Role = Literal["primary", "replica", "witness"]


def state(layout: Layout, name: str) -> State:
    """Whether its postmaster runs. Asks the process table, not the server."""
    return process(layout, name)[0]


def process(layout: Layout, name: str) -> tuple[State, int | None]:
    """Its state, and the postmaster's pid where it runs."""
    found = processes.postmaster(layout.data_directory(name))
    if found is None:
        return "stopped", None
    return "frozen" if found.state in "Tt" else "running", found.pid


def role(layout: Layout, name: str) -> Role:
    """What it is, or would be when started: a promotion removes standby.signal."""
    if layout.server(name).witness:
        return "witness"
    return "replica" if (layout.data_directory(name) / "standby.signal").exists() else "primary"


def start(layout: Layout, name: str) -> bool:
    """Start it and wait until it accepts connections. False when it ran already. Raises LabError."""
    before = state(layout, name)
    if before == "frozen":
        raise RefusedError(f"{name} is frozen", hint=f"replctl lab thaw {name}{option(layout.directory)}")
    if before == "running":
        return False
    data, log = layout.data_directory(name), layout.log_file(name)
    _clear_remains(data)
    logged_before = log.stat().st_size if log.exists() else 0
    pg_ctl = str(layout.bin_directory / "pg_ctl")
    argv = [pg_ctl, "start", "-w", "-t", f"{START_TIMEOUT_S:g}", "-D", str(data), "-l", str(log)]
    try:
        run(argv, account_named(layout.account), timeout_s=START_TIMEOUT_S + 10)
    except LabError as error:
        why = _logged_since(log, logged_before) or error.why
        raise LabError(f"{name} did not start", why=why, hint=f"see {log}") from None
    return True


def stop(layout: Layout, name: str) -> bool:
    """Shut it down fast (connections are ended, nothing is lost). False when it did not run."""
    before = state(layout, name)
    if before == "frozen":
        raise RefusedError(
            f"{name} is frozen and cannot shut down",
            hint=f"replctl lab thaw {name}{option(layout.directory)}, or lab kill",
        )
    if before == "stopped":
        return False
    pids = processes.family(layout.data_directory(name))
    processes.send(pids[:1], signal.SIGINT)
    processes.wait_gone(pids, name, STOP_TIMEOUT_S)
    return True


def connect(layout: Layout, name: str, **options: Any) -> psycopg.Connection[Any]:
    """An autocommit connection as the superuser."""
    return psycopg.connect(dsn(layout, name), autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S, **options)


def dsn(layout: Layout, name: str, user: str = "postgres", dbname: str = "postgres") -> str:
    """A libpq connection string. No password: the lab trusts loopback."""
    return f"host={HOST} port={layout.server(name).port} user={user} dbname={dbname} sslmode=disable"


def _clear_remains(data: Path) -> None:
    """Remove what a killed server left that would stop the next start.

    Its children may outlive a killed postmaster while they are frozen. Its pid may be a zombie's that
    nobody collects, or belong to another program by now: PostgreSQL would take either for a server.
    """
    if leftover := processes.family(data):
        processes.send(leftover, signal.SIGKILL)
        processes.wait_gone(leftover, f"what is left of the server in {data}")
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid_file = data / "postmaster.pid"
        holder = processes.table().get(int(pid_file.read_text().splitlines()[0]))
        if holder is not None and (holder.state == "Z" or holder.name != "postgres"):
            pid_file.unlink()


def _logged_since(log: Path, offset: int) -> str | None:
    """Why a server ended, from what it logged after `offset` bytes: the first complaint and the fatal one."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(offset, log.stat().st_size - _LOG_TAIL_BYTES))
        entries = _ENTRY.findall(file.read().decode(errors="replace"))
        fatal = [text for severity, text in entries if severity in ("FATAL", "PANIC")]
        complaints = [text for _, text in entries if _COMPLAINT.search(text)]
        return "; ".join(dict.fromkeys([*complaints[:1], *fatal[-1:]])) or None
    return None
