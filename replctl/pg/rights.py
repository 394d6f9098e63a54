"""What the role may do, and what else must hold before anybody can act: asked without doing any of it."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from replctl.core.readiness import NodeRights, Right
from replctl.inventory import Inventory
from replctl.pg.connect import NodeError, query
from replctl.pg.grants import Wanted, fencer_right, operator_rights
from replctl.pg.observe import Observer
from replctl.pg.queries import CONFIG_ERRORS, READY, rights_query


async def rights_of(
    observer: Observer, inventory: Inventory, *, limit_s: float
) -> tuple[dict[str, NodeRights], dict[str, str]]:
    """The rights of each node's role, and of connected nodes that would not tell, why.

    Nodes that the observer is not connected to are in neither. Takes at most `limit_s`.
    """
    asked = {
        name: (connection, inventory.connections[name].query_timeout_s)
        for name in (n.name for n in inventory.settings.nodes)
        if (connection := observer.probes[name].connection) is not None
    }

    async def ask(name: str) -> NodeRights | str:
        connection, query_limit_s = asked[name]
        try:
            async with asyncio.timeout(limit_s):
                return await _ask(name, connection, query_limit_s)
        except TimeoutError:
            return "no time was left to ask it"
        except (NodeError, psycopg.Error) as error:
            return str(error).partition("\n")[0]

    found = dict(zip(asked, await asyncio.gather(*map(ask, asked)), strict=True))
    return (
        {name: told for name, told in found.items() if isinstance(told, NodeRights)},
        {name: why for name, why in found.items() if isinstance(why, str)},
    )


async def _ask(name: str, connection: AsyncConnection[DictRow], limit_s: float) -> NodeRights:
    """Raises NodeError and psycopg.Error."""
    version_num = connection.info.server_version
    ready = (await query(connection, READY.for_version(version_num), timeout_s=limit_s))[0]
    wanted = [*operator_rights(version_num // 10000, ready["role"]), fencer_right(ready["role"])]
    held = (await query(connection, rights_query(tuple(w.test for w in wanted)), timeout_s=limit_s))[0][
        "held"
    ]
    *rights, durable_fence = (_right(w, bool(h)) for w, h in zip(wanted, held, strict=True))
    return NodeRights(
        node=name,
        user=ready["role"],
        rights=tuple(rights),
        durable_fence=durable_fence,
        state_table=ready["state_table"],
        config_errors=await _config_errors(connection, limit_s),
        conninfo_source=ready["conninfo_source"],
        conninfo_file=ready["conninfo_file"],
        alter_system_allowed=ready["alter_system"] != "off",
        through_pooler=ready["backend_pid"] != connection.info.backend_pid,
        managers=tuple(ready["managers"] or ()),
    )


def _right(wanted: Wanted, held: bool) -> Right:
    return Right(what=wanted.what, needed_for=wanted.needed_for, statement=wanted.statement, held=held)


async def _config_errors(connection: AsyncConnection[DictRow], limit_s: float) -> tuple[str, ...] | None:
    """None where the role may not ask."""
    text = CONFIG_ERRORS.for_version(connection.info.server_version)
    try:
        rows = await query(connection, text, timeout_s=limit_s)
    except (psycopg.Error, NodeError):
        return None
    return tuple(str(row["error"]) for row in rows)
