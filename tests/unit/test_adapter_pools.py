"""Pools that cannot connect to anything, or are asked for what cannot be: a named error, and soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replctl.adapters.async_pools import AsyncPools
from replctl.adapters.pools import Pools
from replctl.core.routing import KeyRing
from replctl.errors import MonitorClosed, NoPrimary, PoolsClosed
from replctl.inventory import load_one
from replctl.pg.monitor import Monitor

KEYS = KeyRing((b"0123456789abcdef",))


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    """Of a cluster whose only node refuses connections."""
    path = tmp_path / "shop.toml"
    path.write_text(
        'schema = 1\n[cluster]\nname = "shop"\n[connection]\nuser = "x"\nsslmode = "disable"\n'
        '[[nodes]]\nname = "pg1"\nhost = "127.0.0.1"\nport = 1\n'
    )
    path.chmod(0o600)
    with Monitor(load_one(path), interval_s=0.2) as monitor:
        yield monitor


@pytest.mark.parametrize("read", [True, False])
def test_without_any_node_the_first_use_tells_the_causes_in_time(monitor: Monitor, read: bool) -> None:
    began_s = time.monotonic()
    with Pools(monitor, timeout_s=1) as pools:
        refused = pytest.raises(NoPrimary, match="pg1 does not answer: refused")
        with refused, pools.connection(read=read):
            raise AssertionError
    assert 1 <= time.monotonic() - began_s < 10


def test_a_task_is_told_the_same(monitor: Monitor) -> None:
    async def use() -> None:
        async with AsyncPools(monitor, timeout_s=1) as pools, pools.connection(read=True):
            raise AssertionError

    with pytest.raises(NoPrimary, match="pg1 does not answer: refused"):
        asyncio.run(use())


def test_pools_or_a_monitor_that_were_closed_say_so(monitor: Monitor) -> None:
    pools = Pools(monitor)
    pools.close()
    pools.close()
    with pytest.raises(PoolsClosed, match="shop: the pools were closed"), pools.connection():
        raise AssertionError
    others = Pools(monitor)
    monitor.close()
    with pytest.raises(MonitorClosed), others.connection(timeout_s=1):
        raise AssertionError
    assert monitor.listeners == [others._heard]


def test_a_token_is_not_taken_without_the_keys_that_prove_it(monitor: Monitor) -> None:
    with Pools(monitor) as pools, pytest.raises(ValueError, match="needs the keys"):
        pools.need(True, "v1.token", None)


def test_a_token_of_others_is_as_good_as_none(monitor: Monitor) -> None:
    with Pools(monitor, keys=KEYS) as pools:
        need, scope = pools.need(True, "rubbish", None)
        assert (need.write, need.after, scope) == (False, None, None)


def test_what_the_pools_decide_themselves_is_not_taken_from_others(monitor: Monitor) -> None:
    with pytest.raises(TypeError, match="conninfo, kwargs: the pools set this themselves"):
        Pools(monitor, kwargs={}, conninfo="")
