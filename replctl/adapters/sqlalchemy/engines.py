"""An engine for each node and use: made when it is first needed, disposed when the node changes its role.

Its events do what no session can: they tell libpq whom to connect to, look at the role of each connection
before it is used, and say what a lost connection means for the transaction that was on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, event, exc
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from replctl.adapters import guard
from replctl.adapters.sqlalchemy.links import LINK, Link, link_of, row, row_async
from replctl.adapters.sqlalchemy.statements import may_write
from replctl.core.model import Lsn
from replctl.core.routing import Fitness, Snapshot
from replctl.core.routing.reasons import SOFT
from replctl.errors import NodeSwitched, PoolsClosed, WriteRefused
from replctl.pg.monitor import Monitor
from replctl.pg.position import wait_replayed, wait_replayed_async

URL = "postgresql+psycopg://"
POOL: Mapping[str, Any] = {
    "pool_size": 5,
    "max_overflow": 10,
    "pool_timeout": 5,  # seconds; SQLAlchemy's 30 outlive the patience of most clients
    "pool_recycle": 1800,  # seconds
    "pool_use_lifo": True,  # so that what a peak left over gets idle, and is closed by firewalls, not used
}
"""Of every engine, unless the application says otherwise. Without pre-ping: what the server has ended, and
what has changed its role, is known without asking; the rest would cost a round trip each time."""

_USABLE = frozenset({Fitness.FIT, Fitness.SUSPECT, Fitness.PROBATION, Fitness.HELD, *SOFT})
_NO_WRITER = frozenset({Fitness.STALE_PRIMARY, Fitness.FENCED, Fitness.WRONG_CLUSTER, Fitness.DIVERGED})


class NodeEngine:
    """One engine: for writes on a primary, for reads there, or for reads from a replica."""

    def __init__(
        self, monitor: Monitor, node: str, *, writes: bool, replica: bool, own: dict[str, Any]
    ) -> None:
        self.node = node
        self.writes = writes
        self.replica = replica
        self.pooled = guard.is_pooled(monitor.inventory, node)
        self.retired = False
        self._monitor = monitor
        self._own = own
        self._drivers: weakref.WeakSet[guard.AnyConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._disposing: asyncio.Task[None] | None = None

    def open(self, *, is_async: bool, options: Mapping[str, Any]) -> Engine:
        """Make the engine; nothing is connected yet."""
        if is_async:
            self._loop = asyncio.get_running_loop()
            self.engine = create_async_engine(URL, **options).sync_engine
        else:
            self.engine = create_engine(URL, **options)
        listeners: list[tuple[str, Callable[..., Any]]]
        listeners = [("do_connect", self._address), ("connect", self._connected), ("checkin", self._returned)]
        listeners += [("handle_error", self._lost if self.writes else self._lost_read)]
        listeners += [("checkout", self.check)]
        if self.writes:
            listeners += [("before_cursor_execute", self._executing)]
            listeners += [("begin", self._begun), ("begin_twophase", self._begun)]
            listeners += [
                (name, self._committing) for name in ("commit", "prepare_twophase", "commit_twophase")
            ]
        for name, listener in listeners:
            event.listen(self.engine, name, listener)
        return self.engine

    @property
    def is_of_this_loop(self) -> bool:
        """Whether its connections are of the event loop that runs here."""
        return self._loop is asyncio.get_running_loop()

    def retire(self) -> None:
        """Use it no more: what is idle is closed, and what is in use when it comes back.

        Connections to a primary are cut, since whoever waits for an old one may wait for ever, and what
        has begun there must not be committed. From any thread; does not block.
        """
        self.retired = True
        if not self.replica:
            with self._lock:
                drivers = list(self._drivers)
            for driver in drivers:
                guard.shut(driver)
        if self._loop is None:
            self.engine.dispose()
            return
        with contextlib.suppress(RuntimeError):  # that loop is closed, and its connections with it
            self._loop.call_soon_threadsafe(self._dispose_soon)

    def _dispose_soon(self) -> None:
        self._disposing = asyncio.get_running_loop().create_task(AsyncEngine(self.engine).dispose())

    async def close_async(self) -> None:
        """Close what is idle, now."""
        self.retired = True
        await AsyncEngine(self.engine).dispose()

    def has_replayed(self, lsn: Lsn, limit_s: float) -> bool:
        """Whether this replica has replayed so far, or does within the limit."""
        with self.engine.connect() as connection:
            driver: guard.AnyConnection = connection.info[LINK].driver
            version = driver.info.server_version
            if isinstance(driver, psycopg.AsyncConnection):
                ask_async = functools.partial(row_async, driver)
                return await_only(wait_replayed_async(ask_async, lsn, limit_s, server_version_num=version))
            return wait_replayed(functools.partial(row, driver), lsn, limit_s, server_version_num=version)

    # ---- the engine's events

    def _address(self, _dialect: Any, _record: Any, _args: Any, given: dict[str, Any]) -> None:
        def ask() -> dict[str, Any]:
            read_only = not self.writes and not self.pooled
            return guard.parameters(self._monitor.inventory, self.node, self._own, read_only=read_only)

        blocks = self._monitor.inventory.connections[self.node].password_command is not None
        given |= await_only(asyncio.to_thread(ask)) if blocks and self._loop is not None else ask()
        if self.pooled:
            given.setdefault("prepare_threshold", None)  # older ones lose prepared statements

    def _connected(self, _dbapi: Any, record: Any) -> None:
        link = record.info[LINK] = Link(self, record.driver_connection)
        with self._lock:
            self._drivers.add(link.driver)
        if not link.is_as_expected():
            self._monitor.refresh()
            raise self.switched("it is no primary that takes writes")

    def check(self, _dbapi: Any, record: Any, _fairy: Any) -> None:
        """For each connection that is taken from the pool. Raises what makes the pool replace it."""
        link: Link = record.info[LINK]
        if link.poll(0):  # to an idle connection a server speaks to end it
            raise exc.DisconnectionError(f"{self.node} has ended an idle connection")
        if not link.is_as_expected():
            self._monitor.refresh()
            # Connects anew, to whoever is at this address now; `_connected` has the last word.
            raise exc.InvalidatePoolError(f"{self.node} is no primary that takes writes")

    def _returned(self, _dbapi: Any, record: Any) -> None:
        link: Link | None = record.info.get(LINK) if self.writes else None
        if link is not None:
            link.scope = None  # before anybody else can have the connection
        if self.retired and record.dbapi_connection is not None:
            record.invalidate()

    def _begun(self, connection: Any, *_: Any) -> None:
        link = connection.info[LINK]
        link.wrote = link.committing = link.notices.cancelled = False
        link.scope = None

    def _executing(self, connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        self._refuse_if_retired()
        link = connection.info[LINK]
        if not link.wrote and may_write(sql):
            link.wrote = True
            if link.scope is not None and link.driver.autocommit:
                link.scope.note_write()

    def _committing(self, connection: Any, *_: Any) -> None:
        link = connection.info[LINK]
        if link.wrote:
            self._refuse_if_retired()
            if link.scope is not None:
                link.scope.note_write()
        link.committing = True

    def _refuse_if_retired(self) -> None:
        snapshot = self._monitor.snapshot
        if self.retired or (snapshot is not None and snapshot.writer not in (None, self.node)):
            raise self.switched("another node takes the writes now")

    def _lost(self, context: ExceptionContext) -> BaseException | None:
        error, link = context.original_exception, link_of(context)
        found = guard.outcome(
            error,
            committing=link is not None and (link.committing or _commits(context.statement)),
            may_have_written=link is not None
            and bool(link.driver.autocommit)
            and (context.statement is None or may_write(context.statement)),
            connection=None if link is None or self.pooled else link.driver,
        )
        return self._noticed(context, found)

    def _lost_read(self, context: ExceptionContext) -> BaseException | None:
        error, link = context.original_exception, link_of(context)
        if isinstance(error, psycopg.Error) and error.sqlstate == guard.READ_ONLY:
            return write_refused(self.node, str(error).partition("\n")[0])
        if not guard.is_lost(error, None if link is None else link.driver):
            return None
        return self._noticed(context, self.switched(str(error).strip().partition("\n")[0]))

    def _noticed(self, context: ExceptionContext, found: BaseException | None) -> BaseException | None:
        if found is not None:
            context.is_disconnect = True
            self._monitor.refresh()
            if context.connection is None:
                self._monitor.inventory.connections[self.node].forget_password()
        return found

    def switched(self, why: str) -> NodeSwitched:
        """The error for this node."""
        what = "takes the writes no more" if self.writes else "serves this read no more"
        return NodeSwitched(f"{self.node} {what}", why=why, hint="begin the transaction again")


_Key = tuple[str, bool, bool]


class Engines:
    """All engines of one router. Safe for threads; a forked child gets its own."""

    def __init__(
        self,
        monitor: Monitor,
        *,
        is_async: bool,
        own: dict[str, Any],
        options: Mapping[str, Any],
        for_reads: Mapping[str, Any],
        for_writes: Mapping[str, Any],
    ) -> None:
        self.is_async = is_async
        self._monitor = monitor
        self._own = own
        given = {True: {**options, **for_writes}, False: {**options, **for_reads}}
        # Another class of pool takes other options.
        self._options = {use: o if "poolclass" in o else {**POOL, **o} for use, o in given.items()}
        self._engines: dict[_Key, NodeEngine] = {}
        self._inherited: list[dict[_Key, NodeEngine]] = []
        self._lock = threading.Lock()
        self._closed = False
        monitor.listeners.append(self._heard)
        _all.add(self)

    def get(self, node: str, *, writes: bool = False, replica: bool = False) -> NodeEngine:
        """The engine of this node for this use. Raises PoolsClosed."""
        found = self._engines.get((node, writes, replica))
        if found is None:
            return self._make(node, writes, replica)
        if self.is_async and not found.is_of_this_loop:
            raise PoolsClosed("this router belongs to another event loop", hint="make one for each loop")
        return found

    def _make(self, node: str, writes: bool, replica: bool) -> NodeEngine:
        with self._lock:
            if self._closed:
                raise PoolsClosed("this router was closed", hint="make another one")
            found = self._engines.get((node, writes, replica))
            if found is None:
                found = NodeEngine(self._monitor, node, writes=writes, replica=replica, own=self._own)
                found.open(is_async=self.is_async, options=self._options[writes])
                snapshot = self._monitor.snapshot
                # The decision may be older than the change of roles that others have heard of already.
                found.retired = snapshot is not None and _is_gone(found, snapshot)
                if not found.retired:
                    self._engines[node, writes, replica] = found
        return found

    def _heard(self, _before: Snapshot | None, after: Snapshot) -> None:
        with self._lock:
            gone = [engine for engine in self._engines.values() if _is_gone(engine, after)]
            for engine in gone:
                del self._engines[engine.node, engine.writes, engine.replica]
        for engine in gone:
            engine.retire()

    def _end(self) -> list[NodeEngine]:
        if self._heard in self._monitor.listeners:
            self._monitor.listeners.remove(self._heard)
        with self._lock:
            self._closed = True
            engines, self._engines = list(self._engines.values()), {}
        return engines

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        for engine in self._end():
            engine.retired = True
            engine.engine.dispose()

    async def close_async(self) -> None:
        """The same for a task."""
        for engine in self._end():
            await engine.close_async()

    def forget_parent(self) -> None:
        """In a forked child: the parent's connections are left alone, and kept from being collected."""
        self._lock = threading.Lock()
        self._inherited.append(self._engines)
        self._engines = {}


def write_refused(node: str | None, why: str) -> WriteRefused:
    """The error of a write where only reads were declared."""
    where = "" if node is None else f" (from {node})"
    return WriteRefused(f"this session only reads{where}", why=why, hint="write in write_session()")


def _is_gone(engine: NodeEngine, snapshot: Snapshot) -> bool:
    """Whether its node has left, or has become something else.

    A writer that just does not answer may be there for its clients all the same.
    """
    fitness = next((view.fitness for view in snapshot.nodes if view.name == engine.node), None)
    if engine.replica:
        return fitness not in _USABLE
    return fitness is None or fitness in _NO_WRITER or snapshot.writer not in (None, engine.node)


def _commits(sql: str | None) -> bool:
    """Whether a statement that was under way may have committed, written as text as it was."""
    return sql is not None and "commit" in sql.lower()


_all: weakref.WeakSet[Engines] = weakref.WeakSet()


def _forget_parents() -> None:
    for engines in list(_all):
        engines.forget_parent()


os.register_at_fork(after_in_child=_forget_parents)
