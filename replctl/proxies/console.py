"""PgBouncer's admin console: a database called `pgbouncer` that knows simple queries only."""

from __future__ import annotations

import re
from contextlib import closing

import psycopg
from psycopg.conninfo import conninfo_to_dict

from replctl.errors import InventoryError, ReplctlError

CONNECT_TIMEOUT_S = 2
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


def ask_version(dsn: str) -> str:
    """The version of the PgBouncer behind this console, such as `1.24`. Raises ReplctlError."""
    settings = {"dbname": "pgbouncer", "connect_timeout": str(CONNECT_TIMEOUT_S)} | settings_of(dsn)
    place = f"{settings.get('host', 'local')}:{settings.get('port', '5432')}"
    try:
        # Bound parameters and BEGIN are errors there.
        with closing(psycopg.connect(**settings, autocommit=True)) as connection:  # type: ignore[arg-type]
            row = connection.execute("SHOW VERSION").fetchone()
    except psycopg.Error as error:
        why = str(error).strip().splitlines() or ["no answer"]
        raise ReplctlError(f"the PgBouncer at {place} does not tell its version", why=why[0]) from None
    match = VERSION.match(str(row[0]) if row else "")
    if match is None:
        raise ReplctlError(
            f"the PgBouncer at {place} does not tell its version", why="what answers is another program"
        )
    return match[1]
