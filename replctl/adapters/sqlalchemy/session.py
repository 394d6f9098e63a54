"""A session whose transactions each have one node: where the first statement goes, the others follow.

Splitting by statement, the usual recipe, loses what a transaction has flushed but not committed, and lets
`insert().returning(Entity)` insert on one node and look up on another. Here a transaction that only
reads is on one replica, one that writes is on the primary, and one that turns to writing stays there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import await_only

from replctl.adapters import guard
from replctl.adapters.sqlalchemy.engines import NodeEngine, write_refused
from replctl.adapters.sqlalchemy.links import LINK, Link
from replctl.adapters.sqlalchemy.statements import locks, only_reads
from replctl.core.routing import WRITE, Decision, Scope, current_scope
from replctl.errors import NodeSwitched, NotReplicated

if TYPE_CHECKING:
    from replctl.adapters.sqlalchemy.router import Routing

Mode = Literal["write", "read", "automatic"]


class _Place(NamedTuple):
    """Where a transaction is."""

    home: NodeEngine
    scope: Scope | None


class RoutingSession(Session):
    """A Session for `sessionmaker(class_=…)`, or `async_sessionmaker(sync_session_class=…)`.

    `mode` says where a transaction goes that begins with a read:

    - `write` (the default): to the primary, like all others; `reading()` declares exceptions.
    - `read`: to where reads go now. Writes raise WriteRefused.
    - `automatic`: the same, until the first flush or statement that may write: from then on everything in
      this transaction goes to the primary. So do text(), locks, DML in CTEs and functions that are not
      known; what was read before then was read on the replica.

    Outside of any unit of work (`router.scope()`), an automatic session that has written reads from the
    primary from then on; others know nothing of earlier writes. A session that was given a `bind` of its
    own, as tests do it, uses that.

    Beside SQLAlchemy's errors it raises NodeSwitched, TransactionOutcomeUnknown, NotReplicated, NoPrimary,
    NoReplica and WriteRefused.
    """

    def __init__(self, bind: Any = None, *, router: Routing, mode: Mode = "write", **options: Any) -> None:
        super().__init__(bind, **options)
        self.router = router
        self.mode: Mode = mode
        self.decision: Decision | None = None
        """Where the current transaction went, or the last one, and why."""
        self._own_scope = Scope()
        self._place: _Place | None = None
        self._next_place: _Place | None = None
        self._link: Link | None = None
        self._failure: NotReplicated | None = None

    @contextmanager
    def reading(self) -> Iterator[RoutingSession]:
        """Transactions that begin in this block read: they go to where reads go now, and refuse writes."""
        before, self.mode = self.mode, "read"
        try:
            yield self
        finally:
            self.mode = before

    # ---- SQLAlchemy asks here for each statement

    def get_bind(
        self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **options: Any
    ) -> Engine | Connection:
        """The engine of the transaction's node; the first statement decides which one."""
        if bind is not None or self.bind is not None:
            return super().get_bind(mapper, clause=clause, bind=bind, **options)
        place = self._place
        if place is not None and (place.home.writes or not self._is_for_the_primary(clause)):
            return place.home.engine
        return self._choose(clause, None)[0]

    def connection(self, bind_arguments: Any = None, execution_options: Any = None) -> Connection:
        """As of any session; its statements count as writes, except in a session that reads."""
        given = {} if bind_arguments is None else bind_arguments
        if self._place is None and self.bind is None and given.get("bind") is None:
            engine, connected = self._choose(given.get("clause"), execution_options)
            bind_arguments = {"bind": engine}
            # Reads are connected already, with these options: SQLAlchemy would warn of them.
            execution_options = None if connected else execution_options
        return super().connection(bind_arguments, execution_options)

    def _is_for_the_primary(self, clause: Any) -> bool:
        if self.mode == "read":
            if self._flushing or getattr(clause, "is_dml", False) or locks(clause):
                node = None if self._place is None else self._place.home.node
                raise write_refused(node, "a flush" if self._flushing else "a statement that writes or locks")
            return False
        return self.mode == "write" or self._flushing or not only_reads(clause)

    def _choose(self, clause: Any, options: Any) -> tuple[Engine, bool]:
        """The engine for this transaction from now on, and whether it is connected already."""
        scope = current_scope(self.router.monitor.cluster)
        if scope is None and self.mode == "automatic":
            scope = self._own_scope
        if not self._is_for_the_primary(clause):
            return self._choose_for_reading(scope, options)
        decision = self.router.decide(WRITE, scope)
        return self._take(decision, self.router.engines.get(decision.node or "", writes=True), scope), False

    def _choose_for_reading(self, scope: Scope | None, options: Any) -> tuple[Engine, bool]:
        """Connects at once: a replica that cannot be connected to is replaced before anything is read."""
        tried: dict[str | None, NodeSwitched] = {}
        while True:
            decision = self.router.decide_read(scope, tried)
            home = self.router.engine_for(decision, automatic=self.mode == "automatic")
            try:
                if decision.wait_lsn is not None and not home.has_replayed(
                    decision.wait_lsn, decision.wait_s
                ):
                    decision, home = self.router.instead_of_waiting(automatic=self.mode == "automatic")
                engine = self._take(decision, home, scope)
                super().connection({"bind": engine}, options)
            except NodeSwitched as error:
                if decision.node in tried or not decision.replica:
                    raise
                tried[decision.node] = error
            else:
                if self.router.metrics is not None:
                    self.router.metrics.count(decision)
                if scope is not None and scope.monotonic and decision.node is not None:
                    scope.note_read(decision.node)
                return engine, True

    def _take(self, decision: Decision, home: NodeEngine, scope: Scope | None) -> Engine:
        self.decision = decision
        self._next_place = _Place(home, scope)
        return home.engine

    # ---- SQLAlchemy tells here how the transaction goes

    def _has_begun(self, _transaction: SessionTransaction, connection: Connection) -> None:
        place = self._next_place
        if place is None or connection.engine is not place.home.engine:
            return
        self._place, self._next_place = place, None
        if place.home.writes:
            self._link = connection.info[LINK]
            self._link.scope = place.scope

    def _has_committed(self) -> None:
        link = self._link
        if link is None or self.in_nested_transaction():
            return
        scope, monitor = link.scope, self.router.monitor
        if link.wrote and scope is not None and scope is not self._own_scope:
            if isinstance(link.driver, psycopg.AsyncConnection):
                await_only(guard.note_commit_async(link.driver, monitor, scope))
            else:
                guard.note_commit(link.driver, monitor, scope)
        try:
            link.notices.check()
        except NotReplicated as error:
            self._failure = error  # raised once the session has put everything in order

    def _has_ended(self, transaction: SessionTransaction) -> None:
        if transaction.parent is not None:
            return
        failure, self._failure = self._failure, None
        self._place = self._next_place = self._link = None
        if failure is not None:
            raise failure


event.listen(RoutingSession, "after_begin", RoutingSession._has_begun)
event.listen(RoutingSession, "after_commit", RoutingSession._has_committed)
event.listen(RoutingSession, "after_transaction_end", RoutingSession._has_ended)
