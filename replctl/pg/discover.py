"""Finding a cluster from a few addresses, for `init`.

From a replica the way up is its primary_conninfo. The way down is pg_stat_replication, which tells a
replica's address but not its port: the ports known so far are tried there. A server counts only if it has
the cluster's system identifier. Whoever was seen and could not be reached is named.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from replctl.core.model import Cause, NodeFacts, Sender
from replctl.errors import ObserveError, UsageError
from replctl.inventory import Connection
from replctl.pg.connect import NodeError, query
from replctl.pg.observe import NodeProbe
from replctl.pg.queries import PLACE, READY

TRIED_MAX = 300
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_CONNECTION_KEYS = ("user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "passfile", "service")
# What [replication] can say about a written primary_conninfo.
_REPLICATION_KEYS = ("user", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "dbname")
_NO_SERVER = ("pg_basebackup", "pg_receivewal")  # they stream, but nobody can fail over to them


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One server of the cluster."""

    name: str
    connection: Connection
    facts: NodeFacts
    data_directory: str | None
    replication: dict[str, str]  # of its primary_conninfo, no secrets; empty on a primary
    conninfo_has_password: bool
    managers: tuple[str, ...]  # other programs that fail over, as they call themselves

    @property
    def address(self) -> str:
        """Where it was reached."""
        return f"{self.connection.host}:{self.connection.port}"


@dataclass(slots=True)
class Discovery:
    """Everything found, and what was seen but could not be reached."""

    nodes: list[Found] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # a sentence each


def connections_of(dsn: str) -> tuple[list[Connection], str | None]:
    """The servers that a DSN names, one Connection per host, and the password it holds, if any.

    What it does not say comes from its service and from libpq's environment, as for psql. Raises UsageError.
    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
    """
    try:
        parts: dict[str, Any] = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # The parser's message repeats what it was given, and that may hold a password.
        raise UsageError(
            "a DSN cannot be read",
            why="it is neither a URI nor a string of keywords that libpq knows",
            hint="for example: replctl init 'host=10.0.0.1 user=replctl'",
        ) from None
    defaults = _defaults(parts.get("service"))
    hosts = str(parts.get("host") or parts.get("hostaddr") or defaults.get("host") or "localhost").split(",")
    ports = str(parts.get("port") or defaults.get("port") or "5432").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts) or not all(p.isdecimal() and 0 < int(p) < 65536 for p in ports):
        raise UsageError("a DSN has ports that do not fit its hosts", hint="give one port, or one per host")
    given = {k: str(parts[k]) for k in _CONNECTION_KEYS if parts.get(k)}
    given.setdefault("dbname", defaults.get("dbname") or "postgres")
    found = [Connection(host=h, port=int(p), **given) for h, p in zip(hosts, ports, strict=True)]  # type: ignore[arg-type]  # texts, all of them
    return found, parts.get("password")


def _defaults(service: str | None) -> dict[str, str]:
    """What libpq takes where a DSN says nothing. It reads the name of a service from the environment only."""
    before = os.environ.get("PGSERVICE")
    try:
        if service is not None:
            os.environ["PGSERVICE"] = service
        options = Conninfo.get_defaults()
    finally:
        if service is not None and before is None:
            del os.environ["PGSERVICE"]
        elif before is not None:
            os.environ["PGSERVICE"] = before
    return {o.keyword.decode(): o.val.decode() for o in options if o.val and o.keyword != b"password"}


async def discover(first: list[Connection], *, limit_s: float) -> Discovery:
    """Walk up and down from these servers, all of a step at once, within `limit_s`.

    Raises ObserveError when none of them answers.
    """
    search = _Search(time.monotonic() + limit_s)
    await search.ask((c, "") for c in first)
    if not search.nodes:
        raise ObserveError(
            "no server answered",
            why="; ".join(search.failures[:5]),
            hint="check host, port, role and pg_hba.conf",
        )
    while await search.ask(search.leads(first)):
        pass
    return Discovery(nodes=_named(search.nodes), missing=[*search.failures, *_unseen(search.nodes)])


Lead = tuple[Connection, str | None]
"""Where to ask, and who leads there: "" = the user, None = nobody, it is a guess."""


class _Search:
    """What has been tried and found."""

    def __init__(self, until_s: float) -> None:
        self.nodes: list[Found] = []
        self.failures: list[str] = []
        self._tried: set[tuple[str, int]] = set()
        self._until_s = until_s

    async def ask(self, leads: Iterable[Lead]) -> bool:
        """Follow those that are new, all at once. Returns whether there were any."""
        new = {}
        for connection, origin in leads:
            address = (connection.host, connection.port)
            if address not in self._tried and len(self._tried) < TRIED_MAX:
                self._tried.add(address)
                new[asyncio.create_task(_ask(connection))] = (connection, origin)
        left_s = self._until_s - time.monotonic()
        if not new:
            return False
        _, late = await asyncio.wait(new, timeout=max(0.0, left_s))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task, (connection, origin) in new.items():
            try:
                self._take(
                    NodeError(Cause.TIMEOUT, "no time left") if task in late else task.result(),
                    connection,
                    origin,
                )
            except NodeError as error:
                self._take(error, connection, origin)
        return True

    def _take(self, answer: Found | NodeError, connection: Connection, origin: str | None) -> None:
        """Keep a server of this cluster that is new; say so where one does not answer that must be there."""
        where = f"{origin}{connection.host}:{connection.port}"
        if isinstance(answer, NodeError):
            if origin is not None:
                self.failures.append(f"{where}: {answer.cause} ({answer.message})")
        elif self.nodes and answer.facts.system_identifier != self.nodes[0].facts.system_identifier:
            if origin is not None:
                self.failures.append(f"{where} is of another cluster")
        elif not any(_is_same_server(answer, other) for other in self.nodes):
            self.nodes.append(answer)

    def leads(self, first: list[Connection]) -> Iterator[Lead]:
        """Where the upstreams are, and where the downstreams may be."""
        ports = dict.fromkeys([5432, *(c.port for c in first), *(n.connection.port for n in self.nodes)])
        for node in self.nodes:
            facts = node.facts
            if facts.upstream_host is not None:
                host = _seen_from_here(facts.upstream_host, node)
                port = facts.upstream_port or 5432
                yield replace(node.connection, host=host, port=port), f"the upstream of {node.address}, "
            for sender in facts.senders:
                if sender.state != "backup":
                    host = _seen_from_here(sender.client_addr, node)
                    yield from ((replace(node.connection, host=host, port=port), None) for port in ports)


