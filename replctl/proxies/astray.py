"""Whether writes go elsewhere than they should: what an interrupted failover may have left behind."""

from __future__ import annotations

import asyncio
from typing import Any

from replctl.errors import ReplctlError
from replctl.proxies import haproxy, pgbouncer
from replctl.proxies.changes import Change
from replctl.proxies.pgbouncer import Rows
from replctl.proxies.roles import Target


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
        rows: Rows = await pgbouncer.databases(door)
    except ReplctlError:
        return False
    if any(str(row.get("paused", 0)) not in ("0", "f") for row in rows.values()):
        return None
    return bool(pgbouncer.moved_aliases(change, rows))


async def _of_haproxy(change: Change[Any], door: str) -> bool | None:
    try:
        seen = await haproxy.servers(door)
    except ReplctlError:
        return False
    for_writing = [s for s in change.rendered.plan if s.backend.endswith("_rw")]
    return any(
        (there := seen.get((s.backend, s.name))) is not None and there.enabled != s.enabled
        for s in for_writing
    )
