"""What must hold for every controller, kept in the cluster: the table replctl.state.

One row per key: `pause`, `block`, `sync`, `drain:NODE`. Written on the primary, replicated like everything
else, read from any node that answers.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow

from replctl.core.marks import Marks, parse_marks
from replctl.core.model import ClusterState, Lsn, NodeFacts
from replctl.core.situation import is_stale
from replctl.core.topology import current_primary, is_fenced
from replctl.errors import RefusedError
from replctl.inventory import Connection
from replctl.pg.connect import NodeError, query
from replctl.pg.grants import state_table
from replctl.pg.queries import MARKS, REPLAYED

REMOVE_MARK = "DELETE FROM replctl.state WHERE key = {key}"
SET_MARK = """INSERT INTO replctl.state (key, value, updated_at)
VALUES ({key}, {value}::jsonb, clock_timestamp())
ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at"""
LIMIT_S = 2.0
POLL_S = 0.01


async def read_marks(connection: AsyncConnection[DictRow], limit_s: float = LIMIT_S) -> Marks | None:
    """What stands there now; None where there is no such table, or it may not be read."""
    text = MARKS.for_version(connection.info.server_version)
    try:
        rows = await query(connection, text, timeout_s=max(0.1, min(limit_s, LIMIT_S)))
    except (NodeError, psycopg.Error):
        return None
    return parse_marks({row["key"]: row["value"] for row in rows})


async def write_mark(connection: AsyncConnection[DictRow], key: str, value: dict[str, Any] | None) -> Lsn:
    """Set or (None) remove a mark on the primary, without waiting for replicas. Returns where its WAL ends.

    Raises RefusedError where the primary does not take it.
    """
    template = REMOVE_MARK if value is None else SET_MARK
    body = sql.SQL(template).format(key=key, value=json.dumps(value)).as_string(None)
    try:
        # A commit that waits for a replica that is not there would hold us for ever.
        for statement in ("SET synchronous_commit = local", body, "RESET synchronous_commit"):
            await query(connection, statement, timeout_s=LIMIT_S, prepare=False)
        text = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS lsn"
        return Lsn((await query(connection, text, timeout_s=LIMIT_S, prepare=False))[0]["lsn"])
    except (NodeError, psycopg.Error) as error:
        why = str(error).splitlines()[0]
        raise RefusedError("replctl.state cannot be written", why=why, hint="replctl doctor") from None


def keeper(state: ClusterState, connections: dict[str, Connection]) -> NodeFacts:
    """The primary that takes marks. Raises RefusedError where there is none, or no table on it."""
    primary = current_primary(state)
    replicas = tuple(f for f in state.facts if f.in_recovery)
    # Of one that was replaced, nobody would ever see what is written there.
    if primary is None or is_fenced(primary) or is_stale(primary, replicas):
        raise RefusedError(
            "there is no primary",
            why="what holds for every controller is written there",
            hint="replctl failover, by hand: it heeds neither a pause nor a block",
        )
    if not primary.state_table:
        user = connections[primary.node].user or "replctl"
        statements = "".join(f"{statement};\n" for statement in state_table(user))
        raise RefusedError(
            f"there is no table replctl.state on {primary.node}, or it may not be read",
            hint=f"run this on {primary.node} as a superuser:\n{statements.rstrip()}",
        )
    return primary


async def until_replayed(
    connections: dict[str, AsyncConnection[DictRow]], lsn: Lsn, limit_s: float = LIMIT_S
) -> tuple[str, ...]:
    """Wait until these replicas have replayed so far. Returns those that have not after `limit_s`."""
    until_s = time.monotonic() + limit_s

    async def waiting(connection: AsyncConnection[DictRow]) -> bool:
        text = REPLAYED.for_version(connection.info.server_version)
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                rows = await query(connection, text, timeout_s=max(0.1, left_s))
            except (NodeError, psycopg.Error):
                return True
            if (rows[0]["replayed_lsn"] or 0) >= lsn:
                return False
            await asyncio.sleep(POLL_S)
        return True

    found = await asyncio.gather(*map(waiting, connections.values()))
    return tuple(name for name, waits in zip(connections, found, strict=True) if waits)
