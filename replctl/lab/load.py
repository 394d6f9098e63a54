"""A write load on a lab, with a ledger of what was acknowledged: what did this incident cost?"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import psycopg

from replctl.errors import LabError, UsageError
from replctl.lab.build import LEDGER
from replctl.lab.ledger import LoadReport, Outage, Row, count_by_node, late_and_lost, longest_gap, outages
from replctl.lab.writers import Clock, OrdinaryClient, Writer

if TYPE_CHECKING:
    from replctl.lab.cluster import Lab

DEFAULT_INTERVAL_S = 0.02
DEFAULT_DEADLINE_S = 0.5
MAX_WRITERS = 50
_END_TIMEOUT_S = 10.0
# How long the end of a load waits for a primary to compare with.
_PRIMARY_TIMEOUT_S = 5.0


class Load:
    """Writers in a thread of their own, from `start` to `stop`; a context manager does both.

    `writers` write to whichever node accepts writes, each row with a deadline; each name in `pinned` is
    one more writer that knows only this node, like an application whose configuration is out of date.
    `ordinary` adds a plain libpq client whose outage is reported beside.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        interval_s: float = DEFAULT_INTERVAL_S,
        writers: int = 1,
        deadline_s: float = DEFAULT_DEADLINE_S,
        pinned: Sequence[str] = (),
        ordinary: bool = True,
    ) -> None:
        if not 0 <= writers <= MAX_WRITERS or not writers + len(pinned):
            raise UsageError(f"a load has between 1 and {MAX_WRITERS} writers, not {writers}")
        self._lab = lab
        self._interval_s = interval_s
        self._deadline_s = deadline_s
        self._ports = {node.name: node.port for node in lab.nodes.values()}
        if unknown := [name for name in pinned if name not in self._ports]:
            raise UsageError(f"the lab has no node {unknown[0]!r}", why=f"it has {', '.join(self._ports)}")
        self._targets = [self._ports] * writers + [{name: self._ports[name]} for name in pinned]
        self._ordinary = ordinary
        self.run = secrets.token_hex(4)
        self.ledger_file = lab.directory / f"ledger-{self.run}.csv"
        self._rows: list[Row] = []
        self._ordinary_at: list[float] = []
        self._writers: list[Writer] = []
        self._clock = Clock()
        self._started_at = self._ended_at = 0.0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._report: LoadReport | None = None

    def __enter__(self) -> Load:
        return self.start()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def start(self) -> Load:
        """Start writing. Returns at once; see wait_for_rows."""
        self._started_at = self._clock.now()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(ready,), name="lab load", daemon=True)
        self._thread.start()
        if not ready.wait(_END_TIMEOUT_S):
            raise LabError("the load did not start")
        return self

    def stop(self) -> LoadReport:
        """Stop writing, compare with the current primary, and report. A second call returns the same."""
        if self._report is None:
            if self._thread is None:
                raise LabError("the load was not started")
            if self._loop is not None and self._stopping is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                    self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_END_TIMEOUT_S)
            if self._thread.is_alive():
                raise LabError(f"the writers did not end within {_END_TIMEOUT_S:g} s")
            if self._failure is not None:
                raise self._failure
            self._report = self._compare()
        return self._report

    @property
    def report(self) -> LoadReport:
        """What `stop` returned."""
        return self.stop()

    @property
    def rows_acknowledged(self) -> int:
        """So far, by all writers but the ordinary client."""
        return len(self._rows)

    def outages_so_far(self) -> tuple[Outage, ...]:
        """The outages until now, one that goes on included."""
        return outages(
            [row.at for row in tuple(self._rows)],
            started_at=self._started_at,
            ended_at=self._ended_at or self._clock.now(),
            interval_s=self._interval_s,
        )

    def wait_for_rows(self, count: int = 1, *, timeout_s: float = 10.0) -> None:
        """Wait until this many more rows have been acknowledged. Raises LabError after the limit."""
        deadline_s = time.monotonic() + timeout_s
        target = len(self._rows) + count
        while len(self._rows) < target:
            if time.monotonic() > deadline_s or self._failure is not None:
                done = count - (target - len(self._rows))
                raise LabError(f"{done} of {count} rows were acknowledged within {timeout_s:g} s")
            time.sleep(0.005)

    def _main(self, ready: threading.Event) -> None:
        try:
            with self.ledger_file.open("w") as file:
                file.write("writer,id,node,timeline,acknowledged_at\n")
                asyncio.run(self._write(file, ready))
        except BaseException as failure:
            self._failure = failure
        finally:
            self._ended_at = self._clock.now()
            ready.set()

    async def _write(self, file: TextIO, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        ready.set()

        def acknowledge(row: Row) -> None:
            self._rows.append(row)
            file.write(f"{row.writer},{row.id},{row.node},{row.timeline},{row.at:.6f}\n")

        self._writers = [
            Writer(
                run=self.run,
                number=number,
                ports=ports,
                interval_s=self._interval_s,
                deadline_s=self._deadline_s,
                clock=self._clock,
                acknowledge=acknowledge,
                stopping=self._stopping,
            )
            for number, ports in enumerate(self._targets, start=1)
        ]
        clients = [writer.write() for writer in self._writers]
        if self._ordinary:
            ordinary = OrdinaryClient(
                run=self.run,
                ports=self._ports,
                interval_s=self._interval_s,
                clock=self._clock,
                stopping=self._stopping,
                acknowledged_at=self._ordinary_at,
            )
            clients.append(ordinary.write())
        await asyncio.gather(*clients)

    def _compare(self) -> LoadReport:
        primary, present = self._present()
        late = lost = None
        if present is not None:
            late, lost = late_and_lost(self._rows, present, self._timelines_began())
        unconfirmed = sum(writer.unconfirmed for writer in self._writers)
        return LoadReport(
            run=self.run,
            started_at=self._started_at,
            took_s=self._ended_at - self._started_at,
            writers=len(self._writers),
            interval_s=self._interval_s,
            deadline_s=self._deadline_s,
            rows_acknowledged=len(self._rows),
            rows_unanswered=sum(writer.sent for writer in self._writers) - len(self._rows) - unconfirmed,
            rows_unconfirmed=unconfirmed,
            acknowledged_by=count_by_node(self._rows),
            compared_with=primary,
            rows_lost=lost,
            rows_late=late,
            outages=self.outages_so_far(),
            longest_gap_s=longest_gap([row.at for row in self._rows]),
            ordinary_outages=self._ordinary_outages(),
            ordinary_rows=len(self._ordinary_at) if self._ordinary else None,
            ledger_file=self.ledger_file,
        )

    def _ordinary_outages(self) -> tuple[Outage, ...] | None:
        if not self._ordinary:
            return None
        return outages(
            self._ordinary_at,
            started_at=self._started_at,
            ended_at=self._ended_at,
            interval_s=self._interval_s,
        )

    def _present(self) -> tuple[str | None, set[tuple[int, int]] | None]:
        """The current primary and the rows of this run that it has; (None, None) when there is none."""
        deadline_s = time.monotonic() + _PRIMARY_TIMEOUT_S
        while True:
            name = self._lab.primary()
            if name is not None:
                query = f"SELECT writer, id FROM {LEDGER} WHERE run = %s"  # noqa: S608
                with (
                    contextlib.suppress(psycopg.Error),
                    psycopg.connect(self._lab.dsn(name), autocommit=True, connect_timeout=5) as connection,
                ):
                    return name, {(row[0], row[1]) for row in connection.execute(query.encode(), (self.run,))}
            if time.monotonic() > deadline_s:
                return None, None
            time.sleep(0.05)

    def _timelines_began(self) -> dict[int, float]:
        """When each timeline began (Unix time).

        A promotion writes the history file before it accepts a write. Replicas fetch that file later, so
        the earliest is the promoted node's own.
        """
        began: dict[int, float] = {}
        for node in self._lab.nodes.values():
            with contextlib.suppress(OSError):
                for file in Path(node.data_directory, "pg_wal").glob("*.history"):
                    timeline, at = int(file.stem, 16), file.stat().st_mtime
                    began[timeline] = min(at, began.get(timeline, at))
        return began
