"""A query ends when its time is over or nobody wants it any more, whatever has become of its server."""

from __future__ import annotations

import asyncio
import select

import pytest

from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.pg.connect import connect, query
from tests.live.failover_support import write_inventory

pytestmark = pytest.mark.live

UNWANTED_AFTER_S = 0.2
AT_ONCE_S = 2.0  # psycopg's own attempt to cancel takes five


@pytest.mark.parametrize("timeout_s", [UNWANTED_AFTER_S, 30.0], ids=["too_late", "unwanted"])
def test_a_query_that_is_cancelled_while_it_ends_asks_a_frozen_server_nothing(
    lab: Lab, caplog: pytest.LogCaptureFixture, timeout_s: float
) -> None:
    """The limits of a query and of the look that it belongs to may be the same, and end it twice."""

    async def end_twice() -> float:
        loop = asyncio.get_running_loop()
        connection = await connect(load_one(write_inventory(lab)).connections["pg1"])
        lab.freeze("pg1")
        ending = select.poll()
        ending.register(connection.fileno(), select.POLLRDHUP)
        started_s = loop.time()
        asking = asyncio.create_task(query(connection, "SELECT 1", timeout_s=timeout_s))
        if timeout_s > UNWANTED_AFTER_S:
            loop.call_later(UNWANTED_AFTER_S, asking.cancel)
        while not ending.poll(0):  # noqa: ASYNC110  no turn of the loop may go by
            await asyncio.sleep(0)
        asking.cancel()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*left, return_exceptions=True)
        assert (asking.cancelled(), connection.closed) == (True, True)
        return loop.time() - started_s

    assert asyncio.run(end_twice()) < AT_ONCE_S
    assert [record.message for record in caplog.records if record.name == "psycopg"] == []
