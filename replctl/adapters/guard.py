"""What every adapter does with a psycopg connection, sync or async, whoever keeps it in which pool.

It is told who it is connected to without being asked (PostgreSQL reports `in_hot_standby` and
`default_transaction_read_only` by itself), it is heard when it warns that a commit was not replicated,
and its errors are told apart: which say that the node has changed its role or is gone, and whether a
transaction that was lost with it may have been committed.

Behind a pooler such as PgBouncer these reports may be another server's: there a query decides.
"""

from __future__ import annotations

import contextlib
import math
import socket
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from replctl.core.routing import Position, Scope
from replctl.core.topology import is_address
from replctl.errors import NodeSwitched, NotReplicated, TransactionOutcomeUnknown
from replctl.inventory import Inventory
from replctl.pg.monitor import Monitor
from replctl.pg.position import POSITION_SQL, position

AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]

ROLE_SQL = "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on'"
"""Behind a pooler: whether it is a replica, and whether it refuses writes all the same (fenced)."""

READ_ONLY = "25006"
_GONE = frozenset({"57P01", "57P02", "57P03"})
_SYNC_WAIT = "SyncRepWaitForLSN"
_SYNC_WARNING = "canceling wait for synchronous replication"
# What belongs to the inventory's role, and is of no use to another one.
_OF_THE_ROLE = ("user", "sslcert", "sslkey", "passfile", "service")


# ---- where to connect to


def is_pooled(inventory: Inventory, node: str) -> bool:
    """Whether clients of this node get another port than the server's: a pooler, unless one knows better."""
    return inventory.settings.node(node).client_port is not None


def parameters(
    inventory: Inventory, node: str, own: dict[str, Any] | None = None, *, read_only: bool = False
) -> dict[str, Any]:
    """What psycopg.connect is given to reach this node: the inventory's, and the application's `own` on top.

    With a `user` of its own, nothing that belongs to the inventory's role is taken. With `read_only` the
    session's transactions are read-only by default; not for poolers, which hand sessions on.

    May ask the inventory's password_command: blocks, once per process. Raises ObserveError then.
    """
    own = own or {}
    spec, connection = inventory.settings.node(node), inventory.connections[node]
    given: dict[str, Any] = connection.parameters()
    if "user" in own:
        for key in _OF_THE_ROLE:
            given.pop(key, None)
    elif "password" not in own and connection.password_command is not None:
        given["password"] = connection.password()
    limit_s = connection.connect_timeout_s
    given["host"] = host = spec.client_host or given["host"]
    if spec.client_port is not None:
        given["port"] = str(spec.client_port)
    # Given always, so that a PGHOSTADDR in the environment cannot lead every node to one server.
    given["hostaddr"] = host if is_address(host) else ""
    given |= {
        "connect_timeout": max(2, math.ceil(limit_s)),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": max(1000, round(limit_s * 5000)),
    }
    given |= own
    if read_only:
        given["options"] = f"{given.get('options') or ''} -c default_transaction_read_only=on".strip()
    return given


# ---- what the node is, without a round trip


def is_replica(connection: AnyConnection) -> bool | None:
    """Whether the server is a replica, as it last reported; None where it does not report it."""
    reported = connection.pgconn.parameter_status(b"in_hot_standby")
    return None if reported is None else reported == b"on"


def refuses_writes(connection: AnyConnection) -> bool | None:
    """Whether the server is a replica, or is fenced; None where it does not report it."""
    replica = is_replica(connection)
    if replica is False:
        return connection.pgconn.parameter_status(b"default_transaction_read_only") == b"on"
    return replica


def shut(connection: AnyConnection) -> None:
    """Shut the socket below the connection: whoever waits on it, in any thread, gets an error at once."""
    with contextlib.suppress(psycopg.Error, OSError, ValueError):
        duplicate = socket.socket(fileno=socket.dup(connection.fileno()))
        try:
            duplicate.shutdown(socket.SHUT_RDWR)
        finally:
            duplicate.close()


# ---- a commit that was not replicated


