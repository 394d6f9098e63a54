"""Async pools on a real cluster: tasks, event loops, and the same errors as the sync ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from replctl.adapters.async_pools import AsyncPools
from replctl.core.routing import current_scope, entered
from replctl.errors import NodeSwitched, NotReplicated, PoolsClosed, TransactionOutcomeUnknown
from replctl.lab import Lab
from replctl.pg.monitor import Monitor
from tests.live.failover_support import ask, value, wait_streaming
from tests.live.pools_support import APP, KEYS, name_of, pause, resume, shop
from tests.live.test_pools import INSERT, NEWEST, terminate
from tests.support import wait_until

pytestmark = pytest.mark.live


def during(monitor: Monitor, work: Callable[[AsyncPools], Awaitable[Any]], **options: Any) -> Any:
    """What `work` gives, in a loop of its own."""

    async def main() -> Any:
        async with AsyncPools(monitor, {**APP, **options}) as pools:
            return await work(pools)

    return asyncio.run(main())


async def newest(pools: AsyncPools, **options: Any) -> tuple[int, Any]:
    async with pools.connection(read=True, **options) as connection:
        row = await (await connection.execute(NEWEST)).fetchone()
        return row[0], connection


def test_every_read_of_a_unit_of_work_sees_its_writes_wherever_it_is_served(lab: Lab) -> None:
    async def work(pools: AsyncPools) -> set[str]:
        served = set()
        with entered("lab", pools.monitor.new_scope(keys=KEYS)) as scope:
            for n in range(40):
                if n % 20 in (5, 15):
                    (pause if n % 20 == 5 else resume)(lab, "pg2")
                async with pools.connection() as connection:
                    await connection.execute(INSERT, (n,))
                if n % 2:
                    await pools.monitor.wait_async(pools.monitor.snapshot, 2)
                seen, connection = await newest(pools)
                served.add(name_of(lab, connection))
                assert seen == n
        assert not scope.is_dirty
        return served

    with shop(lab) as monitor:
        assert during(monitor, work) == {"pg1", "pg2", "pg3"}


def test_a_wait_for_replay_blocks_no_other_task(lab: Lab) -> None:
    async def work(pools: AsyncPools) -> tuple[Any, bool]:
        scope = pools.monitor.new_scope(keys=KEYS)
        async with pools.connection(scope=scope) as connection:
            await connection.execute(INSERT, (1,))
        reading = asyncio.create_task(newest(pools, scope=scope))
        await asyncio.to_thread(resume, lab, "pg2", "pg3")
        seen, connection = await reading
        return seen, name_of(lab, connection) != "pg1"

    with shop(lab, on_behind="wait", wait_s=10) as monitor:
        pause(lab, "pg2", "pg3")
        assert during(monitor, work) == (1, True)


def test_tasks_that_were_gathered_share_their_scope_and_others_do_not(lab: Lab) -> None:
    async def unit(pools: AsyncPools, n: int) -> bool:
        async def write() -> None:
            async with pools.connection() as connection:
                await connection.execute(INSERT, (n,))

        async def nothing() -> None:
            await asyncio.sleep(0)

        with entered("lab", pools.monitor.new_scope(keys=KEYS)) as scope:
            await asyncio.gather(*((write(), write()) if n % 2 else (nothing(), nothing())))
            assert current_scope("lab") is scope
        return scope.has_changed and not scope.is_dirty

    async def work(pools: AsyncPools) -> list[bool]:
        found = await asyncio.gather(*(unit(pools, n) for n in range(6)))
        assert current_scope("lab") is None
        return found

    with shop(lab) as monitor:
        assert during(monitor, work) == [False, True] * 3


def test_a_task_that_is_cancelled_gives_its_connection_back_and_commits_nothing(lab: Lab) -> None:
    async def work(pools: AsyncPools) -> Any:
        async def endless() -> None:
            async with pools.connection() as connection:
                await connection.execute(INSERT, (1,))
                await connection.execute("SELECT pg_sleep(60)")

        task = asyncio.create_task(endless())
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        await asyncio.to_thread(wait_until, lambda: value(lab, "pg1", sleeping), "it sleeps")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with pools.connection() as connection:
            await connection.execute(INSERT, (2,))
        return await asyncio.to_thread(value, lab, "pg1", "SELECT array_agg(n) FROM notes")

    with shop(lab) as monitor:

        async def main() -> Any:
            async with AsyncPools(monitor, APP, max_size=1) as pools:
                return await work(pools)

        assert asyncio.run(main()) == [2]


@pytest.mark.lab(sync="ANY 1")
def test_errors_tell_what_became_of_the_transaction(lab: Lab) -> None:
    wait_streaming(lab, "pg1", "pg2", "pg3")

    async def lost_early(pools: AsyncPools) -> None:
        ending = terminate(lab, "wait_event = 'PgSleep'")
        with pytest.raises(NodeSwitched):
            async with pools.connection() as connection, connection.transaction():
                await connection.execute(INSERT, (1,))
                await connection.execute("SELECT pg_sleep(30)")
        await asyncio.to_thread(ending.join)

    async def lost_late(pools: AsyncPools) -> None:
        ending = terminate(lab, "wait_event = 'SyncRep'")
        with pytest.raises(TransactionOutcomeUnknown):
            async with pools.connection() as connection, connection.transaction():
                await connection.execute(INSERT, (2,))
        await asyncio.to_thread(ending.join)

    async def cancelled(pools: AsyncPools) -> None:
        query = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        thread = threading.Thread(target=lambda: wait_until(lambda: value(lab, "pg1", query), "it waits"))
        thread.start()
        with pytest.raises(NotReplicated):
            async with pools.connection() as connection:
                await connection.execute(INSERT, (3,))
        await asyncio.to_thread(thread.join)

    async def refused(pools: AsyncPools) -> None:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            async with pools.connection(read=True) as connection:
                await connection.execute(INSERT, (4,))

    with shop(lab) as monitor:
        during(monitor, lost_early)
        during(monitor, refused)
        for name in ("pg2", "pg3"):
            lab.freeze(name)
        during(monitor, lost_late)
        during(monitor, cancelled)
        assert value(lab, "pg1", "SELECT array_agg(n ORDER BY n) FROM notes") == [2, 3]


def test_pools_of_a_loop_that_is_closed_are_refused_in_another(lab: Lab) -> None:
    async def use(pools: AsyncPools) -> None:
        await newest(pools)

    with shop(lab) as monitor:

        async def first() -> AsyncPools:
            pools = AsyncPools(monitor, APP)
            await newest(pools)
            await pools.close()
            with pytest.raises(PoolsClosed, match="the pools were closed"):
                await newest(pools)
            return AsyncPools(monitor, APP)

        async def bind(pools: AsyncPools) -> AsyncPools:
            pools._refuse_other_loops()
            return pools

        pools = asyncio.run(bind(asyncio.run(first())))
        with pytest.raises(PoolsClosed, match="belong to another event loop: it is closed"):
            asyncio.run(use(pools))


def test_after_a_promotion_tasks_write_to_the_new_primary(lab: Lab) -> None:
    async def work(pools: AsyncPools) -> str:
        for _ in range(2):
            await newest(pools)
        await asyncio.to_thread(lab.kill, "pg1")
        await asyncio.to_thread(ask, lab, "pg2", "SELECT pg_promote()")
        async with pools.connection(timeout_s=20) as connection:
            await connection.execute(INSERT, (1,))
            return name_of(lab, connection)

    with shop(lab) as monitor:
        assert during(monitor, work) == "pg2"
        assert value(lab, "pg2", NEWEST) == 1
