"""PgBouncer's admin console: a database called `pgbouncer` that knows simple queries only."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from replctl.errors import InventoryError, ReplctlError

LIMIT_S = 3.0
VERSION = re.compile(r"PgBouncer ([0-9]{1,3}\.[0-9]{1,3})(?![0-9])")


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
    """The rows of one command, within `limit_s` from connecting to the last row. Raises ReplctlError.

    The command is made of tokens of ours: a console takes no bound parameters.
    """
    settings: dict[str, Any] = {"dbname": "pgbouncer"} | settings_of(dsn)
    what, rows = f"the PgBouncer at {place_of(dsn)} does not answer", []
    try:
        async with asyncio.timeout(limit_s):
            # BEGIN is an error there, and so is the extended protocol.
            connection = await psycopg.AsyncConnection.connect(**settings, autocommit=True)
            try:
                cursor = await connection.cursor(row_factory=dict_row).execute(command.encode("ascii"))
                rows = await cursor.fetchall() if cursor.description else []
            finally:
                await connection.close()
    except TimeoutError:
        raise ReplctlError(what, why=f"not within {limit_s:g} s") from None
    except psycopg.Error as error:
        why = str(error).strip().splitlines() or ["it says nothing of why"]
        raise ReplctlError(what, why=why[0]) from None
    return rows


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
