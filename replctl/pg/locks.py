"""Votes: session advisory locks on a majority of the voters, on the very connections that will act.

One lock per server and cluster, whatever the database, never written to WAL; it works on a hot standby
and outlives a promotion. A server that restarts forgets it, so `verify` asks all of them in one round just
before a promotion, and whoever asks next waits until that promotion has happened or is given up
(FRESH_VOTER_S).
https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
import zlib
from dataclasses import dataclass, field

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from replctl.core.situation import FRESH_VOTER_S, Vote
from replctl.errors import ReplctlError
from replctl.inventory import Inventory
from replctl.pg.connect import NodeError, close, connect, query
from replctl.pg.queries import HOLDERS, TAKE_VOTE, VOTE

CLASS = 0x7265706C  # "repl"
LIMIT_S = 2.0
RIVAL_PAUSE_S = (0.05, 0.3)  # whoever was first has all the others by then


def lock_number(cluster: str) -> int:
    """The second key of a cluster's lock, unsigned: a witness may vote in several clusters."""
    return zlib.crc32(cluster.encode())


def session_name(kind: str) -> str:
    """What this process is called on the servers: `replctl controller HOST PID`."""
    host = "".join(c if c.isalnum() or c in ".-_" else "_" for c in socket.gethostname())[:30]
    return f"replctl {kind} {host or 'localhost'} {os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has the vote of a server."""

    voter: str
    pid: int
    application_name: str
    address: str | None
    since_at: float | None


@dataclass
class Ballot:
    """Direct connections to the voters, and which of their votes are ours."""

    inventory: Inventory
    voters: tuple[str, ...]
    connections: dict[str, AsyncConnection[DictRow]] = field(default_factory=dict)
    votes: dict[str, Vote] = field(default_factory=dict)
    kind: str = "failover"  # of session: `controller` is what `status` lists as one

    async def open(self, silent: frozenset[str] = frozenset()) -> None:
        """Connect to every voter that answers. Open connections stay; `silent` ones are not tried."""
        missing = [
            v
            for v in self.voters
            if v not in silent and (v not in self.connections or self.connections[v].closed)
        ]
        await asyncio.gather(*(self._connect(voter) for voter in missing))

    async def _connect(self, voter: str) -> None:
        self.votes[voter] = Vote.UNREACHABLE
        self.connections.pop(voter, None)
        try:
            connection = await connect(
                self.inventory.connections[voter], timeout_s=LIMIT_S, application_name=session_name(self.kind)
            )
        except NodeError:
            return
        self.connections[voter] = connection
        answer = await self._ask(voter, VOTE.for_version(connection.info.server_version))
        # Through a pooler the backend that answers is not the one that we were told: no lock would be ours.
        if answer is None or answer["pid"] != connection.info.backend_pid:
            await close(self.connections.pop(voter))
            return
        self.votes[voter] = Vote.FREE

    async def take(self, silent: frozenset[str] = frozenset(), needed: int = 0) -> dict[str, Vote]:
        """Ask every voter for its vote, all at once, but for those that are known to be silent.

        One that has just started may have forgotten a vote on which a promotion still relies: it is waited
        for, FRESH_VOTER_S at most, where fewer than `needed` are ours without it.
        """
        await self.open(silent)
        until_s = time.monotonic() + FRESH_VOTER_S
        while True:
            asked = [v for v in self.voters if v in self.connections and v not in silent]
            # One first, the same for everybody: of several at once, only one goes on without a pause.
            answers = [await self._take(v) for v in asked[:1]]
            if any(self.votes[v] is Vote.TAKEN for v in asked[:1]):
                await asyncio.sleep(random.SystemRandom().uniform(*RIVAL_PAUSE_S))
            answers += await asyncio.gather(*(self._take(v) for v in asked[1:]))
            waits = [wait_s for wait_s in answers if wait_s is not None]
            held = sum(vote is Vote.HELD for vote in self.votes.values())
            if held >= needed or not waits or time.monotonic() > until_s:
                return dict(self.votes)
            await asyncio.sleep(max(0.01, min(waits)))

    async def give_back(self) -> None:
        """Unlock every vote that is ours; the connections stay open for the next time."""
        number = self._signed()
        held = [v for v, vote in self.votes.items() if vote is Vote.HELD]
        await asyncio.gather(*(self._ask(v, f"SELECT pg_advisory_unlock({CLASS}, {number})") for v in held))
        for voter in held:
            self.votes[voter] = Vote.FREE

    def _signed(self) -> int:
        """The lock's second key as the functions take it; the view shows it unsigned."""
        number = lock_number(self.inventory.settings.name)
        return number - 2**32 if number >= 2**31 else number

    @property
    def take_text(self) -> str:
        """The statement that asks a voter for its vote."""
        return TAKE_VOTE.variants[min(TAKE_VOTE.variants)].format(CLASS, self._signed(), FRESH_VOTER_S)

    async def _take(self, voter: str) -> float | None:
        """Ask one. How long its server has to run first; None where that is long enough."""
        if self.votes.get(voter) is Vote.HELD:
            return None
        got = await self._ask(voter, self.take_text)
        if got is None:
            self.votes[voter] = Vote.UNREACHABLE
        elif got["held"] is None:
            self.votes[voter] = Vote.FREE
            return float(got["wait_s"])
        elif got["held"] and await self._has_rival(voter):
            await self._ask(voter, f"SELECT pg_advisory_unlock({CLASS}, {self._signed()})")
            self.votes[voter] = Vote.TAKEN
        else:
            self.votes[voter] = Vote.HELD if got["held"] else Vote.TAKEN
        return None

    async def _has_rival(self, voter: str) -> bool:
        """Whether somebody holds this vote through another database. Of two at once, both see the other."""
        answer = await self._ask(voter, VOTE.variants[min(VOTE.variants)])
        return answer is None or bool(answer["rival"])

    async def verify(self) -> dict[str, Vote]:
        """Whether every vote that was ours still is, by the same backend: one round over all of them."""
        held = [v for v, vote in self.votes.items() if vote is Vote.HELD]
        text = VOTE.variants[min(VOTE.variants)]
        answers = await asyncio.gather(*(self._ask(v, text) for v in held))
        for voter, answer in zip(held, answers, strict=True):
            own = self.connections[voter].info.backend_pid if voter in self.connections else None
            is_ours = answer is not None and answer["held"] and answer["pid"] == own and not answer["rival"]
            self.votes[voter] = Vote.HELD if is_ours else Vote.UNREACHABLE
        return dict(self.votes)

    async def _ask(self, voter: str, text: str) -> DictRow | None:
        keys = (CLASS, lock_number(self.inventory.settings.name))
        try:
            return (await query(self.connections[voter], text.format(*keys), timeout_s=LIMIT_S))[0]
        except (NodeError, psycopg.Error, KeyError):
            return None

    async def release(self) -> None:
        """Give all votes back by closing the connections."""
        await asyncio.gather(*(close(c) for c in self.connections.values()))
        self.connections.clear()
        self.votes.clear()


