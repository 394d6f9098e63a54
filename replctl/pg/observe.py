"""Asking the servers: one node → NodeFacts | Unreachable, all nodes at once → ClusterState.

- One round trip per node and sample, on a persistent connection.
- Replicas before primaries: WAL grows meanwhile, so the other order shows replicas ahead of their
  primary. Which is which is known before the query, from the `in_hot_standby` that a server reports
  when one connects (14+). A replica that answered long before the last one is sampled again then.
- The heartbeat that an inventory may ask for is written after a look, so it never changes what was seen.
- Every node has its own deadline. The first look waits for it; later ones do not wait again for a node
  that was silent: it is tried in the background and reported as it was until it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from replctl.core.model import Cause, ClusterState, NodeFacts, Observation, Unreachable
from replctl.core.situation import is_cut
from replctl.core.topology import current_primary, is_fenced
from replctl.core.units import format_version
from replctl.inventory import Connection, Inventory
from replctl.pg.connect import NodeError, classify, close, connect, query
from replctl.pg.facts import node_facts
from replctl.pg.locks import holders_text
from replctl.pg.marks import read_marks
from replctl.pg.queries import BEAT, CORE, FIRST_SUPPORTED, SAMPLE, WAL_TIMELINE

PRIMARIES_SHARE = 0.25  # of the time for a whole look
HELD_UP_S = 0.2  # how much older than the primary's a replica's sample may be

# SQLSTATE classes: what is not permitted or does not exist (42), and what a service does not support (0A).
# Anything else passes, such as a promotion in the middle of the query.
_FORBIDDEN = ("42", "0A")
MARKS_LIMIT_S = 1.0
MARKS_ASKED_MAX = 2  # nodes; one that has the table and does not tell is no reason to ask them all


class NodeProbe:
    """The persistent connection to one node, and the sample taken on it."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name = name
        self._settings = connection
        self._connection: AsyncConnection[DictRow] | None = None
        self._core_only = False
        self.attempt: asyncio.Task[Unreachable | None] | None = None  # a connect still under way
        self.stage = "waiting"  # what it is doing, for the message when the whole run has no time left

    @property
    def connected(self) -> bool:
        """Whether there is a connection that looks alive."""
        return self._connection is not None and not self._connection.closed

    @property
    def is_primary(self) -> bool:
        """What the server reported of itself; False where it is not known."""
        if self._connection is None or self._connection.closed:
            return False
        return self._connection.info.parameter_status("in_hot_standby") == "off"

    @property
    def connection(self) -> AsyncConnection[DictRow] | None:
        """The open connection, if there is one."""
        return self._connection if self.connected else None

    async def connect(self) -> Unreachable | None:
        """Open the connection where there is none. Returns why it failed, or None."""
        if self.connected:
            return None
        started_s = time.monotonic()
        self.stage = "connecting"
        try:
            self._connection = await connect(self._settings)
        except NodeError as error:
            return self._unreachable(error.cause, error.message, started_s)
        version = self._connection.info.server_version
        if version // 10000 < FIRST_SUPPORTED:
            await self.close()
            return self._unreachable(
                Cause.OTHER,
                f"PostgreSQL {format_version(version)} is too old; {FIRST_SUPPORTED} is the first supported",
                started_s,
            )
        return None

    async def sample(self) -> Observation:
        """One look. A connection that turns out broken is opened anew, once."""
        started_s = time.monotonic()
        for attempt in (1, 2):
            if (failure := await self.connect()) is not None:
                return failure
            try:
                return await self._ask()
            except NodeError as error:
                await self.close()
                if error.cause is Cause.TIMEOUT or attempt == 2:
                    return self._unreachable(error.cause, error.message, started_s)
        raise AssertionError("unreachable: the second attempt returns")

    async def _ask(self) -> NodeFacts:
        assert self._connection is not None
        version = self._connection.info.server_version
        text = (CORE if self._core_only else SAMPLE).for_version(version)
        asked_at, started_s = time.time(), time.monotonic()
        self.stage = "asking"
        try:
            rows = await query(self._connection, text, timeout_s=self._settings.query_timeout_s)
        except psycopg.Error as error:
            if self._core_only or (error.sqlstate or "")[:2] not in _FORBIDDEN:
                raise NodeError(*classify(error)) from None
            # Some hosted services forbid a view altogether: the rest of the facts still counts.
            self._core_only = True
            return await self._ask()
        round_trip_s = time.monotonic() - started_s
        row = rows[0]
        if row["in_recovery"] and row["receiver"] is None and row["monitor_privilege"]:
            row = row | await self._wal_timeline(self._connection)
        return node_facts(
            self.name,
            row,
            server_version_num=version,
            asked_at=asked_at + round_trip_s / 2,
            round_trip_s=round_trip_s,
            sampled_at_s=started_s + round_trip_s / 2,
        )

    async def _wal_timeline(self, connection: AsyncConnection[DictRow]) -> DictRow:
        """Of a replica that nobody feeds: what its control file may not know of yet."""
        text = WAL_TIMELINE.for_version(connection.info.server_version)
        try:
            return (await query(connection, text, timeout_s=self._settings.query_timeout_s))[0]
        except psycopg.Error:
            return {}  # the role may not; the control file is what there is

    async def close(self) -> None:
        """Close the connection; the next sample opens another."""
        if self._connection is not None:
            await close(self._connection)
            self._connection = None
            self._core_only = False  # what was forbidden may have been granted

    def _unreachable(self, cause: Cause, message: str, started_s: float) -> Unreachable:
        now_s = time.monotonic()
        return Unreachable(
            node=self.name, cause=cause, message=message, took_s=now_s - started_s, sampled_at_s=now_s
        )


