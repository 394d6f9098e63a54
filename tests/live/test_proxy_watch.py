"""Planned switches through a real PgBouncer, and proxies that are kept applied by a process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replctl.errors import RefusedError
from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.proxies import runtime
from replctl.proxies.holding import writes_held
from replctl.proxies.roles import Wish, apply, targets
from replctl.render.placement import from_inventory
from tests.live.clients import Clients, prepare
from tests.live.failover_support import ask, configure, environment, value, write_inventory
from tests.live.proxies import answering, free_ports, haproxy, node_at, pgbouncer
from tests.live.running import Running
from tests.live.test_apply import CHECKS, console, enabled, leads_to, shown
from tests.live.test_failover_controller import notified, until_message
from tests.live.test_proxied_failover import beside, chain, direct, rendered
from tests.live.test_render import caught_up
from tests.support import wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1")]


# ---- a planned switch


async def switched(lab: Lab, inventory: Path, pause_s: float) -> None:
    """pg2 instead of pg1 without a failed transaction: what a switchover does, by hand."""
    found = load_one(None, environment(inventory))
    (target,) = targets(found, "pgbouncer")
    present = target.place.read()
    async with writes_held(target.doors, ["postgres"], pause_s):
        await asyncio.to_thread(hand_over, lab)
        placement = from_inventory(found.settings, "pg2")
        report = await apply(await target.change(placement, Wish(), present=present, held=True))
    assert report.problems == []


def hand_over(lab: Lab) -> None:
    """pg1 stops when all it has is on pg2, and pg2 is promoted."""
    lab.stop("pg1")
    configure(lab, "pg2", synchronous_standby_names="")
    ask(lab, "pg2", "SELECT pg_promote()")


def session(port: int) -> psycopg.Connection[Any]:
    return psycopg.connect(host="127.0.0.1", port=port, user="postgres", prepare_threshold=None)


def test_a_planned_switch_fails_no_transaction(lab: Lab) -> None:
    prepare(lab)
    with direct(lab) as (inventory, port), Clients(port) as clients:
        wait_until(lambda: clients.back(lab.nodes["pg1"].port), "every client writes")
        asyncio.run(switched(lab, inventory, 5))
        wait_until(lambda: clients.back(lab.nodes["pg2"].port), "every client is there")
        assert clients.errors == []
        assert clients.lost(lab, "pg2") == []


def test_a_transaction_that_does_not_end_stops_a_switch_and_nobody_stays_paused(lab: Lab) -> None:
    prepare(lab)
    with (
        direct(lab) as (inventory, port),
        closing(psycopg.connect(host="127.0.0.1", port=port, user="postgres")) as one,
    ):
        one.execute("SELECT 1")
        with pytest.raises(RefusedError, match="postgres is not paused"):
            asyncio.run(switched(lab, inventory, 0.5))
        one.execute("INSERT INTO kept VALUES (1, 1)")
        one.commit()
        assert (leads_to(port), shown(port)["postgres"]["paused"]) == (
            f"127.0.0.1:{lab.nodes['pg1'].port}",
            0,
        )
        assert value(lab, "pg1", "SELECT count(*) FROM kept") == 1


def test_a_signal_in_the_midst_of_a_switch_resumes_what_was_paused(lab: Lab) -> None:
    program = (
        "import asyncio, sys\n"
        "from replctl.proxies.holding import writes_held\n"
        "async def main():\n"
        "    async with writes_held((sys.argv[1],), ['postgres'], 5):\n"
        "        print('held', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with direct(lab) as (_, port):
        argv = [sys.executable, "-c", program, console(port)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            assert shown(port)["postgres"]["paused"] == 1
            process.send_signal(signal.SIGTERM)
            process.wait(10)
        assert shown(port)["postgres"]["paused"] == 0


# ---- kept applied


class Watch(Running):
    """`replctl render-PROXY --watch --apply` as a process, and its lines."""

    def __init__(self, inventory: Path, proxy: str) -> None:
        super().__init__(f"render-{proxy}", "--watch", "--apply", env=environment(inventory))

    def said(self, words: str) -> list[str]:
        """The lines with these words."""
        return [line for line in list(self.lines) if words in line]

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        code = self.end(signal.SIGTERM)
        print(self.log)  # shown with a failure
        if failure is None:
            assert code == 0


LAG = {"max_lag_bytes": "1MiB", "max_lag_s": 60, "readmit_lag_bytes": "64kB", "hold_s": 2, "readmit_after": 2}
WAL = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1 << 20)) FROM generate_series(1, 4)"


@pytest.mark.lab(sync="")
def test_a_replica_that_lags_leaves_both_proxies_and_returns_by_hysteresis(lab: Lab) -> None:
    rw, ro, port = free_ports(3)
    door, config, databases = (
        str(beside(lab, "admin.sock")),
        beside(lab, "haproxy.cfg"),
        beside(lab, "databases.ini"),
    )
    tables = {
        "haproxy": {
            "write_bind": f"127.0.0.1:{rw}",
            "read_bind": f"127.0.0.1:{ro}",
            **CHECKS,
            "file": str(config),
            "stats_socket": door,
            "sockets": [door],
        },
        "pgbouncer": {
            "databases": ["postgres"],
            "version": "1.18",
            "file": str(databases),
            "admin": [console(port)],
        },
        "routing": LAG,
    }
    caught_up(lab)
    inventory = write_inventory(lab, **tables)
    rendered(inventory, "haproxy", config)
    rendered(inventory, "pgbouncer", databases)
    with ExitStack() as stack:
        stack.enter_context(haproxy(config, rw, ro))
        stack.enter_context(pgbouncer(lab, databases, port))
        watches = [stack.enter_context(Watch(inventory, proxy)) for proxy in ("haproxy", "pgbouncer")]
        wait_until(lambda: answering(lab, ro, 4) == {"pg2": 2, "pg3": 2}, "reads reach both replicas")
        ask(lab, "pg2", "SELECT pg_wal_replay_pause()")
        ask(lab, "pg1", WAL)
        wait_until(lambda: answering(lab, ro, 6) == {"pg3": 6}, "the late one leaves HAProxy")
        pg3 = f"127.0.0.1:{lab.nodes['pg3'].port}"
        wait_until(lambda: leads_to(port, "postgres_ro") == pg3, "and PgBouncer")
        for watch in watches:
            wait_until(lambda w=watch: w.said("writes to pg1, reads to pg3: "), "both said so")
        left_s = time.monotonic()
        ask(lab, "pg2", "SELECT pg_wal_replay_resume()")
        wait_until(lambda: answering(lab, ro, 6) == {"pg2": 3, "pg3": 3}, "it is back")
        assert time.monotonic() - left_s > 1  # hold_s, but for how long it took to see all that
        for watch in watches:
            wait_until(lambda w=watch: w.said("writes to pg1, reads to pg2, pg3: "), "both said so")
    # A change each: left, and back.
    assert [len(watch.said(" lab proxy: ")) for watch in watches] == [2, 2]


def test_what_somebody_changes_by_hand_is_changed_back_and_said_and_the_file_is_not_written_again(
    lab: Lab,
) -> None:
    with chain(lab) as (inventory, _), Watch(inventory, "haproxy") as watch:
        door, config = str(beside(lab, "admin.sock")), beside(lab, "haproxy.cfg")
        before = config.stat()
        runtime.ask(door, "set server lab_rw/pg1 state maint")
        wait_until(lambda: watch.said("lab_rw/pg1 is in maintenance: mended"), "it is mended", limit_s=20)
        assert "lab_rw/pg1" in enabled(door)
        assert (config.stat().st_ino, config.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(watch.lines) == 1


def test_systemd_is_told_when_it_is_ready_what_it_did_and_that_it_lives(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with direct(lab) as (inventory, _), notified(lab.directory.parent) as (receiver, path):
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        with Watch(inventory, "pgbouncer"):
            until_message(receiver, "READY=1")
            until_message(receiver, "WATCHDOG=1")
            lab.kill("pg1")
            ask(lab, "pg2", "SELECT pg_promote()")
            until_message(receiver, "STATUS=writes to pg2")
            until_message(receiver, "WATCHDOG=1")
        until_message(receiver, "STOPPING=1")


def test_systemd_is_told_that_it_is_ready_while_a_proxy_is_down(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    keys = {"databases": ["postgres"], "version": "1.18", "file": str(beside(lab, "databases.ini"))}
    inventory = write_inventory(lab, pgbouncer={**keys, "admin": [console(port)]})
    with notified(lab.directory.parent) as (receiver, path):
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        with Watch(inventory, "pgbouncer"):
            before = until_message(receiver, "READY=1")
    assert f"STATUS=the PgBouncer at 127.0.0.1:{port} does not answer" in before[1]


def test_a_proxy_that_is_down_is_tried_again_and_said_once(lab: Lab) -> None:
    (port,) = free_ports(1)
    databases = beside(lab, "databases.ini")
    keys = {"databases": ["postgres"], "version": "1.18", "file": str(databases), "admin": [console(port)]}
    inventory = write_inventory(lab, pgbouncer=keys)
    caught_up(lab)
    with Watch(inventory, "pgbouncer") as watch:
        wait_until(lambda: watch.said("does not answer"), "it is said", limit_s=20)
        with pgbouncer(lab, databases, port):
            wait_until(lambda: watch.said("all is well again"), "it is found", limit_s=40)
            lab.kill("pg1")
            ask(lab, "pg2", "SELECT pg_promote()")
            wait_until(lambda: watch.said("writes to pg2"), "and told of the new primary", limit_s=20)
            assert node_at(lab, port) == "pg2"
    assert len(watch.said("does not answer")) == 1
