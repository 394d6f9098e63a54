"""The tables of the two proxies whose configuration is rendered: `[pgbouncer]` and `[haproxy]`."""

from __future__ import annotations

import re

from replctl.inventory import kinds
from replctl.inventory.keys import Key, Table

_version = kinds.text('a version such as "1.24"', pattern=re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}"))
_command = kinds.argv(("host", "port"))
_file = kinds.path(local=False)
_bind = kinds.text('an address such as "*:5000"', pattern=re.compile(r"[A-Za-z0-9_.:*%\[\]-]+:[0-9]{1,5}"))
_SOCKET = re.compile(r"/.+|[A-Za-z0-9_.:\[\]-]+:[0-9]{1,5}")
_user = kinds.text("a name of up to 63 bytes", limit=63)
_connections = kinds.integer(0, 100000)

PGBOUNCER = Table(
    ("pgbouncer",),
    "For render-pgbouncer: aliases of each database for writing and for reading.",
    (
        Key(
            "databases",
            kinds.texts('a list of database names such as ["app"]', kinds.name()),
            "databases to offer",
            [],
            ["app"],
        ),
        Key("write_alias", kinds.template("database", "{database}"), "name for writing", "{database}"),
        Key("read_alias", kinds.template("database", "{database}_ro"), "name for reading", "{database}_ro"),
        Key("version", _version, "version to write for", example="1.24", absent="asked at admin, else 1.18"),
        Key(
            "admin",
            kinds.texts(
                'a list of connection strings such as ["host=10.0.0.5 port=6432 user=replctl"]',
                kinds.text("a connection string", limit=1024),
            ),
            "admin consoles of the running PgBouncers, without passwords",
            [],
            ["host=10.0.0.5 port=6432 user=replctl dbname=pgbouncer"],
        ),
        Key(
            "file",
            _file,
            "the rendered file, to compare with and to replace",
            example="/etc/pgbouncer/databases.ini",
            absent="none",
        ),
        Key(
            "run",
            _command,
            "prefix that reaches files on the PgBouncer's machine",
            example=["ssh", "{host}", "sudo"],
            absent="this machine",
        ),
        Key("auth_user", _user, "role that runs auth_query", example="pgbouncer", absent="none"),
        Key(
            "auth_query",
            kinds.text("a query", limit=1024),
            "query that looks up a user",
            example="SELECT usename, passwd FROM pgbouncer.user_lookup($1)",
            absent="PgBouncer's own",
        ),
        Key(
            "auth_dbname", _user, "database for auth_query (1.19)", example="postgres", absent="the client's"
        ),
        Key("auth_file", _file, "its userlist", example="/etc/pgbouncer/userlist.txt", absent="none"),
        Key(
            "pool_mode",
            kinds.choice("session", "transaction", "statement"),
            "when a server connection is given back",
            "transaction",
        ),
        Key(
            "pool_size",
            _connections,
            "server connections per alias for writing",
            example=20,
            absent="PgBouncer's",
        ),
        Key("read_pool_size", _connections, "… and for reading", example=20, absent="pool_size"),
        Key("reserve_pool_size", _connections, "extra ones under pressure", example=5, absent="PgBouncer's"),
        Key("max_db_connections", _connections, "limit per database", example=100, absent="PgBouncer's"),
        Key("listen_addr", kinds.text("an address"), "for --full", "127.0.0.1"),
        Key("listen_port", kinds.port(), "for --full", 6432),
        Key(
            "server_tls_sslmode",
            kinds.choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
            "TLS to the nodes, for --full",
            example="verify-full",
            absent="PgBouncer's",
        ),
        Key(
            "server_tls_ca_file", _file, "for --full", example="/etc/pgbouncer/root.crt", absent="PgBouncer's"
        ),
        Key(
            "pause_timeout_s",
            kinds.duration(0.1, 600),
            "limit for PAUSE in a planned switch, which no command makes yet",
            5,
        ),
    ),
)

HAPROXY = Table(
    ("haproxy",),
    "For render-haproxy: one listener for writing, one for reading.",
    (
        Key("version", _version, "version to write for", example="2.8", absent="asked at sockets, else 2.6"),
        Key("write_bind", _bind, "listener for writing", "*:5000"),
        Key("read_bind", _bind, "listener for reading", "*:5001"),
        Key(
            "check",
            kinds.choice("login", "sql", "http"),
            "how the role is seen: at the login, by a query that knows the lag limits, or by role endpoints",
            "login",
        ),
        Key(
            "check_user",
            _user,
            "powerless role that logs in without a password",
            example="haproxy_check",
            absent="connection.user",
        ),
        Key("check_dbname", _user, "database it logs in to", "postgres"),
        Key(
            "check_addr",
            kinds.address(),
            "for http: address of the one `replctl serve` that answers for all nodes",
            example="127.0.0.1",
            absent="each node's own, as with Patroni",
        ),
        Key("check_port", kinds.port(), "for http: port of the role endpoints", example=8008, absent="8008"),
        Key("check_interval_s", kinds.duration(0.1, 600), "between two checks", 2),
        Key("fall", kinds.integer(1, 100), "failed checks before a server is down", 3),
        Key("rise", kinds.integer(1, 100), "good checks before it is up", 2),
        Key(
            "write_role_checks",
            kinds.flag(),
            "let the checks pick the writer of all nodes; without check_addr two primaries both get writes",
            False,
        ),
        Key("maxconn", kinds.integer(1, 1000000), "connections per server", example=100, absent="HAProxy's"),
        Key(
            "resolvers",
            kinds.texts('a list of name servers such as ["10.0.0.2:53"]', _bind),
            "name servers, where nodes have names",
            [],
            ["10.0.0.2:53"],
        ),
        Key(
            "stats_socket",
            _file,
            "runtime socket in the rendered file",
            example="/run/haproxy/admin.sock",
            absent="none",
        ),
        Key(
            "stats_group",
            _user,
            "group that may use it, where replctl is not the user who starts HAProxy",
            example="replctl",
            absent="none",
        ),
        Key(
            "hard_stop_after_s",
            kinds.duration(0.1, 86400),
            "after a reload, until the sessions of the process before are ended",
            30,
        ),
        Key(
            "sockets",
            kinds.texts(
                'a list of runtime sockets such as ["/run/haproxy/admin.sock", "10.0.0.6:9999"]',
                kinds.text('an absolute path, or an address such as "10.0.0.6:9999"', pattern=_SOCKET),
            ),
            "runtime sockets of the running HAProxies",
            [],
            ["/run/haproxy/admin.sock"],
        ),
        Key(
            "file",
            _file,
            "the rendered file, to compare with and to replace",
            example="/etc/haproxy/haproxy.cfg",
            absent="none",
        ),
        Key(
            "run",
            _command,
            "prefix that reaches files on the HAProxy's machine",
            example=["ssh", "{host}", "sudo"],
            absent="this machine",
        ),
        Key(
            "reload",
            _command,
            "reload HAProxy",
            example=["ssh", "{host}", "sudo", "systemctl", "reload", "haproxy"],
            absent="none",
        ),
    ),
)
