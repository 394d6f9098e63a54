"""HAProxy's agent-check: a line with a node's name comes in, a line with its state and weight goes out.

http://docs.haproxy.org/2.6/configuration.html#5.2-agent-check has the protocol. What one answer sets the
next one undoes, so that a server can always come back: `up ready 100%`, `up drain`, `down #why`. Without the
space before the sign HAProxy 2.6 takes the word for an error, and the server stays as it was.
"""

from __future__ import annotations

import asyncio
import contextlib

from replctl.core.routing import Fitness
from replctl.server.connections import connections_max
from replctl.server.places import Places
from replctl.server.roles import ROLES, Limits, answer, view_of
from replctl.server.watch import Seen

LINE_BYTES_MAX = 160  # two names of 63 characters, and a role
LINE_LIMIT_S = 2.0
WEIGHT_MAX = 100

# Sessions that are there may go on: these replicas are right, only late or not wanted.
_DRAIN = frozenset(
    {
        Fitness.DRAINED,
        Fitness.WEIGHT_ZERO,
        Fitness.DELAYED,
        Fitness.PROBATION,
        Fitness.HELD,
        Fitness.SUSPECT,
        Fitness.LAG_BYTES,
        Fitness.LAG_S,
        Fitness.LAG_UNKNOWN,
    }
)


def state_line(role: str, name: str, seen: Seen | None) -> str:
    """The answer of the agent for one node, without the end of the line."""
    found = answer(role, name, seen, Limits())
    if seen is None:
        return "down #stale"
    if ROLES[role] == "primary":
        return "up ready 100%" if found.yes else "down #not_the_primary"
    view = view_of(name, seen)
    if found.yes:
        return f"up ready {min(view.weight, WEIGHT_MAX)}%"
    return "up drain" if view.fitness in _DRAIN else f"down #{view.fitness}"


class Agent:
    """Answers agent checks. `serve` is the callback of asyncio.start_server."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._open = 0
        self._most = connections_max()

    async def reply(self, line: str) -> str:
        """To `NODE` or `CLUSTER/NODE`, with or without ` ROLE` behind; replica where there is none."""
        path, _, role = line.strip().partition(" ")
        role = role.strip() or "replica"
        found = self._places.node(path.split("/"))
        if found is None or role not in ROLES:
            return "down #unknown_name"
        watch, name = found
        return state_line(role, name, await watch.recent())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One line in, one line out, within two seconds."""
        self._open += 1
        try:
            if self._open > self._most:
                return
            with contextlib.suppress(TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
                async with asyncio.timeout(LINE_LIMIT_S):
                    line = await reader.readline()
                    writer.write(f"{await self.reply(line.decode('ascii'))}\n".encode("ascii"))
                    await writer.drain()
        finally:
            self._open -= 1
            writer.close()