@dataclass
class Observer:
    """Looks at every node and witness of an inventory, again and again. Close it when done."""

    inventory: Inventory
    probes: dict[str, NodeProbe] = field(init=False)
    _last: dict[str, Observation] = field(default_factory=dict, init=False)
    _beaten_s: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        self.probes = {
            name: NodeProbe(name, connection) for name, connection in self.inventory.connections.items()
        }

    async def __aenter__(self) -> Observer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def observe(self, *, limit_s: float | None = None, with_marks: bool = True) -> ClusterState:
        """One look at everything; `with_marks` also at what is kept in the cluster for every controller.

        Takes at most the longest connect_timeout_s plus two query_timeout_s of the nodes, and at most
        `limit_s`: a node that has not answered by then is reported so, and named in `cut_short`.
        """
        observed_at, started_s = time.time(), time.monotonic()
        order = _ReplicasFirst(len(self.probes))
        tasks = {p.name: asyncio.create_task(self._look(p, order)) for p in self.probes.values()}
        cut_short = await self._all_looked(tasks, limit_s)
        for name, task in tasks.items():
            self._last[name] = self._out_of_time(name, started_s) if name in cut_short else task.result()
        self._last |= order.seen_again
        settings = self.inventory.settings
        state = ClusterState(
            nodes=_refuse_strangers(tuple(self._last[n.name] for n in settings.nodes)),
            witnesses=tuple(self._last[w.name] for w in settings.witnesses),
            observed_at=observed_at,
            observed_at_s=started_s,
            took_s=time.monotonic() - started_s,
            cut_short=cut_short,
        )
        if with_marks:
            left_s = math.inf if limit_s is None else limit_s - state.took_s
            state = await with_common_state(self.inventory, self.probes, state, left_s)
        await self._beat_if_due(state, math.inf if limit_s is None else limit_s - state.took_s)
        return state

    async def _all_looked(
        self, tasks: dict[str, asyncio.Task[Observation]], limit_s: float | None
    ) -> frozenset[str]:
        """Wait for the looks within `limit_s`. Returns the nodes that this left no time for.

        The last part of the time is the primaries', which wait for the others: one silent node must not
        take away what all others are measured against.
        """
        try:
            await asyncio.wait(tasks.values(), timeout=limit_s and limit_s * (1 - PRIMARIES_SHARE))
            late = {n for n, task in tasks.items() if not task.done() and not self.probes[n].is_primary}
            for name in late:
                tasks[name].cancel()
            if not all(task.done() for task in tasks.values()):
                await asyncio.wait(tasks.values(), timeout=limit_s and limit_s * PRIMARIES_SHARE)
        finally:
            late = {n for n, task in tasks.items() if not task.done() or task.cancelled()}
            for name in late:
                tasks[name].cancel()
        await asyncio.gather(*(tasks[name] for name in late), return_exceptions=True)
        return frozenset(late)

    def _out_of_time(self, name: str, started_s: float) -> Unreachable:
        now_s = time.monotonic()
        return Unreachable(
            node=name,
            cause=Cause.TIMEOUT,
            message=f"the run's time was over while {self.probes[name].stage}",
            took_s=now_s - started_s,
            sampled_at_s=now_s,
        )

    async def _look(self, probe: NodeProbe, order: _ReplicasFirst) -> Observation:
        """Connect where needed, wait for the replicas if this is a primary, sample."""
        counted = False
        try:
            if (failure := await self._connected(probe)) is not None:
                return failure
            if probe.is_primary:
                counted = True
                await order.primarys_turn()
                return await probe.sample()
            seen = await probe.sample()
            order.seen[probe] = seen
            return seen
        finally:
            if not counted:
                order.one_less()

    async def _connected(self, probe: NodeProbe) -> Unreachable | None:
        """Make sure of a connection. A node that failed before is retried in the background."""
        if probe.connected:
            return None
        before = self._last.get(probe.name)
        is_new = probe.attempt is None
        if probe.attempt is None:
            probe.attempt = asyncio.create_task(probe.connect())
        if isinstance(before, Unreachable):
            # A refusal or an open door answers within the blink of a local network; silence does not.
            await asyncio.wait({probe.attempt}, timeout=0.05 if is_new else 0)
            if not probe.attempt.done():
                return before
        else:
            await asyncio.wait({probe.attempt})
        finished, probe.attempt = probe.attempt, None
        return finished.result()

    async def _beat_if_due(self, state: ClusterState, limit_s: float) -> None:
        """Write the heartbeat of `[checks] heartbeat_s`, on the primary that was just seen."""
        every_s, now_s = self.inventory.settings.checks.heartbeat_s, time.monotonic()
        # Looks that come as often as beats are due do not come to the millisecond.
        if every_s is None or now_s - self._beaten_s < 0.9 * every_s or limit_s <= 0:
            return
        primary = current_primary(state)
        if primary is None or is_fenced(primary):
            return
        self._beaten_s = now_s
        with contextlib.suppress(NodeError):  # the next look tells what is the matter
            await self.beat(primary.node, limit_s=limit_s)

    async def beat(self, primary: str, *, limit_s: float = math.inf) -> None:
        """Write a message of a few bytes into the primary's WAL, so that positions move on an idle system.

        Not waited for by synchronous replicas. Raises NodeError; a server that refuses it is left alone.
        """
        connection = self.probes[primary].connection
        if connection is None:
            return
        text = BEAT.for_version(connection.info.server_version)
        timeout_s = min(limit_s, self.inventory.connections[primary].query_timeout_s)
        with contextlib.suppress(psycopg.Error):
            await query(connection, text, timeout_s=timeout_s)

    async def close(self) -> None:
        """End all attempts and close all connections."""
        attempts = [p.attempt for p in self.probes.values() if p.attempt is not None]
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
        await asyncio.gather(*(probe.close() for probe in self.probes.values()))


