"""Watching a primary: a probe on a new connection, and an open one whose end is noticed at once."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from replctl.core.detector import Word
from replctl.core.model import Cause
from replctl.inventory import Inventory
from replctl.pg.connect import NodeError, close, connect, query

WORDS = {
    Cause.REFUSED: Word.REFUSED,
    Cause.TIMEOUT: Word.SILENT,
    Cause.AUTH: Word.ANSWERED,
    Cause.PRIVILEGE: Word.ANSWERED,
    Cause.TOO_MANY_CONNECTIONS: Word.ANSWERED,
    Cause.STARTING_UP: Word.STARTING_UP,
}


async def probe(inventory: Inventory, node: str) -> Word:
    """A new connection and a real query: an open one sees nothing wrong with a hung postmaster."""
    limit_s = inventory.settings.failover.probe_timeout_s
    try:
        connection = await connect(inventory.connections[node], timeout_s=limit_s)
        try:
            await query(connection, "SELECT 1", timeout_s=limit_s, prepare=False)
        finally:
            await close(connection)
    except NodeError as error:
        if "shutting down" in error.message:
            return Word.STOPPING
        if "closed the connection unexpectedly" in error.message or "reset by peer" in error.message:
            return Word.BROKEN
        return WORDS.get(error.cause, Word.UNCLEAR)
    except psycopg.Error:
        return Word.UNCLEAR
    return Word.ANSWERED


class PrimaryWatch:
    """An idle connection to the primary beside the probes: when it breaks, the next probe comes at once."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self._connection: AsyncConnection[DictRow] | None = None
        self._node: str | None = None
        self._broken = asyncio.Event()

    async def probe(self, node: str) -> Word:
        """Probe now; an orderly stop that the open connection was told of comes first."""
        announced = await self._announced()
        if announced is not None:
            return announced
        word = await probe(self.inventory, node)
        if word is Word.ANSWERED and (self._connection is None or node != self._node):
            await self._watch(node)
        return word

    async def _announced(self) -> Word | None:
        """What the broken connection was told, once."""
        if not self._broken.is_set() or self._connection is None:
            return None
        connection, self._connection = self._connection, None
        self._broken.clear()
        try:
            await query(connection, "SELECT 1", timeout_s=0.2, prepare=False)
        except psycopg.errors.AdminShutdown:
            return Word.STOPPING
        except NodeError as error:
            return Word.STOPPING if "administrator command" in error.message else None
        except psycopg.Error:
            return None
        finally:
            self._forget(connection)
            await close(connection)
        return None

    async def _watch(self, node: str) -> None:
        """Open the idle connection and wake up when anything comes on it."""
        await self.close()
        try:
            connection = await connect(self.inventory.connections[node])
        except NodeError:
            return
        self._connection, self._node = connection, node
        self._broken.clear()

        def wake() -> None:
            self._forget(connection)
            self._broken.set()

        asyncio.get_running_loop().add_reader(connection.fileno(), wake)

    def _forget(self, connection: AsyncConnection[DictRow]) -> None:
        with contextlib.suppress(psycopg.Error, OSError, ValueError):
            asyncio.get_running_loop().remove_reader(connection.fileno())

    async def wait(self, pause_s: float, stopping: asyncio.Event) -> None:
        """Wait for the next probe; shorter when the connection breaks or the controller is to stop."""
        waits = [asyncio.create_task(self._broken.wait()), asyncio.create_task(stopping.wait())]
        try:
            await asyncio.wait(waits, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._forget(self._connection)
            await close(self._connection)
            self._connection = None
