"""Lag without a history, and with one that runs share: a probe, a heartbeat, cron, broken state files."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from replctl.cli.look import look
from replctl.core.lag import LagBound, LagSource
from replctl.core.status import NodeStatus
from replctl.inventory import Inventory, load_one
from replctl.journal import load_history
from replctl.lab import Lab
from replctl.pg.observe import Observer
from tests.live.truth import LAST_ROW, Watch, Writer, open_transaction, paused, set_on, superuser
from tests.support import ROOT, replctl, run, wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(replicas=1)]

NOISE_S = 0.3
LAG_FILE = "lab.lag.json"
STATE_FILES = [LAG_FILE, "lab.lag.lock", "lab.seen.json", "lab.seen.lock"]
HALF_A_RECORD = "SELECT pg_logical_emit_message(true, 'test', repeat('x', 12000))"
WRITTEN = "SELECT pg_current_wal_lsn()::text"
REPLAYED = "SELECT pg_last_wal_replay_lsn()::text"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory of this process and of those that it starts."""
    directory = tmp_path / "state"
    monkeypatch.setenv("REPLCTL_STATE_DIR", str(directory))
    return directory


def replica(inventory: Inventory, *, probe_s: float | None = None, limit_s: float = 10.0) -> NodeStatus:
    """pg2 at one look, as a command takes it."""
    return asyncio.run(look(inventory, limit_s=limit_s, probe_s=probe_s)).status["pg2"]


def check(lab: Lab, *names: str) -> subprocess.CompletedProcess[str]:
    return replctl("check", "-i", str(lab.inventory_path), *names)


def value(connection: Any, query: str) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def wait_for(moment_s: float) -> None:
    wait_until(lambda: time.monotonic() > moment_s, "it is time")


# ---- --probe


def test_a_probe_is_exact_where_the_replica_catches_up_meanwhile(lab: Lab) -> None:
    inventory = load_one(lab.inventory_path)
    with Writer(lab) as writer, superuser(lab, "pg2") as connection, paused(lab, "pg2"):
        wait_until(lambda: len(writer.committed_s) > 5, "rows are missing")
        writer.rest()
        resume = threading.Timer(0.8, lambda: connection.execute("SELECT pg_wal_replay_resume()"))
        resume.start()
        shown = replica(inventory, probe_s=5)
        resume.join()

    assert (shown.lag_source, shown.lag_bound) == (LagSource.PROBE, LagBound.EXACT)
    assert shown.lag_s is not None
    # It replayed at 0.8 s what the primary had at the look, which itself took a moment.
    assert 0.4 < shown.lag_s < 0.8 + NOISE_S


def test_a_probe_of_a_paused_replica_says_at_least_and_ends_in_time(lab: Lab) -> None:
    inventory = load_one(lab.inventory_path)
    with Writer(lab) as writer, paused(lab, "pg2"):
        wait_until(lambda: len(writer.committed_s) > 5, "rows are missing")
        started_s = time.monotonic()
        shown = replica(inventory, probe_s=1)
        took_s = time.monotonic() - started_s
        bounded = replica(inventory, probe_s=60, limit_s=1)

    assert (shown.lag_source, shown.lag_bound) == (LagSource.PROBE, LagBound.LOWER)
    assert shown.lag_s is not None
    assert 0.9 < shown.lag_s <= took_s < 1 + 1
    # --timeout ends it, and the history of the first look is there by now.
    assert bounded.lag_s is not None
    assert 0.9 < bounded.lag_s < 5


def test_a_probe_is_not_kept_waiting_by_an_open_transaction(lab: Lab) -> None:
    with open_transaction(lab) as execute:
        execute(HALF_A_RECORD)
        with superuser(lab, "pg1") as pg1, superuser(lab, "pg2") as pg2:
            wait_until(lambda: value(pg1, WRITTEN) != value(pg2, REPLAYED), "half a record is out")
        done = check(lab, "lag-seconds", "--probe", "2s", "-o", "json")

    (result,) = json.loads(done.stdout)["checks"]
    assert done.returncode == 0
    # Nothing, or what the WAL writer had not sent yet.
    assert result["metrics"][0]["value"] <= 0.2 + NOISE_S


