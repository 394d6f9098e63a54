"""The same sessions in tasks: scopes in children, waiting without blocking, connections of one loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.pool import NullPool

from replctl.adapters.sqlalchemy import AsyncRouter, RoutingSession
from replctl.errors import NodeSwitched, NotReplicated, PoolsClosed, TransactionOutcomeUnknown, WriteRefused
from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.pg.monitor import Monitor
from tests.live.failover_support import ask, value, wait_streaming, write_inventory
from tests.live.test_monitor import INTERVAL_S, QUICK
from tests.live.test_sqlalchemy import (
    APPLICATION,
    KEYS,
    LAGGING,
    TEXTS,
    Note,
    backends,
    make_table,
    pause,
    resume,
)
from tests.support import wait_until

pytestmark = pytest.mark.live

IN_RECOVERY = select(func.pg_is_in_recovery())


@asynccontextmanager
async def routing(lab: Lab, **policy: Any) -> AsyncIterator[AsyncRouter]:
    path = write_inventory(lab, routing={**QUICK, **policy})
    with Monitor(load_one(path), interval_s=INTERVAL_S) as monitor:
        async with AsyncRouter(monitor, keys=KEYS, **APPLICATION) as router:
            yield router


async def write(router: AsyncRouter, words: str) -> None:
    async with router.write_session() as session:
        session.add(Note(text=words))


def place(session: AsyncSession) -> tuple[str | None, str]:
    assert isinstance(session.sync_session, RoutingSession)
    decision = session.sync_session.decision
    assert decision is not None
    return decision.node, str(decision.reason)


async def read(router: AsyncRouter) -> tuple[list[str], str | None, str]:
    async with router.read_session() as session:
        found = list(await session.scalars(TEXTS))
        return (found, *place(session))


def test_a_task_reads_from_replicas_what_it_wrote_to_the_primary(lab: Lab) -> None:
    async def work() -> None:
        async with routing(lab) as router:
            with router.scope() as scope:
                await write(router, "one")
                assert (scope.has_changed, scope.is_dirty) == (True, False)
                served = [await read(router) for _ in range(8)]
                assert {tuple(found) for found, *_ in served} == {("one",)}
            for name in ("pg2", "pg3"):
                await asyncio.to_thread(wait_until, lambda n=name: _count(lab, n) == 1, f"{name} has it")
            assert {(await read(router))[1] for _ in range(4)} == {"pg2", "pg3"}
            assert sum(backends(lab, name) for name in lab.nodes) >= 3
        wait_until(lambda: sum(backends(lab, name) for name in lab.nodes) == 0, "the connections have ended")

    make_table(lab)
    asyncio.run(work())
    asyncio.run(work_again(lab))


def _count(lab: Lab, node: str) -> int:
    return int(value(lab, node, "SELECT count(*) FROM note"))


def test_a_router_of_another_loop_says_so(lab: Lab) -> None:
    make_table(lab)
    path = write_inventory(lab, routing=QUICK)
    with Monitor(load_one(path), interval_s=INTERVAL_S) as monitor:
        router = AsyncRouter(monitor, pool={"poolclass": NullPool}, **APPLICATION)
        monitor.ensure()
        asyncio.run(write(router, "x"))
        with pytest.raises(PoolsClosed, match="this router belongs to another event loop"):
            asyncio.run(write(router, "y"))


async def work_again(lab: Lab) -> None:
    """Another loop, another router."""
    async with routing(lab) as router:
        assert (await read(router))[0] == ["one"]


def test_children_share_the_scope_of_their_task_and_others_do_not(lab: Lab) -> None:
    async def unit(router: AsyncRouter, words: str, both: asyncio.Barrier) -> tuple[list[str], list[str]]:
        with router.scope():
            await asyncio.gather(write(router, words), read(router))
            await both.wait()
            return (await read(router))[0], (await asyncio.gather(read(router)))[0][0]

    async def stranger(router: AsyncRouter, both: asyncio.Barrier) -> tuple[list[str], str | None]:
        with router.scope() as scope:
            await both.wait()
            return (await read(router))[0], scope.token

    async def work() -> None:
        async with routing(lab, **LAGGING) as router:
            await router.monitor.ensure_async()
            pause(lab, "pg2", "pg3")
            both = asyncio.Barrier(2)
            mine, others = await asyncio.gather(unit(router, "mine", both), stranger(router, both))
            assert (mine, others) == ((["mine"], ["mine"]), ([], None))

    make_table(lab)
    asyncio.run(work())


def test_an_automatic_session_of_a_task_sees_what_it_flushed(lab: Lab) -> None:
    async def work() -> None:
        async with routing(lab, **LAGGING) as router:
            await router.monitor.ensure_async()
            pause(lab, "pg2", "pg3")
            make = async_sessionmaker(sync_session_class=RoutingSession, router=router, mode="automatic")
            async with make() as session:
                assert (await session.scalar(IN_RECOVERY)) is True
                assert list(await session.scalars(TEXTS)) == []
                assert place(session)[0] != "pg1"
                session.add(Note(text="flushed"))
                assert (list(await session.scalars(TEXTS)), place(session)[0]) == (["flushed"], "pg1")
                note = (await session.scalars(insert(Note).returning(Note), [{"text": "x"}])).one()
                assert note.text == "x"
                await session.commit()

    make_table(lab)
    asyncio.run(work())


def test_a_task_waits_for_a_replica_without_blocking_its_loop(lab: Lab) -> None:
    async def work() -> None:
        async with routing(lab, on_behind="wait", wait_s=10, **LAGGING) as router:
            await router.monitor.ensure_async()
            pause(lab, "pg2", "pg3")
            with router.scope():
                await write(router, "soon there")
                resumed = threading.Timer(0.3, resume, (lab, "pg2", "pg3"))
                resumed.start()
                ticks = 0

                async def tick() -> None:
                    nonlocal ticks
                    while True:
                        await asyncio.sleep(0.001)
                        ticks += 1

                ticking = asyncio.create_task(tick())
                found, _, why = await read(router)
                ticking.cancel()
                resumed.join()
                assert (found, why, ticks > 20) == (["soon there"], "lsn_wait", True)

    make_table(lab)
    asyncio.run(work())


def test_a_task_hears_what_became_of_its_transaction(lab: Lab) -> None:
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'notes'"

    async def work() -> None:
        async with routing(lab) as router:
            with pytest.raises(NodeSwitched):
                async with router.write_session() as session:
                    await session.execute(insert(Note), [{"text": "x"}])
                    ask(lab, "pg1", kill)
                    await session.scalar(select(1))
            with pytest.raises(TransactionOutcomeUnknown):
                async with router.write_session() as session:
                    await session.execute(insert(Note), [{"text": "y"}])
                    ask(lab, "pg1", kill)
            with pytest.raises(WriteRefused):
                async with router.read_session() as session:
                    await session.execute(text("DELETE FROM note"))
            await write(router, "z")
        assert ask(lab, "pg1", "SELECT text FROM note") == [("z",)]

    make_table(lab)
    asyncio.run(work())


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_a_task_hears_that_its_commit_was_not_replicated(lab: Lab) -> None:
    async def work() -> None:
        waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        async with routing(lab) as router:
            await write(router, "replicated")
            for name in ("pg2", "pg3"):
                lab.stop(name)
            cancelled = asyncio.to_thread(
                wait_until, lambda: ask(lab, "pg1", waiting), "the commit waits and is cancelled"
            )
            found = await asyncio.gather(write(router, "not"), cancelled, return_exceptions=True)
            assert [type(one) for one in found] == [NotReplicated, type(None)]

    make_table(lab)
    wait_streaming(lab, "pg1", "pg2", "pg3")
    asyncio.run(work())


def test_a_task_that_is_cancelled_gives_its_connection_back(lab: Lab) -> None:
    async def work() -> None:
        async with routing(lab) as router:
            router.monitor.ensure()
            for _ in range(20):  # more than the pool has
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05), router.read_session() as session:
                        await session.execute(text("SELECT pg_sleep(10)"))
            assert (await read(router))[0] == []

    make_table(lab)
    asyncio.run(work())