async def with_common_state(
    inventory: Inventory, probes: dict[str, NodeProbe], state: ClusterState, limit_s: float
) -> ClusterState:
    """The state with the marks of replctl.state; where a replica looks cut, also with who holds votes."""
    if any(is_cut(f) for f in state.facts):
        state = replace(state, voted=await _voted(inventory, probes, limit_s))
    keepers = [f for f in state.facts if f.state_table]
    primary = current_primary(state)
    # The primary has the newest, unless it was replaced; without it, the replica that has replayed most.
    keepers.sort(key=lambda f: (-(f.timeline or 0), f is not primary, -(f.replayed_lsn or 0)))
    for facts in keepers[:MARKS_ASKED_MAX]:
        connection = probes[facts.node].connection
        if connection is not None and (marks := await read_marks(connection, limit_s)) is not None:
            return replace(state, marks=marks)
    return state


async def _voted(inventory: Inventory, probes: dict[str, NodeProbe], limit_s: float) -> frozenset[str] | None:
    """The voters whose vote somebody holds; None where none of them tells."""

    async def ask(probe: NodeProbe) -> bool | None:
        if probe.connection is None:
            return None
        try:
            held = await query(
                probe.connection,
                holders_text(inventory, probe.connection.info.server_version),
                timeout_s=max(0.1, min(limit_s, MARKS_LIMIT_S)),
            )
        except (NodeError, psycopg.Error):
            return None
        return bool(held)

    answers = dict(zip(probes, await asyncio.gather(*map(ask, probes.values())), strict=True))
    if all(answer is None for answer in answers.values()):
        return None
    return frozenset(name for name, answer in answers.items() if answer)


