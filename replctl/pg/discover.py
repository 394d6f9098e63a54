"""Finding a cluster from a few addresses, for `init`.

From a replica the way up is its primary_conninfo. The way down is pg_stat_replication, which tells a
replica's address but not its port: the ports known so far are tried there, and a server counts only if
it has the cluster's system identifier and the name that the upstream shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from replctl.core.model import NodeFacts, Sender
from replctl.errors import ObserveError, UsageError
from replctl.inventory import Connection
from replctl.pg.connect import NodeError, query
from replctl.pg.observe import NodeProbe
from replctl.pg.queries import PLACE

NODES_MAX = 100
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_CONNECTION_KEYS = ("user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "passfile", "service")
# What [replication] can say about a written primary_conninfo.
_REPLICATION_KEYS = ("user", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "dbname")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One server of the cluster."""

    name: str
    connection: Connection
    facts: NodeFacts
    data_directory: str | None
    replication: dict[str, str]  # of its primary_conninfo, no secrets; empty on a primary


@dataclass(slots=True)
class Discovery:
    """Everything found, and what was seen but could not be reached."""

    nodes: list[Found] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # a sentence each


def connections_of(dsn: str) -> tuple[list[Connection], str | None]:
    """The servers that a DSN names, one Connection per host, and the password it holds, if any.

    Raises UsageError. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
    """
    try:
        parts: dict[str, Any] = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # The parser's message repeats what it was given, and that may hold a password.
        raise UsageError(
            "a DSN cannot be read",
            why="it is neither a keyword string nor a URI",
            hint="for example: replctl init 'host=10.0.0.1 user=replctl'",
        ) from None
    hosts = str(parts.get("host") or parts.get("hostaddr") or "localhost").split(",")
    ports = str(parts.get("port") or "5432").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts) or not all(p.isdecimal() and 0 < int(p) < 65536 for p in ports):
        raise UsageError("a DSN has ports that do not fit its hosts", hint="give one port, or one per host")
    given = {k: str(parts[k]) for k in _CONNECTION_KEYS if parts.get(k)}
    given.setdefault("dbname", "postgres")
    found = [Connection(host=h, port=int(p), **given) for h, p in zip(hosts, ports, strict=True)]  # type: ignore[arg-type]
    return found, parts.get("password")


async def discover(first: list[Connection]) -> Discovery:
    """Walk up and down from these servers. Raises ObserveError when none of them answers."""
    found = Discovery()
    queue, tried, failures = list(first), set[tuple[str, int]](), list[str]()
    while queue and len(tried) < NODES_MAX:
        connection = queue.pop(0)
        if (connection.host, connection.port) in tried:
            continue
        tried.add((connection.host, connection.port))
        try:
            node = await _ask(connection)
        except NodeError as error:
            failures.append(f"{connection.host}:{connection.port}: {error.cause} ({error.message})")
            continue
        if any(_same_server(node, other) for other in found.nodes):
            continue
        if found.nodes and node.facts.system_identifier != found.nodes[0].facts.system_identifier:
            failures.append(f"{connection.host}:{connection.port} is of another cluster")
            continue
        found.nodes.append(node)
        queue += _neighbours(node, found.nodes)
    if not found.nodes:
        raise ObserveError(
            "no server answered", why="; ".join(failures[:5]), hint="check host, port, role and pg_hba.conf"
        )
    found.missing += [f for f in failures if any(f.startswith(f"{c.host}:{c.port}") for c in first)]
    found.missing += _unseen(found.nodes)
    found.nodes = _named(found.nodes)
    return found


async def _ask(connection: Connection) -> Found:
    probe = NodeProbe(f"{connection.host}:{connection.port}", connection)
    try:
        seen = await probe.sample()
        if not isinstance(seen, NodeFacts):
            raise NodeError(seen.cause, seen.message)
        assert probe.connection is not None
        text = PLACE.for_version(seen.server_version_num)
        try:
            place = (await query(probe.connection, text, timeout_s=connection.query_timeout_s))[0]
        except psycopg.Error:
            place = {"data_directory": None, "primary_conninfo": None}
        return Found(
            name=probe.name,
            connection=connection,
            facts=seen,
            data_directory=place["data_directory"],
            replication=_replication(place["primary_conninfo"]) if seen.in_recovery else {},
        )
    finally:
        await probe.close()


def _replication(conninfo: str | None) -> dict[str, str]:
    try:
        parts = conninfo_to_dict(conninfo or "")
    except psycopg.ProgrammingError:
        return {}
    return {k: str(parts[k]) for k in _REPLICATION_KEYS if parts.get(k)}


def _neighbours(node: Found, known: list[Found]) -> list[Connection]:
    """Where the upstream is, and where its downstreams may be."""
    from dataclasses import replace

    facts = node.facts
    addresses: list[tuple[str, int]] = []
    if facts.upstream_host is not None and not facts.upstream_host.startswith("/"):
        addresses.append((facts.upstream_host, facts.upstream_port or 5432))
    ports = dict.fromkeys([node.connection.port, 5432, *(n.connection.port for n in known)])
    for sender in facts.senders:
        if sender.client_addr is not None and sender.state != "backup":
            addresses += [(sender.client_addr, port) for port in ports]
    return [replace(node.connection, host=host, port=port) for host, port in addresses]


def _same_server(one: Found, other: Found) -> bool:
    """Two addresses of one server: the same start to the microsecond, on the same data."""
    a, b = one.facts, other.facts
    return (a.system_identifier, a.started_at, a.in_recovery) == (
        b.system_identifier,
        b.started_at,
        b.in_recovery,
    )


def _unseen(nodes: list[Found]) -> list[str]:
    """Who streams but was not found."""
    names = {n.facts.own_application_name for n in nodes}
    return [
        f"{_label(s)} streams from {n.connection.host}:{n.connection.port}, but its port is not known"
        for n in nodes
        for s in n.facts.senders
        if s.application_name not in names and s.state != "backup" and not _is_logical(s, n.facts)
    ]


def _is_logical(sender: Sender, facts: NodeFacts) -> bool:
    return any(s.kind == "logical" and s.active_pid == sender.pid for s in facts.slots)


def _label(sender: Sender) -> str:
    name = "".join(c if c.isprintable() else "?" for c in sender.application_name)
    return f"{name!r}" + (f" at {sender.client_addr}" if sender.client_addr else "")


def _named(nodes: list[Found]) -> list[Found]:
    """Primaries first; each named as it calls itself where that is a name and unique, else by its host."""
    from dataclasses import replace

    ordered = sorted(nodes, key=lambda n: (n.facts.in_recovery, n.connection.host, n.connection.port))
    own = [n.facts.own_application_name or n.facts.settings.get("cluster_name", "") for n in ordered]
    taken: set[str] = set()
    named: list[Found] = []
    for node, name in zip(ordered, own, strict=True):
        usable = _NAME.fullmatch(name or "") and name != "walreceiver" and own.count(name) == 1
        base = str(name) if usable else re.sub(r"[^A-Za-z0-9_.-]", "-", node.connection.host)[:50]
        unique = base if base not in taken else f"{base}-{node.connection.port}"
        taken.add(unique)
        named.append(replace(node, name=unique))
    return named
