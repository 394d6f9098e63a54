"""What a running HAProxy shows of its servers, beside what they are to be."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from replctl.errors import ReplctlError
from replctl.proxies.runtime import ask
from replctl.render.haproxy import Server

_MAINT, _DRAIN = 1, 8  # of srv_admin_state: set at runtime or by `disabled`


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One server as `show servers state` has it."""

    host: str
    port: str
    name: str | None  # where the address is looked up
    admin: int
    state: str
    weight: int

    @property
    def enabled(self) -> bool:
        """Neither in maintenance nor drained."""
        return not self.admin & (_MAINT | _DRAIN)


Seen = dict[tuple[str, str], Running]


async def servers(door: str) -> Seen:
    """What one HAProxy shows of its servers. Raises ReplctlError."""
    text = await asyncio.to_thread(ask, door, "show servers state")
    found: Seen = {}
    names: list[str] = []
    for line in text.splitlines():
        if line.startswith("# be_id"):
            names = line[2:].split()
            continue
        words = line.split()
        if not names or len(words) < len(names) - 5:  # columns were added at the end, from version to version
            continue
        row = dict(zip(names, words, strict=False))
        found[row["be_name"], row["srv_name"]] = Running(
            host=row["srv_addr"],
            port=row["srv_port"],
            name=None if row["srv_fqdn"] == "-" else row["srv_fqdn"],
            admin=int(row["srv_admin_state"]),
            state=row["srv_op_state"],
            weight=int(row["srv_uweight"]),
        )
    if not names:
        raise ReplctlError(
            f"{named(door)} does not show its servers", why=(text.strip() or "no answer")[:200]
        )
    return found


def differences(plan: Iterable[Server], seen: Seen) -> list[str]:
    """How what a HAProxy shows is not the plan, as sentences."""
    found = []
    for server in plan:
        name, there = f"{server.backend}/{server.name}", seen.get((server.backend, server.name))
        if there is None:
            found.append(f"{name} is not there")
            continue
        if not same_address(server, there):
            found.append(
                f"{name} is at {there.name or there.host}:{there.port}, not {server.host}:{server.port}"
            )
        if there.enabled != server.enabled:
            found.append(f"{name} is {'enabled' if there.enabled else 'in maintenance'}")
        if there.weight != server.weight:
            found.append(f"{name} has weight {there.weight}, not {server.weight}")
    return found


def same_address(server: Server, there: Running) -> bool:
    """Whether it leads to this server's address, however that is written."""
    if server.host.startswith("/"):
        return True  # a Unix socket is shown as no address
    same = server.host == there.name or _canonical(server.host) == _canonical(there.host)
    return same and there.port == str(server.port)


def _canonical(host: str) -> str:
    """An address as one of several ways to write it; a name as it is."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def writes_apart(plan: Iterable[Server], seen: Seen) -> bool:
    """Whether another node takes writes at a HAProxy than the plan has."""
    return any(
        (there := seen.get((server.backend, server.name))) is not None and there.enabled != server.enabled
        for server in plan
        if server.backend.endswith("_rw")
    )


def like(one: Running, other: Running) -> bool:
    """Whether what can be changed at runtime, and the address, are the same."""
    return (one.host, one.port, one.enabled, one.weight) == (
        other.host,
        other.port,
        other.enabled,
        other.weight,
    )


def named(door: str) -> str:
    """A HAProxy for messages."""
    return f"the HAProxy at {door}"
