"""The monitor of an application on real servers: what it decides while nodes lag, fail, change places."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from replctl.core.routing import READ, WRITE, KeyRing, Need, Position, Snapshot, read_after
from replctl.errors import MonitorClosed, NoPrimary
from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.pg.background import LOOK_LIMIT_S
from replctl.pg.monitor import Monitor
from replctl.pg.position import POSITION_SQL, position, wait_replayed, wait_replayed_async
from tests.live.failover_support import ask, environment, fail_over, value, wait_streaming, write_inventory
from tests.support import replctl, run, wait_until

pytestmark = pytest.mark.live

# So that a test does not wait for what it does not test.
QUICK = {"hold_s": 0, "readmit_after": 1, "max_lag_s": 2, "readmit_lag_s": 1}
INTERVAL_S = 0.3
NEVER_WAITS_S = 0.5  # a look waits for more than a second; so generous since tests share the machine


@contextmanager
def watching(lab: Lab, **routing: Any) -> Iterator[Monitor]:
    path = write_inventory(lab, routing={**QUICK, **routing})
    with Monitor(load_one(path), interval_s=INTERVAL_S) as monitor:
        yield monitor


def targets(monitor: Monitor, need: Need = READ, *, times: int = 8) -> set[str | None]:
    return {monitor.decide(need).node for _ in range(times)}


def wait_for(
    monitor: Monitor, condition: Callable[[Snapshot], object], what: str, limit_s: float = 15
) -> None:
    def holds() -> bool:
        snapshot = monitor.wait(monitor.snapshot, 0.5) or monitor.snapshot
        return snapshot is not None and bool(condition(snapshot))

    wait_until(holds, what, limit_s=limit_s)


def reason(snapshot: Snapshot, node: str) -> str:
    return next(str(view.fitness) for view in snapshot.nodes if view.name == node)


def connections_of_monitors(lab: Lab, node: str) -> int:
    return int(value(lab, node, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'replctl'"))


def make_wal(lab: Lab, node: str, mib: int) -> None:
    ask(
        lab,
        node,
        f"SELECT pg_logical_emit_message(false, 'test', repeat('x', 1 << 20)) FROM generate_series(1, {mib})",
    )


# ---- beginning and ending


def test_nothing_happens_before_the_first_use_and_nothing_is_left_after_the_last(lab: Lab) -> None:
    wait_until(lambda: connections_of_monitors(lab, "pg1") == 0, "whoever made the lab has gone")
    with watching(lab) as monitor:
        assert (monitor.snapshot, connections_of_monitors(lab, "pg1")) == (None, 0)
        threads = threading.active_count()
        snapshot = monitor.ensure()
        assert (snapshot.writer, targets(monitor), targets(monitor, WRITE)) == (
            "pg1",
            {"pg2", "pg3"},
            {"pg1"},
        )
        assert (threading.active_count(), connections_of_monitors(lab, "pg1")) == (threads + 1, 1)
    assert threading.active_count() == threads
    wait_until(lambda: connections_of_monitors(lab, "pg1") == 0, "its connections have ended")
    for use in (lambda: monitor.decide(READ), monitor.ensure, monitor.refresh):
        with pytest.raises(MonitorClosed, match="lab: the monitor was closed"):
            use()


def test_without_any_node_the_application_starts_and_its_first_use_tells_the_causes(lab: Lab) -> None:
    for name in lab.nodes:
        lab.stop(name)
    with watching(lab) as monitor:
        monitor.ensure()
        with pytest.raises(NoPrimary) as caught:
            monitor.route(READ)
        assert "pg1 does not answer: refused" in (caught.value.why or "")
        for name in lab.nodes:
            lab.start(name)
        wait_for(monitor, lambda s: s.writer == "pg1" and len(s.wheel) == 2, "all nodes are back")
        assert monitor.route(WRITE).node == "pg1"


def test_a_process_that_never_closes_it_ends_at_once_and_without_a_word(lab: Lab) -> None:
    path = write_inventory(lab)
    program = f"""
        from pathlib import Path
        from replctl.core.routing import READ
        from replctl.inventory import load_one
        from replctl.pg.monitor import Monitor
        monitor = Monitor(load_one(Path({str(path)!r})))
        monitor.ensure()
        print(monitor.route(READ).replica)
    """
    started_s = time.monotonic()
    done = run([sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)])

    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    assert time.monotonic() - started_s < 10


# ---- event loops, threads, forks


def test_a_task_waits_for_it_without_blocking_its_loop(lab: Lab) -> None:
    async def first_use(monitor: Monitor) -> tuple[str | None, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        snapshot = await monitor.ensure_async()
        assert await monitor.wait_async(snapshot, 5) is not None
        ticking.cancel()
        return snapshot.writer, ticks

    with watching(lab) as monitor:
        writer, ticks = asyncio.run(first_use(monitor))
        assert (writer, ticks > 10) == ("pg1", True)
        # That loop is closed now; the monitor has its own, and another one may wait.
        assert asyncio.run(monitor.wait_async(monitor.snapshot, 5)) is not None


def test_a_task_that_is_cancelled_while_it_waits_harms_nobody(lab: Lab) -> None:
    async def give_up(monitor: Monitor) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(monitor.wait_async(monitor.snapshot, 30), 0.001)

    with watching(lab) as monitor:
        monitor.ensure()
        asyncio.run(give_up(monitor))
        wait_for(monitor, lambda s: s.writer == "pg1", "it goes on")


@pytest.mark.parametrize("used_before", [True, False], ids=["used", "preloaded"])
def test_a_forked_child_watches_for_itself_and_leaves_its_parent_alone(lab: Lab, used_before: bool) -> None:
    with watching(lab) as monitor:
        if used_before:
            monitor.ensure()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # only what a worker does; nothing of pytest may run here
            code = 1
            try:
                monitor.ensure()
                newer = monitor.wait(monitor.snapshot, 10)
                os.write(
                    writing, f"{newer is not None and newer.writer} {monitor.route(READ).replica}".encode()
                )
                monitor.close()
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        told = os.read(reading, 100).decode()
        os.close(reading)

        assert (told, os.waitstatus_to_exitcode(status)) == ("pg1 True", 0)
        wait_for(monitor, lambda s: s.writer == "pg1", "the parent's goes on")
        wait_until(lambda: connections_of_monitors(lab, "pg1") == 1, "the child's connection has ended")


def test_many_threads_may_begin_at_once(lab: Lab) -> None:
    with watching(lab) as monitor:
        found: list[str | None] = []
        threads = [threading.Thread(target=lambda: found.append(monitor.ensure().writer)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert found == ["pg1"] * 16
        assert connections_of_monitors(lab, "pg1") == 1


def test_a_listener_hears_of_roles_and_one_that_fails_stops_nothing(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[tuple[str | None, str | None]] = []

    def fail(_before: Snapshot | None, _after: Snapshot) -> None:
        raise ZeroDivisionError

    with watching(lab) as monitor:
        monitor.listeners += [fail, lambda old, new: heard.append((old and old.writer, new.writer))]
        monitor.ensure()
        wait_for(monitor, lambda _: heard, "it has heard")
        lab.kill("pg1")
        wait_for(monitor, lambda s: s.writer is None, "the primary is gone")
        wait_until(lambda: len(heard) >= 2, "it has heard")

    assert heard[:2] == [(None, "pg1"), ("pg1", None)]
    assert "lab: a listener failed" in caplog.text


# ---- lag


def test_a_replica_that_is_behind_leaves_and_comes_back(lab: Lab) -> None:
    with watching(lab, max_lag_bytes="4MiB", readmit_lag_bytes="1MiB", max_lag_s=3600) as monitor:
        monitor.ensure()
        ask(lab, "pg2", "SELECT pg_wal_replay_pause()")
        make_wal(lab, "pg1", 8)
        wait_for(monitor, lambda s: reason(s, "pg2") == "lag_bytes", "pg2 has left")
        assert targets(monitor) == {"pg3"}
        ask(lab, "pg2", "SELECT pg_wal_replay_resume()")
        wait_for(monitor, lambda s: reason(s, "pg2") == "fit", "pg2 is back")
        assert targets(monitor) == {"pg2", "pg3"}


def test_an_idle_primary_and_a_dead_receiver_are_told_apart(lab: Lab) -> None:
    with watching(lab) as monitor:
        monitor.ensure()
        lab.cut("pg2")
        # By its seconds where the primary, idle as it is, wrote a record of its own.
        wait_for(monitor, lambda s: reason(s, "pg2") in ("not_streaming", "lag_s"), "pg2 has left")
        assert targets(monitor) == {"pg3"}  # on the same idle primary


def test_what_was_written_is_read_wherever_it_is_read(lab: Lab) -> None:
    """pg2 falls behind and catches up again and again; every read asks for the write before it."""
    ask(lab, "pg1", "CREATE TABLE seen (n int)", "GRANT ALL ON seen TO PUBLIC")
    with watching(lab, max_lag_s=3600) as monitor, psycopg.connect(lab.dsn("pg1"), autocommit=True) as writer:
        system = monitor.ensure().system
        served = []
        for n in range(60):
            if n % 20 in (5, 15):
                what = "pause" if n % 20 == 5 else "resume"
                ask(lab, "pg2", f"SELECT pg_wal_replay_{what}()")
            writer.execute("INSERT INTO seen VALUES (%s)", [n])
            row = writer.execute(POSITION_SQL.encode()).fetchone()
            assert row is not None
            need = read_after(position(system, row))
            if n % 2:
                monitor.wait(monitor.snapshot, 2)
            decision = monitor.route(need)
            served.append(decision.node)
            assert decision.node is not None
            assert value(lab, decision.node, "SELECT max(n) FROM seen") >= n

        assert set(served) == {"pg1", "pg2", "pg3"}


def test_waiting_for_replay_ends_when_it_is_there_or_the_time_is_over(lab: Lab) -> None:
    ask(lab, "pg2", "SELECT pg_wal_replay_pause()")
    ask(lab, "pg1", "CREATE TABLE waited ()")
    row = ask(lab, "pg1", POSITION_SQL)[0]
    lsn = position("", row).lsn
    with psycopg.connect(lab.dsn("pg2"), autocommit=True) as replica:
        version = replica.info.server_version

        def execute(text: str) -> Any:
            return replica.execute(text.encode()).fetchone()

        async def execute_async(text: str) -> Any:
            return execute(text)

        started_s = time.monotonic()
        assert not wait_replayed(execute, lsn, 0.2, server_version_num=version)
        assert not asyncio.run(wait_replayed_async(execute_async, lsn, 0.2, server_version_num=version))
        assert 0.4 <= time.monotonic() - started_s < 4
        resumed = threading.Timer(0.1, lambda: ask(lab, "pg2", "SELECT pg_wal_replay_resume()"))
        resumed.start()
        assert wait_replayed(execute, lsn, 10, server_version_num=version)
        assert asyncio.run(wait_replayed_async(execute_async, lsn, 10, server_version_num=version))
        resumed.join()


def test_the_position_of_a_write_is_one_that_replicas_reach_on_an_idle_primary(lab: Lab) -> None:
    """Also right behind the header of a page, where no record ends."""
    for _ in range(5):
        row = ask(lab, "pg1", "SELECT pg_switch_wal()", POSITION_SQL)[0]
        lsn = position("", row).lsn
        wait_until(
            lambda lsn=lsn: value(lab, "pg2", "SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn") >= lsn,
            f"pg2 has replayed {lsn}",
        )


# ---- nodes that fail


def test_a_frozen_node_holds_up_nobody(lab: Lab) -> None:
    with watching(lab) as monitor:
        monitor.ensure()
        lab.freeze("pg2")
        slowest_s, until_s = 0.0, time.monotonic() + LOOK_LIMIT_S + 1
        while time.monotonic() < until_s:
            before_s = time.monotonic()
            monitor.decide(READ)
            slowest_s = max(slowest_s, time.monotonic() - before_s)
        wait_for(monitor, lambda s: reason(s, "pg2") == "unreachable", "pg2 has left")

        assert (targets(monitor), targets(monitor, WRITE)) == ({"pg3"}, {"pg1"})
        assert slowest_s < NEVER_WAITS_S
        lab.thaw("pg2")
        wait_for(monitor, lambda s: reason(s, "pg2") == "fit", "pg2 is back")


def test_when_nobody_answers_what_was_known_grows_old(lab: Lab) -> None:
    with watching(lab) as monitor:
        snapshot = monitor.ensure()
        for name in lab.nodes:
            lab.freeze(name)
        wait_until(lambda: str(monitor.decide(READ).reason) == "snapshot_stale", "it is too old", limit_s=15)
        assert (monitor.decide(WRITE).node, monitor.decide(READ).node) == ("pg1", "pg1")
        for name in lab.nodes:
            lab.thaw(name)
        wait_for(monitor, lambda s: s is not snapshot and len(s.wheel) == 2, "all are back")


def test_after_a_failover_writes_and_tokens_follow_the_new_primary(lab: Lab) -> None:
    keys = KeyRing((b"0123456789abcdef",))
    ask(lab, "pg1", "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (1)")
    with watching(lab) as monitor:
        first = monitor.ensure()
        scope = monitor.new_scope(keys=keys)
        scope.note_write()
        scope.note_position(position(first.system, ask(lab, "pg1", POSITION_SQL)[0]), scope.writes)
        token = scope.token
        lab.kill("pg1")
        wait_for(monitor, lambda s: s.writer is None, "nobody takes writes")
        ask(lab, "pg2", "SELECT pg_promote()")
        promoted_s = time.monotonic()
        wait_until(lambda: monitor.decide(WRITE).node == "pg2", "writes go to pg2")
        assert time.monotonic() - promoted_s < 2
        lab.start("pg1")  # as it was: on the older timeline, and it takes writes
        wait_for(monitor, lambda s: reason(s, "pg1") == "stale_primary", "the old primary is seen")
        for _ in range(5):
            monitor.wait(monitor.snapshot, 2)
            assert monitor.decide(WRITE).node in ("pg2", None)

        after = monitor.new_scope(token, keys=keys)
        node = monitor.route(READ, after).node
        assert node == "pg2"
        assert value(lab, node, "SELECT count(*) FROM kept") == 1
        # WAL that was lost asks for what is left; one that nobody here has heard of leads nowhere.
        lost = Position(first.system, 1, position("", (1, 1 << 60)).lsn)
        assert monitor.route(read_after(lost)).node == "pg2"
        assert monitor.decide(read_after(Position(first.system, 9, lost.lsn))).node is None


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_a_failover_by_replctl_brings_the_replicas_back(lab: Lab) -> None:
    wait_streaming(lab, "pg1", "pg2", "pg3")
    with watching(lab) as monitor:
        monitor.ensure()
        lab.kill("pg1")
        done = fail_over(write_inventory(lab, name="acting.toml"))
        assert done.returncode == 0, done.stderr
        new = lab.primary()
        wait_for(monitor, lambda s: s.writer == new and len(s.wheel) == 1, "the other replica serves reads")

        assert (targets(monitor, WRITE), targets(monitor)) == ({new}, {"pg2", "pg3"} - {new})


def test_a_stopped_monitor_thread_is_started_again(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    with watching(lab) as monitor:
        snapshot = monitor.ensure()
        monitor.interval_s = "not a number"  # type: ignore[assignment]
        wait_until(lambda: "observation ended" in caplog.text, "it has failed")
        monitor.interval_s = INTERVAL_S

        assert monitor.decide(READ).node in ("pg2", "pg3")
        wait_for(monitor, lambda s: s is not snapshot and s.writer == "pg1", "it looks again")


# ---- by hand


def test_a_node_that_is_drained_by_hand_gets_no_reads_in_any_process(lab: Lab) -> None:
    with watching(lab) as monitor:
        monitor.ensure()
        path = write_inventory(lab)
        for command, expected in (("--drain", "drained"), ("--undrain", "fit")):
            done = replctl("route", command, "pg2", "--yes", env=environment(path))
            assert done.returncode == 0, done.stderr
            wait_for(monitor, lambda s, e=expected: reason(s, "pg2") == e, f"pg2 is {expected}")
            assert ("pg2" in targets(monitor)) is (expected == "fit")


def test_a_process_that_is_terminated_ends(lab: Lab) -> None:
    path = write_inventory(lab)
    program = f"""
        import os, signal
        from pathlib import Path
        from replctl.inventory import load_one
        from replctl.pg.monitor import Monitor
        Monitor(load_one(Path({str(path)!r}))).ensure()
        os.kill(os.getpid(), signal.SIGTERM)
    """
    done = run([sys.executable, "-c", textwrap.dedent(program)])

    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
