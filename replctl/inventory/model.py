"""What an inventory is once read: the core's settings, and beside them what must not reach the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replctl.core.settings import ClusterSettings, ReplicationSettings
from replctl.inventory import password
from replctl.inventory.kinds import PLACEHOLDER

HIDDEN = "(not shown)"
FROM_FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach one node or witness: libpq's keywords, without a password."""

    host: str
    port: int = 5432
    user: str | None = None
    dbname: str | None = "postgres"
    sslmode: str | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    passfile: str | None = None
    service: str | None = None
    connect_timeout_s: float = 2.0
    query_timeout_s: float = 2.0
    password_command: tuple[str, ...] | None = field(default=None, repr=False)

    def parameters(self) -> dict[str, str]:
        """What libpq is told. The rest it takes from the service, its environment and its defaults."""
        names = ("user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "passfile", "service")
        given = {name: getattr(self, name) for name in names}
        return {"host": self.host, "port": str(self.port)} | {k: v for k, v in given.items() if v is not None}

    def password(self) -> str | None:
        """What `password_command` prints, asked once per process; None where there is no command.

        Blocks up to `password.LIMIT_S` seconds. Raises ObserveError, which never holds any output.
        """
        return None if self.password_command is None else password.ask(self.password_command)

    def forget_password(self) -> None:
        """Ask `password_command` again next time: for passwords that expire."""
        if self.password_command is not None:
            password.forget(self.password_command)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCommands:
    """`[nodes.commands]` of one node, placeholders expanded. None = not given."""

    stop: tuple[str, ...] | None = None
    start: tuple[str, ...] | None = None
    run: tuple[str, ...] | None = None
    fence: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One effective value: where it stands (`nodes.pg1`, `max_lag_bytes`), as TOML, and where it comes from.

    `origin` is `file`, `default`, `profile NAME` or `environment VARIABLE`.
    """

    table: tuple[str, ...]
    key: str
    value: Any = field(repr=False)
    origin: str
    secret: bool = False

    @property
    def path(self) -> str:
        """`routing.max_lag_bytes`, `nodes.pg1.port`."""
        return ".".join((*self.table, self.key))

    @property
    def shown(self) -> Any:
        """The value for a screen: hidden where it may lead to a secret."""
        return HIDDEN if self.secret and self.value is not None else self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One file, one cluster. Everything in it has been checked."""

    path: Path
    settings: ClusterSettings
    connections: dict[str, Connection]  # by the name of node and witness
    commands: dict[str, NodeCommands]  # by the name of the node
    pgbouncer: dict[str, Any] | None = None  # None = the file has no such table
    haproxy: dict[str, Any] | None = None
    entries: tuple[Entry, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def replication(self) -> ReplicationSettings | None:
        """`[replication]`, None where the file has none."""
        return self.settings.replication

    @property
    def origins(self) -> dict[str, str]:
        """Where each value comes from, by its path such as `routing.max_lag_bytes`."""
        return {entry.path: entry.origin for entry in self.entries}

    def document(self) -> dict[str, Any]:
        """What the file gives, as TOML tables again: `dump` of it is an inventory equal to this one."""
        # The presence of these two means something even when they are empty.
        present = {"pgbouncer": self.pgbouncer, "haproxy": self.haproxy}
        document: dict[str, Any] = {name: {} for name, table in present.items() if table is not None}
        for entry in self.entries:
            if entry.origin == FROM_FILE:
                self._table(document, entry.table)[entry.key] = entry.value
        return document

    @staticmethod
    def _table(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        if path[:1] in (("nodes",), ("witnesses",)):
            rows: list[dict[str, Any]] = document.setdefault(path[0], [])
            row = next((r for r in rows if r.get("name") == path[1]), None)
            if row is None:
                row = {"name": path[1]}
                rows.append(row)
            document, path = row, path[2:]
        for name in path:
            document = document.setdefault(name, {})
        return document


def expand(argv: tuple[str, ...], values: Mapping[str, object]) -> tuple[str, ...]:
    """Put values in place of `{name}` and its kin; `{{` and `}}` are braces. Unknown placeholders stay."""

    def one(match: Any) -> str:
        if match[0] in ("{{", "}}"):
            return str(match[0][0])
        return str(values.get(match[1], match[0]))

    return tuple(PLACEHOLDER.sub(one, word) for word in argv)
