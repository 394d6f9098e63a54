"""HAProxy checks that know a server's role, as bytes of PostgreSQL's protocol.

https://www.postgresql.org/docs/current/protocol-message-formats.html has the messages. From PostgreSQL 14 on
a server says `in_hot_standby` while one logs in, so a login is all that it takes; the SQL variant asks for
more. Both need a role that logs in without a password, since HAProxy cannot answer a challenge.
"""

from __future__ import annotations

import struct

from replctl.core.model import FENCE_NAME

PROTOCOL = 0x00030000
TERMINATE = struct.pack("!cI", b"X", 4)
READY = struct.pack("!cIc", b"Z", 5, b"I")
APPLICATION_NAME = "haproxy check"


def startup(user: str, dbname: str) -> bytes:
    """The message that begins a session. Raises ValueError for a text with NUL in it."""
    pairs = {"user": user, "database": dbname, "application_name": APPLICATION_NAME}
    body = struct.pack("!I", PROTOCOL)
    body += b"".join(_string(word) for pair in pairs.items() for word in pair) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def parameter(name: str, value: str) -> bytes:
    """What a server says of a parameter: a ParameterStatus message, whole, so that it fits nothing else."""
    body = _string(name) + _string(value)
    return struct.pack("!cI", b"S", len(body) + 4) + body


def query(sql: str) -> bytes:
    """A simple query. Raises ValueError for a text with NUL in it."""
    body = _string(sql)
    return struct.pack("!cI", b"Q", len(body) + 4) + body


def row_of_one(value: str) -> bytes:
    """The DataRow of one column with this value."""
    content = value.encode()
    body = struct.pack("!HI", 1, len(content)) + content
    return struct.pack("!cI", b"D", len(body) + 4) + body


def login_rules(user: str, dbname: str, *, write: bool) -> list[str]:
    """The role from the login alone: a primary is not in hot standby, a replica is."""
    told = parameter("in_hot_standby", "off" if write else "on")
    return _rules(startup(user, dbname), [told])


def sql_rules(user: str, dbname: str, sql: str) -> list[str]:
    """A query that must give true, once the server is ready for it."""
    return _rules(startup(user, dbname), [READY, query(sql), row_of_one("t")])


def write_sql() -> str:
    """True where writes are taken: out of recovery, not read-only, not fenced."""
    return (
        "SELECT NOT pg_catalog.pg_is_in_recovery()"
        " AND pg_catalog.current_setting('default_transaction_read_only') = 'off'"
        f" AND pg_catalog.strpos(pg_catalog.current_setting('synchronous_standby_names'), '{FENCE_NAME}') = 0"
    )


def read_sql(max_lag_bytes: int, max_lag_s: float) -> str:
    """True on a replica that has a receiver and has replayed what it received, but for these limits.

    What a role without any privilege may see. What has not been received yet only the primary knows.
    """
    received, replayed = "pg_catalog.pg_last_wal_receive_lsn()", "pg_catalog.pg_last_wal_replay_lsn()"
    behind_s = "pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()"
    near = (
        f"pg_catalog.pg_wal_lsn_diff({received}, {replayed}) <= {int(max_lag_bytes)}"
        f" AND {behind_s} <= interval '{round(max_lag_s * 1000)} ms'"
    )
    receives = "EXISTS (SELECT 1 FROM pg_catalog.pg_stat_wal_receiver)"
    fit = f"pg_catalog.pg_is_in_recovery() AND {receives} AND ({replayed} >= {received} OR ({near}))"
    return f"SELECT ({fit}) IS TRUE"


def http_rules(cluster: str | None, max_lag_bytes: int, *, write: bool) -> list[str]:
    """Role endpoints as Patroni has them: 200 = yes. `cluster` = one `replctl serve` answers for all nodes.

    Its paths name the node, which HAProxy fills in for each server; it knows the limits of the policy itself.
    """
    if cluster is not None:
        uri = f"uri-lf /{cluster}/%[srv_name]/{'primary' if write else 'replica'}"
    else:
        uri = "uri /primary" if write else f"uri /replica?lag={int(max_lag_bytes)}"
    return ["option httpchk", f"http-check send meth OPTIONS {uri}", "http-check expect status 200"]


def _rules(first: bytes, dialogue: list[bytes]) -> list[str]:
    """Send, then expect and send in turn; log off at the end. `linger` spares the server a broken line."""
    rules = ["option tcp-check", "tcp-check connect linger", f"tcp-check send-binary {first.hex()}"]
    for number, message in enumerate(dialogue):
        verb = "send-binary" if number % 2 else "expect binary"
        rules.append(f"tcp-check {verb} {message.hex()}")
    return [*rules, f"tcp-check send-binary {TERMINATE.hex()}"]


def _string(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("a text of the protocol ends at its NUL")
    return text.encode("utf-8", "surrogatepass") + b"\0"
