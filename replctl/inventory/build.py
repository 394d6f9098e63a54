"""From sections to an Inventory: what the keys mean, and where each value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from replctl.core.settings import (
    PROFILES,
    CheckSettings,
    ClusterSettings,
    FailoverSettings,
    Hooks,
    NodeSpec,
    ReplicationSettings,
    RoutingSettings,
    Thresholds,
    WitnessSpec,
)
from replctl.errors import InventoryError
from replctl.inventory.agreement import disagreements
from replctl.inventory.model import FROM_FILE, Connection, Entry, Inventory, NodeCommands, expand
from replctl.inventory.problems import Problems, printable
from replctl.inventory.reader import Section, Sections, read
from replctl.inventory.schema import TABLES, Key, Table
from replctl.inventory.secrecy import check_files
from replctl.inventory.servers import CONNECTION, ROOT

DEFAULT = "default"


def parse(document: dict[str, Any], path: Path, env: Mapping[str, str] | None = None) -> Inventory:
    """An inventory from a document that was decoded already. Looks at no other file.

    Raises InventoryError with all problems. `env` is where libpq's own variables are looked for.
    """
    inventory, problems = examine(document, path, env or {})
    if inventory is None:
        raise InventoryError(f"{path} cannot be used", problems=tuple(problems))
    return inventory


def examine(
    document: dict[str, Any], path: Path, env: Mapping[str, str], *, files: bool = False
) -> tuple[Inventory | None, list[str]]:
    """The inventory, or None and every problem of it; with `files` also of the files that it names."""
    problems = Problems(printable(path))
    sections = read(document, path, problems)
    warnings = disagreements(sections, problems)
    if files:
        check_files(sections, problems)
    if problems.lines:
        return None, problems.lines
    return _inventory(sections, path, env, tuple(f"{printable(path)}: {line}" for line in warnings)), []


def _inventory(s: Sections, path: Path, env: Mapping[str, str], warnings: tuple[str, ...]) -> Inventory:
    nodes = tuple(_node(section) for section in s.nodes)
    witnesses = tuple(
        WitnessSpec(name=w.get("name"), host=w.get("host"), port=w.get("port")) for w in s.witnesses
    )
    cluster, replication = s.tables["cluster",], s.tables["replication",]
    settings = ClusterSettings(
        name=cluster.get("name"),
        manager=cluster.get("manager"),
        nodes=nodes,
        witnesses=witnesses,
        slot=replication.get("slot"),
        routing=RoutingSettings(**routing(s.tables["routing",])),
        failover=_failover(s),
        replication=_replication(replication),
        checks=_checks(s.tables["checks",]),
        fence_commands=frozenset(
            spec.name
            for spec, row in zip(nodes, s.nodes, strict=True)
            if _commands(row.below["commands"], spec).fence is not None
        ),
    )
    connection = s.tables["connection",]
    return Inventory(
        path=path,
        settings=settings,
        connections={row.get("name"): _connection(row, connection) for row in (*s.nodes, *s.witnesses)},
        commands={
            spec.name: _commands(row.below["commands"], spec)
            for spec, row in zip(nodes, s.nodes, strict=True)
        },
        pgbouncer=_proxy(s.tables["pgbouncer",]),
        haproxy=_proxy(s.tables["haproxy",]),
        entries=tuple(_entries(s, env)),
        warnings=warnings,
    )


def _node(section: Section) -> NodeSpec:
    values = {key.name: section.get(key.name) for key in section.table.keys}
    values["application_name"] = values["application_name"] or values["name"]
    return NodeSpec(**values, checks=_checks(section.below["checks"]))


def _checks(section: Section) -> CheckSettings:
    given = section.given
    return CheckSettings(
        thresholds={name: value for name, value in given.items() if isinstance(value, Thresholds)},
        unreachable=given.get("unreachable"),
        heartbeat_s=given.get("heartbeat_s"),
    )


def _replication(section: Section) -> ReplicationSettings | None:
    if not section.present:
        return None
    names = [field.name for field in fields(ReplicationSettings)]
    return ReplicationSettings(**{name: section.get(name) for name in names})


def _connection(row: Section, defaults: Section) -> Connection:
    values = {key.name: row.given.get(key.name, defaults.get(key.name)) for key in CONNECTION.keys}
    if values["service"] is not None and "dbname" not in row.given and "dbname" not in defaults.given:
        values["dbname"] = None  # the service's
    return Connection(host=row.get("host"), port=row.get("port"), **values)


def _commands(section: Section, spec: NodeSpec) -> NodeCommands:
    values = {"name": spec.name, "host": spec.host, "port": spec.port, "data_directory": spec.data_directory}
    return NodeCommands(**{name: expand(argv, values) for name, argv in section.given.items()})


def _proxy(section: Section) -> dict[str, Any] | None:
    if not section.present:
        return None
    return {key.name: section.get(key.name) for key in section.table.keys}


def routing(section: Section) -> dict[str, Any]:
    """The values of `[routing]`. The limit for returning follows a lower one for leaving."""
    values = {key.name: section.get(key.name) for key in section.table.keys}
    if "readmit_lag_bytes" not in section.given:
        values["readmit_lag_bytes"] = min(values["readmit_lag_bytes"], values["max_lag_bytes"] // 4)
    if "readmit_lag_s" not in section.given:
        values["readmit_lag_s"] = min(values["readmit_lag_s"], values["max_lag_s"] / 4)
    return values


def _failover(s: Sections) -> FailoverSettings:
    section, hooks = s.tables["failover",], s.tables["failover", "hooks"]
    values = {key.name: section.get(key.name) for key in section.table.keys}
    values |= PROFILES[values["profile"]]
    values |= section.given
    return FailoverSettings(
        **values, hooks=Hooks(**{key.name: hooks.get(key.name) for key in hooks.table.keys})
    )


def _entries(s: Sections, env: Mapping[str, str]) -> list[Entry]:
    """Every value that holds, in the order of the file's tables."""
    entries = [_entry(s.tables[()], key, env) for key in ROOT.keys]
    for name in (table.path[0] for table in TABLES if len(table.path) == 1):
        if name in ("nodes", "witnesses"):
            for row in s.nodes if name == "nodes" else s.witnesses:
                entries += _row_entries(row)
            continue
        section = s.tables[name,]
        if name in ("replication", "pgbouncer", "haproxy") and not section.present:
            continue
        for one in (section, *section.below.values()):
            entries += [_entry(one, key, env) for key in one.table.keys]
    return entries


