"""An application under load while its primary is lost: what it is told, how long, and what is kept."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import select

from replctl.adapters.sqlalchemy import AsyncRouter, Router
from replctl.errors import NodeSwitched, ReplctlError, TransactionOutcomeUnknown
from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.pg.monitor import Monitor
from tests.live.failover_support import GRACES, Auto, ask, value, wait_streaming, write_inventory
from tests.live.test_monitor import QUICK
from tests.live.test_sqlalchemy import APPLICATION, Note, make_table
from tests.support import wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.lab(replicas=2, sync="ANY 1")]

WRITERS = 4
PAUSE_S = 0.005
RECOVERY_LIMIT_S = 2.0  # from the promotion on
NUMBER = "split_part(text, ' ', 2)::int"
TOLD = {NodeSwitched, TransactionOutcomeUnknown}


class Ledger:
    """What the writers were told."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, str]] = []  # when it was acknowledged, and what
        self.errors: Counter[type[BaseException]] = Counter()
        self.seen = itertools.count()
        self.stop = threading.Event()

    def next_text(self) -> str:
        return f"row {next(self.seen)}"

    def acknowledged(self, text: str) -> None:
        self.rows.append((time.monotonic(), text))

    def wait_for_more(self, what: str, count: int = 20) -> None:
        before = len(self.rows)
        wait_until(lambda: len(self.rows) >= before + count, what, limit_s=30)


def write_on(router: Router, ledger: Ledger) -> None:
    while not ledger.stop.wait(PAUSE_S):
        text = ledger.next_text()
        try:
            with router.write_session() as session:
                session.add(Note(text=text))
                session.flush()
                session.scalar(select(Note.id).limit(1))
            ledger.acknowledged(text)
        except ReplctlError as error:
            ledger.errors[type(error)] += 1


async def write_on_async(router: AsyncRouter, ledger: Ledger) -> None:
    while not ledger.stop.is_set():
        await asyncio.sleep(PAUSE_S)
        text = ledger.next_text()
        try:
            async with router.write_session() as session:
                session.add(Note(text=text))
                await session.flush()
                await session.scalar(select(Note.id).limit(1))
            ledger.acknowledged(text)
        except ReplctlError as error:
            ledger.errors[type(error)] += 1


def threads(monitor: Monitor, ledger: Ledger) -> None:
    with Router(monitor, **APPLICATION) as router:
        writers = [threading.Thread(target=write_on, args=(router, ledger)) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()


def tasks(monitor: Monitor, ledger: Ledger) -> None:
    async def run() -> None:
        async with AsyncRouter(monitor, **APPLICATION) as router:
            await asyncio.gather(*(write_on_async(router, ledger) for _ in range(WRITERS)))

    asyncio.run(run())


@contextmanager
def load(kind: str, monitor: Monitor) -> Iterator[Ledger]:
    ledger = Ledger()
    running = threading.Thread(target={"threads": threads, "tasks": tasks}[kind], args=(monitor, ledger))
    running.start()
    try:
        ledger.wait_for_more("it writes")
        yield ledger
    finally:
        ledger.stop.set()
        running.join(30)
        assert not running.is_alive()


def promotion(lab: Lab, limit_s: float = 40) -> tuple[str, float]:
    """Waits for one, and tells whom and when (monotonic)."""
    found: list[str] = []

    def promoted() -> bool:
        found[:] = [n for n in ("pg2", "pg3") if not value(lab, n, "SELECT pg_is_in_recovery()")]
        return bool(found)

    wait_until(promoted, "a replica is promoted", limit_s=limit_s)
    return found[0], time.monotonic()


@pytest.mark.parametrize(
    ("kind", "how"), [("threads", "kill"), ("tasks", "kill"), ("threads", "freeze"), ("tasks", "freeze")]
)
def test_a_failover_under_load_is_short_and_loses_nothing(lab: Lab, kind: str, how: str) -> None:
    wait_streaming(lab, "pg1", "pg2", "pg3")
    make_table(lab)
    inventory = write_inventory(lab, failover=GRACES, routing=QUICK)
    with Auto(inventory) as auto, Monitor(load_one(inventory)) as monitor, load(kind, monitor) as ledger:
        auto.wait_for("verdict", "alive")
        getattr(lab, how)("pg1")
        new, promoted_s = promotion(lab)
        wait_until(lambda: ledger.rows[-1][0] > promoted_s, "it writes to the new primary", limit_s=20)
        recovered_s = next(at_s for at_s, _ in list(ledger.rows) if at_s > promoted_s)
        ledger.wait_for_more("it goes on")
        auto.wait_for("done")
        newest = next(ledger.seen)
        if how == "freeze":
            lab.thaw("pg1")
        else:
            lab.start("pg1")  # as it was: on the older timeline
        ledger.wait_for_more("it writes beside the old primary")
        # Commits that it was frozen in may come to light there later: they are not meant.
        assert value(lab, "pg1", f"SELECT count(*) FROM note WHERE {NUMBER} > {newest}") == 0

    kept = {text for (text,) in ask(lab, new, "SELECT text FROM note")}
    assert {text for _, text in ledger.rows} - kept == set()
    # There may be none: what begins meanwhile waits for the new primary.
    assert set(ledger.errors) - TOLD == set()
    assert recovered_s - promoted_s < RECOVERY_LIMIT_S
    print(f"recovered {recovered_s - promoted_s:.3f} s after the promotion; {dict(ledger.errors)}")
