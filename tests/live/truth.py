"""The true lag of replicas, known from outside, beside what replctl and the usual formulas say of it.

A writer commits numbered rows on the primary and notes when each commit came back. A replica that does
not show row n is behind by the time since row n was committed; one that shows all of them is not behind.
No server's idea of lag goes into that. Bytes are asked of the servers themselves, as superuser.

What is shown cannot be asked at the very moment of the truth, so the truth is taken before and after
each look: a right answer lies between both.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psycopg
from psycopg import sql

from replctl.core.lag import LagHistory
from replctl.core.report import Report, report
from replctl.core.status import NodeStatus
from replctl.inventory import Inventory
from replctl.lab import Lab
from replctl.pg.observe import Observer
from tests.support import wait_until

TABLE = "lag_truth"
PACE_S = 0.05
PAD_BYTES = 100
CONNECT_TIMEOUT_S = 5

# What monitoring tools use, word for word.
USUAL = """
SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END::float8"""
NAIVE = "SELECT extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8"
REPLAY_LAG = """
SELECT extract(epoch FROM replay_lag)::float8 FROM pg_stat_replication WHERE application_name = %s"""
LAST_ROW = f"SELECT coalesce(max(id), 0) FROM {TABLE}"
POSITION = """
SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                            ELSE pg_current_wal_lsn() END, '0/0')::bigint"""


def superuser(lab: Lab, node: str) -> psycopg.Connection[Any]:
    """An autocommit connection that may see everything."""
    return psycopg.connect(lab.dsn(node), autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)


class Writer:
    """Commits numbered rows on one node at a known pace, and notes when each commit came back.

    It has no connection while it rests, so the node may be restarted meanwhile. A node that is gone ends
    the writing: what was acknowledged is in the ledger. Nobody else commits: autovacuum is off.
    """

    def __init__(self, lab: Lab, node: str = "pg1", *, pace_s: float = PACE_S) -> None:
        self.committed_s: list[float] = []
        self.pace_s = pace_s
        self.pad_bytes = PAD_BYTES  # of the rows from now on
        self._lab, self._node = lab, node
        self._writing, self._idle, self._over = threading.Event(), threading.Event(), threading.Event()
        set_on(lab, node, autovacuum="off")
        with superuser(lab, node) as connection:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (id bigint PRIMARY KEY, pad text)")
            connection.execute(f"ALTER TABLE {TABLE} ALTER pad SET STORAGE EXTERNAL")
            row = connection.execute(LAST_ROW).fetchone()
        self.before: int = row[0] if row else 0  # rows of earlier writers
        self._thread = threading.Thread(target=self._work, name="truth-writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        self.resume()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        self._thread.join(timeout=10)

    def resume(self) -> None:
        """Write on."""
        self._idle.clear()
        self._writing.set()

    def rest(self) -> None:
        """Commit nothing from now on: returns when the last commit has come back."""
        self._writing.clear()
        if not self._idle.wait(timeout=10):
            raise AssertionError("the writer did not come to rest within 10 s")

    def missing_for_s(self, last_row: int) -> float:
        """For how long a node that shows rows up to this one has lacked the next; 0 when it has all."""
        now_s = time.monotonic()
        missing = self.committed_s[max(0, last_row - self.before) :][:1]
        return now_s - missing[0] if missing else 0.0

    def _work(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        with contextlib.suppress(psycopg.Error):
            while not self._over.is_set():
                if not self._writing.wait(timeout=0.01):
                    if connection is not None:
                        connection.close()
                        connection = None
                    self._idle.set()
                    continue
                if connection is None:
                    connection = superuser(self._lab, self._node)
                due_s = time.monotonic() + self.pace_s
                number = self.before + len(self.committed_s) + 1
                connection.execute(
                    f"INSERT INTO {TABLE} VALUES (%s, repeat('x', %s))", (number, self.pad_bytes)
                )
                self.committed_s.append(time.monotonic())
                self._over.wait(max(0.0, due_s - time.monotonic()))
        if connection is not None:
            connection.close()
        self._idle.set()


@dataclass(frozen=True, slots=True)
class _Truth:
    """One node at one moment. Without an answer nothing is known: behind by anything."""

    behind_s: float
    position: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One replica at one look: what was true before and after it, and what was shown."""

    at_s: float  # since the watch began
    least_s: float
    most_s: float
    least_bytes: int | None  # None: no primary to ask
    most_bytes: int | None
    shown: NodeStatus
    usual_s: float | None
    naive_s: float | None
    replay_lag_s: float | None

    @property
    def error_s(self) -> float | None:
        """How far what is shown is from what is true; None when nothing is shown."""
        return self.off(self.shown.lag_s)

    def off(self, said_s: float | None) -> float | None:
        """How far a number of seconds is from what is true."""
        return None if said_s is None else max(0.0, self.least_s - said_s, said_s - self.most_s)

    def __str__(self) -> str:
        node, lag = self.shown, self.shown.lag
        return (
            f"{self.at_s:5.1f} s {node.name} {node.state}: true {self.least_s:.2f} to {self.most_s:.2f} s"
            f" and {self.least_bytes} to {self.most_bytes} B; shown {node.lag_s} s {node.lag_source}"
            f" {node.lag_bound}, {lag.lag_bytes} = {lag.transport_lag_bytes} + {lag.apply_lag_bytes} B;"
            f" usual {self.usual_s}, naive {self.naive_s}, replay_lag {self.replay_lag_s}"
        )


