"""Django's PostgreSQL backend, for an alias that follows the primary and for aliases of single nodes.

What it adds: a new connection of the writer goes to whoever takes writes now; before each transaction, and
at the ends of requests, a connection whose node is no longer that one is left; errors that mean a lost node
get their names; what was committed is noted in the scope of the unit of work.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql import base
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property

from replctl.adapters import guard
from replctl.adapters.django.clusters import Cluster, cluster_at
from replctl.adapters.django.databases import KEY
from replctl.adapters.django.errors import NodeSwitched, NoPrimary, as_django
from replctl.adapters.django.statements import Effect, effect_of
from replctl.core.routing import WRITE, current_scope
from replctl.errors import NotReplicated, ReplctlError, TransactionOutcomeUnknown

_pools_lock = threading.Lock()
_HEARD = "_replctl_notices"  # attributes of a psycopg connection
_WRAPPER = "_replctl_wrapper"
_AGAIN = "begin the transaction again"


class DatabaseWrapper(base.DatabaseWrapper):
    """One alias of one thread. `node` is where its connection leads; None before the first one."""

    def __init__(self, settings_dict: dict[str, Any], *arguments: Any, **options: Any) -> None:
        if KEY not in settings_dict:
            raise ImproperlyConfigured("this ENGINE is for replctl.adapters.django.databases() to set")
        super().__init__(settings_dict, *arguments, **options)
        self._place: dict[str, Any] = settings_dict[KEY]
        self.is_writer = self._place["node"] is None
        self.node: str | None = None
        self.connected_s = 0.0
        self.replayed_lsn = 0  # how far this connection's node is known to have replayed
        self._target = ""
        self._committing = False
        self._forget()

    def _forget(self) -> None:
        """What this transaction has done so far: nothing."""
        self._effect = Effect.READ

    @property
    def cluster(self) -> Cluster:
        """The cluster that this alias belongs to."""
        return cluster_at(self._place)

    # ---- where to

    def get_connection_params(self) -> dict[str, Any]:
        """As Django's, to the node that takes writes now, or to this alias's own. Raises NoPrimary."""
        own = super().get_connection_params()
        cluster = self.cluster
        inventory = cluster.monitor.inventory
        self._target = self._place["node"] or cluster.writer_node()
        if self.is_writer:
            own["cursor_factory"] = _watched(own["cursor_factory"])
        read_only = not self.is_writer and not self._is_pooled
        return guard.parameters(inventory, self._target, own, read_only=read_only)

    @property
    def _is_pooled(self) -> bool:
        return guard.is_pooled(self.cluster.monitor.inventory, self._target)

    def get_new_connection(self, conn_params: dict[str, Any]) -> psycopg.Connection[Any]:
        """As Django's. Raises NoPrimary for no connection, NodeSwitched where the node has another role."""
        try:
            connection: psycopg.Connection[Any] = super().get_new_connection(conn_params)
            if self.settings_dict["OPTIONS"].get("pool") and _leads_elsewhere(connection, conn_params):
                # Django's pool was filled while another node was the primary.
                self._leave_pool(connection)
                conn_params = self.get_connection_params()
                connection = super().get_new_connection(conn_params)
        except psycopg.OperationalError as error:
            raise self._unreached(error) from error
        if not hasattr(connection, _HEARD):
            setattr(connection, _HEARD, guard.notices(connection))
        setattr(connection, _WRAPPER, self)
        if self._is_not_what_it_was_taken_for(connection, conn_params):
            self._give_back(connection)
            self.cluster.monitor.refresh()
            role = "takes no writes any more" if self.is_writer else "is no replica any more"
            raise NodeSwitched(f"{self._target} {role}", hint=_AGAIN)
        self.node = self._target
        self.connected_s = time.monotonic()
        self.replayed_lsn = 0
        self._forget()
        return connection

    def _unreached(self, error: psycopg.OperationalError) -> ReplctlError:
        monitor = self.cluster.monitor
        monitor.refresh()
        if (error.sqlstate or "").startswith("28"):
            monitor.inventory.connections[self._target].forget_password()
        if self.is_writer:
            what = f"{self._target} takes writes as far as is known, but gives no connection"
            return NoPrimary(what, why=_first_line(error), hint="replctl status")
        return NodeSwitched(f"{self._target} gives no connection", why=_first_line(error), hint=_AGAIN)

    def _is_not_what_it_was_taken_for(
        self, connection: psycopg.Connection[Any], conn_params: dict[str, Any]
    ) -> bool:
        if self.settings_dict["OPTIONS"].get("pool") and _leads_elsewhere(connection, conn_params):
            return True
        replica, refuses = guard.is_replica(connection), guard.refuses_writes(connection)
        if replica is None or self._is_pooled:
            autocommit, connection.autocommit = connection.autocommit, True
            row = connection.execute(guard.ROLE_SQL.encode()).fetchone()
            connection.autocommit = autocommit
            assert row is not None
            replica, refuses = row[0], row[0] or row[1]
        if self.is_writer:
            return bool(refuses)
        snapshot = self.cluster.monitor.snapshot
        return not replica and (snapshot is None or snapshot.writer != self._target)

    def _leave_pool(self, connection: Any) -> None:
        self._give_back(connection)
        with _pools_lock, contextlib.suppress(KeyError):
            self.close_pool()

    def _give_back(self, connection: Any) -> None:
        pool = getattr(connection, "_pool", None)
        connection.close()
        if pool is not None:
            pool.putconn(connection)

    # ---- leaving a node that is no longer the one

    def close_if_health_check_failed(self) -> None:
        """Before each transaction: also where the node has changed or ended it. No round trip."""
        if self._has_moved():
            self.close()
        super().close_if_health_check_failed()

    def close_if_unusable_or_obsolete(self) -> None:
        """At the ends of requests: also where the node has changed."""
        if self._has_moved():
            self.close()
        super().close_if_unusable_or_obsolete()

    def _has_moved(self) -> bool:
        driver = self.connection
        if driver is None or self.in_atomic_block or not self.autocommit:
            return False
        if _has_ended(driver):
            return True
        monitor = self.cluster.monitor
        replica = None if self._is_pooled else guard.is_replica(driver)
        if self.is_writer:
            return replica is True or monitor.decide(WRITE, current_scope(monitor.cluster)).node != self.node
        return replica is False and (monitor.snapshot is None or monitor.snapshot.writer != self.node)

    def set_autocommit(self, autocommit: bool, *arguments: Any, **options: Any) -> None:
        """As Django's, except that a lost connection is not replaced at the end of `atomic`.

        Where that failed too, its error would hide the one that says what became of the transaction.
        """
        if autocommit and self.connection is None:
            self.validate_no_atomic_block()
            self.autocommit = True
            return
        super().set_autocommit(autocommit, *arguments, **options)

    # ---- what was written

    @contextlib.contextmanager
    def watch(self, query: Any) -> Iterator[None]:
        """Around a statement of the writer's cursors, raw ones too."""
        text = query.decode("latin-1") if isinstance(query, bytes) else query
        effect = effect_of(text) if isinstance(text, str) else Effect.WRITE
        if effect.value > self._effect.value:
            self._effect = effect
        driver = self.connection
        try:
            yield
        except psycopg.Error:
            if self.autocommit and driver is not None and not driver.closed:
                self._forget()  # the server has rolled it back
            raise
        if self.autocommit:
            self._committed()

    def _commit(self) -> None:
        self._committing = True
        try:
            super()._commit()
        finally:
            self._committing = False
        self._committed()

    def _rollback(self) -> None:
        self._forget()
        super()._rollback()

    def _committed(self) -> None:
        """Something was committed. Raises NotReplicated."""
        if self._effect is Effect.WRITE:
            self._note_write()
        self._forget()
        heard: guard.Notices | None = getattr(self.connection, _HEARD, None)
        try:
            if heard is not None:
                heard.check()
        except NotReplicated as error:
            raise as_django(error) from None

    def _note_write(self) -> None:
        scope = current_scope(self.cluster.name)
        if scope is not None:
            scope.note_write()

    # ---- errors

    @cached_property
    def wrap_database_errors(self) -> _NamedErrors:
        """Around all that the driver does: errors of a lost node by their names, others as Django's."""
        return _NamedErrors(self)

    def name(self, error: psycopg.Error) -> ReplctlError | None:
        """The error that says what this one means for the transaction; the connection is left then."""
        found: ReplctlError | None
        if self.is_writer:
            writes = self._effect is not Effect.READ
            found = guard.outcome(
                error,
                committing=self._committing and writes,
                may_have_written=self.autocommit and not self.in_atomic_block and writes,
                connection=None if self.connection is None or self._is_pooled else self.connection,
            )
        else:
            lost = guard.is_lost(error, self.connection)
            what = f"the connection to {self._target} was lost"
            found = NodeSwitched(what, why=_first_line(error), hint=_AGAIN) if lost else None
        if found is None:
            return None
        if isinstance(found, TransactionOutcomeUnknown):
            self._note_write()
        self._forget()
        self.cluster.monitor.refresh()
        with contextlib.suppress(psycopg.Error):
            self.close()
        return as_django(found)


