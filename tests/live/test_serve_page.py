"""The page of `replctl serve` in a real browser: what it shows, asks for, and how it fits narrow screens.

With REPLCTL_TEST_SCREENSHOTS=DIR the screenshots are kept there, to be looked at.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from replctl.lab import Lab
from tests.live.browser import FAINT, OVERFLOW, browser
from tests.live.failover_support import GRACES, ask, write_inventory
from tests.live.serve_support import Serve
from tests.support import wait_until

pytestmark = pytest.mark.live

LOOKS = [(width, dark) for width in (1280, 400) for dark in (False, True)]
CELLS = "[...document.querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => c.innerText.trim()))"


def spoil(lab: Lab) -> None:
    """pg2 paused and far behind, pg3 frozen."""
    ask(lab, "pg2", "SELECT pg_wal_replay_pause()")
    ask(lab, "pg1", *["SELECT pg_logical_emit_message(false, 'test', repeat('x', 1 << 20))"] * 20)
    lab.freeze("pg3")


@pytest.mark.slow
def test_it_shows_every_node_at_every_width_in_every_light_and_asks_for_nothing_else(
    lab: Lab, tmp_path: Path
) -> None:
    shots = Path(os.environ.get("REPLCTL_TEST_SCREENSHOTS", str(tmp_path)))

    async def visit(server: Serve) -> None:
        async with browser(tmp_path) as page:
            for width, dark in LOOKS:
                await page.open(f"{server.url}/", width=width, dark=dark)
                name = f"page-{width}-{'dark' if dark else 'light'}.png"
                await asyncio.to_thread((shots / name).write_bytes, await page.screenshot())
                rows = {row[0]: row for row in await page.evaluate(CELLS)}
                assert (rows["pg1"][1:3], rows["pg1"][-1]) == (["primary", "✓ primary"], "no (primary)")
                assert (rows["pg2"][1:3], rows["pg2"][-1]) == (["replica", "! paused"], "no (lag_bytes)")
                assert (rows["pg3"][1:3], rows["pg3"][-1]) == (
                    ["?", "✗ unreachable (timeout)"],
                    "no (unreachable)",
                )
                assert await page.evaluate("document.title") == "lab: CRITICAL - replctl"
                assert await page.evaluate("document.querySelectorAll('figure path.curve').length") >= 1
                assert await page.evaluate(OVERFLOW) == []
                assert await page.evaluate(FAINT) == []
                back = await page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert back == ("rgb(18, 22, 28)" if dark else "rgb(246, 247, 249)")
            assert page.complaints == []
            assert set(page.requests) - {"data:,"} == {f"{server.url}/"}
            # It comes again by itself, and with the new state of things.
            lab.thaw("pg3")
            wait_until(lambda: server.code("/pg3/health") == 200, "pg3 is back")
            seen = len(page.requests)
            while len(page.requests) == seen:
                await page.call("Runtime.evaluate", expression="1")
            await page.open(f"{server.url}/?refresh=0", width=400, dark=False)
            rows = {row[0]: row for row in await page.evaluate(CELLS)}
            assert rows["pg3"][2] == "✓ streaming"
            assert await page.evaluate("document.querySelector('meta[http-equiv]')") is None

    path = write_inventory(lab, failover=GRACES, routing={"eject_after": 1})
    with Serve(path, "--interval", "0.5") as server:
        spoil(lab)
        wait_until(lambda: server.code("/pg3/health") == 503, "pg3 is silent")
        wait_until(lambda: server.code("/pg2/replica") == 503, "pg2 has left the pool")
        asyncio.run(visit(server))


@pytest.mark.slow
def test_names_and_messages_as_long_as_they_may_be_fit_a_telephone(lab: Lab, tmp_path: Path) -> None:
    long = "a" * 60
    path = write_inventory(lab, failover=GRACES)
    text = path.read_text().replace('name = "lab"', f'name = "{long}"').replace('"pg3"', f'"{long}.3"')
    path.write_text(text)
    lab.stop("pg2")

    async def visit(server: Serve) -> None:
        async with browser(tmp_path) as page:
            for width in (400, 1280):
                await page.open(f"{server.url}/", width=width, dark=True)
                assert await page.evaluate(OVERFLOW) == []

    with Serve(path) as server:
        asyncio.run(visit(server))