async def _ask(connection: Connection) -> Found:
    """Raises NodeError."""
    probe = NodeProbe(f"{connection.host}:{connection.port}", connection)
    try:
        seen = await probe.sample()
        if not isinstance(seen, NodeFacts):
            raise NodeError(seen.cause, seen.message)
        assert probe.connection is not None
        rows: list[dict[str, Any]] = []
        for asked in (PLACE, READY):
            text = asked.for_version(seen.server_version_num)
            try:
                rows += await query(probe.connection, text, timeout_s=connection.query_timeout_s)
            except psycopg.Error:
                rows.append({})  # it may not be asked
        place, ready = rows
        conninfo = _conninfo(place.get("primary_conninfo")) if seen.in_recovery else {}
        return Found(
            name=probe.name,
            connection=connection,
            facts=seen,
            data_directory=place.get("data_directory"),
            replication={k: str(conninfo[k]) for k in _REPLICATION_KEYS if conninfo.get(k)},
            conninfo_has_password=bool(conninfo.get("password")),
            managers=tuple(ready.get("managers") or ()),
        )
    finally:
        await probe.close()


def _conninfo(text: str | None) -> dict[str, Any]:
    try:
        return conninfo_to_dict(text or "")
    except psycopg.ProgrammingError:
        return {}


def _seen_from_here(host: str | None, node: Found) -> str:
    """An address that a server names: a loopback one, or none for a socket, is the server's own machine."""
    try:
        local = host is None or host.startswith("/") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return node.connection.host if local or host is None else host


def _is_same_server(one: Found, other: Found) -> bool:
    """Two addresses of one server: the same start to the microsecond, on the same data."""
    a, b = one.facts, other.facts
    return (a.system_identifier, a.started_at, a.in_recovery) == (
        b.system_identifier,
        b.started_at,
        b.in_recovery,
    )


def _unseen(nodes: list[Found]) -> list[str]:
    """Who streams but was not found."""
    return [
        f"{_label(sender)} streams from {node.address}, but no server of this cluster was found there: "
        "its port is not known"
        for node in nodes
        for sender in node.facts.senders
        if sender.state != "backup"
        and sender.application_name not in _NO_SERVER
        and not _is_logical(sender, node.facts)
        and not any(_is_row_of(sender, replica, node.facts) for replica in nodes)
    ]


def _is_row_of(sender: Sender, replica: Found, upstream: NodeFacts) -> bool:
    """Whether this walsender is that replica's. Many replicas may have one name."""
    facts = replica.facts
    if not facts.in_recovery:
        return False
    if sender.slot_name and facts.primary_slot_name:
        return sender.slot_name == facts.primary_slot_name
    if sender.application_name != facts.own_application_name:
        return False
    alone = [s.application_name for s in upstream.senders].count(sender.application_name) == 1
    return alone or sender.client_addr in (facts.address, replica.connection.host)


def _is_logical(sender: Sender, facts: NodeFacts) -> bool:
    return any(s.kind == "logical" and s.active_pid == sender.pid for s in facts.slots)


def _label(sender: Sender) -> str:
    name = "".join(c if c.isprintable() else "?" for c in sender.application_name)
    return f"{name!r}" + (f" at {sender.client_addr}" if sender.client_addr else "")


def _named(nodes: list[Found]) -> list[Found]:
    """Primaries first; each named as it calls itself where that is a name and unique, else by its host."""
    own = [n.facts.own_application_name or n.facts.settings.get("cluster_name", "") for n in nodes]
    folded = [name.casefold() for name in own]
    taken: set[str] = set()
    named: list[Found] = []
    for node, name in zip(nodes, own, strict=True):
        usable = _NAME.fullmatch(name) and name != "walreceiver" and folded.count(name.casefold()) == 1
        base = name if usable else _host_name(node.connection.host)
        unique = base if base.casefold() not in taken else f"{base}-{node.connection.port}"
        taken.add(unique.casefold())
        named.append(replace(node, name=unique))
    return sorted(named, key=lambda n: (n.facts.in_recovery, _natural(n.name)))


def _host_name(host: str) -> str:
    """`pg1` of `pg1.example.com`; an address as it is."""
    try:
        short = str(ipaddress.ip_address(host))
    except ValueError:
        short = host.partition(".")[0] or host
    return re.sub(r"[^A-Za-z0-9_.-]", "-", short).strip("-")[:50] or "node"


def _natural(name: str) -> list[tuple[int, str]]:
    """pg2 before pg10."""
    return [(int(part or 0), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
