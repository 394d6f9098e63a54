"""What proxies' files are rendered from in tests: inventories, roles, and every golden file's case."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from replctl.inventory import Inventory, parse
from replctl.render import haproxy, pgbouncer
from replctl.render.placement import Placement, from_inventory
from replctl.render.rendered import Rendered, Tenure
from tests.support import same_as_file

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
FILE = Path("orders.toml")
PLAIN: dict[str, Any] = {
    "schema": 1,
    "cluster": {"name": "orders"},
    "connection": {"user": "replctl"},
    "nodes": [
        {"name": "pg1", "host": "10.0.0.1"},
        {"name": "pg2", "host": "10.0.0.2"},
        {"name": "pg3", "host": "10.0.0.3"},
    ],
    "pgbouncer": {"databases": ["app"]},
    "haproxy": {},
}


def inventory(nodes: Mapping[str, Mapping[str, Any]] | None = None, **tables: Mapping[str, Any]) -> Inventory:
    """The plain inventory with these keys of nodes and of tables."""
    document = copy.deepcopy(PLAIN)
    for node in document["nodes"]:
        node.update((nodes or {}).get(node["name"], {}))
    for name, keys in tables.items():
        document[name] = {**document.get(name, {}), **keys}
    return parse(document, FILE)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One golden file. `roles` makes the placement; by default pg1 takes writes, the others read."""

    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    zone: str | None = None
    roles: Callable[[Inventory], Placement] | None = None

    @property
    def inventory(self) -> Inventory:
        return inventory(self.nodes, **self.tables)

    @property
    def placement(self) -> Placement:
        if self.roles is not None:
            return self.roles(self.inventory)
        return from_inventory(self.inventory.settings, "pg1", self.zone)

    @property
    def pgbouncer(self) -> Rendered[tuple[pgbouncer.Alias, ...]]:
        given = self.inventory
        options = pgbouncer.Options(zone=self.zone, **self.options)
        return pgbouncer.render(
            given.settings, given.pgbouncer or {}, self.placement, options, file=str(FILE)
        )

    @property
    def haproxy(self) -> Rendered[tuple[haproxy.Server, ...]]:
        given = self.inventory
        options = haproxy.Options(zone=self.zone, check_user="replctl", **self.options)
        return haproxy.render(given.settings, given.haproxy or {}, self.placement, options, file=str(FILE))


def nobody_fit(spare: str | None) -> Callable[[Inventory], Placement]:
    return lambda _: Placement(writer="pg1", readers=(), spare=spare, checkable=frozenset({"pg1"}))


POOLS = {
    "pool_mode": "session",
    "pool_size": 20,
    "read_pool_size": 40,
    "reserve_pool_size": 5,
    "max_db_connections": 100,
}
LOOKUP = {
    "auth_user": "pgbouncer",
    "auth_query": "SELECT usename, passwd FROM pgbouncer.user_lookup($1)",
    "auth_dbname": "postgres",
}
TLS = {"server_tls_sslmode": "verify-full", "server_tls_ca_file": "/etc/pgbouncer/root.crt"}
USERLIST = {"auth_file": "/etc/pgbouncer/userlist.txt"}
WEIGHTS = {"pg2": {"weight": 300}, "pg3": {"weight": 100}}
ZONES = {"pg1": {"zone": "a"}, "pg2": {"zone": "a"}, "pg3": {"zone": "b"}}
IPV6 = {f"pg{n}": {"host": f"2001:db8::{n}"} for n in (1, 2, 3)}
NAMED = {f"pg{n}": {"client_host": f"pg{n}.internal"} for n in (1, 2, 3)}
SOCKETS = {f"pg{n}": {"host": f"/run/pg{n}"} for n in (1, 2, 3)}
POOLERS_IPV6 = {"pg3": {"host": "2001:db8::3", "client_host": "2001:db8::9", "client_port": 6432}}
POOLERS = {"pg2": {"client_port": 6432}, "pg3": {"client_host": "10.1.0.3", "client_port": 6432}}
KEPT = """\
[databases]
app = host=10.0.0.9 port=5432 dbname=app
old = host=10.0.0.2 port=5432 dbname=old
old_ro = host=10.0.0.2,10.0.0.9 port=5432 dbname=old
metrics = host=10.9.0.1 port=5433 dbname=grafana connect_query='SET x = ''y'''
"""


def seen(given: Inventory) -> Placement:
    """Roles of a look, at which the writer's timeline showed."""
    tenure = Tenure(writer="pg1", timeline=3, system="0a1b2c3d4e")
    return replace(from_inventory(given.settings, "pg1"), tenure=tenure)


