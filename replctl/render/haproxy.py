"""HAProxy's listeners: one for writing, one for reading, with checks that know each server's role.

Every node stands in both, so that a change of roles or of fitness is one of states, which a running HAProxy
takes without a reload. In the one for writing exactly one server is enabled: after a promotion with the old
primary alive, both say that they are primaries, and no check can tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replctl.core.settings import ClusterSettings, NodeSpec
from replctl.render import role_checks
from replctl.render.placement import Placement, client_host, client_port
from replctl.render.rendered import Rendered, checked_facts, fingerprint, head
from replctl.render.structure import mark
from replctl.render.tokens import Whitelist, assert_plain, is_address, shown, with_port

COMMENT = "#"
OLDEST = (2, 2)  # before, there was no `http-check send` and no `tcp-check connect linger`
DEFAULT_VERSION = "2.6"
SINCE = {"init-state": (3, 1)}
WEIGHT = 100  # of the heaviest server; HAProxy's own limit is 256
WHERE = "[haproxy]"
CHECK_PORT = 8008
FAST_MS = 500  # between checks while a server goes up or down
SOCKET_BYTES = 90  # a Unix socket's name has 107, and HAProxy puts its pid behind while it starts
_GLOBAL_LOG = "log stdout format raw local0 info"
_LOGGED = ("log global", "option tcplog", "option dontlog-normal")
_KEEPALIVE = ("option clitcpka", "option srvtcpka")
# Sessions of pools are idle for long; whoever is gone is found by keep-alive.
_TIMES = ("timeout connect 3s", "timeout client 24h", "timeout server 24h", "timeout check 2s", "retries 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for besides the inventory. `check_user` = the inventory's connection.user."""

    version: str = DEFAULT_VERSION
    fragment: bool = False
    zone: str | None = None
    check_user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server of one listener: what `show servers state` must show. `host` is without brackets."""

    backend: str
    name: str
    host: str
    port: int
    enabled: bool
    weight: int = WEIGHT
    backup: bool = False


def render(
    settings: ClusterSettings,
    table: Mapping[str, Any],
    placement: Placement,
    options: Options,
    *,
    file: str = "the inventory",
) -> Rendered[tuple[Server, ...]]:
    """The file of these roles. `file` names the inventory in messages.

    Raises InventoryError for values that may not stand in it.
    """
    whitelist = Whitelist(file)
    work = _Work(settings, table, placement, options, whitelist)
    frame, body = work.globals(), work.resolvers()
    plan: list[Server] = []
    for write in (True, False):
        lines, servers = work.listener(write=write)
        body += lines
        plan += servers
    facts = checked_facts(whitelist, work.version, options.zone, placement.tenure)
    whitelist.settle()
    if frame:
        frame.insert(1, f"    description {mark([*frame, *body])}")
    command = "render-haproxy --fragment" if options.fragment else "render-haproxy"
    made_of = fingerprint(
        settings, table, fragment=options.fragment, zone=options.zone, user=options.check_user
    )
    top = head(COMMENT, command, work.cluster, made_of, facts)
    text = "\n".join([*top, *frame, *body]).rstrip("\n") + "\n"
    return Rendered(text=assert_plain(text), plan=tuple(plan))


def writer_of(settings: ClusterSettings, present: str) -> str | None:
    """The one enabled server of this file's listener for writing; None where there is not just one."""
    section = None
    enabled = []
    for line in present.splitlines():
        words = line.split()
        if line[:1].isalpha():
            section = words[:2]
        elif section == ["listen", backend(settings.name, write=True)] and words[:1] == ["server"]:
            enabled += words[1:2] if "disabled" not in words else []
    known = {spec.name for spec in settings.nodes}
    return enabled[0] if len(enabled) == 1 and enabled[0] in known else None


def backend(cluster: str, *, write: bool) -> str:
    """The name of a cluster's listener, unique among clusters."""
    return f"{cluster}_{'rw' if write else 'ro'}"


