"""Every table and key of the inventory, declared once: kind, default, help, example.

The reader, `config show`, docs/inventory.md and inventory.example.toml are all made from this. A key is
added to its table, and given its meaning where the settings are built (`build`).
"""

from __future__ import annotations

from replctl.inventory.keys import Key, Table
from replctl.inventory.policies import CHECKS, FAILOVER, FAILOVER_HOOKS, ROUTING
from replctl.inventory.proxies import HAPROXY, PGBOUNCER
from replctl.inventory.servers import (
    CLUSTER,
    CONNECTION,
    NODE_CHECKS,
    NODE_COMMANDS,
    NODES,
    REPLICATION,
    ROOT,
    SCHEMA,
    WITNESSES,
)

TABLES: tuple[Table, ...] = (
    ROOT,
    CLUSTER,
    CONNECTION,
    REPLICATION,
    NODES,
    NODE_COMMANDS,
    NODE_CHECKS,
    WITNESSES,
    ROUTING,
    CHECKS,
    FAILOVER,
    FAILOVER_HOOKS,
    PGBOUNCER,
    HAPROXY,
)
BY_PATH: dict[tuple[str, ...], Table] = {table.path: table for table in TABLES}

__all__ = ["BY_PATH", "SCHEMA", "TABLES", "Key", "Table", "accepted_keys", "subtables"]


def accepted_keys(table: Table) -> tuple[Key, ...]:
    """The keys that may stand in this table: a node and a witness may override the connection's."""
    return table.keys + CONNECTION.keys if table in (NODES, WITNESSES) else table.keys


def subtables(table: Table) -> tuple[Table, ...]:
    """The tables right below this one."""
    depth = len(table.path)
    return tuple(t for t in TABLES if len(t.path) == depth + 1 and t.path[:depth] == table.path)


def key_at(path: tuple[str, ...], name: str) -> Key:
    """The key behind an entry: `("nodes", "pg1", "commands"), "stop"`. Raises KeyError."""
    in_array = path[:1] in (NODES.path, WITNESSES.path)
    table = BY_PATH[path[:1] + path[2:] if in_array else path]
    return next(key for key in accepted_keys(table) if key.name == name)
