"""What a running PgBouncer shows of its aliases, beside what they are to be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from replctl.errors import ReplctlError
from replctl.proxies.changes import Change
from replctl.proxies.console import ask, place_of
from replctl.render.pgbouncer import Alias
from replctl.render.tokens import Whitelist

Rows = dict[str, dict[str, Any]]
# By key of the file; the names of some columns changed with the versions.
POOL_COLUMNS = {
    "pool_mode": ("pool_mode",),
    "pool_size": ("pool_size",),
    "reserve_pool": ("reserve_pool", "reserve_pool_size"),
    "reserve_pool_size": ("reserve_pool", "reserve_pool_size"),
    "max_db_connections": ("max_connections",),
}


async def databases(door: str) -> Rows:
    """SHOW DATABASES by name. Raises ReplctlError."""
    rows = await ask(door, "SHOW DATABASES")
    if rows and "name" not in rows[0]:
        raise ReplctlError(
            f"{named(door)} does not tell its databases", why="what answers is another program"
        )
    return {str(row["name"]): row for row in rows}


def differences(plan: Iterable[Alias], rows: Rows) -> list[str]:
    """How what SHOW DATABASES shows is not the plan, as sentences. It never shows the alias `*`."""
    found = []
    for alias in plan:
        row = rows.get(alias.name)
        if row is None:
            found += [] if alias.name == "*" else [f"alias {alias.name} is not there"]
            continue
        found += [
            f"alias {alias.name} has {key} {shown}, not {value}"
            for key, value in target_of(alias).items()
            if (shown := None if row[key] is None else str(row[key])) != value
        ]
        found += [] if alias.kept else _pool_apart(alias, row)
    return found


def _pool_apart(alias: Alias, row: dict[str, Any]) -> list[str]:
    """How its pool is another, as far as this version of PgBouncer shows it."""
    return [
        f"alias {alias.name} has {column} {row[column]}, not {alias.settings[key]}"
        for key, columns in POOL_COLUMNS.items()
        if key in alias.settings
        for column in columns
        if column in row and str(row[column]) != alias.settings[key]
    ]


def target_of(alias: Alias) -> dict[str, str | None]:
    """Where it leads, in the words of SHOW DATABASES."""
    return {
        "host": alias.settings.get("host"),
        # Of a list PgBouncer takes the first, for all hosts.
        "port": alias.settings.get("port", "5432").partition(",")[0].strip(),
        "database": alias.settings.get("dbname", alias.name),
    }


def for_writing(change: Change[Alias]) -> dict[str, Alias]:
    """The aliases for writing that replctl made, by name."""
    template = change.table["write_alias"]
    return {
        a.name: a
        for a in change.rendered.plan
        if not a.kept and a.name == template.replace("{database}", a.settings.get("dbname", a.name))
    }


def moved_aliases(change: Change[Alias], rows: Rows) -> list[str]:
    """The aliases for writing that lead elsewhere than they are to."""
    return [
        name
        for name, alias in for_writing(change).items()
        if (row := rows.get(name)) is not None
        and any(str(row[key]) != value for key, value in target_of(alias).items())
    ]


def checked(name: str) -> str:
    """The alias as it may stand in a command, where `-` and `.` need quotes. Raises InventoryError."""
    whitelist = Whitelist("the inventory")
    found = whitelist.name(name, "alias")
    whitelist.settle()
    return f'"{found}"'


def named(door: str) -> str:
    """A PgBouncer for messages."""
    return f"the PgBouncer at {place_of(door)}"
