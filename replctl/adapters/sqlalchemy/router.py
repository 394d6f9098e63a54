"""A router: one monitor, its engines, and sessions that use them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import await_only

from replctl.adapters.metrics import RouteMetrics
from replctl.adapters.sqlalchemy.engines import Engines, NodeEngine
from replctl.adapters.sqlalchemy.session import Mode, RoutingSession
from replctl.core.routing import READ, WRITE, Decision, KeyRing, Need, Reason, Scope, current_scope, entered
from replctl.errors import NodeSwitched
from replctl.pg.monitor import PATIENCE_S, Monitor, refusal


class Routing:
    """What sync and async routers have in common. Makes no connection before the first session does.

    - `keys` sign and check the tokens of `scope`.
    - `pool` are options of `create_engine` for all engines, `read_pool` and `write_pool` for those of one
      use: `pool_size` and its like. One engine is made for each node and use that is needed; reads that
      go to the primary have one of their own there, so that they cannot take the writes' connections.
    - `patience_s` is how long a transaction that begins during a failover waits for the new primary.
    - `metrics` counts the reads (`metrics_of(monitor)`).
    - `connection` is what the application's connections have other than the inventory's: `dbname`, `user`,
      `password`, `application_name`, `options`.

    The monitor stays the caller's: whoever made it closes it.
    """

    is_async = False

    def __init__(
        self,
        monitor: Monitor,
        *,
        keys: KeyRing | None = None,
        monotonic: bool = False,
        pool: Mapping[str, Any] | None = None,
        read_pool: Mapping[str, Any] | None = None,
        write_pool: Mapping[str, Any] | None = None,
        patience_s: float = PATIENCE_S,
        metrics: RouteMetrics | None = None,
        **connection: Any,
    ) -> None:
        self.monitor = monitor
        self.keys = keys
        self.monotonic = monotonic
        self.patience_s = patience_s
        self.metrics = metrics
        self.engines = Engines(
            monitor,
            is_async=self.is_async,
            own=connection,
            options=pool or {},
            for_reads=read_pool or {},
            for_writes=write_pool or {},
        )

    @contextmanager
    def scope(self, token: str | None = None) -> Iterator[Scope]:
        """One unit of work that came with this token: its reads see its own writes, and the token's."""
        scope = self.monitor.new_scope(token, keys=self.keys, monotonic=self.monotonic)
        with entered(self.monitor.cluster, scope):
            yield scope

    def route(self, *, read: bool = True) -> Decision:
        """Where this would go now, without connecting or waiting. Raises NoPrimary, NoReplica."""
        return self.monitor.route(READ if read else WRITE, current_scope(self.monitor.cluster))

    # ---- for sessions

    def decide(self, need: Need, scope: Scope | None) -> Decision:
        """Where this goes; waits for the first look, and for a primary. Raises NoPrimary, NoReplica."""
        decision = self.monitor.decide(need, scope)
        if decision.node is not None:
            return decision
        if self.is_async:
            return await_only(self._decide_async(need, scope))
        self.monitor.ensure()
        return self.monitor.route_soon(need, scope, self.patience_s)

    async def _decide_async(self, need: Need, scope: Scope | None) -> Decision:
        await self.monitor.ensure_async()
        return await self.monitor.route_soon_async(need, scope, self.patience_s)

    def decide_read(self, scope: Scope | None, tried: Mapping[str | None, NodeSwitched]) -> Decision:
        """Where this read goes, not to nodes that were `tried` in vain. Raises the last of their errors."""
        decision = self.decide(READ, scope)
        snapshot = self.monitor.snapshot
        if decision.node not in tried or snapshot is None:
            return decision
        for _ in snapshot.wheel:
            decision = self.decide(READ, scope)
            if decision.node not in tried:
                return decision
        if self.monitor.inventory.settings.routing.on_all_unfit == "primary":
            decision = snapshot.primary[Reason.ALL_UNFIT]
            if decision.node is not None and decision.node not in tried:
                return decision
        raise list(tried.values())[-1]

    def engine_for(self, decision: Decision, *, automatic: bool) -> NodeEngine:
        """The engine for a read. An automatic session may write next, in the same transaction."""
        node = decision.node or ""
        if decision.replica:
            return self.engines.get(node, replica=True)
        return self.engines.get(node, writes=automatic)

    def instead_of_waiting(self, *, automatic: bool) -> tuple[Decision, NodeEngine]:
        """The primary, for a read that a replica was not fit for in time. Raises NoPrimary."""
        snapshot = self.monitor.snapshot
        assert snapshot is not None
        decision = snapshot.primary[Reason.LSN_BEHIND]
        if decision.node is None:
            raise refusal(decision)
        return decision, self.engine_for(decision, automatic=automatic)


class Router(Routing):
    """For threads. Use it as a context manager, or `close` it."""

    def session(self, mode: Mode = "write", **options: Any) -> RoutingSession:
        """A session of this router; `options` are SQLAlchemy's."""
        return RoutingSession(router=self, mode=mode, **options)

    @contextmanager
    def read_session(self, **options: Any) -> Iterator[RoutingSession]:
        """A session that reads, from a replica that is fit for this unit of work or where policy says."""
        with self.session("read", **options) as session:
            yield session

    @contextmanager
    def write_session(self, **options: Any) -> Iterator[RoutingSession]:
        """A session on the primary in one transaction, which is committed at the end, or rolled back."""
        with self.session("write", **options) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close all connections that are not in use; those in use close when they come back."""
        self.engines.close()

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncRouter(Routing):
    """For tasks of one event loop. Use it as an async context manager, or `await` its `close`."""

    is_async = True

    def session(self, mode: Mode = "write", **options: Any) -> AsyncSession:
        """A session of this router; `options` are SQLAlchemy's."""
        return AsyncSession(sync_session_class=RoutingSession, router=self, mode=mode, **options)

    @asynccontextmanager
    async def read_session(self, **options: Any) -> AsyncIterator[AsyncSession]:
        """A session that reads, from a replica that is fit for this unit of work or where policy says."""
        async with self.session("read", **options) as session:
            yield session

    @asynccontextmanager
    async def write_session(self, **options: Any) -> AsyncIterator[AsyncSession]:
        """A session on the primary in one transaction, which is committed at the end, or rolled back."""
        async with self.session("write", **options) as session, session.begin():
            yield session

    async def close(self) -> None:
        """Close all connections that are not in use; those in use close when they come back."""
        await self.engines.close_async()

    async def __aenter__(self) -> AsyncRouter:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
