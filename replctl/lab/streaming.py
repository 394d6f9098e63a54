"""The cut of a lab: a replica that cannot reach its upstream, while host and port stay as they are.

The lab's servers have no TLS, so a receiver that insists on it is turned away at every attempt. A
`sslmode=require` in a live primary_conninfo therefore *is* the cut; nothing else has to be remembered.
"""

from __future__ import annotations

import signal
import time
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replctl.errors import LabError, RefusedError
from replctl.lab import processes, server
from replctl.lab.layout import Layout, option

_CUT_TIMEOUT_S = 10.0
_STREAMING_TIMEOUT_S = 15.0
_POLL_S = 0.02
_RELOAD_EVERY_S = 0.2
# Where replay is paused, delayed or blocked, nobody stops the receiver on a changed conninfo.
_PATIENCE_S = 0.3
_QUIET_S = 0.1

_CUT_MODE = "require"
_OPEN_MODE = "disable"
_RECEIVER = """
SELECT coalesce((SELECT pid FROM pg_stat_wal_receiver),
                (SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'))"""
_STREAMING = "SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'"


def cut(layout: Layout, name: str) -> bool:
    """Cut a replica from its upstream and wait until its receiver is gone. False when it was cut before.

    Raises RefusedError for a server that is no running replica.
    """
    with _replica(layout, name) as connection:
        if _sslmode(connection) == _CUT_MODE:
            return False
        _set_sslmode(connection, _CUT_MODE)
        _wait_cut(connection, name)
    return True


def mend(layout: Layout, name: str) -> bool:
    """Undo a cut. False when there is none. Waits until it streams where its upstream can be reached."""
    with _replica(layout, name) as connection:
        if _sslmode(connection) != _CUT_MODE:
            return False
        _set_sslmode(connection, _OPEN_MODE)
        port = int(_conninfo(connection).get("port") or 5432)
        upstreams = [s.name for s in layout.servers if s.port == port]
        if any(server.state(layout, upstream) == "running" for upstream in upstreams):
            _wait_streaming(connection, layout, name)
    return True


def _replica(layout: Layout, name: str) -> psycopg.Connection[Any]:
    """A connection to a running replica. Raises RefusedError for anything else."""
    now = server.state(layout, name)
    if now != "running":
        verb = "thaw" if now == "frozen" else "start"
        raise RefusedError(f"{name} is {now}", hint=f"replctl lab {verb} {name}{option(layout.directory)}")
    role = server.role(layout, name)
    if role != "replica":
        raise RefusedError(
            f"{name} is a {role} and streams from nobody", hint="cut a replica, or freeze this"
        )
    return server.connect(layout, name)


def _conninfo(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    row = connection.execute("SELECT current_setting('primary_conninfo')").fetchone()
    return dict(conninfo_to_dict(row[0])) if row is not None else {}


def _sslmode(connection: psycopg.Connection[Any]) -> object:
    return _conninfo(connection).get("sslmode")


def _set_sslmode(connection: psycopg.Connection[Any], mode: str) -> None:
    parameters = _conninfo(connection)
    if not parameters:
        raise RefusedError("this replica has no upstream", why="its primary_conninfo is empty")
    value = make_conninfo(**(parameters | {"sslmode": mode}))
    connection.execute(sql.SQL("ALTER SYSTEM SET primary_conninfo = {}").format(value))
    connection.execute("SELECT pg_reload_conf()")
    deadline_s = time.monotonic() + _CUT_TIMEOUT_S
    while _sslmode(connection) != mode:
        if time.monotonic() > deadline_s:
            raise LabError(f"the server did not take primary_conninfo over within {_CUT_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)


def _wait_cut(connection: psycopg.Connection[Any], name: str) -> None:
    """Wait until no receiver streams, and none comes back for a moment."""
    started_s = time.monotonic()
    quiet_since_s: float | None = None
    while True:
        now_s = time.monotonic()
        if now_s - started_s > _CUT_TIMEOUT_S:
            raise LabError(
                f"{name} still streams {_CUT_TIMEOUT_S:g} s after its upstream was made unreachable"
            )
        if connection.execute(_STREAMING).fetchone() is None:
            quiet_since_s = now_s if quiet_since_s is None else quiet_since_s
            if now_s - quiet_since_s >= _QUIET_S:
                return
        else:
            quiet_since_s = None
            row = connection.execute(_RECEIVER).fetchone()
            if now_s - started_s > _PATIENCE_S and row is not None and row[0] is not None:
                processes.send([row[0]], signal.SIGTERM)
        time.sleep(_POLL_S)


def _wait_streaming(connection: psycopg.Connection[Any], layout: Layout, name: str) -> None:
    """Wait until the receiver streams; a reload wakes the startup process from its wait of 5 s."""
    deadline_s = time.monotonic() + _STREAMING_TIMEOUT_S
    reload_s = 0.0
    while connection.execute(_STREAMING).fetchone() is None:
        now_s = time.monotonic()
        if now_s > deadline_s:
            raise LabError(
                f"{name} is connected again but does not stream", hint=f"see {layout.log_file(name)}"
            )
        if now_s - reload_s > _RELOAD_EVERY_S:
            connection.execute("SELECT pg_reload_conf()")
            reload_s = now_s
        time.sleep(_POLL_S)