# ---- the heartbeat


def with_heartbeat(inventory: Inventory, every_s: float) -> Inventory:
    checks = replace(inventory.settings.checks, heartbeat_s=every_s)
    return replace(inventory, settings=replace(inventory.settings, checks=checks))


def test_a_heartbeat_makes_a_paused_replica_of_an_idle_primary_late(lab: Lab) -> None:
    inventory = with_heartbeat(load_one(lab.inventory_path), 0.5)
    with Writer(lab) as writer, Watch(lab, inventory, writer, interval_s=0.5) as watch:
        writer.rest()
        watch.follow_until(lambda seen: seen["pg2"].shown.lag_s == 0, "pg2 has all rows")
        with paused(lab, "pg2"):
            readings = [seen["pg2"] for seen in watch.follow(4)]
        watch.follow_until(lambda seen: seen["pg2"].shown.lag_s == 0, "pg2 has caught up")

    assert {r.most_s for r in readings} == {0.0}, "no row was to be missing"
    assert len({r.shown.lag.lag_bytes for r in readings}) >= 4, "beat after beat was to come"
    seconds = [r.shown.lag_s or 0.0 for r in readings]
    # The first beat is out after a look, and seen by the next; the WAL writer may take 0.6 s to write it.
    assert 4 - 3 * 0.5 - 0.6 < seconds[-1] < 4 + 0.5
    assert all(later >= earlier for earlier, later in pairwise(seconds))


