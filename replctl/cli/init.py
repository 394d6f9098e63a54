"""`replctl init`: find a cluster from one or more DSNs and write its inventory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replctl.cli.options import TimeoutOption
from replctl.errors import InventoryError, PartialError, RefusedError, UsageError

if TYPE_CHECKING:
    from replctl.inventory import Connection
    from replctl.pg.discover import Discovery, Found

DEFAULT_FILE = Path("replctl.toml")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")


def init(
    dsn: Annotated[
        list[str], typer.Argument(metavar="DSN...", help="Any server of the cluster; more if ports differ.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="File to write; - for standard output.")
    ] = DEFAULT_FILE,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="The cluster's name.", show_default="cluster_name, or main"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    timeout: TimeoutOption = None,
) -> int:
    """Find a cluster from one or more DSNs and write a commented inventory.

    A DSN is what psql takes. A password in it is used, but not written. Exit code 4 when servers were seen
    that are not in the inventory; they are named.

    Example: replctl init 'host=10.0.0.1 user=replctl sslmode=verify-full'
    """
    import asyncio

    from replctl.cli.look import limit_of
    from replctl.inventory import dump
    from replctl.pg.discover import discover

    limit_s = limit_of(timeout)
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(
            f"--name {name!r}",
            why="expected 1 to 63 letters, digits, '_', '.' or '-'",
            hint="for example --name orders",
        )
    to_stdout = str(out) == "-"
    if not to_stdout and out.exists() and not force:
        raise RefusedError(
            f"{out} exists", hint="write elsewhere with --out FILE, or replace it with --force"
        )
    connections, has_password = _connections(dsn)
    discovery = asyncio.run(discover(connections, limit_s=limit_s))
    draft = draft_of(discovery, name, out)
    text = dump(draft.document, header=_header(discovery), notes=draft.notes, optional=True)
    if to_stdout:
        typer.echo(text, nl=False)
    else:
        _write(out, text)
        _summarise(discovery, out)
    remarks = list(draft.remarks)
    if has_password:
        remarks.append(
            "the password was not written: put it into ~/.pgpass, or give passfile or password_command"
        )
    for sentence in remarks:
        typer.echo(f"replctl: {sentence}", err=True)
    if discovery.missing:
        raise PartialError(
            "servers were seen that are not in the inventory",
            why="; ".join(discovery.missing),
            hint=f"name them too: replctl init {_options(out, to_stdout)}DSN DSN...",
        )
    return 0


def _connections(dsns: Iterable[str]) -> tuple[list[Connection], bool]:
    """Where to begin, and whether there was a password, which libpq then takes from its environment."""
    import os

    from replctl.pg.discover import connections_of

    connections, passwords = [], set[str]()
    for text in dsns:
        found, password = connections_of(text)
        connections += found
        if password:
            passwords.add(password)
    if len(passwords) > 1:
        raise UsageError("the DSNs hold different passwords", hint="use a password file: ~/.pgpass")
    if passwords:
        os.environ["PGPASSWORD"] = passwords.pop()
    return connections, bool(os.environ.get("PGPASSWORD"))


def _options(out: Path, to_stdout: bool) -> str:
    if to_stdout:
        return "--out - "
    return "--force " if out == DEFAULT_FILE else f"--force --out {out} "


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An inventory that is about to be written: its tables, comments by path, and what the user is told."""

    document: dict[str, Any]
    notes: dict[str, str]
    remarks: tuple[str, ...]