class Watch:
    """Looks at a cluster as `status --watch` does, and beside it at the truth.

    `inventory` says as whom to look. The upstream of each replica is the lab's.
    """

    def __init__(self, lab: Lab, inventory: Inventory, writer: Writer, *, interval_s: float = 0.5) -> None:
        self.interval_s = interval_s
        self.primary = "pg1"
        self.silent: set[str] = set()  # nodes that would keep whoever asks them waiting
        self.history = LagHistory()
        self.last: Report | None = None
        self._lab = lab
        self._writer = writer
        self._settings = inventory.settings
        self._names = [node.name for node in inventory.settings.nodes]
        self._asked: dict[str, psycopg.Connection[Any]] = {}
        self._runner = asyncio.Runner()
        self._observer = Observer(inventory)
        self._began_s = self._due_s = time.monotonic()

    def __enter__(self) -> Watch:
        wait_until(
            lambda: all(map(self._has_begun, self._names)), "all nodes have the rows of earlier writers"
        )
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._runner.run(self._observer.close())
        self._runner.close()
        for connection in self._asked.values():
            connection.close()

    def follow(self, seconds: float) -> list[dict[str, Reading]]:
        """One look after the other, at the interval, for so long."""
        until_s = time.monotonic() + seconds
        looks = []
        while time.monotonic() < until_s:
            looks.append(self.look())
        return looks

    def follow_until(
        self, condition: Callable[[dict[str, Reading]], object], what: str, *, limit_s: float = 15.0
    ) -> list[dict[str, Reading]]:
        """Look until a look is as wanted; the last one returned is."""
        until_s = time.monotonic() + limit_s
        looks = [self.look()]
        while not condition(looks[-1]):
            if time.monotonic() > until_s:
                seen = "\n".join(str(reading) for reading in looks[-1].values())
                raise AssertionError(f"waited {limit_s:g} s in vain until {what}; at last:\n{seen}")
            looks.append(self.look())
        return looks

    def look(self) -> dict[str, Reading]:
        """The next look, when it is due: every node that answers as a replica, by name."""
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        self._due_s = time.monotonic() + self.interval_s
        before = {name: self._truth(name) for name in self._names}
        state = self._runner.run(self._observer.observe(limit_s=5.0))
        after = {name: self._truth(name) for name in self._names}
        self.last = report(state, self._settings, self.history)
        self.history = self.last.status.history
        return {n.name: self._reading(n, before, after) for n in self.last.status.replicas}

    def formulas(self, node: str) -> tuple[float | None, float | None]:
        """What the usual and the naive formula say on a node, whatever it is."""
        return self._ask(node, USUAL), self._ask(node, NAIVE)

    def _reading(self, node: NodeStatus, before: dict[str, _Truth], after: dict[str, _Truth]) -> Reading:
        true_s = sorted((before[node.name].behind_s, after[node.name].behind_s))
        begin, end = before[self.primary].position, after[self.primary].position
        replayed, replayed_later = before[node.name].position, after[node.name].position
        known = None not in (begin, end, replayed, replayed_later)
        usual_s, naive_s = self.formulas(node.name)
        return Reading(
            at_s=time.monotonic() - self._began_s,
            least_s=true_s[0],
            most_s=true_s[1],
            least_bytes=begin - replayed_later if known else None,  # type: ignore[operator]  # known says so
            most_bytes=end - replayed if known else None,  # type: ignore[operator]  # known says so
            shown=node,
            usual_s=usual_s,
            naive_s=naive_s,
            replay_lag_s=self._ask(node.upstream or "", REPLAY_LAG, node.spec.application_name),
        )

    def _has_begun(self, name: str) -> bool:
        last_row = self._ask(name, LAST_ROW)
        return last_row is not None and last_row >= self._writer.before

    def _truth(self, name: str) -> _Truth:
        last_row = self._ask(name, LAST_ROW)
        if last_row is None:
            return _Truth(math.inf, None)
        return _Truth(self._writer.missing_for_s(last_row), self._ask(name, POSITION))

    def _ask(self, name: str, query: str, *values: object) -> Any:
        """One value, as superuser; None when the node does not answer."""
        if name not in self._names or name in self.silent:
            return None
        for _ in range(2):  # a connection from before a restart is broken; the next one tells
            try:
                if name not in self._asked:
                    self._asked[name] = superuser(self._lab, name)
                row = self._asked[name].execute(query.encode(), values).fetchone()
            except psycopg.Error:
                if (broken := self._asked.pop(name, None)) is not None:
                    broken.close()
            else:
                return row[0] if row else None
        return None