def test_a_check_writes_a_heartbeat_only_where_the_inventory_wants_one(lab: Lab) -> None:
    def written() -> list[int]:
        """The end of the WAL after a run of check, and after another."""
        ends = []
        with superuser(lab, "pg1") as connection:
            for _ in range(2):
                assert check(lab, "lag-bytes").returncode == 0
                ends.append(value(connection, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
        return ends

    before = written()
    with lab.inventory_path.open("a") as file:
        file.write("\n[checks]\nheartbeat_s = 5\n")
    after = written()

    assert before[0] == before[1]
    assert before[1] < after[0] < after[1]


def test_a_heartbeat_does_not_wait_for_replicas_that_do_not_answer(lab: Lab) -> None:
    inventory = with_heartbeat(load_one(lab.inventory_path), 0.1)
    set_on(lab, "pg1", synchronous_standby_names="nobody")

    async def looks() -> float:
        async with Observer(inventory) as observer:
            await observer.observe()
            started_s = time.monotonic()
            for _ in range(3):
                await asyncio.sleep(0.1)  # so that a beat is due
                await observer.observe()
            return time.monotonic() - started_s

    with superuser(lab, "pg1") as connection:
        wait_until(lambda: value(connection, "SHOW synchronous_standby_names") == "nobody", "it is set")
        assert asyncio.run(looks()) < 0.3 + 1
        waiting = value(connection, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    assert waiting == 0


# ---- cron


def test_checks_by_cron_have_seconds_from_the_second_run_on(lab: Lab) -> None:
    with Writer(lab) as writer, superuser(lab, "pg2") as connection:
        wait_until(lambda: writer.committed_s, "rows are written")
        assert check(lab, "lag-seconds").returncode == 0
        rows = len(writer.committed_s)
        wait_until(lambda: value(connection, LAST_ROW) > rows, "pg2 is past the first look")
        with paused(lab, "pg2"):
            last_row, began_s = value(connection, LAST_ROW), time.monotonic()
            runs = []
            for number in range(1, 5):
                least_s = writer.missing_for_s(last_row)
                done = check(lab, "lag-seconds", "-o", "json")
                most_s = writer.missing_for_s(last_row)
                assert (done.returncode, done.stderr) == (0, "")
                (result,) = json.loads(done.stdout)["checks"]
                runs.append((least_s, result["metrics"][0]["value"], most_s))
                wait_for(began_s + 2 * number)
            status = json.loads(replctl("status", "-i", str(lab.inventory_path), "-o", "json").stdout)

    assert runs[-1][0] > 5
    # Two seconds lie between two runs.
    assert all(least_s - 2 - NOISE_S <= shown <= most_s + 2 + NOISE_S for least_s, shown, most_s in runs), (
        runs
    )
    (node,) = (n for n in status["nodes"] if n["name"] == "pg2")
    assert (node["lag_source"], node["lag_bound"]) == ("history", "exact")
    assert node["lag_s"] > 6


def test_ten_checks_at_once_leave_one_history_and_all_are_right(lab: Lab, state: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "replctl",
        "check",
        "-i",
        str(lab.inventory_path),
        "lag-bytes",
        "lag-seconds",
    ]
    with Writer(lab):
        assert check(lab, "lag-bytes").returncode == 0
        [before] = load_history("lab", state).marks
        runs = [
            subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(10)
        ]
        ends = [(*run.communicate(timeout=60), run.returncode) for run in runs]

    assert [(stderr, code) for _, stderr, code in ends] == [(b"", 0)] * 10
    assert all(stdout.startswith(b"REPL OK") for stdout, _, _ in ends)
    history = load_history("lab", state)
    assert history.marks[0].lsn == before.lsn  # nobody began anew
    # Rows came in all the time: runs that looked at different moments left marks of their own.
    assert len(history.marks) > 2
    assert [m.lsn for m in history.marks] == sorted({m.lsn for m in history.marks})
    assert sorted(p.name for p in state.iterdir()) == STATE_FILES


# ---- state files that cannot be used


def lost(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def overwritten(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 20)


def of_another_shape(path: Path) -> None:
    path.write_text('{"format": 1, "origin": 7, "marks": [[1, 2]], "points": null}')


def from_the_future(path: Path) -> None:
    document = json.loads(path.read_text())
    document["marks"] = [[time.time() + 86400, time.time() + 86400, 1 << 60]]
    path.write_text(json.dumps(document))


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BROKEN = [lost, truncated, emptied, overwritten, of_another_shape, from_the_future, a_directory, a_pipe]


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda f: f.__name__)
def test_a_broken_history_costs_history_only(
    shared_lab: Lab, state: Path, break_it: Callable[[Path], None]
) -> None:
    assert check(shared_lab, "lag-bytes", "lag-seconds").returncode == 0
    break_it(state / LAG_FILE)

    done = check(shared_lab, "lag-bytes", "lag-seconds")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("REPL OK")
    kept = load_history("lab", state).marks
    assert len(kept) == (0 if break_it is a_directory else 1)  # it starts anew


@contextmanager
def locked_by_another(path: Path) -> Iterator[list[str]]:
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield []


@contextmanager
def on_a_full_disk(path: Path) -> Iterator[list[str]]:
    """Every file that the program writes ends after 64 bytes, as where no space is left."""
    limit = "import resource as r, runpy; r.setrlimit(r.RLIMIT_FSIZE, (64, 64)); "
    yield [sys.executable, "-c", limit + "runpy.run_module('replctl', run_name='__main__', alter_sys=True)"]


@pytest.mark.parametrize("condition", [locked_by_another, on_a_full_disk], ids=lambda f: f.__name__)
def test_a_history_that_cannot_be_written_stays_as_it_was(
    shared_lab: Lab, state: Path, condition: Callable[[Path], Any]
) -> None:
    assert check(shared_lab, "lag-bytes", "lag-seconds").returncode == 0
    path = state / LAG_FILE
    before = path.read_bytes()

    with condition(path) as program:
        arguments = ["check", "-i", str(shared_lab.inventory_path), "lag-bytes", "lag-seconds"]
        started_s = time.monotonic()
        done = run([*(program or [sys.executable, "-m", "replctl"]), *arguments])
        took_s = time.monotonic() - started_s

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("REPL OK")
    assert path.read_bytes() == before
    assert sorted(p.name for p in state.iterdir()) == STATE_FILES
    assert took_s < 10


@pytest.mark.parametrize("place", ["/proc/replctl", "/dev/null", "closed"])
def test_a_directory_that_cannot_be_used_costs_history_only(
    shared_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "closed":
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        place = str(closed / "state")
    monkeypatch.setenv("REPLCTL_STATE_DIR", place)

    done = check(shared_lab, "lag-bytes", "lag-seconds")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("REPL OK")
