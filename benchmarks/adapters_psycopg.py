"""What pools and middlewares of an application cost, beside psycopg_pool and an application without them.

    python -m benchmarks.adapters_psycopg [--print]

A lab of three nodes is built and taken down. Blocks are timed in turn, so that whatever slows the machine
down slows down all of them; the table is printed and written to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from psycopg_pool import ConnectionPool

from benchmarks.timing import machine, write_section
from replctl.adapters.pools import Pools
from replctl.adapters.web import AsgiRouting, WsgiRouting
from replctl.core.model import Lsn
from replctl.core.routing import KeyRing, Position, current_scope
from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.pg.monitor import Monitor

KEYS = KeyRing((b"0123456789abcdef",))
APP = {"user": "app", "dbname": "postgres"}
ROUNDS, CALLS = 30, 3000
Work = Callable[[], object]


def in_turn_us(works: dict[str, Work]) -> dict[str, float]:
    """Microseconds of one call of each: the median of all calls of ROUNDS rounds of A B C."""
    taken: dict[str, list[int]] = {title: [] for title in works}
    clock = time.perf_counter_ns
    for _ in range(ROUNDS):
        for title, work in works.items():
            found = taken[title]
            for _ in range(CALLS):
                began = clock()
                work()
                found.append(clock() - began)
    return {title: statistics.median(found) / 1000 for title, found in taken.items()}


@contextlib.contextmanager
def monitored() -> Iterator[tuple[Lab, Monitor]]:
    """A lab, and an application's monitor of it."""
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as folder:
        Path(folder).chmod(0o755)  # started as root, the servers run as somebody else
        with (
            Lab.up(Path(folder) / "lab", fsync=False) as lab,
            Monitor(load_one(lab.inventory_path)) as monitor,
        ):
            monitor.ensure()
            yield lab, monitor


def blocks(lab: Lab, monitor: Monitor) -> list[str]:
    """A block without a statement, which has no round trip: by psycopg_pool, and by the pools."""
    one, other = (
        ConnectionPool(lab.dsn(n, "app"), min_size=1, max_size=1, open=True) for n in ("pg2", "pg3")
    )
    with one, other, Pools(monitor, APP, min_size=1, max_size=1) as pools:
        plain_pools = itertools.cycle((one, other))

        def empty() -> None:
            with next(plain_pools).connection():
                pass

        def empty_routed() -> None:
            with pools.connection(read=True):
                pass

        empty_routed()
        empty_routed()
        home = pools.home("pg2", replica=True)
        connection = home.pool.getconn()
        guard = in_turn_us({"guard": lambda: connection.is_quiet and home.judge(connection)})
        home.pool.putconn(connection)
        found = in_turn_us({"empty": empty, "empty_routed": empty_routed})
    return [
        f"| the guard at checkout: whether it lives, and its role | {guard['guard']:.2f} µs |",
        f"| a block without a statement, psycopg_pool | {found['empty']:.1f} µs |",
        f"| a block without a statement, routed | {found['empty_routed']:.1f} µs |",
    ]


def requests(monitor: Monitor) -> list[str]:
    """What a middleware adds to a request that comes with a token, and to one that writes too."""
    assert monitor.snapshot is not None
    position = Position(monitor.snapshot.system, 1, Lsn(1))
    token = KEYS.issue(position, time.time())

    def note() -> None:
        scope = current_scope(monitor.cluster)
        if scope is not None:
            scope.note_write()
            scope.note_position(position, scope.writes)

    added = {}
    for title, write in (("reads", False), ("writes", True)):
        for kind, make in (("ASGI", _asgi), ("WSGI", _wsgi)):
            plain, routed = make(monitor, token, note if write else None)
            found = in_turn_us({"plain": plain, "routed": routed})
            added[f"what {kind} middleware adds to a request that {title}"] = found["routed"] - found["plain"]
    return [f"| {title} | {us:.1f} µs |" for title, us in added.items()]


def _asgi(monitor: Monitor, token: str, note: Work | None) -> tuple[Work, Work]:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if note is not None:
            note()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def nothing(_message: Any) -> None:
        pass

    cookie = f"replctl_{monitor.cluster}={token}".encode()
    scope = {"type": "http", "headers": [(b"host", b"x"), (b"cookie", cookie)]}
    routed = AsgiRouting(app, monitor, KEYS)

    def run(target: Any) -> Work:
        def once() -> None:
            with contextlib.suppress(StopIteration):
                target(scope, None, nothing).send(None)  # nothing in it waits

        return once

    return run(app), run(routed)


def _wsgi(monitor: Monitor, token: str, note: Work | None) -> tuple[Work, Work]:
    def app(_environ: Any, start: Any) -> list[bytes]:
        if note is not None:
            note()
        start("200 OK", [])
        return []

    environ = {"HTTP_COOKIE": f"replctl_{monitor.cluster}={token}"}
    routed = WsgiRouting(app, monitor, KEYS)
    return lambda: app(environ, lambda *_: None), lambda: routed(environ, lambda *_: None)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--print", action="store_true", dest="only_print")
    chosen = options.parse_args()
    with monitored() as (lab, monitor):
        lines = ["| what | median |", "|---|---:|", *blocks(lab, monitor), *requests(monitor)]
    content = "\n".join([*lines, "", f"{machine()}; {ROUNDS} rounds of {CALLS} calls in turn."])
    print(content)
    if not chosen.only_print:
        write_section("adapters-psycopg", content)


if __name__ == "__main__":
    main()