class Notices:
    """Remembers that a wait for synchronous replication was cancelled on one connection."""

    __slots__ = ("cancelled",)

    def __init__(self) -> None:
        self.cancelled = False

    def __call__(self, notice: psycopg.errors.Diagnostic) -> None:
        # The function's name is the same in every language; a pooler may have left it out.
        text = notice.message_primary or ""
        if notice.source_function == _SYNC_WAIT or text.startswith(_SYNC_WARNING):
            self.cancelled = True

    def check(self) -> None:
        """After a commit. Raises NotReplicated, once."""
        if self.cancelled:
            self.cancelled = False
            raise NotReplicated(
                "the transaction is committed on the primary, but not known to be replicated",
                why="its wait for synchronous replication was cancelled",
                hint="do not run it again; a failover now may lose it",
            )


def notices(connection: AnyConnection) -> Notices:
    """Listen on this new connection; `check` after each commit.

    Nothing is heard where client_min_messages is `error`.
    """
    heard = Notices()
    connection.add_notice_handler(heard)
    return heard


# ---- what an error means


def is_lost(error: BaseException, connection: AnyConnection | None = None) -> bool:
    """Whether this error says that the connection is gone, or that the server goes down."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is not None:
        return error.sqlstate.startswith("08") or error.sqlstate in _GONE
    if connection is not None:
        return bool(connection.closed)
    return isinstance(error, psycopg.OperationalError)


def outcome(
    error: BaseException,
    *,
    committing: bool,
    may_have_written: bool,
    connection: AnyConnection | None = None,
) -> NodeSwitched | TransactionOutcomeUnknown | None:
    """What to raise instead of this error of the writer's connection; None = the error itself.

    - `committing`: COMMIT was under way, or anything else that may commit.
    - `may_have_written`: a statement in autocommit was under way that may have written.
    - `connection`: where it was raised; not of a pooler, whose reports may be another server's. Without it
      every OperationalError without SQLSTATE is a lost connection, and 25006 never the application's own.

    Whoever gets one asks `monitor.refresh()`.
    """
    why = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, psycopg.Error) and error.sqlstate == READ_ONLY:
        if connection is not None and refuses_writes(connection) is False:
            return None  # the application's own read-only transaction
        return NodeSwitched("the node takes no writes any more", why=why, hint="begin the transaction again")
    if not is_lost(error, connection):
        return None
    if committing or may_have_written:
        return TransactionOutcomeUnknown(
            "the connection was lost before the primary said whether it committed",
            why=why,
            hint="look for what the transaction wrote before it is run again",
        )
    return NodeSwitched("the connection to the primary was lost", why=why, hint="begin the transaction again")


# ---- where a write is


def note_commit(connection: psycopg.Connection[Any], monitor: Monitor, scope: Scope) -> Position | None:
    """After a commit that wrote: one query on the same connection, and the position is in the scope.

    None where it cannot be told: the write is committed all the same, and the scope stays dirty.
    """
    writes, system = scope.writes, _system(monitor)
    found = None if system is None else ask_position(connection, system)
    if found is not None:
        scope.note_position(found, writes)
    return found


async def note_commit_async(
    connection: psycopg.AsyncConnection[Any], monitor: Monitor, scope: Scope
) -> Position | None:
    """The same for a task."""
    writes, system = scope.writes, _system(monitor)
    found = None if system is None else await ask_position_async(connection, system)
    if found is not None:
        scope.note_position(found, writes)
    return found


def ask_position(connection: psycopg.Connection[Any], system: str) -> Position | None:
    """Where the primary's WAL ends. `system` is the snapshot's; the connection is in no transaction."""
    before = connection.autocommit
    try:
        connection.autocommit = True  # else BEGIN and ROLLBACK were two round trips more
        with connection.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(POSITION_SQL.encode()).fetchone()
        connection.autocommit = before
    except psycopg.Error:
        return None
    return None if row is None else position(system, row)


async def ask_position_async(connection: psycopg.AsyncConnection[Any], system: str) -> Position | None:
    """The same for a task."""
    before = connection.autocommit
    try:
        await connection.set_autocommit(True)
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(POSITION_SQL.encode())
            row = await cursor.fetchone()
        await connection.set_autocommit(before)
    except psycopg.Error:
        return None
    return None if row is None else position(system, row)


def _system(monitor: Monitor) -> str | None:
    return None if monitor.snapshot is None else monitor.snapshot.system or None
