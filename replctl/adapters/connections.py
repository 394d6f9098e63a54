"""psycopg connections that know what their error means: those of `pools` and `async_pools`.

To tell NodeSwitched from TransactionOutcomeUnknown, one must know what was under way when the connection
was lost: a commit, a statement in autocommit, or neither. So these connections note it; nothing is asked.
"""

from __future__ import annotations

import re
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus

from replctl.adapters.guard import READ_ONLY, Notices, notices, outcome
from replctl.core.routing import Scope
from replctl.errors import NodeSwitched, ReplctlError, TransactionOutcomeUnknown

# What may commit although it is written as text. One too many only makes an outcome unknown that is known.
_COMMITS = re.compile(r"\b(?:commit|prepare\s+transaction)\b|(?:^|;|\*/|\n)\s*(?:end|call|do)\b", re.I)
_NOTHING_TO_COMMIT = (TransactionStatus.IDLE, TransactionStatus.INERROR)


class Noting:
    """What is known of the block that has this connection. `enter` begins one."""

    pgconn: Any
    autocommit: Any

    pooled = False  # behind a pooler, whose reports may be another server's
    connected_s = 0.0
    heard: Notices
    _poll: select.poll

    scope: Scope | None
    writes: bool  # the block may write
    committing: bool  # a commit was begun and has not returned
    committed: bool  # something of this block is committed
    autocommitted: bool  # a statement was begun in autocommit
    statement: object  # the last one that was begun

    def watched(self, *, pooled: bool, connected_s: float) -> None:
        """Once, after connecting."""
        self.pooled = pooled
        self.connected_s = connected_s
        self.heard = notices(self)  # type: ignore[arg-type]
        self._poll = select.poll()
        self._poll.register(self.pgconn.socket, select.POLLIN)
        self.enter(None, writes=False)

    def enter(self, scope: Scope | None, *, writes: bool) -> None:
        """A block begins, or (without scope) has ended."""
        self.scope = scope
        self.writes = writes
        self.committing = self.committed = self.autocommitted = False
        self.statement = None
        self.heard.cancelled = False

    @property
    def is_quiet(self) -> bool:
        """Whether the server has said nothing since: to an idle connection it speaks to end it."""
        return not self._poll.poll(0)

    def begun(self, statement: object) -> None:
        """A statement is about to be sent."""
        self.statement = statement
        if self.writes and self.autocommit and self.pgconn.transaction_status == TransactionStatus.IDLE:
            self.committed = self.committed or self.autocommitted
            self.autocommitted = True
            if self.scope is not None:
                self.scope.note_write()

    def ended(self) -> None:
        """It has succeeded. Noted again: a position that was asked for meanwhile does not include it."""
        if self.autocommitted and self.scope is not None:
            self.scope.note_write()

    @property
    def is_in_transaction(self) -> bool:
        """Whether a commit now would commit something."""
        if self.pgconn.pipeline_status != PipelineStatus.OFF:
            return True  # what was queued is not known to the server yet
        return self.pgconn.transaction_status not in _NOTHING_TO_COMMIT

    def has_committed(self) -> None:
        """A commit has returned. Raises NotReplicated."""
        self.committing = False
        self.committed = True
        if self.scope is not None:
            self.scope.note_write()
        self.heard.check()

    def meaning(self, error: BaseException) -> ReplctlError | None:
        """What to raise instead of this error; None = the error itself."""
        if not self.writes and getattr(error, "sqlstate", None) == READ_ONLY:
            return None  # the application writes where it said that it reads
        lives = self.pgconn.status == ConnStatus.OK
        if self.pooled and lives and getattr(error, "sqlstate", None) is None:
            return None  # another connection's
        found = outcome(
            error,
            committing=self.writes and (self.committing or _may_commit(self.statement)),
            may_have_written=self.autocommitted,
            connection=None if self.pooled else self,  # type: ignore[arg-type]
        )
        if isinstance(found, NodeSwitched) and self.writes and self.committed:
            found = TransactionOutcomeUnknown(
                "the connection was lost when a part was committed already", why=found.why, hint=found.hint
            )
        if isinstance(found, TransactionOutcomeUnknown) and self.scope is not None:
            self.scope.note_write()
        return found


def _may_commit(statement: object) -> bool:
    if statement is None:
        return False
    if isinstance(statement, sql.Composable):
        statement = statement.as_string(None)
    if isinstance(statement, bytes):
        statement = statement.decode("latin-1")
    # What is neither text nor composed of it is not looked into.
    return not isinstance(statement, str) or _COMMITS.search(statement) is not None


# ---- cursors: what was begun


class NotingCursor(psycopg.Cursor[Any]):
    """Tells its connection what it begins."""

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's."""
        _begun(self, query)
        cursor = super().execute(query, *args, **kwargs)
        _ended(self)
        return cursor

    def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
        """As psycopg's."""
        _begun(self, query)
        super().executemany(query, *args, **kwargs)
        _ended(self)

    def stream(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's."""
        _begun(self, query)
        return super().stream(query, *args, **kwargs)

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's."""
        _begun(self, statement)
        return super().copy(statement, *args, **kwargs)


class AsyncNotingCursor(psycopg.AsyncCursor[Any]):
    """The same for tasks."""

    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's."""
        _begun(self, query)
        cursor = await super().execute(query, *args, **kwargs)
        _ended(self)
        return cursor

    async def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
        """As psycopg's."""
        _begun(self, query)
        await super().executemany(query, *args, **kwargs)
        _ended(self)

    def stream(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's."""
        _begun(self, query)
        return super().stream(query, *args, **kwargs)

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's."""
        _begun(self, statement)
        return super().copy(statement, *args, **kwargs)


def _begun(cursor: Any, query: object) -> None:
    cursor.connection.begun(query)


def _ended(cursor: Any) -> None:
    cursor.connection.ended()


def noting(cursor_factory: Any, own: Any) -> Any:
    """The application's own cursor class, made to tell; `own` is the one of this module."""
    if cursor_factory is None or issubclass(cursor_factory, own):
        return cursor_factory or own
    return type(f"Noting{cursor_factory.__name__}", (own, cursor_factory), {})


# ---- connections: what commits


class NodeConnection(Noting, psycopg.Connection[Any]):
    """A connection to one node."""

    def commit(self) -> None:
        """As psycopg's. Raises NotReplicated too."""
        self.committing = self.is_in_transaction
        super().commit()
        if self.committing:
            self.has_committed()

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """As psycopg's. Raises NotReplicated too."""
        outermost = self.pgconn.transaction_status == TransactionStatus.IDLE
        commits = False
        with super().transaction(savepoint_name, force_rollback) as transaction:
            yield transaction
            commits = outermost and not transaction.force_rollback
            self.committing = self.committing or commits
        if commits:
            self.has_committed()


class AsyncNodeConnection(Noting, psycopg.AsyncConnection[Any]):
    """The same for tasks."""

    async def commit(self) -> None:
        """As psycopg's. Raises NotReplicated too."""
        self.committing = self.is_in_transaction
        await super().commit()
        if self.committing:
            self.has_committed()

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """As psycopg's. Raises NotReplicated too."""
        outermost = self.pgconn.transaction_status == TransactionStatus.IDLE
        commits = False
        async with super().transaction(savepoint_name, force_rollback) as transaction:
            yield transaction
            commits = outermost and not transaction.force_rollback
            self.committing = self.committing or commits
        if commits:
            self.has_committed()