def set_on(lab: Lab, node: str, **settings: str) -> None:
    """Set what a reload takes over; an empty text resets."""
    with superuser(lab, node) as connection:
        for name, value in settings.items():
            statement = "ALTER SYSTEM SET {} = {}" if value else "ALTER SYSTEM RESET {}"
            connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")


@contextlib.contextmanager
def paused(lab: Lab, node: str) -> Iterator[None]:
    """Replay of a node stands still."""
    with superuser(lab, node) as connection:
        connection.execute("SELECT pg_wal_replay_pause()")
        wait_until(
            lambda: connection.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() == ("paused",),
            f"replay of {node} is paused",
        )
        try:
            yield
        finally:
            connection.execute("SELECT pg_wal_replay_resume()")


@contextlib.contextmanager
def cut(lab: Lab, node: str) -> Iterator[None]:
    """A node cannot reach its upstream."""
    lab.cut(node)
    try:
        yield
    finally:
        lab.mend(node)


@contextlib.contextmanager
def delayed(lab: Lab, node: str, delay: str) -> Iterator[None]:
    """A node replays later on purpose."""
    set_on(lab, node, recovery_min_apply_delay=delay)
    try:
        yield
    finally:
        set_on(lab, node, recovery_min_apply_delay="")


@contextlib.contextmanager
def archive_only(lab: Lab, node: str) -> Iterator[None]:
    """The primary archives, and a node has nothing else to be fed from."""
    archive = lab.directory / "archive"
    if not archive.exists():
        archive.mkdir()
        owner = lab.nodes["pg1"].data_directory.stat()
        os.chown(archive, owner.st_uid, owner.st_gid)
    set_on(lab, "pg1", archive_mode="on", archive_command=f"cp %p {archive}/%f")
    lab.stop("pg1")
    lab.start("pg1")
    with superuser(lab, node) as connection:
        row = connection.execute("SELECT current_setting('primary_conninfo')").fetchone()
    assert row is not None
    set_on(lab, node, restore_command=f"cp {archive}/%f %p", primary_conninfo="")
    try:
        yield
    finally:
        set_on(lab, node, restore_command="", primary_conninfo=row[0])
        set_on(lab, "pg1", archive_command="")


@contextlib.contextmanager
def open_transaction(lab: Lab, node: str = "pg1") -> Iterator[Callable[[str], None]]:
    """A transaction that does not end. What is yielded runs a statement in it."""
    with psycopg.connect(lab.dsn(node), connect_timeout=CONNECT_TIMEOUT_S) as connection:

        def execute(statement: str) -> None:
            connection.execute(statement.encode())

        try:
            yield execute
        finally:
            connection.rollback()