def _row_entries(row: Section) -> list[Entry]:
    entries = [_entry(row, key, {}) for key in row.table.keys]
    for section, table in ((row, CONNECTION), *((below, below.table) for below in row.below.values())):
        entries += [_entry(section, key, {}) for key in table.keys if key.name in section.given]
    return entries


def _entry(section: Section, key: Key, env: Mapping[str, str]) -> Entry:
    value, origin = _value(section, key, env)
    return Entry(table=section.path, key=key.name, value=value, origin=origin, secret=key.secret)


def _value(section: Section, key: Key, env: Mapping[str, str]) -> tuple[Any, str]:
    """What holds, as TOML, and where it comes from."""
    if key.name in section.given:
        return key.kind.write(section.given[key.name]), FROM_FILE
    table: Table = section.table
    if table.path == ("connection",) and section.get("service") is not None:
        if key.name == "dbname":
            return None, "service"
    elif key.environment is not None and env.get(key.environment):
        return env[key.environment], f"environment {key.environment}"
    if table.path == ("failover",) and key.name in PROFILES["normal"]:
        profile = section.get("profile")
        return key.kind.write(PROFILES[profile][key.name]), f"profile {profile}"
    if table.path == ("routing",):
        return key.kind.write(routing(section)[key.name]), DEFAULT
    if table.path == ("nodes",) and key.name in ("application_name", "client_host", "client_port"):
        same = {"application_name": "name", "client_host": "host", "client_port": "port"}[key.name]
        return section.get(same), DEFAULT
    return key.default, DEFAULT
