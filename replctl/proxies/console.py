"""PgBouncer's admin console: a database called `pgbouncer` that knows simple queries only."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from replctl.errors import InventoryError, ReplctlError
from replctl.pg.connect import shut

LIMIT_S = 3.0
VERSION = re.compile(r"PgBouncer ([0-9]{1,3}\.[0-9]{1,3})(?![0-9])")


class NotReached(ReplctlError):  # noqa: N818 - a state, not a mistake
    """Nobody let us in, so the command was not even sent."""


def settings_of(dsn: str) -> dict[str, str]:
    """The settings of a console's connection string. Raises InventoryError, without the string's text."""
    try:
        found = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise InventoryError(
            "[pgbouncer] admin has a value that is no connection string",
            hint='for example "host=10.0.0.5 port=6432 user=replctl"',
        ) from None
    return {key: str(value) for key, value in found.items() if value is not None}


def place_of(dsn: str) -> str:
    """Where a console is, for messages. Raises InventoryError."""
    settings = settings_of(dsn)
    return f"{settings.get('host', 'local')}:{settings.get('port', '5432')}"


async def ask(dsn: str, command: str, limit_s: float = LIMIT_S) -> list[dict[str, Any]]:
    """The rows of one command, within `limit_s` from connecting to the last row.

    Raises ReplctlError, and of these NotReached where the command was not sent. It is made of tokens of ours:
    a console takes no bound parameters.
    """
    settings: dict[str, Any] = {"dbname": "pgbouncer"} | settings_of(dsn)
    until_s = time.monotonic() + limit_s
    failure: type[ReplctlError] = NotReached
    try:
        async with asyncio.timeout(limit_s):
            # BEGIN is an error there, and so is the extended protocol.
            connection = await psycopg.AsyncConnection.connect(
                **settings, autocommit=True, row_factory=dict_row
            )
        failure = ReplctlError
        try:
            return await _answer(connection, command, until_s - time.monotonic())
        finally:
            await connection.close()
    except TimeoutError:
        why = f"not within {limit_s:g} s"
    except psycopg.Error as error:
        why = next(iter(str(error).strip().splitlines()), "it says nothing of why")
    raise failure(f"the PgBouncer at {place_of(dsn)} does not answer", why=why)


async def _answer(
    connection: psycopg.AsyncConnection[dict[str, Any]], command: str, limit_s: float
) -> list[dict[str, Any]]:
    """The rows of one command. Raises TimeoutError and psycopg.Error.

    The task that waits is never cancelled: psycopg would ask the server to stop, which ends no PAUSE, and
    wait for that without a limit. Its socket is shut instead.
    """
    task = asyncio.ensure_future(_rows(connection, command))
    try:
        await asyncio.wait({task}, timeout=limit_s)
    finally:
        ended = task.done()
        if not ended:
            shut(connection)
            await until_done(task)
    if not ended:
        raise TimeoutError
    return task.result()


async def _rows(connection: psycopg.AsyncConnection[dict[str, Any]], command: str) -> list[dict[str, Any]]:
    cursor = await connection.execute(command.encode("ascii"))
    return await cursor.fetchall() if cursor.description else []


async def until_done(task: asyncio.Future[Any]) -> None:
    """Wait for a task that has to come to its end, also where the caller is cancelled, once or more often.

    Raises that CancelledError afterwards, and never what the task raises.
    """
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain where nobody asks for the result
    if cancelled is not None:
        raise cancelled


def ask_version(dsn: str) -> str:
    """The same as `version_of`, where no event loop runs."""
    return asyncio.run(version_of(dsn))


async def version_of(dsn: str) -> str:
    """The version of the PgBouncer behind this console, such as `1.24`. Raises ReplctlError."""
    rows = await ask(dsn, "SHOW VERSION")
    told = next(iter(rows[0].values()), "") if rows else ""
    match = VERSION.match(str(told))
    if match is None:
        raise ReplctlError(
            f"the PgBouncer at {place_of(dsn)} does not tell its version",
            why="what answers is another program",
        )
    return match[1]
