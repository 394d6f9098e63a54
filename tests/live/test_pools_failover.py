"""Automatic failover under an application's load: what its pools write, where, and what they raise."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from replctl.adapters.async_pools import AsyncPools
from replctl.adapters.pools import Pools
from replctl.errors import NodeSwitched, TransactionOutcomeUnknown
from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.pg.monitor import Monitor
from tests.live.failover_support import GRACES, Auto, ask, value, wait_streaming, write_inventory
from tests.live.pools_support import APP, KEYS, port_of
from tests.support import wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.lab(sync="ANY 1")]

WRITERS = 4
PAUSE_S = 0.01
RECOVERY_LIMIT_S = 2.0
TABLE = ("CREATE TABLE sold (n bigint, node int)", "GRANT ALL ON sold TO PUBLIC")
SELL = "INSERT INTO sold VALUES (%s, current_setting('port')::int)"


class Shop:
    """Writers that go on until told to stop, and what they met with."""

    def __init__(self, lab: Lab) -> None:
        # Asked once: the lab looks through every process of the machine each time.
        self.names = {node.port: name for name, node in lab.nodes.items()}
        self.stop = threading.Event()
        self.acknowledged: list[tuple[float, int, str]] = []  # when (monotonic), what, by which node
        self.raised: list[BaseException] = []
        self.stale: list[int] = []

    def count(self, node: str) -> int:
        """How many rows this node has acknowledged so far."""
        return sum(1 for _, _, by in list(self.acknowledged) if by == node)

    def sell(self, pools: Pools, writer: int) -> None:
        """One thread: each row is read again, wherever its unit of work reads."""
        n = writer
        while not self.stop.wait(PAUSE_S):
            n += WRITERS
            try:
                scope = pools.monitor.new_scope(keys=KEYS)
                with pools.connection(scope=scope) as connection:
                    connection.execute(SELL, (n,))
                    node = self.names[port_of(connection)]
                self.acknowledged.append((time.monotonic(), n, node))
                with pools.connection(read=True, scope=scope) as connection:
                    row = connection.execute("SELECT count(*) FROM sold WHERE n = %s", (n,)).fetchone()
                    if row != (1,):
                        self.stale.append(n)
            except Exception as error:
                self.raised.append(error)

    async def sell_async(self, pools: AsyncPools, writer: int) -> None:
        """One task, the same."""
        n = writer
        while not self.stop.is_set():
            await asyncio.sleep(PAUSE_S)
            n += WRITERS
            try:
                scope = pools.monitor.new_scope(keys=KEYS)
                async with pools.connection(scope=scope) as connection:
                    await connection.execute(SELL, (n,))
                    node = self.names[port_of(connection)]
                self.acknowledged.append((time.monotonic(), n, node))
                async with pools.connection(read=True, scope=scope) as connection:
                    cursor = await connection.execute("SELECT count(*) FROM sold WHERE n = %s", (n,))
                    if await cursor.fetchone() != (1,):
                        self.stale.append(n)
            except Exception as error:
                self.raised.append(error)


@contextmanager
def selling(shop: Shop, monitor: Monitor, *, in_tasks: bool) -> Iterator[None]:
    """Its writers at work, as threads or as tasks."""

    async def tasks() -> None:
        async with AsyncPools(monitor, APP) as pools:
            await asyncio.gather(*(shop.sell_async(pools, n) for n in range(WRITERS)))

    with Pools(monitor, APP) as pools:
        works: list[Callable[[], None]] = [lambda n=n: shop.sell(pools, n) for n in range(WRITERS)]  # type: ignore[misc]
        if in_tasks:
            works = [lambda: asyncio.run(tasks())]
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            shop.stop.set()
            for thread in threads:
                thread.join(40)
        assert not any(thread.is_alive() for thread in threads)


def promoted(lab: Lab, names: set[str]) -> tuple[str, float]:
    """Which of these became the primary, and when that was first seen (monotonic)."""
    found: list[tuple[str, float]] = []

    def look() -> bool:
        for name in names:
            if not value(lab, name, "SELECT pg_is_in_recovery()"):
                found.append((name, time.monotonic()))
        return bool(found)

    wait_until(look, "a replica is promoted", limit_s=40)
    return found[0]


def prepare(lab: Lab) -> Path:
    """A table that the replicas have, and an inventory for the controller and the application."""
    wait_streaming(lab, "pg1", "pg2", "pg3")
    ask(lab, "pg1", *TABLE)
    return write_inventory(lab, failover=GRACES)


@pytest.mark.parametrize("in_tasks", [False, True], ids=["threads", "tasks"])
@pytest.mark.parametrize("loss", ["kill", "freeze"])
def test_a_failover_loses_no_acknowledged_row_and_is_over_within_two_seconds(
    lab: Lab, loss: str, in_tasks: bool
) -> None:
    inventory = prepare(lab)
    shop = Shop(lab)
    with ExitStack() as stack:
        stack.enter_context(Auto(inventory))
        monitor = stack.enter_context(Monitor(load_one(inventory)))
        stack.enter_context(selling(shop, monitor, in_tasks=in_tasks))
        wait_until(lambda: shop.count("pg1") > 50, "it sells")
        getattr(lab, loss)("pg1")
        new, promoted_s = promoted(lab, {"pg2", "pg3"})
        wait_until(lambda: shop.count(new) > 50, "it sells again", limit_s=30)
        # The old primary comes back while they write.
        lab.start("pg1") if loss == "kill" else lab.thaw("pg1")
        seen = shop.count(new)
        wait_until(lambda: shop.count(new) > seen + 50, "it goes on", limit_s=30)
    first_s = min(at for at, _, by in shop.acknowledged if by == new)
    print(f"recovery {first_s - promoted_s:.2f} s; {len(shop.raised)} errors")
    kept = {n for (n,) in ask(lab, new, "SELECT n FROM sold")}
    assert {type(error) for error in shop.raised} <= {NodeSwitched, TransactionOutcomeUnknown}, shop.raised
    assert {n for _, n, _ in shop.acknowledged} - kept == set()
    assert shop.stale == []
    assert {by for at, _, by in shop.acknowledged if at > first_s} == {new}
    assert first_s - promoted_s < RECOVERY_LIMIT_S
