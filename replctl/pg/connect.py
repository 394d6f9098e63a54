"""One connection to one node: name resolution, deadlines below a second, and the cause of a failure.

libpq's connect_timeout knows whole seconds, and a name lookup in a thread cannot be cancelled, so both
are bounded here. A query that does not answer is ended by shutting its socket: cancelling would ask the
same frozen server for another answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from replctl.core.model import Cause
from replctl.core.topology import is_address
from replctl.errors import ObserveError
from replctl.inventory import Connection

APPLICATION_NAME = "replctl"
T = TypeVar("T")


class NodeError(Exception):
    """A node that could not be asked: the cause, in the contract's words, and a message without secrets."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message


async def connect(
    connection: Connection,
    *,
    timeout_s: float | None = None,
    application_name: str = APPLICATION_NAME,
    replication: bool = False,
) -> AsyncConnection[DictRow]:
    """Open one autocommit connection within `timeout_s` (default: the inventory's connect_timeout_s).

    With `replication`, one that takes IDENTIFY_SYSTEM and its kin beside SQL, by the simple protocol.

    Raises NodeError with its cause.
    """
    limit_s = connection.connect_timeout_s if timeout_s is None else timeout_s
    parameters: dict[str, Any] = dict(connection.parameters())
    if replication:
        parameters["replication"] = "database"
    if connection.password_command is not None:
        # Before the limit begins, which is the server's: a slow command is not a silent server.
        try:
            parameters["password"] = await _in_thread(connection.password)
        except ObserveError as error:
            raise NodeError(Cause.AUTH, str(error)) from None
    try:
        async with asyncio.timeout(limit_s):
            host = parameters["host"]
            if not host.startswith(("/", "@")):
                found = [host] if is_address(host) else await _resolve(host)
                # Given always, so that a PGHOSTADDR in the environment cannot lead every node to one server.
                parameters |= {"host": ",".join([host] * len(found)), "hostaddr": ",".join(found)}
            return await AsyncConnection.connect(
                **parameters,
                application_name=application_name,
                # The asyncio limit above is the real one; without it psycopg waits 130 s.
                connect_timeout=max(2, round(limit_s + 1)),
                autocommit=True,
                row_factory=dict_row,
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=max(1000, round(limit_s * 2000)),
            )
    except TimeoutError:
        raise NodeError(Cause.TIMEOUT, f"no answer within {limit_s:g} s") from None
    except psycopg.Error as error:
        cause, message = classify(error)
        if cause is Cause.AUTH:
            connection.forget_password()  # it may have expired: ask for it again next time
        raise NodeError(cause, message) from None


async def query(
    connection: AsyncConnection[DictRow], text: str, *, timeout_s: float, prepare: bool = True
) -> list[DictRow]:
    """Run one statement and return its rows, within `timeout_s`. The connection is closed when it fails.

    Raises NodeError; a server that does not answer is `timeout`. An error that leaves the connection
    usable is raised as psycopg.Error.
    """
    task = asyncio.ensure_future(_fetch(connection, text, prepare))
    task.add_done_callback(_retrieved)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    finally:
        if not task.done():
            shut(connection)
            # Never `await task`, which a cancellation of ours that comes now would cancel too: psycopg then
            # asks the server, which may be frozen, to cancel, and waits five seconds for its answer.
            await asyncio.wait({task})
    if not done:
        await close(connection)
        raise NodeError(Cause.TIMEOUT, f"connected, but no answer to a query within {timeout_s:g} s")
    try:
        return task.result()
    except psycopg.Error as error:
        if connection.closed or connection.broken:
            raise NodeError(*classify(error)) from None
        raise


async def close(connection: AsyncConnection[DictRow]) -> None:
    """Close without waiting for anybody."""
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.close()


