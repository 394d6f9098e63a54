"""Connections of psycopg_pool that follow the primary, and read from replicas (psycopg_pool 3.3 or newer).

    pools = Pools(monitor, {"user": "app", "dbname": "orders"}, keys=KeyRing((secret,)))
    with pools.connection() as connection:           # the primary
        connection.execute("INSERT …")
    with pools.connection(read=True) as connection:  # a replica that has what this unit of work wrote
        connection.execute("SELECT …")

A block is one unit that may be run again as a whole: it commits at its end and rolls back on an error, as
psycopg_pool's does. For tasks there is `replctl.adapters.async_pools`.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from replctl.adapters.connections import NodeConnection, NotingCursor, noting
from replctl.adapters.guard import ROLE_SQL, note_commit, shut
from replctl.adapters.metrics import RouteMetrics
from replctl.adapters.pooling import (
    ANSWER_LIMIT_S,
    CLOSE_LIMIT_S,
    CONNECT_ERRORS,
    TIMEOUT_S,
    Home,
    PoolsShared,
    Unavailable,
)
from replctl.core.model import Lsn
from replctl.core.routing import Decision, KeyRing, Need, Position, Scope
from replctl.pg.monitor import Monitor
from replctl.pg.position import wait_replayed


class Pools(PoolsShared):
    """Pools for every node of one cluster. Threads may share them; a forked child opens its own.

    - `connect`: what psycopg.connect is given besides the address: user, password, dbname, options,
      autocommit, row_factory, …
    - `keys`: for `after=` as a token.
    - `timeout_s`: how long a block waits for its connection, and for a primary during a failover.
    - `pooler`: whether the nodes are behind PgBouncer; None = those that have a client_port.
    - `pool`: what psycopg_pool.ConnectionPool is given, for each node: min_size, max_size, max_waiting, …
    """

    def __init__(
        self,
        monitor: Monitor,
        connect: dict[str, Any] | None = None,
        *,
        keys: KeyRing | None = None,
        timeout_s: float = TIMEOUT_S,
        pooler: bool | None = None,
        metrics: RouteMetrics | None = None,
        **pool: Any,
    ) -> None:
        super().__init__(
            monitor, connect, keys=keys, timeout_s=timeout_s, pooler=pooler, metrics=metrics, pool=pool
        )
        _open.add(self)

    @contextmanager
    def connection(
        self,
        read: bool = False,
        *,
        after: str | Position | None = None,
        scope: Scope | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[NodeConnection]:
        """A connection to the primary, or with `read` to where this may be read from.

        `after`: a token or a position that the read must have seen, besides what `scope` (default: the
        current one) asks for. The scope learns of what was committed, by one query after the block.

        Raises NoPrimary or NoReplica, psycopg_pool.PoolTimeout where all connections are in use, and for
        errors inside the block NodeSwitched, TransactionOutcomeUnknown, NotReplicated; others unchanged.
        """
        need, scope = self.need(read, after, scope)
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        home, connection, decision = self._checkout(need, scope, time.monotonic() + limit_s)
        try:
            self.count(need, decision, scope)
            yield from self._block(home, connection, scope, read=read)
        finally:
            connection.enter(None, writes=False)
            home.pool.putconn(connection)

    def _block(
        self, home: Home, connection: NodeConnection, scope: Scope | None, *, read: bool
    ) -> Iterator[NodeConnection]:
        connection.enter(None if read else scope, writes=not read)
        guarded = read and not home.is_read_only and not connection.autocommit
        if guarded:
            connection.read_only = True  # also where the primary is read from
        try:
            with connection:
                yield connection
            if connection.broken:
                raise psycopg.OperationalError("the connection was lost, and the block went on")
            connection.heard.check()
        except psycopg.Error as error:
            if (found := connection.meaning(error)) is None:
                raise
            self.monitor.refresh()
            raise found from error
        finally:
            if connection.committing and scope is not None and not read:
                scope.note_write()  # interrupted: it may be done
            if guarded:
                with suppress(psycopg.Error):
                    connection.read_only = None
        if not read and scope is not None and (connection.committed or connection.autocommitted):
            connection.scope = None  # its own query writes nothing
            note_commit(connection, self.monitor, scope)

    def close(self) -> None:
        """Close every idle connection now, and those in use when their blocks end."""
        for pool in self._end():
            pool.close(CLOSE_LIMIT_S)

    def __enter__(self) -> Pools:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- finding a node that has a connection

    def _checkout(
        self, need: Need, scope: Scope | None, until_s: float
    ) -> tuple[Home, NodeConnection, Decision]:
        self.refuse_if_closed()
        tried: set[str] = set()
        last, behind = None, False
        while True:
            left_s = until_s - time.monotonic()
            snapshot = self.monitor.snapshot or self.monitor.ensure(max(0.0, left_s))
            self.monitor.start()
            decision = self.choose(need, scope, snapshot, tried, behind=behind)
            if decision.node is None:
                self.monitor.wait(snapshot, self.refuse(decision, left_s, last))
                continue
            home = self.home(decision.node, replica=decision.replica)
            try:
                connection = self._take(home, until_s)
            except Unavailable as error:
                last = str(error)
                if decision.replica:
                    self.monitor.refresh()
                    tried.add(decision.node)
                elif left_s <= 0:
                    raise self.unreached(decision.node, last) from None
                else:
                    self.monitor.wait(snapshot, left_s)
                continue
            lsn, wait_s = self.condition(need, scope, snapshot, decision, connection.connected_s)
            if lsn is None or self._has_replayed(home, connection, lsn, wait_s):
                return home, connection, decision
            behind = True

    def _has_replayed(self, home: Home, connection: NodeConnection, lsn: Lsn, limit_s: float) -> bool:
        """Whether this replica has, in time. Gives the connection back where it has not."""
        reached = False
        version = connection.info.server_version
        try:
            with suppress(psycopg.Error), _cut_after(connection, limit_s + ANSWER_LIMIT_S):
                reached = wait_replayed(
                    lambda text: _ask(connection, text), lsn, limit_s, server_version_num=version
                )
        finally:
            if not reached:
                home.pool.putconn(connection)
        return reached

    def _take(self, home: Home, until_s: float) -> NodeConnection:
        """A connection that lives, to a node in the role that is wanted. Raises Unavailable, PoolTimeout."""
        while True:
            try:
                connection: NodeConnection = home.pool.getconn(max(0.001, until_s - time.monotonic()))
            except PoolClosed:
                self.refuse_if_closed()
                raise home.gone() from None
            except PoolTimeout:
                if home.error is not None:
                    raise home.gone() from None
                raise
            good, why = False, None
            try:
                # The server has ended it, or speaks unasked: another one is cheaper than finding out.
                if connection.is_quiet:
                    why = home.judge(connection, _role(connection) if home.pooled else None)
                    good = why is None
            finally:
                if not good:
                    connection.close()
                    home.pool.putconn(connection)
            if good:
                return connection
            if why is not None:
                raise home.wrong(why)

    # ---- a node's pool

    def _new_pool(self, home: Home) -> ConnectionPool[Any]:
        return ConnectionPool(
            connection_class=_connection_class(home),
            name=f"{self.monitor.cluster}-{home.node}-{'replica' if home.replica else 'primary'}",
            timeout=self.timeout_s,
            open=True,
            **self.pool_options,
        )

    def _close_pool(self, pool: Any) -> None:
        # In a thread, since it waits for its own threads, of which this may be one.
        threading.Thread(target=pool.close, args=(CLOSE_LIMIT_S,), daemon=True).start()


def _connection_class(home: Home) -> type[NodeConnection]:
    class Connection(NodeConnection):
        @classmethod
        def connect(cls, conninfo: str = "", **_: Any) -> Any:
            try:
                given = home.parameters()
                factory = noting(given.pop("cursor_factory", None), NotingCursor)
                connection = super().connect(conninfo, cursor_factory=factory, **given)
                home.connected(connection)
            except CONNECT_ERRORS as error:
                home.failed(error)
                raise
            why = home.judge(connection, _role(connection) if home.pooled else None)
            if why is not None:
                connection.close()
                raise psycopg.OperationalError(str(home.wrong(why)))
            return connection

    return Connection


def _ask(connection: NodeConnection, text: str) -> Any:
    """One row, outside of any transaction."""
    before = connection.autocommit
    connection.autocommit = True
    try:
        return connection.cursor(row_factory=tuple_row).execute(text.encode()).fetchone()
    finally:
        if not connection.closed:
            connection.autocommit = before


def _role(connection: NodeConnection) -> Any:
    """ROLE_SQL's row; of a connection that is lost, one that suits nobody."""
    try:
        with _cut_after(connection, ANSWER_LIMIT_S):
            return _ask(connection, ROLE_SQL)
    except psycopg.Error:
        return (None, True)


@contextmanager
def _cut_after(connection: NodeConnection, limit_s: float) -> Iterator[None]:
    """A server that is frozen gives no answer, and takes no request to cancel either."""
    timer = threading.Timer(limit_s, shut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_open: weakref.WeakSet[Pools] = weakref.WeakSet()


def _close_all() -> None:
    for pools in list(_open):
        pools.close()


atexit.register(_close_all)
