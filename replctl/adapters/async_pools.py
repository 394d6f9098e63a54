"""The same as `replctl.adapters.pools`, for tasks.

pools = AsyncPools(monitor, {"user": "app", "dbname": "orders"}, keys=KeyRing((secret,)))
async with pools.connection(read=True) as connection:
    await connection.execute("SELECT …")
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from replctl.adapters.connections import AsyncNodeConnection, AsyncNotingCursor, noting
from replctl.adapters.guard import ROLE_SQL, note_commit_async, shut
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
from replctl.errors import PoolsClosed
from replctl.pg.monitor import Monitor
from replctl.pg.position import wait_replayed_async


class AsyncPools(PoolsShared):
    """Pools for every node of one cluster, for tasks of the event loop that uses them first.

    Parameters and errors are those of `Pools`. Close them before that loop ends: another loop gets
    PoolsClosed, and so do threads of other loops.
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def connection(
        self,
        read: bool = False,
        *,
        after: str | Position | None = None,
        scope: Scope | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[AsyncNodeConnection]:
        """A connection to the primary, or with `read` to where this may be read from.

        `after`: a token or a position that the read must have seen, besides what `scope` (default: the
        current one) asks for. The scope learns of what was committed, by one query after the block.

        Raises NoPrimary or NoReplica, psycopg_pool.PoolTimeout where all connections are in use, and for
        errors inside the block NodeSwitched, TransactionOutcomeUnknown, NotReplicated; others unchanged.
        """
        need, scope = self.need(read, after, scope)
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        home, connection, decision = await self._checkout(need, scope, time.monotonic() + limit_s)
        try:
            self.count(need, decision, scope)
            async with self._block(home, connection, scope, read=read):
                yield connection
        finally:
            connection.enter(None, writes=False)
            await home.pool.putconn(connection)

    @asynccontextmanager
    async def _block(
        self, home: Home, connection: AsyncNodeConnection, scope: Scope | None, *, read: bool
    ) -> AsyncIterator[None]:
        connection.enter(None if read else scope, writes=not read)
        guarded = read and not home.is_read_only and not connection.autocommit
        if guarded:
            await connection.set_read_only(True)  # also where the primary is read from
        try:
            async with connection:
                yield
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
                    await connection.set_read_only(None)
        if not read and scope is not None and (connection.committed or connection.autocommitted):
            connection.scope = None  # its own query writes nothing
            await note_commit_async(connection, self.monitor, scope)

    async def close(self) -> None:
        """Close every idle connection now, and those in use when their blocks end."""
        for pool in self._end():
            await pool.close(CLOSE_LIMIT_S)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_LIMIT_S)

    async def __aenter__(self) -> AsyncPools:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- finding a node that has a connection

    async def _checkout(
        self, need: Need, scope: Scope | None, until_s: float
    ) -> tuple[Home, AsyncNodeConnection, Decision]:
        self.refuse_if_closed()
        self._refuse_other_loops()
        tried: set[str] = set()
        last, behind = None, False
        while True:
            left_s = until_s - time.monotonic()
            snapshot = self.monitor.snapshot or await self.monitor.ensure_async(max(0.0, left_s))
            self.monitor.start()
            decision = self.choose(need, scope, snapshot, tried, behind=behind)
            if decision.node is None:
                await self.monitor.wait_async(snapshot, self.refuse(decision, left_s, last))
                continue
            home = self.home(decision.node, replica=decision.replica)
            try:
                connection = await self._take(home, until_s)
            except Unavailable as error:
                last = str(error)
                if decision.replica:
                    self.monitor.refresh()
                    tried.add(decision.node)
                elif left_s <= 0:
                    raise self.unreached(decision.node, last) from None
                else:
                    await self.monitor.wait_async(snapshot, left_s)
                continue
            lsn, wait_s = self.condition(need, scope, snapshot, decision, connection.connected_s)
            if lsn is None or await self._has_replayed(home, connection, lsn, wait_s):
                return home, connection, decision
            behind = True

    async def _has_replayed(
        self, home: Home, connection: AsyncNodeConnection, lsn: Lsn, limit_s: float
    ) -> bool:
        """Whether this replica has, in time. Gives the connection back where it has not."""
        reached = False
        version = connection.info.server_version
        try:
            with suppress(psycopg.Error), _cut_after(connection, limit_s + ANSWER_LIMIT_S):
                reached = await wait_replayed_async(
                    lambda text: _ask(connection, text), lsn, limit_s, server_version_num=version
                )
        finally:
            if not reached:
                await home.pool.putconn(connection)
        return reached

    async def _take(self, home: Home, until_s: float) -> AsyncNodeConnection:
        """A connection that lives, to a node in the role that is wanted. Raises Unavailable, PoolTimeout."""
        while True:
            try:
                if home.pool.closed and not home.opened:
                    await home.pool.open()
                    home.opened = True
                connection: AsyncNodeConnection = await home.pool.getconn(
                    max(0.001, until_s - time.monotonic())
                )
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
                    why = home.judge(connection, await _role(connection) if home.pooled else None)
                    good = why is None
            finally:
                if not good:
                    await connection.close()
                    await home.pool.putconn(connection)
            if good:
                return connection
            if why is not None:
                raise home.wrong(why)

    # ---- a node's pool

    def _new_pool(self, home: Home) -> AsyncConnectionPool[Any]:
        return AsyncConnectionPool(
            connection_class=_connection_class(home),
            name=f"{self.monitor.cluster}-{home.node}-{'replica' if home.replica else 'primary'}",
            timeout=self.timeout_s,
            open=False,
            **self.pool_options,
        )

    def _close_pool(self, pool: Any) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # that loop has ended, and its connections with it
                self._loop.call_soon_threadsafe(self._close_soon, pool)

    def _close_soon(self, pool: Any) -> None:
        # In a task, since it waits for its own tasks, of which this may be one.
        task = asyncio.create_task(pool.close(CLOSE_LIMIT_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def forget_parent(self) -> None:
        """In a forked child: another loop will use them here."""
        super().forget_parent()
        self._loop, self._closing = None, set()

    def _refuse_other_loops(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            what = f"{self.monitor.cluster}: the pools belong to another event loop"
            why = "it is closed" if self._loop.is_closed() else None
            raise PoolsClosed(what, why=why, hint="make pools for each loop, and close them in it")


def _connection_class(home: Home) -> type[AsyncNodeConnection]:
    class Connection(AsyncNodeConnection):
        @classmethod
        async def connect(cls, conninfo: str = "", **_: Any) -> Any:
            try:
                given = await asyncio.to_thread(home.parameters)  # it may run a password_command
                factory = noting(given.pop("cursor_factory", None), AsyncNotingCursor)
                connection = await super().connect(conninfo, cursor_factory=factory, **given)
                home.connected(connection)
            except CONNECT_ERRORS as error:
                home.failed(error)
                raise
            why = home.judge(connection, await _role(connection) if home.pooled else None)
            if why is not None:
                await connection.close()
                raise psycopg.OperationalError(str(home.wrong(why)))
            return connection

    return Connection


async def _ask(connection: AsyncNodeConnection, text: str) -> Any:
    """One row, outside of any transaction."""
    before = connection.autocommit
    await connection.set_autocommit(True)
    try:
        cursor = await connection.cursor(row_factory=tuple_row).execute(text.encode())
        return await cursor.fetchone()
    finally:
        if not connection.closed:
            await connection.set_autocommit(before)


async def _role(connection: AsyncNodeConnection) -> Any:
    """ROLE_SQL's row; of a connection that is lost, one that suits nobody."""
    try:
        with _cut_after(connection, ANSWER_LIMIT_S):
            return await _ask(connection, ROLE_SQL)
    except psycopg.Error:
        return (None, True)


@contextmanager
def _cut_after(connection: AsyncNodeConnection, limit_s: float) -> Iterator[None]:
    """Not asyncio.timeout: psycopg would ask the server, which may be frozen, to cancel."""
    timer = asyncio.get_running_loop().call_later(limit_s, shut, connection)
    try:
        yield
    finally:
        timer.cancel()