def holders_text(inventory: Inventory, server_version_num: int) -> str:
    """The statement that lists who holds a server's vote for this cluster."""
    return HOLDERS.for_version(server_version_num).format(CLASS, lock_number(inventory.settings.name))


async def holders(inventory: Inventory) -> dict[str, list[Holder] | None]:
    """Who holds the vote of each voter; None for one that does not answer."""

    async def ask(voter: str) -> list[Holder] | None:
        try:
            connection = await connect(inventory.connections[voter])
            try:
                text = holders_text(inventory, connection.info.server_version)
                rows = await query(connection, text, timeout_s=LIMIT_S)
            finally:
                await close(connection)
        except (NodeError, psycopg.Error):
            return None
        return [
            Holder(
                voter=voter,
                pid=row["pid"],
                application_name=row["application_name"] or "",
                address=row["address"],
                since_at=row["since_at"],
            )
            for row in rows
        ]

    found = await asyncio.gather(*(ask(voter) for voter in inventory.connections))
    return dict(zip(inventory.connections, found, strict=True))


async def end_session(inventory: Inventory, holder: Holder) -> bool:
    """End the session that holds a vote. Whether the vote is free of it within LIMIT_S.

    Raises ReplctlError where the role may not, or the server does not answer.
    """
    try:
        connection = await connect(inventory.connections[holder.voter])
        try:
            await query(connection, f"SELECT pg_terminate_backend({int(holder.pid)})", timeout_s=LIMIT_S)
            until_s = time.monotonic() + LIMIT_S
            while time.monotonic() < until_s:
                text = holders_text(inventory, connection.info.server_version)
                rows = await query(connection, text, timeout_s=LIMIT_S)
                if all(row["pid"] != holder.pid for row in rows):
                    return True
                await asyncio.sleep(0.02)
        finally:
            await close(connection)
    except (NodeError, psycopg.Error) as error:
        raise ReplctlError(
            f"{holder.voter}: backend {holder.pid} cannot be ended",
            why=str(error).splitlines()[0],
            hint="replctl doctor",
        ) from None
    return False