def draft_of(discovery: Discovery, name: str | None, path: Path) -> Draft:
    """What is written of what was found; what is written can be read. Raises InventoryError."""
    from replctl.inventory import parse

    nodes = discovery.nodes
    connection = nodes[0].connection
    keys = ("user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "passfile", "service")
    document: dict[str, Any] = {
        "schema": 1,
        "cluster": {"name": name or _cluster_name(nodes)},
        "connection": {key: value for key in keys if (value := getattr(connection, key)) is not None},
        "nodes": [_node(node, connection) for node in nodes],
    }
    notes: dict[str, str] = {}
    remarks: list[str] = []
    if any("patroni" in manager.lower() for node in nodes for manager in node.managers):
        document["cluster"]["manager"] = "patroni"
        remarks.append("Patroni manages this cluster: replctl will look, and not act")
    _add_replication(document, notes, remarks, nodes)
    for node in nodes:
        role = "the primary" if not node.facts.in_recovery else "a replica"
        notes[f"nodes.{node.name}"] = f"{role} when this file was written"
    _add_synchronous(document, remarks, nodes, path)
    parse(document, path)
    return Draft(document=document, notes=notes, remarks=tuple(remarks))


def _add_synchronous(document: dict[str, Any], remarks: list[str], nodes: list[Found], path: Path) -> None:
    """What the primary has is what every primary must have, unless no guarantee can be built on it."""
    from replctl.inventory import parse

    primary = next((n for n in nodes if not n.facts.in_recovery), None)
    rule = primary.facts.synchronous_standby_names if primary is not None else None
    if rule is None:
        remarks.append("[failover] synchronous is not set, since no primary told its own")
        return
    try:
        parse({**document, "failover": {"synchronous": rule}}, path)
    except InventoryError:
        remarks.append(f"[failover] synchronous is not set: {rule!r} names others than these nodes")
        return
    document["failover"] = {"synchronous": rule}


def _cluster_name(nodes: list[Found]) -> str:
    """cluster_name where all servers agree on one that can be a name and is no node's; else `main`."""
    names = {n.facts.settings.get("cluster_name", "") for n in nodes} - {n.name for n in nodes}
    if len(names) == 1 and _NAME.fullmatch(found := names.pop()):
        return found
    return "main"


def _node(node: Found, defaults: Connection) -> dict[str, Any]:
    table: dict[str, Any] = {"name": node.name, "host": node.connection.host, "port": node.connection.port}
    for key in ("user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "passfile", "service"):
        own_value = getattr(node.connection, key)
        if own_value is not None and own_value != getattr(defaults, key):
            table[key] = own_value
    own = node.facts.own_application_name
    if own and own != node.name:
        table["application_name"] = own
    if node.data_directory:
        table["data_directory"] = node.data_directory
    return table


def _add_replication(
    document: dict[str, Any], notes: dict[str, str], remarks: list[str], nodes: list[Found]
) -> None:
    """What the running replicas' primary_conninfo have in common; said where they differ."""
    from collections import Counter

    replicas = [n for n in nodes if n.replication]
    if not any("user" in n.replication for n in replicas):
        remarks.append("[replication] is not set, since no replica told its primary_conninfo")
        return
    table: dict[str, Any] = {}
    differing = []
    for key in dict.fromkeys(k for n in replicas for k in n.replication):
        values = Counter(n.replication.get(key) for n in replicas)
        value = values.most_common(1)[0][0]
        if value is not None:
            table[key] = value
        if len(values) > 1:
            differing.append(key)
    if slot := _slot_pattern(replicas):
        table["slot"] = slot
    document["replication"] = table
    if differing:
        notes["replication"] = f"The replicas differ in {', '.join(differing)}: this is the most frequent."
    if with_password := [n.name for n in replicas if n.conninfo_has_password]:
        remarks.append(
            f"primary_conninfo of {', '.join(with_password)} holds a password, which is not written: "
            "put it into a passfile on the nodes, and name that in [replication]"
        )


def _slot_pattern(replicas: list[Found]) -> str | None:
    """`{name}`, or with what stands before and after it, where every replica's slot is named so."""
    patterns = {
        (n.facts.primary_slot_name or "").replace(n.name, "{name}", 1)
        for n in replicas
        if n.facts.primary_slot_name
    }
    return patterns.pop() if len(patterns) == 1 and all("{name}" in p for p in patterns) else None


def _header(discovery: Discovery) -> str:
    lines = [
        "Written by `replctl init` from the running cluster. Check it with `replctl config validate`.",
        "A key behind a bare # is not set; what it shows is its default or an example.",
    ]
    return "\n".join([*lines, *(f"Not found: {sentence}" for sentence in discovery.missing)])


def _write(path: Path, text: str) -> None:
    """Write the file whole or not at all, for its owner to write only."""
    import os

    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o644)
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(
            f"{path} cannot be written", why=error.strerror, hint="choose another with --out"
        ) from None


def _summarise(discovery: Discovery, path: Path) -> None:
    for node in discovery.nodes:
        role = "primary" if not node.facts.in_recovery else "replica"
        typer.echo(f"found {role} {node.name} at {node.address}")
    typer.echo(f"wrote {path}")
    inventory = "" if path == DEFAULT_FILE else f" -i {path}"
    typer.echo(f"next: replctl status{inventory}")
