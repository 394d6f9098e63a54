"""Writes that are held for a planned switch go on in time, whatever fails on the way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from contextlib import closing

import psycopg
import pytest

from replctl.errors import RefusedError
from replctl.lab import Lab
from replctl.proxies.holding import writes_held
from tests.live.proxies import free_ports
from tests.live.relay import Relay
from tests.live.test_apply import console, shown
from tests.live.test_proxied_failover import direct
from tests.support import wait_until

pytestmark = pytest.mark.live

LIMIT_S = 10


class Late(Relay):
    """A way to a console on which the first to come is kept waiting, as by a slow network."""

    def __init__(self, to: int) -> None:
        super().__init__()
        self.to, self.port, self.came = to, 0, 0
        self.first_may_pass, self.first_is_done = threading.Event(), threading.Event()

    async def start(self) -> None:
        self.port = await self.listen(self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        first = self.came == 1
        if first:
            await asyncio.to_thread(self.first_may_pass.wait, LIMIT_S)
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self.to)
        try:
            ways = [
                asyncio.create_task(copy(reader, downstream)),
                asyncio.create_task(copy(upstream, writer)),
            ]
            await asyncio.wait(ways)
        finally:
            downstream.transport.abort()
            if first:
                self.first_is_done.set()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the one who sends has closed."""
    with contextlib.suppress(OSError):
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
        writer.write_eof()


def test_one_console_that_fails_at_once_leaves_no_other_paused_later(lab: Lab) -> None:
    (nobody,) = free_ports(1)

    async def switch(late: Late) -> None:
        with pytest.raises(RefusedError, match=f"postgres is not paused at the PgBouncer at .*:{nobody}"):
            async with writes_held((console(late.port), console(nobody)), ["postgres"], 5):
                raise AssertionError
        late.first_may_pass.set()
        assert await asyncio.to_thread(late.first_is_done.wait, LIMIT_S)

    with direct(lab) as (_, port), Late(port) as late:
        asyncio.run(switch(late))
        assert shown(port)["postgres"]["paused"] == 0


def test_a_pause_that_does_not_end_is_given_up_in_time(lab: Lab) -> None:
    async def switch(port: int) -> None:
        async with writes_held((console(port),), ["postgres"], 0.5):
            raise AssertionError

    with (
        direct(lab) as (_, port),
        closing(psycopg.connect(host="127.0.0.1", port=port, user="postgres")) as one,
    ):
        one.execute("SELECT 1")
        began_s = time.monotonic()
        with pytest.raises(RefusedError, match=r"postgres is not paused .* not within 0\.5 s"):
            asyncio.run(switch(port))
        assert time.monotonic() - began_s < 1.5
        assert shown(port)["postgres"]["paused"] == 0
        one.execute("SELECT 1")


def test_who_is_cancelled_while_a_pause_waits_is_out_at_once_and_nobody_stays_paused(lab: Lab) -> None:
    async def switch(port: int) -> float:
        async def hold() -> None:
            async with writes_held((console(port),), ["postgres"], 30):
                raise AssertionError

        task = asyncio.create_task(hold())
        await asyncio.to_thread(wait_until, lambda: shown(port)["postgres"]["paused"] == 1, "it is paused")
        began_s = time.monotonic()
        while not task.done():  # somebody is impatient
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began_s

    with (
        direct(lab) as (_, port),
        closing(psycopg.connect(host="127.0.0.1", port=port, user="postgres")) as one,
    ):
        one.execute("SELECT 1")
        took_s = asyncio.run(switch(port))
        assert (took_s < 1, shown(port)["postgres"]["paused"]) == (True, 0)