class _Work:
    """One rendering: the values, each through the whitelist once."""

    def __init__(
        self,
        settings: ClusterSettings,
        table: Mapping[str, Any],
        placement: Placement,
        options: Options,
        whitelist: Whitelist,
    ) -> None:
        self.settings, self.table, self.placement, self.take = settings, table, placement, whitelist
        self.fragment = options.fragment
        self.version = whitelist.version(options.version, f"{WHERE} version", OLDEST)
        self.cluster = whitelist.name(settings.name, "[cluster] name")
        self.check = whitelist.choice(table["check"], f"{WHERE} check", ("login", "sql", "http"))
        self.user = options.check_user if table["check_user"] is None else table["check_user"]
        self.role_checks = table["write_role_checks"] is True
        self.nodes = [self._node(spec) for spec in sorted(settings.nodes, key=lambda spec: spec.name)]
        self.named = any(not (n.host.startswith("/") or is_address(n.host)) for n in self.nodes if n.host)

    def _node(self, spec: NodeSpec) -> _Node:
        where = f"[[nodes]] {shown(spec.name)}"
        (host, host_key), (port, port_key) = client_host(spec), client_port(spec)
        return _Node(
            name=self.take.name(spec.name, "[[nodes]] name"),
            host=self.take.host(host, f"{where} {host_key}"),
            port=self.take.port(port, f"{where} {port_key}"),
            own_host=self.take.host(spec.host, f"{where} host"),
            own_port=self.take.port(spec.port, f"{where} port"),
        )

    # ---- the file's frame

    def globals(self) -> list[str]:
        """`global` and `defaults`; none in a fragment, which stands beside those of others."""
        if self.fragment:
            return []
        stop_ms = self.take.milliseconds(self.table["hard_stop_after_s"], f"{WHERE} hard_stop_after_s")
        # After a reload the process before stays for its sessions, and nobody can tell it of a new writer.
        lines = [_GLOBAL_LOG, f"hard-stop-after {_time(stop_ms)}", *self._stats_socket()]
        return [
            *_section("global", lines),
            *_section("defaults", ["mode tcp", *_LOGGED, *_KEEPALIVE, *_TIMES]),
        ]

    def _stats_socket(self) -> list[str]:
        """For its owner alone, who is whoever starts HAProxy, or for a group too."""
        if self.table["stats_socket"] is None:
            return []
        path = self.take.path(self.table["stats_socket"], f"{WHERE} stats_socket", SOCKET_BYTES)
        who = "mode 600"
        if self.table["stats_group"] is not None:
            who = f"group {self.take.user(self.table['stats_group'], f'{WHERE} stats_group')} mode 660"
        return [f"stats socket {path} {who} level admin expose-fd listeners"]

    def resolvers(self) -> list[str]:
        """Who looks up the nodes' names; none where they have addresses."""
        servers = [
            self.take.name_server(value, f"{WHERE} resolvers") for value in self.table["resolvers"] or ()
        ]
        if not self.named:
            return []
        lines = [f"nameserver dns{number} {server}" for number, server in enumerate(servers, 1)]
        held = ["resolve_retries 3", "timeout resolve 1s", "timeout retry 1s", "hold valid 10s"]
        return _section(f"resolvers {self.cluster}_dns", [*(lines or ["parse-resolv-conf"]), *held])

    # ---- listeners

    def listener(self, *, write: bool) -> tuple[list[str], list[Server]]:
        """One `listen` section, and its servers as values."""
        key = "write_bind" if write else "read_bind"
        bind = self.take.bind(self.table[key], f"{WHERE} {key}")
        if not write and bind and bind == self.table["write_bind"]:
            self.take.refuse(bind, f"{WHERE} read_bind", "this is write_bind already")
        name = backend(self.cluster, write=write)
        servers = self._servers(name, write=write)
        lines = [f"bind {bind}"]
        if self.fragment:  # whatever the other file's defaults are; how it logs is left to them
            lines += ["mode tcp", *_KEEPALIVE, *_TIMES]
        lines.append("balance roundrobin")
        # A server that refuses a connection is not the only one for reading; for writing it is, and the
        # second that HAProxy waits before it tries again would be one without writes after a failover.
        lines.append("retries 0" if write and not self.role_checks else "option redispatch")
        if any(server.backup for server in servers):
            lines.append("option allbackups")
        if not write and self.settings.routing.on_all_unfit == "primary":
            lines.append(f"use_backend {backend(self.cluster, write=True)} if {{ nbsrv({name}) lt 1 }}")
        lines += self._rules(write=write)
        lines.append(self._default_server())
        by_name = {node.name: node for node in self.nodes}
        lines += [self._line(server, by_name[server.name]) for server in servers]
        return _section(f"listen {name}", lines), servers

    def _servers(self, backend_name: str, *, write: bool) -> list[Server]:
        readers = {reader.name: reader for reader in self.placement.readers}
        most = max([reader.weight for reader in readers.values()], default=1)
        found = []
        for node in self.nodes:
            reader = None if write else readers.get(node.name)
            if write:
                trying = self.role_checks and node.name not in self.placement.barred
                enabled = trying or node.name == self.placement.writer
            else:
                trying = self.role_checks and node.name in self.placement.checkable
                enabled = reader is not None or (trying and self.settings.node(node.name).weight > 0)
            found.append(
                Server(
                    backend=backend_name,
                    name=node.name,
                    host=node.host,
                    port=node.port,
                    enabled=enabled,
                    weight=WEIGHT if reader is None else max(1, reader.weight * WEIGHT // most),
                    backup=reader is not None and not reader.near,
                )
            )
        return found

    def _rules(self, *, write: bool) -> list[str]:
        """How a server of this listener is checked."""
        routing = self.settings.routing
        max_lag_bytes = self.take.integer(routing.max_lag_bytes, "[routing] max_lag_bytes", 0, 2**62)
        if self.check == "http":
            served = None if self.table["check_addr"] is None else self.cluster
            return role_checks.http_rules(served, max_lag_bytes, write=write)
        user = self.take.packed(self.user, f"{WHERE} check_user")
        dbname = self.take.packed(self.table["check_dbname"], f"{WHERE} check_dbname")
        if self.check == "login":
            return role_checks.login_rules(user, dbname, write=write)
        max_lag_ms = self.take.milliseconds(routing.max_lag_s or 0.001, "[routing] max_lag_s")
        sql = role_checks.write_sql() if write else role_checks.read_sql(max_lag_bytes, max_lag_ms / 1000)
        return role_checks.sql_rules(user, dbname, sql)

    def _default_server(self) -> str:
        interval_ms = self.take.milliseconds(self.table["check_interval_s"], f"{WHERE} check_interval_s")
        words = [
            "default-server",
            f"inter {_time(interval_ms)} fastinter {_time(min(interval_ms, FAST_MS))}",
            f"downinter {_time(interval_ms)}",
            f"fall {self.take.integer(self.table['fall'], f'{WHERE} fall', 1, 100)}",
            f"rise {self.take.integer(self.table['rise'], f'{WHERE} rise', 1, 100)}",
            "on-marked-down shutdown-sessions",
        ]
        if self.version >= SINCE["init-state"]:
            # Otherwise a server counts as up until its first check, whatever its role.
            words.append("init-state down")
        if self.table["maxconn"] is not None:
            maxconn = self.take.integer(self.table["maxconn"], f"{WHERE} maxconn", 1, 1000000)
            words.append(f"maxconn {maxconn}")
        return " ".join(words)

    def _line(self, server: Server, node: _Node) -> str:
        if node.host.startswith("/"):
            address = f"unix@{node.host}/.s.PGSQL.{node.port}"
        else:
            address = with_port(node.host, node.port)
        words = [f"server {server.name} {address} check", *self._checked_at(node), f"weight {server.weight}"]
        if not (node.host.startswith("/") or is_address(node.host)):
            words.append(f"resolvers {self.cluster}_dns init-addr last,libc,none")
        words += ["backup"] if server.backup else []
        words += [] if server.enabled else ["disabled"]
        return " ".join(words)

    def _checked_at(self, node: _Node) -> list[str]:
        """Where the check goes, if not to where clients go.

        Another port for clients means a pooler, which repeats what its server said when it last logged in.
        """
        if self.check == "http":
            return self._served_at(node)
        if node.port == node.own_port or node.own_host.startswith("/"):
            return []
        return [*_elsewhere(node), f"port {node.own_port}"]

    def _served_at(self, node: _Node) -> list[str]:
        """Where role endpoints are: all at `check_addr`, or each node's on its own machine."""
        port = CHECK_PORT if self.table["check_port"] is None else self.table["check_port"]
        words = [f"port {self.take.port(port, f'{WHERE} check_port')}"]
        if self.table["check_addr"] is not None:
            server = self.take.address(self.table["check_addr"], f"{WHERE} check_addr")
            return [_addr(server), *words]
        if node.host.startswith("/"):
            expected = "http does not go over a Unix socket: name the server's address in check_addr"
            self.take.refuse(node.host, f"{WHERE} check", expected)
        return [*_elsewhere(node), *words]


def _elsewhere(node: _Node) -> list[str]:
    """The node's own address, where clients get another."""
    differs = node.host != node.own_host and is_address(node.own_host)
    return [_addr(node.own_host)] if differs else []


def _addr(address: str) -> str:
    """Without brackets HAProxy takes the end of an IPv6 address for a port."""
    return f"addr [{address}]" if ":" in address else f"addr {address}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """A node's addresses: for clients, and its own."""

    name: str
    host: str
    port: int
    own_host: str
    own_port: int


def _section(title: str, lines: list[str]) -> list[str]:
    return [title, *(f"    {line}" for line in lines), ""]


def _time(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{milliseconds}ms" if rest else f"{seconds}s"
