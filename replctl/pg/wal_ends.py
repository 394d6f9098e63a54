"""Where WAL ends, as the servers themselves tell it over replication connections.

https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from replctl.core.model import Lsn
from replctl.core.situation import Position
from replctl.inventory import Inventory
from replctl.pg.connect import NodeError, close, connect, query

QUERY_LIMIT_S = 2.0


@dataclass
class WalEnds:
    """Asks for positions and histories; keeps its connections until it is closed."""

    inventory: Inventory
    _connections: dict[str, AsyncConnection[DictRow]] = field(default_factory=dict, init=False)

    async def positions(self, nodes: list[str]) -> dict[str, Position]:
        """Where the WAL of these nodes ends, by IDENTIFY_SYSTEM; a node that does not tell is left out."""
        found = await asyncio.gather(*(self.identify(n) for n in nodes), return_exceptions=True)
        return {n: p for n, p in zip(nodes, found, strict=True) if isinstance(p, Position)}

    async def _replication(self, node: str) -> AsyncConnection[DictRow]:
        connection = self._connections.get(node)
        if connection is None or connection.closed:
            connection = await connect(self.inventory.connections[node], replication=True)
            self._connections[node] = connection
        return connection

    async def identify(self, node: str) -> Position:
        connection = await self._replication(node)
        row = (await query(connection, "IDENTIFY_SYSTEM", timeout_s=QUERY_LIMIT_S, prepare=False))[0]
        return Position(timeline=int(row["timeline"]), lsn=Lsn.parse(row["xlogpos"]))

    async def forks(self, node: str, timeline: int) -> dict[int, Lsn] | None:
        """Where the timelines before this one ended, by TIMELINE_HISTORY; None where it does not tell."""
        if timeline < 2:
            return {}
        try:
            connection = await self._replication(node)
            rows = await query(
                connection, f"TIMELINE_HISTORY {int(timeline)}", timeout_s=QUERY_LIMIT_S, prepare=False
            )
        except (NodeError, psycopg.Error):
            return None
        content = rows[0]["content"]
        return parse_history(content.decode() if isinstance(content, bytes) else str(content))

    async def close(self) -> None:
        """Hang up."""
        await asyncio.gather(*(close(c) for c in self._connections.values()))
        self._connections.clear()


def parse_history(content: str) -> dict[int, Lsn]:
    """The lines of a timeline history file: where each older timeline ended.

    https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES
    """
    forks: dict[int, Lsn] = {}
    for line in content.splitlines():
        words = line.split("\t")
        if len(words) >= 2 and words[0].strip().isdecimal():
            forks[int(words[0])] = Lsn.parse(words[1].strip())
    return forks