PGBOUNCER: dict[str, Case] = {
    "seen-1.18": Case(roles=seen),
    "plain-1.18": Case(tables={"pgbouncer": {"databases": ["app", "bills"]}}),
    "plain-1.24": Case(options={"version": "1.24"}),
    "names-1.18": Case(tables={"pgbouncer": {"write_alias": "{database}.rw", "read_alias": "{database}.ro"}}),
    "pools-1.18": Case(tables={"pgbouncer": POOLS}),
    "pools-1.24": Case(tables={"pgbouncer": POOLS}, options={"version": "1.24"}),
    "lookup-1.18": Case(tables={"pgbouncer": LOOKUP}),
    "lookup-1.19": Case(tables={"pgbouncer": LOOKUP}, options={"version": "1.19"}),
    "lookup-1.22": Case(tables={"pgbouncer": LOOKUP}, options={"version": "1.22"}),
    "full-1.18": Case(tables={"pgbouncer": USERLIST}, options={"full": True}),
    "full-lookup-1.18": Case(
        tables={"pgbouncer": USERLIST | LOOKUP | TLS | POOLS},
        options={"full": True, "admin_users": ("replctl",)},
    ),
    "full-lookup-1.21": Case(tables={"pgbouncer": LOOKUP | TLS}, options={"full": True, "version": "1.21.0"}),
    "full-lookup-1.25": Case(tables={"pgbouncer": LOOKUP | TLS}, options={"full": True, "version": "1.25"}),
    "weights-1.18": Case(nodes=WEIGHTS, tables={"routing": {"policy": "weighted"}}),
    "zone-1.18": Case(nodes=ZONES, tables={"routing": {"policy": "zone"}}, zone="b"),
    "ports-1.18": Case(nodes={"pg2": {"port": 5433}, "pg3": {"port": 5434}}),
    "clients-1.18": Case(nodes=POOLERS),
    "ipv6-1.18": Case(nodes=IPV6),
    "sockets-1.18": Case(nodes=SOCKETS),
    "nobody-fit-1.18": Case(roles=nobody_fit("pg1")),
    "kept-1.18": Case(options={"present": KEPT}),
}
HAPROXY: dict[str, Case] = {
    "seen-2.6": Case(roles=seen),
    "plain-2.6": Case(),
    "plain-3.1": Case(options={"version": "3.1"}),
    "socket-2.6": Case(tables={"haproxy": {"stats_socket": "/run/haproxy/admin.sock", "maxconn": 100}}),
    "group-2.6": Case(
        tables={
            "haproxy": {
                "stats_socket": "/run/haproxy/admin.sock",
                "stats_group": "daemon",  # HAProxy looks it up
                "hard_stop_after_s": 1.5,
            }
        }
    ),
    "fragment-2.6": Case(options={"fragment": True}),
    "sql-2.6": Case(tables={"haproxy": {"check": "sql", "check_user": "haproxy_check"}}),
    "http-2.6": Case(tables={"haproxy": {"check": "http", "check_interval_s": "500ms"}}),
    "clients-ipv6-2.6": Case(nodes=POOLERS_IPV6),
    "http-clients-2.6": Case(nodes=POOLERS, tables={"haproxy": {"check": "http", "check_port": 8009}}),
    "serve-2.6": Case(tables={"haproxy": {"check": "http", "check_addr": "10.0.0.6"}}),
    "serve-sockets-2.6": Case(
        nodes=SOCKETS, tables={"haproxy": {"check": "http", "check_addr": "::1", "check_port": 8009}}
    ),
    "role-checks-2.6": Case(tables={"haproxy": {"write_role_checks": True}}),
    "weights-2.6": Case(nodes=WEIGHTS, tables={"routing": {"policy": "weighted"}}),
    "weight-zero-2.6": Case(nodes={"pg3": {"weight": 0}}),
    "zone-2.6": Case(nodes=ZONES, tables={"routing": {"policy": "zone"}}, zone="b"),
    "error-2.6": Case(tables={"routing": {"on_all_unfit": "error"}}),
    "nobody-fit-2.6": Case(roles=nobody_fit("pg1")),
    "ipv6-2.6": Case(nodes=IPV6, tables={"haproxy": {"write_bind": "[::1]:5000", "read_bind": "[::1]:5001"}}),
    "sockets-2.6": Case(nodes=SOCKETS),
    "clients-2.6": Case(nodes=POOLERS),
    "names-2.6": Case(nodes=NAMED, tables={"haproxy": {"resolvers": ["10.0.0.2:53", "[::1]:53"]}}),
    "names-2.8": Case(nodes=NAMED, options={"version": "2.8"}),
}


def same_as_golden(name: str, text: str) -> None:
    """Compare with the golden file of this name."""
    same_as_file(GOLDEN / name, text)
