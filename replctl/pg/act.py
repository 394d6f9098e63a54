"""Doing the steps of a plan: one function per step type, on the connection that holds the vote.

Every change is read back: pg_reload_conf() says true also when a syntax error elsewhere makes the server
ignore the reload. Every wait has a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow

from replctl.core.model import FENCE_NAME, Lsn, NodeFacts
from replctl.core.situation import CUT_WAIT_EVENTS, PROMOTE_WITHIN_S, Position, Situation, is_held
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
from replctl.errors import ReplctlError
from replctl.inventory import Inventory
from replctl.pg.connect import NodeError, close, connect, query
from replctl.pg.facts import SECRETS
from replctl.pg.locks import Ballot
from replctl.pg.queries import CUT_STATE, HELD_SETTINGS

QUERY_LIMIT_S = 2.0
CUT_LIMIT_S = 5.0
CUT_ROUNDS_APART_S = 0.02
PROMOTE_LIMIT_S = 60.0
REPOINT_LIMIT_S = 10.0
RELOAD_EVERY_S = 0.02
POLL_S = 0.003
PROOF_S = 0.6
NOT_DONE = (
    "0A",
    "22",
    "42",
)  # SQLSTATE classes of a statement that was refused as such: no right, not allowed
FOLLOW_S = 1.0  # how long a replica whose replay is to be paused again is given to connect first

READ_ONLY = "default_transaction_read_only"
FENCE: dict[str, str | None] = {"synchronous_standby_names": FENCE_NAME, READ_ONLY: "on"}
END_SESSIONS = (
    "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = a.usename "
    "WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() AND NOT r.rolsuper "
    "AND a.application_name NOT LIKE 'replctl%'"
)
# What a query of theirs sees is what replay waits for; a superuser's cannot be ended.
END_READERS = (
    "SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a JOIN pg_roles r "
    "ON r.rolname = a.usename WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() "
    "AND NOT r.rolsuper AND a.backend_xmin IS NOT NULL"
)
BLOCKING_READERS = (
    f"{END_READERS} AND EXISTS (SELECT FROM pg_stat_activity s "
    "WHERE s.backend_type = 'startup' AND s.wait_event LIKE 'RecoveryConflict%')"
)
MAY_WRITE_FILES = (
    "SELECT pg_has_role('pg_write_server_files', 'USAGE') AS may, current_setting('data_directory') AS place"
)
IS_FENCED = f"SELECT current_setting('synchronous_standby_names') LIKE '%{FENCE_NAME}%' AS fenced"


class StepError(ReplctlError):
    """A step did not lead to what proves it."""


@dataclass
class Hands:
    """The connections that act, and what the run has to remember to be able to undo."""

    inventory: Inventory
    ballot: Ballot
    found_conninfo: dict[str, str] = field(default_factory=dict, repr=False)  # may hold a password
    altered: set[str] = field(default_factory=set)  # nodes whose settings were changed, or may have been
    replication: dict[str, AsyncConnection[DictRow]] = field(default_factory=dict)
    halt: asyncio.Event = field(default_factory=asyncio.Event)  # set = do not wait on before the promotion
    found_settings: dict[str, dict[str, str | None]] = field(default_factory=dict)  # of held-up replicas
    found_paused: set[str] = field(default_factory=set)
    promote_by_at: dict[str, float] = field(default_factory=dict)  # by the node's own clock
    proven: dict[str, AsyncConnection[DictRow]] = field(default_factory=dict)  # where that was shown

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

    async def connection(self, node: str) -> AsyncConnection[DictRow]:
        """The connection that holds the node's vote, or one of its own where it does not vote."""
        found = self.ballot.connections.get(node)
        if found is None or found.closed:
            found = await connect(self.inventory.connections[node])
            self.ballot.connections[node] = found
        return found

    async def run(self, node: str, text: str, *, limit_s: float = QUERY_LIMIT_S) -> list[DictRow]:
        """One statement on one node."""
        return await query(await self.connection(node), text, timeout_s=limit_s, prepare=False)

    async def set(self, node: str, changes: dict[str, str | None]) -> None:
        """ALTER SYSTEM, reload, and read every value back. None = RESET. Raises StepError."""
        for name, value in changes.items():
            try:
                await self.run(node, alter_system(name, value))
            except psycopg.Error as error:
                if (error.sqlstate or "")[:2] not in NOT_DONE:
                    self.altered.add(node)
                raise
            self.altered.add(node)
        await self.run(node, "SELECT pg_reload_conf()")
        until_s = time.monotonic() + QUERY_LIMIT_S
        for name, value in changes.items():
            while value is not None:
                rows = await self.run(node, f"SELECT current_setting({literal(name)}) AS value")
                if rows[0]["value"] == value:
                    break
                if time.monotonic() > until_s:
                    raise StepError(
                        f"{node} did not take {name}",
                        why="a reload was ignored",
                        hint="replctl doctor shows syntax errors in its configuration",
                    )
                await asyncio.sleep(POLL_S)

    async def cut(self, node: str, means: str) -> None:
        """Take the upstream away and wait until nothing is connected, in two rounds."""
        if node not in self.found_conninfo:
            rows = await self.run(node, "SELECT current_setting('primary_conninfo') AS value")
            self.found_conninfo[node] = rows[0]["value"]
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

    async def _remember_replay(self, node: str) -> None:
        """What a cut that cannot be a plain one changes beside the upstream."""
        if node in self.found_settings:
            return
        text = HELD_SETTINGS.for_version((await self.connection(node)).info.server_version)
        self.found_settings[node] = {row["name"]: row["own"] for row in await self.run(node, text)}
        paused = await self.run(node, "SELECT pg_is_wal_replay_paused() AS paused")
        self.found_paused |= {node} if paused[0]["paused"] else set()

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

    async def positions(self, nodes: list[str]) -> dict[str, Position]:
        """Where the WAL of these nodes ends, by IDENTIFY_SYSTEM; a node that does not tell is left out."""
        found = await asyncio.gather(*(self._identify(n) for n in nodes), return_exceptions=True)
        return {n: p for n, p in zip(nodes, found, strict=True) if isinstance(p, Position)}

    async def _replication(self, node: str) -> AsyncConnection[DictRow]:
        connection = self.replication.get(node)
        if connection is None or connection.closed:
            connection = await connect(self.inventory.connections[node], replication=True)
            self.replication[node] = connection
        return connection

    async def _identify(self, node: str) -> Position:
        connection = await self._replication(node)
        row = (await query(connection, "IDENTIFY_SYSTEM", timeout_s=QUERY_LIMIT_S, prepare=False))[0]
        return Position(timeline=int(row["timeline"]), lsn=Lsn.parse(row["xlogpos"]))

    async def forks(self, node: str, timeline: int) -> dict[int, Lsn] | None:
        """Where the timelines before this one ended, by TIMELINE_HISTORY; None where it does not tell."""
        if timeline < 2:
            return {}
        try:
            connection = await self._replication(node)
            rows = await query(
                connection, f"TIMELINE_HISTORY {int(timeline)}", timeout_s=QUERY_LIMIT_S, prepare=False
            )
        except (NodeError, psycopg.Error):
            return None
        content = rows[0]["content"]
        return parse_history(content.decode() if isinstance(content, bytes) else str(content))

    async def promote(self, node: str) -> None:
        """Promote, and wake the startup process until recovery has ended.

        A promotion just after the receiver's death can leave it asleep for wal_retrieve_retry_interval.
        All that was received is replayed first: queries in the way of that are ended.
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

    async def restore(self, node: str, lost: str | None) -> None:
        """Give a cut node the upstream that it had, or one built from [replication]; read it back."""
        before = self.found_conninfo.get(node)
        if before and node not in self.altered:
            return  # it refused to be changed
        if not before and lost is not None:
            before = self.conninfo(node, lost)
        if not before:
            raise StepError(f"the upstream of {node} is not known", hint="set its primary_conninfo by hand")
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
            position = await self._identify(step.node)
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

    async def run_fence(self, node: str) -> None:
        """The inventory's fence command: exit code 0 = the node is provably off."""
        argv = self.inventory.commands[node].fence
        limit_s = self.inventory.settings.failover.fence_timeout_s
        if argv is None:
            raise StepError(f"{node} has no fence command")
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            why = f"{argv[0]}: {error.strerror}"
            raise StepError(f"the fence command of {node} cannot be started", why=why) from None
        try:
            code = await asyncio.wait_for(process.wait(), limit_s)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise StepError(f"the fence command of {node} did not end", why=f"within {limit_s:g} s") from None
        if code != 0:
            raise StepError(f"the fence command of {node} failed", why=f"exit code {code}")

    async def fence(self, node: str) -> bool:
        """Make writing on a reachable old primary impossible: the ladder, as far as the role may climb.

        Commits wait for a replica that does not exist, sessions are read-only by default, those that are
        open end; and where the role may write server files, the next start is as a replica. Returns whether
        that last rung was reached. Raises StepError.
        """
        with told(f"fence {node}"):
            await self.set(node, FENCE)
            await self.run(node, END_SESSIONS)
            return await self._leave_signal(node)

    async def _leave_signal(self, node: str) -> bool:
        """Leave a standby.signal file, which outlives a restart and a change of settings."""
        try:
            rows = await self.run(node, MAY_WRITE_FILES)
            if not rows[0]["may"]:
                return False
            signal = literal(rows[0]["place"] + "/standby.signal")
            await self.run(node, f"COPY (SELECT 1 WHERE false) TO {signal}")
        except psycopg.Error:
            return False
        return True

    async def unfence(self, node: str, synchronous: str | None) -> None:
        """Take the fence away; `synchronous` = what synchronous_standby_names was. Raises StepError."""
        with told(f"unfence {node}"):
            await self.set(node, {"synchronous_standby_names": synchronous, READ_ONLY: None})
            until_s = time.monotonic() + QUERY_LIMIT_S
            while (await self.run(node, IS_FENCED))[0]["fenced"]:
                if time.monotonic() > until_s:
                    raise StepError(
                        f"{node} is still fenced",
                        why="its configuration files say so, or a reload was ignored",
                        hint="look for replctl_fenced in pg_file_settings",
                    )
                await asyncio.sleep(POLL_S)

    async def set_synchronous(self, node: str, names: str) -> None:
        """Change whom commits wait for. Raises StepError."""
        with told(f"set synchronous_standby_names of {node}"):
            await self.set(node, {"synchronous_standby_names": names})

    async def hang_up(self) -> None:
        """Close the replication connections; votes stay."""
        await asyncio.gather(*(close(c) for c in self.replication.values()))
        self.replication.clear()

    async def close(self) -> None:
        """Give the votes back and hang up."""
        await self.hang_up()
        await self.ballot.release()


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Every failure as a StepError."""
    try:
        yield
    except NodeError as error:
        raise StepError(what, why=f"{error.cause}: {error.message}") from None
    except psycopg.Error as error:
        raise StepError(what, why=str(error).splitlines()[0]) from None


def fence_statements() -> list[str]:
    """What a fence runs, as it would be typed in psql."""
    settings = [f"{alter_system(name, value)};" for name, value in FENCE.items()]
    signal = "COPY (SELECT 1 WHERE false) TO '(data_directory)/standby.signal';  -- where the role may"
    return [*settings, "SELECT pg_reload_conf();", f"{END_SESSIONS};", signal]


def unfence_statements(synchronous: str | None) -> list[str]:
    """What taking it away runs."""
    changes = {"synchronous_standby_names": synchronous, READ_ONLY: None}
    return [*(f"{alter_system(n, v)};" for n, v in changes.items()), "SELECT pg_reload_conf();"]


def _is_cut(row: DictRow) -> bool:
    alone = row["receivers_shown"] == 0 and row["receivers"] == 0
    return bool(row["no_upstream"]) and alone and row["startup_wait_event"] in CUT_WAIT_EVENTS


def parse_history(content: str) -> dict[int, Lsn]:
    """The lines of a timeline history file: where each older timeline ended.

    https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES
    """
    forks: dict[int, Lsn] = {}
    for line in content.splitlines():
        words = line.split("\t")
        if len(words) >= 2 and words[0].strip().isdecimal():
            forks[int(words[0])] = Lsn.parse(words[1].strip())
    return forks


def literal(text: str) -> str:
    """An SQL literal."""
    return sql.Literal(text).as_string(None)


def alter_system(name: str, value: str | None) -> str:
    """ALTER SYSTEM for one parameter; the name is one of ours."""
    if value is None:
        return f"ALTER SYSTEM RESET {name}"
    return f"ALTER SYSTEM SET {name} = {literal(value)}"


def statements(step: Step, hands: Hands) -> list[str]:
    """What a step runs, as it would be typed in psql; secrets are left out."""
    match step:
        case TakeVotes():
            return [f"{' '.join(hands.ballot.take_text.split())};"]
        case Cut():
            found = [f"{alter_system('primary_conninfo', '')};", "SELECT pg_reload_conf();"]
            if step.means == "timeout":
                found.insert(1, f"{alter_system('wal_receiver_timeout', '1ms')};")
            if step.means == "replay":
                found.insert(1, f"{alter_system('recovery_min_apply_delay', '0')};")
                found += ["SELECT pg_wal_replay_resume();", f"{END_READERS};"]
            return found
        case SetSynchronous():
            changed = alter_system("synchronous_standby_names", step.names)
            return [f"{changed};", "SELECT pg_reload_conf();"]
        case Promote():
            within = f"(now that the votes are shown, and {PROMOTE_WITHIN_S:g} s)"
            return [f"SELECT pg_promote(wait => false) WHERE clock_timestamp() < {within};"]
        case CreateSlot():
            return [f"SELECT pg_create_physical_replication_slot({literal(step.slot)}, true);"]
        case Repoint():
            found = [f"{alter_system('primary_conninfo', _shown(hands.conninfo(step.node, step.upstream)))};"]
            slot = hands.inventory.settings.slot_name(step.node)
            if slot is not None:
                found.append(f"{alter_system('primary_slot_name', slot)};")
            return [*found, "SELECT pg_reload_conf();"]
        case Checkpoint():
            return ["CHECKPOINT;"]
        case ProveSilence():
            what_it_has = "(what it has)"
            return [
                f"{alter_system('primary_conninfo', f'{what_it_has} keepalives_idle=60')};",
                "SELECT pg_reload_conf();",
                f"{alter_system('primary_conninfo', what_it_has)};",
                "SELECT pg_reload_conf();",
            ]
        case FastForward():
            return [
                f"{alter_system('primary_conninfo', _shown(hands.conninfo(step.node, step.source)))};",
                "SELECT pg_reload_conf();",
                f"{alter_system('primary_conninfo', '')};",
                "SELECT pg_reload_conf();",
            ]
        case FenceCommand():
            return list(hands.inventory.commands[step.node].fence or ())


def _shown(conninfo: str) -> str:
    """The same without a password."""
    parts = conninfo_to_dict(conninfo)
    return make_conninfo("", **{k: v for k, v in parts.items() if k not in SECRETS})