class _ReplicasFirst:
    """Lets the primaries of one look wait until every other node has been sampled or has failed."""

    def __init__(self, count: int) -> None:
        self.seen: dict[NodeProbe, Observation] = {}
        self.seen_again: dict[str, Observation] = {}
        self._left = count
        self._zero = asyncio.Event()
        self._again: asyncio.Task[None] | None = None

    def one_less(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._zero.set()

    async def primarys_turn(self) -> None:
        self.one_less()
        await self._zero.wait()
        if self._again is None:
            self._again = asyncio.create_task(self._sample_again())
        await self._again

    async def _sample_again(self) -> None:
        """Whoever one slow node held up: what the primary wrote meanwhile would count as their lag."""
        now_s = time.monotonic()
        held_up = [
            probe
            for probe, seen in self.seen.items()
            if isinstance(seen, NodeFacts) and now_s - seen.sampled_at_s > HELD_UP_S
        ]
        found = await asyncio.gather(*(probe.sample() for probe in held_up))
        self.seen_again = {seen.node: seen for seen in found}


def _refuse_strangers(nodes: tuple[Observation, ...]) -> tuple[Observation, ...]:
    """A node whose system identifier differs from the others' belongs to another cluster.

    The cluster's own identifier is the most frequent one; a tie is decided for the one that a primary
    has, then for the node that the inventory lists first.
    """
    facts = [n for n in nodes if isinstance(n, NodeFacts)]
    if len({f.system_identifier for f in facts}) <= 1:
        return nodes
    count = Counter(f.system_identifier for f in facts)
    primaries = Counter(f.system_identifier for f in facts if not f.in_recovery and f.senders)
    own = max(count, key=lambda identifier: (count[identifier], primaries[identifier]))
    return tuple(
        Unreachable(
            node=n.node,
            cause=Cause.WRONG_CLUSTER,
            message=f"its system identifier is {n.system_identifier}, this cluster's is {own}",
            took_s=n.round_trip_s,
            sampled_at_s=n.sampled_at_s,
        )
        if isinstance(n, NodeFacts) and n.system_identifier != own
        else n
        for n in nodes
    )


async def observe_once(inventory: Inventory) -> ClusterState:
    """One look, then hang up."""
    async with Observer(inventory) as observer:
        return await observer.observe()