class _NamedErrors(DatabaseErrorWrapper):
    """Django's, with names for what a lost node means."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, psycopg.Error):
            named = self.wrapper.name(error)
            if named is not None:
                self.wrapper.errors_occurred = True
                raise named.with_traceback(trace) from error
        super().__exit__(kind, error, trace)


class _Watched:
    """A psycopg cursor that tells its alias what it runs."""

    connection: Any

    def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
        with self._watch(query):
            return super().execute(query, *arguments, **options)  # type: ignore[misc]

    def executemany(self, query: Any, *arguments: Any, **options: Any) -> Any:
        with self._watch(query):
            return super().executemany(query, *arguments, **options)  # type: ignore[misc]

    @contextlib.contextmanager
    def copy(self, statement: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        with self._watch(statement), super().copy(statement, *arguments, **options) as copy:  # type: ignore[misc]
            yield copy

    def stream(self, query: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        with self._watch(query):
            yield from super().stream(query, *arguments, **options)  # type: ignore[misc]

    def _watch(self, query: Any) -> contextlib.AbstractContextManager[None]:
        wrapper: DatabaseWrapper | None = getattr(self.connection, _WRAPPER, None)
        # None while Django sets up a new connection.
        return contextlib.nullcontext() if wrapper is None else wrapper.watch(query)


@functools.cache
def _watched(cursor: type[Any]) -> type[Any]:
    return type(f"Watched{cursor.__name__}", (_Watched, cursor), {})


def _leads_elsewhere(connection: psycopg.Connection[Any], parameters: dict[str, Any]) -> bool:
    given = (parameters["host"], str(parameters["port"]))
    return (connection.info.host, str(connection.info.port)) != given


def _has_ended(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has ended it meanwhile. Takes in what the server has said, and asks nothing."""
    try:
        # What it said when it ended it comes first, the end itself after that.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
        connection.pgconn.is_busy()  # looks at what came: reports of a changed role, too
    except psycopg.Error:
        return True
    return False


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
