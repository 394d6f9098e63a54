"""What the role may do, and what else must hold before anybody can act: asked without doing any of it."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from replctl.core.readiness import NodeRights, Right
from replctl.inventory import Inventory
from replctl.pg.connect import NodeError, query
from replctl.pg.grants import operator_rights
from replctl.pg.observe import Observer
from replctl.pg.queries import CONFIG_ERRORS, READY, rights_query


async def rights_of(observer: Observer, inventory: Inventory) -> dict[str, NodeRights]:
    """The rights of each node's role, for the nodes that the observer is connected to and that answer."""
    asked = {
        name: (connection, inventory.connections[name].query_timeout_s)
        for name in (n.name for n in inventory.settings.nodes)
        if (connection := observer.probes[name].connection) is not None
    }
    found = await asyncio.gather(*(_ask(name, *what) for name, what in asked.items()), return_exceptions=True)
    return {r.node: r for r in found if isinstance(r, NodeRights)}


async def _ask(name: str, connection: AsyncConnection[DictRow], limit_s: float) -> NodeRights:
    """Raises NodeError and psycopg.Error."""
    version_num = connection.info.server_version
    ready = (await query(connection, READY.for_version(version_num), timeout_s=limit_s))[0]
    wanted = operator_rights(version_num // 10000, ready["role"])
    held = (await query(connection, rights_query(tuple(w.test for w in wanted)), timeout_s=limit_s))[0][
        "held"
    ]
    return NodeRights(
        node=name,
        user=ready["role"],
        rights=tuple(
            Right(what=w.what, needed_for=w.needed_for, statement=w.statement, held=bool(is_held))
            for w, is_held in zip(wanted, held, strict=True)
        ),
        state_table=ready["state_table"],
        config_errors=await _config_errors(connection, limit_s),
        conninfo_source=ready["conninfo_source"],
        conninfo_file=ready["conninfo_file"],
        alter_system_allowed=ready["alter_system"] != "off",
        through_pooler=ready["backend_pid"] != connection.info.backend_pid,
        managers=tuple(ready["managers"] or ()),
    )


async def _config_errors(connection: AsyncConnection[DictRow], limit_s: float) -> tuple[str, ...] | None:
    """None where the role may not ask."""
    text = CONFIG_ERRORS.for_version(connection.info.server_version)
    try:
        rows = await query(connection, text, timeout_s=limit_s)
    except (psycopg.Error, NodeError):
        return None
    return tuple(str(row["error"]) for row in rows)
