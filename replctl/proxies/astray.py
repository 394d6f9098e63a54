"""Whether writes go elsewhere than they should: what an interrupted failover may have left behind."""

from __future__ import annotations

import asyncio
from typing import Any

from replctl.errors import ReplctlError
from replctl.proxies.aliases import Rows, databases, moved_aliases
from replctl.proxies.changes import Change
from replctl.proxies.roles import Target
from replctl.proxies.servers import servers, writes_apart


async def astray(target: Target, change: Change[Any], writer: str) -> bool:
    """Whether the file, or a proxy that answers, sends writes to another node than `writer`.

    Not where there is no file yet, and not while an alias is paused: somebody is switching just now.
    """
    before = target.writer_of(change.present)
    ask = _of_pgbouncer if target.name == "pgbouncer" else _of_haproxy
    found = await asyncio.gather(*(ask(change, door) for door in change.doors))
    if change.present is None or None in found:
        return False
    return (before is not None and before != writer) or any(found)


async def _of_pgbouncer(change: Change[Any], door: str) -> bool | None:
    """Whether this one leads elsewhere; None = it is paused. One that does not answer does not tell."""
    try:
        rows: Rows = await databases(door)
    except ReplctlError:
        return False
    if any(str(row.get("paused", 0)) not in ("0", "f") for row in rows.values()):
        return None
    return bool(moved_aliases(change, rows))


async def _of_haproxy(change: Change[Any], door: str) -> bool | None:
    try:
        seen = await servers(door)
    except ReplctlError:
        return False
    return writes_apart(change.rendered.plan, seen)
