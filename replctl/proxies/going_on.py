"""Letting a PgBouncer's clients reach the new primary at once: who hangs is let go, no retry waited for."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

from replctl.errors import ReplctlError
from replctl.proxies.aliases import checked, databases, for_writing, named
from replctl.proxies.changes import Change, Report
from replctl.proxies.console import ask, until_done
from replctl.render.pgbouncer import Alias

RESUME_TRIES = 3
HURRY_RETRY_S = 0.05
HURRY_POLL_S = 0.02
HURRY_POLLS = 50
LOOKUP_S = 1.0


async def left_behind(door: str, change: Change[Alias]) -> list[str]:
    """The aliases for writing with a client on a server that is not theirs any more. Raises ReplctlError.

    There the client's transaction, or with pool_mode = session the client, may stay for ever: PgBouncer only
    closes such a server when it is given back.
    """
    aliases = for_writing(change)
    rows = [
        row
        for row in await ask(door, "SHOW SERVERS")
        if row["database"] in aliases and row["state"] == "active" and str(row["close_needed"]) == "1"
    ]
    found = [row["database"] for row in rows if not await _is_at(row, aliases[row["database"]])]
    return sorted(set(found))


async def _is_at(server: dict[str, Any], alias: Alias) -> bool:
    """Whether a server connection leads where its alias does; also where a name is not looked up in time.

    RECONNECT closes servers too, and who is at the right one is to be left alone.
    """
    if str(server["port"]) != alias.settings["port"]:
        return False
    host = alias.settings["host"]
    if host.startswith("/"):
        return str(server["addr"]) == "unix"
    try:
        async with asyncio.timeout(LOOKUP_S):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            shown = ipaddress.ip_address(str(server["addr"]))
    except (OSError, TimeoutError, ValueError):
        return True
    return shown in {ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found}


async def go_on(door: str, change: Change[Alias], moved: list[str], report: Report) -> None:
    """After a change of the aliases that `moved`, or where somebody was left behind before."""
    try:
        await _end_left_behind(door, change, report)
        if moved:
            await hurry(door, moved)
    except ReplctlError as error:
        report.problems.append(str(error))


async def _end_left_behind(door: str, change: Change[Alias], report: Report) -> None:
    """KILL ends every client of the alias, so it is kept for aliases with such a client.

    Elsewhere idle clients stay, and go on at the new server.
    """
    for name in await left_behind(door, change):
        try:
            await ask(door, f"KILL {checked(name)}")
            report.done.append(f"{named(door)}: clients of {name} ended, for their transactions hang")
            report.changed = True
        finally:
            resuming = asyncio.ensure_future(resume(door, [name]))
            await until_done(resuming)
            resuming.result()


async def hurry(door: str, moved: list[str]) -> None:
    """After a failed login PgBouncer tries no other for server_login_retry, 15 s by default.

    That was of the server that is lost. SET holds until the next RELOAD: at once where the new server is
    reached, else that of the next change, since whoever comes in between is not to wait either.
    """
    without, _ = await _pools(door, moved)
    if not without:
        return
    await ask(door, f"SET server_login_retry = '{HURRY_RETRY_S}'")
    for _ in range(HURRY_POLLS):
        without, waiting = await _pools(door, moved)
        if not without:
            await ask(door, "RELOAD")
        if not (without and waiting):
            return
        await asyncio.sleep(HURRY_POLL_S)


async def _pools(door: str, moved: list[str]) -> tuple[bool, bool]:
    """Whether a pool of these aliases has no server, and whether clients wait in one that has none."""
    pools = [row for row in await ask(door, "SHOW POOLS") if row["database"] in moved]
    servers = ("sv_active", "sv_idle", "sv_used", "sv_tested")
    without = [row for row in pools if not any(int(row[key]) for key in servers)]
    return bool(without), any(int(row["cl_waiting"]) for row in without)


async def resume(door: str, names: Iterable[str]) -> None:
    """RESUME until none is paused. Raises ReplctlError."""
    wanted = list(names)
    for last in (*(False,) * (RESUME_TRIES - 1), True):
        with contextlib.suppress(ReplctlError):  # one that is not paused says so
            for name in wanted:
                await ask(door, f"RESUME {checked(name)}")
        try:
            rows = await databases(door)
        except ReplctlError:
            if last:
                raise
            continue
        wanted = [name for name in wanted if name in rows and str(rows[name]["paused"]) != "0"]
        if not wanted:
            return
    raise ReplctlError(f"{named(door)}: {', '.join(wanted)} still paused")
