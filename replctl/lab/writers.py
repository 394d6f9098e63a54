"""The clients of a load: one that is as quick as a client can be, and one that is as most are.

A frozen server keeps its clients waiting, and the kernel below it still answers for it: only a limit of
the client's own ends that. It shuts the socket, since cancelling would ask the same server once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from replctl.lab.build import APPLICATION, LEDGER
from replctl.lab.ledger import Row
from replctl.lab.ports import HOST
from replctl.pg.connect import close, shut

# How often a node that is not writable is asked again.
_POLL_S = 0.01
_NAP_S = 0.1
# What a careful user of libpq sets, and the pause of a plain reconnect loop.
ORDINARY_CONNECT_TIMEOUT_S = 2
_ORDINARY_PAUSE_S = 0.1

_INSERT = f"INSERT INTO {LEDGER} (run, writer, id, node, sent_at) VALUES (%s, %s, %s, %s, %s)"  # noqa: S608
_WRITABLE = """
SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' AS writable,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END AS wal_file"""


@dataclass(slots=True)
class Client:
    """A connection to a node that accepted writes when it was opened."""

    connection: AsyncConnection[DictRow]
    node: str
    timeline: int
    acknowledged: int = 0
    unconfirmed: bool = False  # a commit came back with the warning that its wait was cancelled

    def hear(self, notice: psycopg.errors.Diagnostic) -> None:
        """Notice handler. The text is translated on some servers; the function's name is not."""
        if notice.source_function == "SyncRepWaitForLSN":
            self.unconfirmed = True


