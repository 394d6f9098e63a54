"""The tables about the servers: the cluster, how to connect, its nodes and witnesses."""

from __future__ import annotations

import re

from replctl.core.thresholds import THRESHOLD_KEYS
from replctl.inventory import kinds
from replctl.inventory.keys import Key, Table

SCHEMA = 1
PLACEHOLDERS = ("name", "host", "port", "data_directory")

_PLAIN = re.compile(r"[ -~]+")
_file = kinds.path(local=True)
_remote = kinds.path(local=False)
_name63 = kinds.text("a name of up to 63 bytes", limit=63)
_sslmode = kinds.choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_command = kinds.argv(PLACEHOLDERS)

ROOT = Table((), "", (Key("schema", kinds.integer(SCHEMA, SCHEMA), "version of this format", SCHEMA),))

CLUSTER = Table(
    ("cluster",),
    "The cluster as a whole.",
    (
        Key("name", kinds.name(), "shown everywhere", example="orders", required=True),
        Key(
            "manager",
            kinds.choice("replctl", "patroni"),
            "who fails over; with patroni, what acts is refused and the patronictl command printed",
            "replctl",
        ),
    ),
)

CONNECTION_KEYS = (
    Key(
        "user",
        _name63,
        "role to log in as; `replctl grants` prints what it needs",
        example="replctl",
        absent="the operating system's user",
        environment="PGUSER",
    ),
    Key(
        "dbname",
        _name63,
        "database to connect to; holds the table replctl.state",
        "postgres",
        absent="the service's",
    ),
    Key("sslmode", _sslmode, "as libpq", example="verify-full", absent="prefer", environment="PGSSLMODE"),
    Key(
        "sslrootcert",
        _file,
        'certificates of the authorities to trust, or "system"',
        example="/etc/replctl/root.crt",
        absent="~/.postgresql/root.crt",
        environment="PGSSLROOTCERT",
    ),
    Key(
        "sslcert",
        _file,
        "client certificate",
        example="/etc/replctl/client.crt",
        absent="~/.postgresql/postgresql.crt",
        environment="PGSSLCERT",
    ),
    Key(
        "sslkey",
        _file,
        "its key; only its owner may read it",
        example="/etc/replctl/client.key",
        absent="~/.postgresql/postgresql.key",
        environment="PGSSLKEY",
    ),
    Key(
        "passfile",
        _file,
        "password file in the format of ~/.pgpass; only its owner may read it",
        example="/etc/replctl/pgpass",
        absent="~/.pgpass",
        environment="PGPASSFILE",
    ),
    Key(
        "service",
        _name63,
        "section of the libpq service file",
        example="orders",
        absent="none",
        environment="PGSERVICE",
    ),
    Key("connect_timeout_s", kinds.duration(0.01, 3600), "limit for one connection attempt", 2),
    Key("query_timeout_s", kinds.duration(0.01, 3600), "limit for one answer", 2),
    Key(
        "password_command",
        kinds.argv(repeat=False),
        "prints the password on its first line; no shell, at most 10 s, asked once per run",
        example=["pass", "show", "pg/replctl"],
        absent="none",
        secret=True,
    ),
)
CONNECTION = Table(
    ("connection",),
    "How to connect: defaults for every node and witness, which may override any of them. "
    "A literal password is refused: use passfile, a service, a client certificate or password_command.",
    CONNECTION_KEYS,
)

REPLICATION = Table(
    ("replication",),
    "What a written primary_conninfo consists of, beside the upstream's host and port. The files are on the "
    "nodes. Without this table there is no automatic failover.",
    (
        Key("user", _name63, "role that replicas log in as", example="replicator", required=True),
        Key("passfile", _remote, "its password file", example="/var/lib/postgresql/.pgpass", absent="none"),
        Key("sslmode", _sslmode, "as libpq", example="verify-full", absent="prefer"),
        Key("sslrootcert", _remote, "as libpq", example="/etc/postgresql/root.crt", absent="none"),
        Key("sslcert", _remote, "as libpq", example="/etc/postgresql/replicator.crt", absent="none"),
        Key("sslkey", _remote, "as libpq", example="/etc/postgresql/replicator.key", absent="none"),
        Key("dbname", _name63, "for slot synchronisation (PostgreSQL 17)", example="postgres", absent="none"),
        Key(
            "slot",
            kinds.template("name", "{name}"),
            "primary_slot_name of each node",
            example="{name}",
            absent="no slots",
        ),
    ),
)