def shut(connection: AsyncConnection[DictRow]) -> None:
    """Shut the socket below the connection: whoever waits on it gets an error at once."""
    with contextlib.suppress(psycopg.Error, OSError, ValueError):
        duplicate = socket.socket(fileno=socket.dup(connection.fileno()))
        try:
            duplicate.shutdown(socket.SHUT_RDWR)
        finally:
            duplicate.close()


async def _fetch(connection: AsyncConnection[DictRow], text: str, prepare: bool) -> list[DictRow]:
    cursor = await connection.execute(text.encode(), prepare=prepare)
    return await cursor.fetchall() if cursor.description else []


def _retrieved(task: asyncio.Task[list[DictRow]]) -> None:
    """Its error has been seen, else asyncio would log one that nobody is left to be told."""
    if not task.cancelled():
        task.exception()


async def _resolve(host: str) -> list[str]:
    """The addresses of a name, tried one after the other as psql does. Raises NodeError."""
    try:
        found = await _in_thread(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise NodeError(Cause.DNS, f"cannot resolve {host!r}: {why}") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a daemon thread: unlike an executor's, it delays neither others nor the exit."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def give(result: T | None, error: Exception | None) -> None:
        if answer.done():  # nobody waits any more
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(cast(T, result))

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(give, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await answer


_TEXTS: tuple[tuple[Cause, tuple[str, ...]], ...] = (
    # libpq's and the server's own words, in the order in which they are told apart.
    (Cause.TOO_MANY_CONNECTIONS, ("too many clients", "too many connections", "remaining connection slots")),
    (
        Cause.STARTING_UP,
        (
            "the database system is starting up",
            "the database system is shutting down",
            "the database system is in recovery mode",
            "not yet accepting connections",
            "not accepting connections",
        ),
    ),
    (Cause.REFUSED, ("connection refused",)),
    (Cause.TIMEOUT, ("timeout expired", "timed out", "no route to host", "network is unreachable")),
    (Cause.DNS, ("could not translate host name", "name or service not known", "failed to resolve")),
    (
        Cause.NOT_POSTGRES,
        (
            "received invalid response",
            "expected authentication request",
            "invalid response to ssl",
            "unexpected response",
            "lost synchronization",
        ),
    ),
    (
        Cause.TLS,
        (
            "does not support ssl",
            "ssl error",
            "certificate",
            "ssl syscall",
            "ssl negotiation",
            "root.crl",
        ),
    ),
    (
        Cause.AUTH,
        (
            "password authentication failed",
            "no password supplied",
            "authentication failed",
            "no pg_hba.conf entry",
            "pg_hba.conf rejects",
            "role ",
            "is not permitted to log in",
            "scram",
            "authentication method",
            "database ",
        ),
    ),
)
_STATES: dict[str, Cause] = {
    "53300": Cause.TOO_MANY_CONNECTIONS,
    "57P03": Cause.STARTING_UP,
    "57P01": Cause.STARTING_UP,
    "57P02": Cause.STARTING_UP,
    "42501": Cause.PRIVILEGE,
}


def classify(error: psycopg.Error) -> tuple[Cause, str]:
    """The cause of a failed connection or query, and the last line of what was said.

    A connection that fails carries no SQLSTATE in libpq, only text; words not known here are `other`,
    which no decision takes for a dead server.
    """
    text = _message(error)
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return Cause.TIMEOUT, text
    if error.sqlstate in _STATES:
        return _STATES[error.sqlstate], text
    if error.sqlstate and error.sqlstate.startswith("28"):
        return Cause.AUTH, text
    low = text.lower()
    for cause, words in _TEXTS:
        if any(word in low for word in words):
            return cause, text
    return Cause.OTHER, text


def _message(error: psycopg.Error) -> str:
    """One line: the server's message without libpq's preamble, control characters or repetition."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    for preamble in ("connection failed: ", "connection is bad: "):
        text = text.removeprefix(preamble)
    if text.startswith("connection to server at ") and " failed: " in text:
        text = text.split(" failed: ", 1)[1]
    return "".join(c if c.isprintable() else "?" for c in text)[:300]
