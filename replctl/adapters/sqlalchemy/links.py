"""What is remembered of one connection of a pool, and queries on it that no transaction knows of."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.util import await_only

from replctl.adapters import guard
from replctl.core.routing import Scope

if TYPE_CHECKING:
    from replctl.adapters.sqlalchemy.engines import NodeEngine

LINK = "replctl"


class Link:
    """What is remembered of one connection, in its `info`: who it is of, and its transaction."""

    __slots__ = ("committing", "driver", "home", "notices", "poll", "scope", "wrote")

    def __init__(self, home: NodeEngine, driver: guard.AnyConnection) -> None:
        self.home = home
        self.driver = driver
        self.notices = guard.notices(driver)
        self.scope: Scope | None = None
        self.wrote = False
        self.committing = False
        poll = select.poll()
        poll.register(driver.pgconn.socket, select.POLLIN)
        self.poll = poll.poll
        """What can be read from the server, without a round trip."""

    def row(self, sql: str) -> Any:
        """The only row of a query outside of any transaction, or None."""
        if isinstance(self.driver, psycopg.AsyncConnection):
            return await_only(row_async(self.driver, sql))
        return row(self.driver, sql)

    def is_as_expected(self) -> bool:
        """Whether it still is a primary, and for writes one that is not fenced.

        Without a round trip, except behind a pooler and where the server does not report it. What is
        expected of a replica's connection is less: once promoted, it has all that it had before.
        """
        if self.home.replica:
            return True
        ask = guard.refuses_writes if self.home.writes else guard.is_replica
        found = None if self.home.pooled else ask(self.driver)
        if found is None:
            is_replica, is_fenced = self.row(guard.ROLE_SQL)
            found = is_replica or (self.home.writes and is_fenced)
        return not found


def link_of(context: ExceptionContext) -> Link | None:
    """Of the connection that an error was raised on; None while connecting."""
    connection = context.connection
    if connection is None or connection.invalidated or connection.closed:
        return None
    found = connection.info.get(LINK)
    return found if isinstance(found, Link) else None


def row(driver: psycopg.Connection[Any], sql: str) -> Any:
    """The only row of a query outside of any transaction, or None."""
    before = driver.autocommit
    driver.autocommit = True  # else BEGIN and ROLLBACK were two round trips more
    with driver.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(sql.encode()).fetchone()
    driver.autocommit = before
    return found


async def row_async(driver: psycopg.AsyncConnection[Any], sql: str) -> Any:
    """The same for a task."""
    before = driver.autocommit
    await driver.set_autocommit(True)
    async with driver.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(sql.encode())
        found = await cursor.fetchone()
    await driver.set_autocommit(before)
    return found
