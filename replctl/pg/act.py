"""Doing the steps of a plan: one function per step type, on the connection that holds the vote."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow

from replctl.core.model import NodeFacts
from replctl.core.situation import CUT_WAIT_EVENTS, PROMOTE_WITHIN_S, Situation, is_held
from replctl.core.steps import (
    Checkpoint,
    CreateSlot,
    Cut,
    FastForward,
    FenceCommand,
    Promote,
    ProveSilence,
    Repoint,
    SetSynchronous,
    Step,
    TakeVotes,
)
from replctl.pg.change import POLL_S, QUERY_LIMIT_S, Editor, StepError
from replctl.pg.connect import NodeError, query
from replctl.pg.queries import CUT_STATE, HELD_SETTINGS
from replctl.pg.statements import BLOCKING_READERS, END_READERS, WRITE_SOMETHING, literal, shown
from replctl.pg.wal_ends import WalEnds

CUT_LIMIT_S = 5.0
CUT_ROUNDS_APART_S = 0.02
PROMOTE_LIMIT_S = 60.0
REPOINT_LIMIT_S = 10.0
RELOAD_EVERY_S = 0.02
PROOF_S = 0.6
FOLLOW_S = 1.0  # how long a replica whose replay is to be paused again is given to connect first

Note = Callable[[str, str], None]
"""node, sentence"""


@dataclass
class Hands(Editor):
    """Does the steps, and remembers what it takes to undo them."""

    found_conninfo: dict[str, str] = field(default_factory=dict, repr=False)  # may hold a password
    halt: asyncio.Event = field(default_factory=asyncio.Event)  # set = do not wait on before the promotion
    found_settings: dict[str, dict[str, str | None]] = field(default_factory=dict)  # of held-up replicas
    found_paused: set[str] = field(default_factory=set)
    promote_by_at: dict[str, float] = field(default_factory=dict)  # by the node's own clock
    proven: dict[str, AsyncConnection[DictRow]] = field(default_factory=dict)  # where that was shown
    note: Note | None = None  # is told what a change erases, before it does
    ends: WalEnds = field(init=False)

    def __post_init__(self) -> None:
        self.ends = WalEnds(self.inventory)

    async def apply(self, step: Step, situation: Situation) -> None:
        """Do one step. Raises StepError; afterwards `step.done` holds on the next look."""
        try:
            match step:
                case TakeVotes():
                    answering = {f.node for f in situation.state.facts}
                    answering |= {w.node for w in situation.state.witnesses if isinstance(w, NodeFacts)}
                    silent = frozenset(self.ballot.voters) - answering
                    silent |= {situation.request.lost or ""}
                    await self.ballot.take(silent, needed=situation.majority)
                case ProveSilence():
                    await self.prove_silence(step.node)
                case FenceCommand():
                    await self.run_fence(step.node)
                case Cut():
                    await self.cut(step.node, step.means)
                case FastForward():
                    await self.fast_forward(step)
                case SetSynchronous():
                    await self.set_synchronous(step.node, step.names)
                case Promote():
                    await self.promote(step.node)
                case CreateSlot():
                    await self.create_slot(step.node, step.slot)
                case Repoint():
                    await self.repoint(step.node, step.upstream, situation)
                case Checkpoint():
                    await self.run(step.node, "CHECKPOINT", limit_s=60.0)
        except NodeError as error:
            raise StepError(step.describe(), why=f"{error.cause}: {error.message}") from None
        except psycopg.Error as error:
            raise StepError(step.describe(), why=str(error).splitlines()[0]) from None

    async def cut(self, node: str, means: str) -> None:
        """Take the upstream away and wait until nothing is connected, in two rounds."""
        if node not in self.found_conninfo:
            rows = await self.run(node, "SELECT current_setting('primary_conninfo') AS value")
            self.found_conninfo[node] = rows[0]["value"]
            self._note(node, f"primary_conninfo of {node} was {shown(rows[0]['value']) or 'empty'}")
        changes: dict[str, str | None] = {"primary_conninfo": ""}
        if means != "plain":
            await self._remember_replay(node)
        if means == "timeout":
            changes["wal_receiver_timeout"] = "1ms"
        if means == "replay":
            changes["recovery_min_apply_delay"] = "0"
        await self.set(node, changes)
        if means == "replay":
            await self.run(node, "SELECT pg_wal_replay_resume()")
            await self.run(node, END_READERS)
        try:
            await self.until_cut(node)
        finally:
            if means == "timeout":
                await self._put_back_settings(node)

    def _note(self, node: str, sentence: str) -> None:
        if self.note is not None:
            self.note(node, sentence)

    async def _remember_replay(self, node: str) -> None:
        """What a cut that cannot be a plain one changes beside the upstream."""
        if node in self.found_settings:
            return
        text = HELD_SETTINGS.for_version((await self.connection(node)).info.server_version)
        self.found_settings[node] = {row["name"]: row["own"] for row in await self.run(node, text)}
        paused = await self.run(node, "SELECT pg_is_wal_replay_paused() AS paused")
        self.found_paused |= {node} if paused[0]["paused"] else set()
        delay = self.found_settings[node].get("recovery_min_apply_delay") or "as configured"
        state = "paused" if paused[0]["paused"] else "running"
        self._note(node, f"replay of {node} was {state}, recovery_min_apply_delay {delay}")

    async def _put_back_settings(self, node: str) -> None:
        found = self.found_settings.get(node)
        if found is None:  # a run that ended in the midst of a cut has left this one
            shown = await self.run(node, "SELECT current_setting('wal_receiver_timeout') AS value")
            found = {"wal_receiver_timeout": None} if shown[0]["value"] == "1ms" else {}
        if found:
            await self.set(node, found)

    async def _put_back_replay(self, node: str) -> None:
        """The delay and the pause that a cut took away."""
        await self._put_back_settings(node)
        if node not in self.found_paused:
            return
        until_s = time.monotonic() + FOLLOW_S  # paused first, it would not ask for WAL again
        streaming = "SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        while time.monotonic() < until_s:
            if await self.run(node, streaming):
                break
            await asyncio.sleep(POLL_S)
        if (await self.run(node, "SELECT pg_is_in_recovery() AS replica"))[0]["replica"]:
            await self.run(node, "SELECT pg_wal_replay_pause()")

    async def until_cut(self, node: str, since_s: float | None = None) -> None:
        """Two consecutive rounds, CUT_ROUNDS_APART_S apart, in which nothing connects the node.

        With `since_s`, when the votes were asked for (monotonic): the node may be promoted until
        PROMOTE_WITHIN_S after that.
        """
        connection = await self.connection(node)
        text = CUT_STATE.for_version(connection.info.server_version)
        until_s, good = time.monotonic() + CUT_LIMIT_S, 0
        while good < 2:
            row = (await query(connection, text, timeout_s=QUERY_LIMIT_S))[0]
            good = good + 1 if _is_cut(row) else 0
            if since_s is not None:
                began_at = row["clock_at"] - (time.monotonic() - since_s)
                self.promote_by_at[node] = began_at + PROMOTE_WITHIN_S
                self.proven[node] = connection
            if good == 0 and time.monotonic() > until_s:
                raise StepError(
                    f"{node} did not let go of its upstream", why=f"startup is in {row['startup_wait_event']}"
                )
            self._heed_halt()
            if good < 2:
                await asyncio.sleep(CUT_ROUNDS_APART_S if good else POLL_S)

    def _heed_halt(self) -> None:
        if self.halt.is_set():
            raise StepError("told to stop before the promotion")

    async def promote(self, node: str) -> None:
        """Promote, and wake the startup process until recovery has ended.

        A promotion just after the receiver's death can leave it asleep for wal_retrieve_retry_interval.
        All that was received is replayed first: queries in the way of that are ended. In the end something is
        written: a disk that takes nothing is no primary.
        """
        # The server compares: what we say may reach it late.
        by_at = self.promote_by_at.get(node, 0.0)
        due = f"clock_timestamp() < to_timestamp({by_at!r})"
        # Not on a connection that was opened since: the vote went with the one that is gone.
        proven = self.proven.get(node)
        text = f"SELECT pg_promote(wait => false) WHERE {due}"
        if proven is None or not await query(proven, text, timeout_s=QUERY_LIMIT_S, prepare=False):
            raise StepError("the votes were shown too long ago", hint="run the command again")
        until_s, next_reload_s = time.monotonic() + PROMOTE_LIMIT_S, time.monotonic() + RELOAD_EVERY_S
        while (await self.run(node, "SELECT pg_is_in_recovery() AS waiting"))[0]["waiting"]:
            if time.monotonic() > until_s:
                raise StepError(f"{node} is still in recovery", why=f"after {PROMOTE_LIMIT_S:g} s")
            if time.monotonic() >= next_reload_s:
                await self.run(node, f"SELECT pg_reload_conf(), ({BLOCKING_READERS})")
                next_reload_s = time.monotonic() + RELOAD_EVERY_S
            await asyncio.sleep(POLL_S)
        await self._put_back_settings(node)
        await self.run(node, WRITE_SOMETHING)

    async def create_slot(self, node: str, slot: str) -> None:
        """A physical slot that keeps WAL from now on."""
        try:
            await self.run(node, f"SELECT pg_create_physical_replication_slot({literal(slot)}, true)")
        except psycopg.errors.DuplicateObject:
            return

    async def repoint(self, node: str, upstream: str, situation: Situation) -> None:
        """Give the node its new upstream, and wait until it streams on that one's timeline."""
        primary = situation.facts(upstream)
        changes: dict[str, str | None] = {"primary_conninfo": self.conninfo(node, upstream)}
        slot = self.inventory.settings.slot_name(node)
        if slot is not None:
            changes["primary_slot_name"] = slot
        facts = situation.facts(node)
        if facts is not None and facts.settings.get("wal_receiver_timeout") == "1ms":
            changes["wal_receiver_timeout"] = None  # of a run that ended in the midst of a cut
        await self.set(node, changes)
        if facts is not None and is_held(facts):
            return  # it asks for WAL only when its replay goes on
        wanted = primary.timeline if primary is not None else None
        await self.until_streaming(node, wanted)
        await self._put_back_replay(node)

    async def restore(self, node: str, lost: str | None, shown_s: float) -> None:
        """Give a cut node the upstream that it had, or one built from [replication]; read it back.

        Not later than a promotion would be after the votes were shown (monotonic): whoever has them next
        may count on this cut.
        """
        before = self.found_conninfo.get(node)
        if before and node not in self.altered:
            return  # it refused to be changed
        if not before and lost is not None:
            before = self.conninfo(node, lost)
        if not before:
            raise StepError(f"the upstream of {node} is not known", hint="set its primary_conninfo by hand")
        if time.monotonic() - shown_s > PROMOTE_WITHIN_S:
            raise StepError("the votes were shown too long ago", hint="run the command again")
        await self.set(node, {"primary_conninfo": before})
        await self._put_back_replay(node)

    async def until_streaming(self, node: str, timeline: int | None) -> None:
        """Wait until the receiver streams, on this timeline if one is given. Raises StepError."""
        until_s = time.monotonic() + REPOINT_LIMIT_S
        text = "SELECT status, received_tli FROM pg_stat_wal_receiver"
        while True:
            rows = await self.run(node, text)
            if rows and rows[0]["status"] == "streaming" and timeline in (None, rows[0]["received_tli"]):
                return
            if time.monotonic() > until_s:
                seen = rows[0]["status"] if rows else "no receiver"
                raise StepError(f"{node} does not stream", why=f"{seen} after {REPOINT_LIMIT_S:g} s")
            await asyncio.sleep(POLL_S)

    def conninfo(self, node: str, upstream: str) -> str:
        """The node's primary_conninfo for this upstream: all that it had, else what [replication] says."""
        spec, target = self.inventory.settings.node(node), self.inventory.settings.node(upstream)
        parts: dict[str, Any] = conninfo_to_dict(self.found_conninfo.get(node) or "")
        if not parts and self.inventory.replication is not None:
            settings = self.inventory.replication
            names = ("user", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "dbname")
            parts = {n: getattr(settings, n) for n in names if getattr(settings, n) is not None}
        parts.pop("hostaddr", None)
        parts |= {"host": target.host, "port": target.port}
        parts.setdefault("application_name", spec.application_name)
        return make_conninfo("", **parts)

    async def fast_forward(self, step: FastForward) -> None:
        """Stream from the most advanced node until its end, then cut again."""
        await self._remember_replay(step.node)
        # No slot: its own is on the lost primary, and nothing is to be kept for it here.
        source = self.conninfo(step.node, step.source)
        await self.set(step.node, {"primary_conninfo": source, "primary_slot_name": ""})
        until_s = time.monotonic() + REPOINT_LIMIT_S
        while True:
            position = await self.ends.identify(step.node)
            if position.lsn >= step.until_lsn:
                break
            if time.monotonic() > until_s:
                raise StepError(step.describe(), why=f"it is at {position.lsn} after {REPOINT_LIMIT_S:g} s")
            self._heed_halt()
            await asyncio.sleep(POLL_S)
        await self.cut(step.node, "plain")
        await self._put_back_settings(step.node)

    async def prove_silence(self, node: str) -> None:
        """Make the node reconnect. Raises StepError when its receiver comes back: the primary lives."""
        rows = await self.run(node, "SELECT current_setting('primary_conninfo') AS value")
        before = rows[0]["value"]
        parts: dict[str, Any] = conninfo_to_dict(before)
        # A harmless keyword with another value is another conninfo: the receiver starts anew.
        parts["keepalives_idle"] = "61" if str(parts.get("keepalives_idle")) == "60" else "60"
        old = await self.run(node, "SELECT pid FROM pg_stat_wal_receiver")
        await self.set(node, {"primary_conninfo": make_conninfo("", **parts)})
        lives = False
        # Far away, a connection takes as long as the probes of this inventory are given.
        until_s = time.monotonic() + max(PROOF_S, self.inventory.settings.failover.probe_timeout_s)
        while time.monotonic() < until_s and not lives and not self.halt.is_set():
            rows = await self.run(node, "SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'")
            lives = bool(rows) and rows != old
            await asyncio.sleep(POLL_S)
        await self.set(node, {"primary_conninfo": before})
        if lives:
            raise StepError("the primary lives", why=f"{node} reconnected to it at once")

    async def hang_up(self) -> None:
        """Close the replication connections; votes stay."""
        await self.ends.close()

    async def close(self) -> None:
        """Give the votes back and hang up."""
        await self.hang_up()
        await self.ballot.release()


def _is_cut(row: DictRow) -> bool:
    alone = row["receivers_shown"] == 0 and row["receivers"] == 0
    return bool(row["no_upstream"]) and alone and row["startup_wait_event"] in CUT_WAIT_EVENTS
