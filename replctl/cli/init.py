"""`replctl init`: find a cluster from one or more DSNs and write its inventory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replctl.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from replctl.pg.discover import Discovery, Found

DEFAULT_FILE = Path("replctl.toml")


def init(
    dsn: Annotated[
        list[str], typer.Argument(metavar="DSN...", help="Any server of the cluster; more if ports differ.")
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write; - for standard output.")] = DEFAULT_FILE,
    name: Annotated[
        str | None, typer.Option("--name", help="The cluster's name.", show_default="cluster_name, or main")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> int:
    """Find a cluster from one or more DSNs and write a commented inventory.

    Example: replctl init 'host=10.0.0.1 user=replctl sslmode=verify-full'
    """
    import asyncio
    import os

    from replctl.inventory import dump, parse
    from replctl.pg.discover import connections_of, discover

    to_stdout = str(out) == "-"
    if not to_stdout and out.exists() and not force:
        raise RefusedError(
            f"{out} exists", hint="write elsewhere with --out FILE, or replace it with --force"
        )
    connections, passwords = [], set[str]()
    for text in dsn:
        found, password = connections_of(text)
        connections += found
        if password:
            passwords.add(password)
    if len(passwords) > 1:
        raise UsageError("the DSNs hold different passwords", hint="use a password file: ~/.pgpass")
    if passwords:
        # libpq takes it from here; it is neither written nor shown.
        os.environ["PGPASSWORD"] = passwords.pop()
    discovery = asyncio.run(discover(connections))
    document, notes = inventory_document(discovery, name)
    text = dump(document, header=_header(discovery), notes=notes, optional=True)
    parse(document, out)  # what we write, we can read
    if to_stdout:
        typer.echo(text, nl=False)
    else:
        _write(out, text)
        _summarise(discovery, out)
    for sentence in discovery.missing:
        typer.echo(f"replctl: not in the inventory: {sentence}", err=True)
    if discovery.missing:
        typer.echo("hint: name it too: replctl init --force DSN DSN...", err=True)
    return 0


def inventory_document(discovery: Discovery, name: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The inventory as TOML tables, and comments by path."""
    nodes = discovery.nodes
    primary = next((n for n in nodes if not n.facts.in_recovery), None)
    first = nodes[0].connection
    connection: dict[str, Any] = {
        key: value
        for key in ("user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "passfile", "service")
        if (value := getattr(first, key)) is not None
    }
    document: dict[str, Any] = {
        "schema": 1,
        "cluster": {"name": name or _cluster_name(nodes)},
        "connection": connection,
        "nodes": [_node(n) for n in nodes],
    }
    notes: dict[str, str] = {}
    replication, differing = _replication(nodes)
    if replication:
        document["replication"] = replication
        if differing:
            notes["replication"] = (
                f"The replicas differ in {', '.join(differing)}: this is the most frequent."
            )
    if primary is not None and primary.facts.synchronous_standby_names:
        document["failover"] = {"synchronous": primary.facts.synchronous_standby_names}
    for node in nodes:
        role = "the primary" if not node.facts.in_recovery else "a replica"
        notes[f"nodes.{node.name}"] = f"{role} when this file was written"
    return document, notes


def _cluster_name(nodes: list[Found]) -> str:
    """cluster_name where all servers agree on one that can be a name; else `main`."""
    import re

    names = {n.facts.settings.get("cluster_name", "") for n in nodes}
    if len(names) == 1 and re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", found := names.pop()):
        return found
    return "main"


def _node(node: Found) -> dict[str, Any]:
    table: dict[str, Any] = {"name": node.name, "host": node.connection.host, "port": node.connection.port}
    own = node.facts.own_application_name
    if own and own != node.name:
        table["application_name"] = own
    if node.data_directory:
        table["data_directory"] = node.data_directory
    return table


def _replication(nodes: list[Found]) -> tuple[dict[str, Any], list[str]]:
    """What the running replicas' primary_conninfo have in common, and the keywords in which they differ."""
    from collections import Counter

    replicas = [n for n in nodes if n.replication]
    if not any("user" in n.replication for n in replicas):
        return {}, []
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
    return table, differing


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
        typer.echo(f"found {role} {node.name} at {node.connection.host}:{node.connection.port}")
    typer.echo(f"wrote {path}")
    inventory = "" if path == DEFAULT_FILE else f" -i {path}"
    typer.echo(f"next: replctl status{inventory}")