NODES = Table(
    ("nodes",),
    "One table for each PostgreSQL server of the cluster. Any key of [connection] may stand here too.",
    (
        Key("name", kinds.name(), "unique, also among the witnesses", example="pg1", required=True),
        Key("host", kinds.host(), "where it is reached from here", example="10.0.0.1", required=True),
        Key("port", kinds.port(), "its port", 5432),
        Key(
            "application_name",
            kinds.text("a text of up to 63 plain characters", pattern=_PLAIN, limit=63),
            "what it calls itself to its upstream",
            example="pg1",
            absent="name",
        ),
        Key("zone", kinds.name(), "for the zone policy and for ties", example="eu-1a", absent="none"),
        Key(
            "promote",
            kinds.choice("prefer", "neutral", "avoid", "never"),
            "whether it should become primary",
            "neutral",
        ),
        Key("weight", kinds.integer(0, 10000), "share of reads; 0 = none", 100),
        Key(
            "client_host",
            kinds.host(),
            "what clients and proxies get instead of host",
            example="pg1.internal",
            absent="host",
        ),
        Key(
            "client_port",
            kinds.port(),
            "what clients and proxies get instead of port",
            example=6432,
            absent="port",
        ),
        Key(
            "data_directory",
            kinds.path(local=False),
            "on the node; needed by rejoin",
            example="/var/lib/postgresql/18/main",
            absent="unknown",
        ),
    ),
    array=True,
)

NODE_COMMANDS = Table(
    ("nodes", "commands"),
    "How to act on this node's machine: lists of arguments, without a shell, run where replctl runs. "
    "{name}, {host}, {port} and {data_directory} expand; a brace of its own is doubled.",
    (
        Key(
            "stop",
            _command,
            "stop PostgreSQL",
            example=["ssh", "{host}", "sudo", "systemctl", "stop", "postgresql"],
            absent="none",
        ),
        Key(
            "start",
            _command,
            "start PostgreSQL",
            example=["ssh", "{host}", "sudo", "systemctl", "start", "postgresql"],
            absent="none",
        ),
        Key(
            "run",
            _command,
            "prefix under which pg_rewind, pg_basebackup and file edits run",
            example=["ssh", "{host}", "sudo", "-u", "postgres", "--"],
            absent="none",
        ),
        Key(
            "fence",
            _command,
            "exit code 0 = the node is provably off",
            example=["fence_ipmilan", "-a", "{host}", "-o", "off"],
            absent="none",
        ),
    ),
)


def threshold_keys(*, node: bool) -> tuple[Key, ...]:
    """The thresholds as keys of `[checks]`, or of `[nodes.checks]`, where they have no default."""
    return tuple(
        Key(
            name,
            kinds.levels(key.unit),
            key.help,
            None if node else [key.warning, key.critical],
            [key.warning, key.critical],
            absent="[checks]",
        )
        for name, key in THRESHOLD_KEYS.items()
    )


UNREACHABLE = kinds.choice("critical", "unknown")
UNREACHABLE_HELP = "what a node that does not answer is"
NODE_CHECKS = Table(
    ("nodes", "checks"),
    "Thresholds of this node, in place of those of [checks].",
    (
        *threshold_keys(node=True),
        Key("unreachable", UNREACHABLE, UNREACHABLE_HELP, example="unknown", absent="[checks]"),
    ),
)

WITNESSES = Table(
    ("witnesses",),
    "Voters without data of this cluster: any PostgreSQL server. Any key of [connection] may stand here.",
    (
        Key("name", kinds.name(), "unique, also among the nodes", example="w1", required=True),
        Key("host", kinds.host(), "where it is reached from here", example="10.0.0.9", required=True),
        Key("port", kinds.port(), "its port", 5432),
    ),
    array=True,
)