class Clock:
    """Unix time that never steps while a load runs."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def now(self) -> float:
        """Unix time, in seconds."""
        return time.monotonic() + self._offset_s


@dataclass(slots=True)
class Writer:
    """Inserts rows one after another, each with its deadline; on failure asks all its nodes at once."""

    run: str
    number: int
    ports: Mapping[str, int]  # node → port
    interval_s: float
    deadline_s: float
    clock: Clock
    acknowledge: Callable[[Row], None]
    stopping: asyncio.Event
    sent: int = 0
    unconfirmed: int = 0

    async def write(self) -> None:
        """Write until told to stop."""
        client: Client | None = None
        try:
            while not self.stopping.is_set():
                if client is None:
                    client = await _Search(self.ports, self.deadline_s).first_writable(self.stopping)
                    continue
                due_s = time.monotonic() + self.interval_s
                if await self._insert(client):
                    await _sleep_until(due_s, self.stopping)
                else:
                    await close(client.connection)
                    if client.acknowledged == 0:  # it accepts nobody's writes: do not hammer at it
                        await asyncio.sleep(_POLL_S)
                    client = None
        finally:
            if client is not None:
                await close(client.connection)

    async def _insert(self, client: Client) -> bool:
        """One row. False when it was not acknowledged."""
        self.sent += 1
        number = self.sent
        values = (self.run, self.number, number, client.node, datetime.now(UTC))
        if await _within(client.connection, self.deadline_s, _INSERT, values) is None:
            return False
        if client.unconfirmed:
            self.unconfirmed += 1
            return False
        client.acknowledged += 1
        self.acknowledge(Row(self.number, number, client.node, client.timeline, self.clock.now()))
        return True


class _Search:
    """Asks all nodes at once, again and again, until one accepts writes."""

    def __init__(self, ports: Mapping[str, int], deadline_s: float) -> None:
        self._ports = ports
        self._deadline_s = deadline_s
        self._open: dict[str, AsyncConnection[DictRow]] = {}
        self._over = False

    async def first_writable(self, stopping: asyncio.Event) -> Client | None:
        """The first that answers read-write; None when told to stop before."""
        tasks = {name: asyncio.create_task(self._watch(name, port)) for name, port in self._ports.items()}
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({*tasks.values(), stop}, return_when=asyncio.FIRST_COMPLETED)
        self._over = True
        stop.cancel()
        for name, task in tasks.items():
            if task.done():
                continue
            # Cancelling a query would have psycopg ask the server to cancel it, and wait for that.
            if name in self._open:
                shut(self._open[name])
            else:
                task.cancel()
        found = await asyncio.gather(*tasks.values(), return_exceptions=True)
        await asyncio.gather(stop, return_exceptions=True)
        clients = [client for client in found if isinstance(client, Client)]
        for client in clients[1:]:
            await close(client.connection)
        return clients[0] if clients else None

    async def _watch(self, name: str, port: int) -> Client | None:
        """Watch one node until it is writable. A replica is asked on a connection that stays open."""
        while not self._over:
            with contextlib.suppress(psycopg.Error, TimeoutError, OSError):
                async with asyncio.timeout(self._deadline_s):
                    connection = await _connect(f"host={HOST} port={port}", connect_timeout=5)
                self._open[name] = connection
                if (client := await self._ask(name, connection)) is not None:
                    return client
            self._open.pop(name, None)
            await asyncio.sleep(_POLL_S)
        return None

    async def _ask(self, name: str, connection: AsyncConnection[DictRow]) -> Client | None:
        """Ask until it is writable or its connection breaks."""
        while rows := await _within(connection, self._deadline_s, _WRITABLE):
            if rows[0]["writable"]:
                client = Client(connection, name, timeline=int(rows[0]["wal_file"][:8], 16))
                connection.add_notice_handler(client.hear)
                return client
            await asyncio.sleep(_POLL_S)
        await close(connection)
        return None


@dataclass(slots=True)
class OrdinaryClient:
    """An application with a multi-host conninfo and a plain reconnect loop: it trusts what it is told."""

    run: str
    ports: Mapping[str, int]
    interval_s: float
    clock: Clock
    stopping: asyncio.Event
    acknowledged_at: list[float]
    _connection: AsyncConnection[DictRow] | None = None

    @property
    def conninfo(self) -> str:
        """What such an application has in its configuration."""
        hosts = ",".join(HOST for _ in self.ports)
        ports = ",".join(str(port) for port in self.ports.values())
        return f"host={hosts} port={ports} target_session_attrs=read-write"

    async def write(self) -> None:
        """Write until told to stop; a frozen server keeps it waiting until then."""
        work = asyncio.create_task(self._work())
        stop = asyncio.create_task(self.stopping.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if self._connection is not None:
            shut(self._connection)
        else:
            work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work

    async def _work(self) -> None:
        number = 0
        while not self.stopping.is_set():
            with contextlib.suppress(psycopg.Error):
                self._connection = await _connect(self.conninfo, connect_timeout=ORDINARY_CONNECT_TIMEOUT_S)
                while not self.stopping.is_set():
                    number += 1
                    due_s = time.monotonic() + self.interval_s
                    values = (self.run, 0, number, "?", datetime.now(UTC))
                    await self._connection.execute(_INSERT, values)
                    self.acknowledged_at.append(self.clock.now())
                    await _sleep_until(due_s, self.stopping)
            if self._connection is not None:
                await close(self._connection)
                self._connection = None
            await _sleep_until(time.monotonic() + _ORDINARY_PAUSE_S, self.stopping)


async def _connect(address: str, *, connect_timeout: int) -> AsyncConnection[DictRow]:
    return await AsyncConnection.connect(
        f"{address} user={APPLICATION} dbname=postgres sslmode=disable",
        connect_timeout=connect_timeout,
        application_name="replctl lab load",
        autocommit=True,
        row_factory=dict_row,
    )


async def _within(
    connection: AsyncConnection[DictRow], deadline_s: float, query: str, values: Sequence[object] = ()
) -> list[DictRow] | None:
    """Rows of a query, empty where it returns none; None when it failed or did not end in time."""
    limit = asyncio.get_running_loop().call_later(deadline_s, shut, connection)
    try:
        cursor = await connection.execute(query.encode(), values)
        return await cursor.fetchall() if cursor.description else []
    except psycopg.Error:
        return None
    finally:
        limit.cancel()


async def _sleep_until(due_s: float, stopping: asyncio.Event) -> None:
    """Sleep until this monotonic time, or until told to stop."""
    # Waiting for the event with a limit costs several times as much as a nap.
    while (left_s := due_s - time.monotonic()) > 0 and not stopping.is_set():  # noqa: ASYNC110
        await asyncio.sleep(min(left_s, _NAP_S))
