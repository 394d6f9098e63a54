"""`replctl check` as cron and a monitoring server run it, on clusters that are really broken."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from replctl.cli import run
from replctl.lab import Lab
from tests.support import ROOT, wait_until
from tests.unit import icinga

pytestmark = pytest.mark.live

Call = Callable[..., icinga.Seen]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where these runs keep what they remember."""
    monkeypatch.setenv("REPLCTL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def check(state, capfd) -> Call:
    """Run `replctl check …` in this process; gives what a monitoring server has of it."""

    def call(lab: Lab, *arguments: str) -> icinga.Seen:
        code = run(["check", "-i", str(lab.inventory_path), *arguments])
        return icinga.read(code, *capfd.readouterr())

    return call


def as_cron_does(inventory: Path, state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as a process of its own, in an environment with next to nothing in it."""
    return subprocess.run(
        [sys.executable, "-m", "replctl", "check", "-i", str(inventory), *arguments],
        env={"PATH": "/usr/bin:/bin", "REPLCTL_STATE_DIR": str(state)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
    )


def execute(lab: Lab, node: str, statement: str) -> None:
    with psycopg.connect(lab.dsn(node), autocommit=True) as connection:
        connection.execute(statement)


def receives(lab: Lab, node: str) -> bool:
    with psycopg.connect(lab.dsn(node)) as connection:
        return connection.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone()[0] == 1


# ---- one run


def test_a_healthy_cluster_is_ok_with_its_numbers(shared_lab, check):
    seen = check(shared_lab)

    assert (seen.state, seen.details) == ("OK", ())
    assert {"pg2_lag_bytes", "pg3_lag_s", "pg1_wal_senders_percent", "sync_writes_tolerate"} <= set(seen.data)
    assert seen.data["pg1_slots_percent"].value == 20


def test_quiet_and_well_prints_nothing_at_all(shared_lab, state):
    done = as_cron_does(shared_lab.inventory_path, state, "-q")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_json_says_the_same(shared_lab, check, capfd):
    assert run(["check", "lag-bytes", "-i", str(shared_lab.inventory_path), "--json"]) == 0

    document = json.loads(capfd.readouterr().out)
    assert list(document) == ["schema_version", "cluster", "status", "code", "checks"]
    assert (document["cluster"], document["status"], document["code"]) == ("lab", "OK", 0)
    assert [(c["name"], c["node"], c["status"], c["hint"]) for c in document["checks"]] == [
        ("lag-bytes", "pg2", "OK", None),
        ("lag-bytes", "pg3", "OK", None),
    ]
    assert [list(m) for c in document["checks"] for m in c["metrics"]] == [
        ["label", "value", "unit", "warn", "crit"]
    ] * 2


def test_a_directory_of_inventories_is_one_result(shared_lab, check, tmp_path):
    for name in ("orders", "stock"):
        text = shared_lab.inventory_path.read_text().replace('name = "lab"', f'name = "{name}"')
        (tmp_path / f"{name}.toml").write_text(text)
        (tmp_path / f"{name}.toml").chmod(0o600)

    seen = check(shared_lab, "-i", str(tmp_path), "lag-bytes", "primary")

    assert seen.text == "REPL OK: 2 checks of 6 nodes are fine"
    assert set(seen.data) == {f"{c}/{n}_lag_bytes" for c in ("orders", "stock") for n in ("pg2", "pg3")}


def test_thresholds_can_be_given(lab, check):
    execute(lab, "pg2", "SELECT pg_wal_replay_pause()")
    execute(lab, "pg1", "SELECT pg_logical_emit_message(true, 'test', repeat('x', 300000))")
    wait_until(lambda: check(lab, "lag-bytes", "--node", "pg3").data["pg3_lag_bytes"].value < 9, "pg3 is not")
    assert check(lab, "lag-bytes").data["pg2_lag_bytes"].value > 250000

    assert check(lab, "lag-bytes", "--warn", "200kB").state == "WARNING"
    assert check(lab, "lag-bytes", "--warn", "100", "--crit", "~:200000").state == "CRITICAL"
    assert check(lab, "lag-bytes", "--warn", "200kB", "--node", "pg3").state == "OK"


def test_runs_side_by_side_disturb_nobody(shared_lab, state):
    command = [sys.executable, "-m", "replctl", "check", "-i", str(shared_lab.inventory_path)]
    env = {"PATH": "/usr/bin:/bin", "REPLCTL_STATE_DIR": str(state)}
    runs = [
        subprocess.Popen(
            [*command, "--for", "2"],
            env=env,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(6)
    ]
    results = [(*process.communicate(timeout=30), process.returncode) for process in runs]

    assert [icinga.read(code, out, err).state for out, err, code in results] == ["OK"] * 6
    assert sorted(path.name for path in state.iterdir()) == [
        "lab.alerts.json",
        "lab.alerts.lock",
        "lab.lag.json",
        "lab.lag.lock",
        "lab.seen.json",
        "lab.seen.lock",
    ]


# ---- a cluster that gets worse and better


def test_every_state_of_a_cluster_is_told_in_a_line_that_is_read(lab, check):
    """Paused, receiving nothing, dead, silent, without a primary: the worst is named first."""
    execute(lab, "pg2", "SELECT pg_wal_replay_pause()")
    assert check(lab).text[:34] == "REPL WARNING: pg2 replay is paused"

    lab.cut("pg3")
    execute(lab, "pg1", "SELECT pg_switch_wal()")
    wait_until(lambda: not receives(lab, "pg3"), "pg3 receives nothing")
    seen = check(lab)
    assert (seen.state, seen.text[:41]) == ("CRITICAL", "REPL CRITICAL: pg3 stalled: no WAL from p")
    assert any(line.startswith("WARNING replay-paused: pg2 replay is paused") for line in seen.details)

    execute(lab, "pg2", "SELECT pg_wal_replay_resume()")
    lab.kill("pg3")
    seen = check(lab)
    assert seen.text[:39] == "REPL CRITICAL: pg3 unreachable, refused"
    assert "CRITICAL expected-nodes: pg3 streams from no node" in seen.details
    assert "pg3_lag_bytes" not in seen.data

    lab.freeze("pg2")
    seen = check(lab, "--timeout", "1s")
    assert (seen.state, seen.text[:39]) == ("CRITICAL", "REPL CRITICAL: pg3 unreachable, refused")
    assert any(line.startswith("UNKNOWN reachable: pg2: the run's time was over") for line in seen.details)

    lab.kill("pg1")
    seen = check(lab, "--timeout", "5s")
    assert seen.text[:39] == "REPL CRITICAL: pg1 unreachable, refused"
    assert "CRITICAL primary: no primary answers" in seen.details

    lab.thaw("pg2")
    assert check(lab, "primary").text == "REPL CRITICAL: no primary answers"
    assert check(lab, "lag-bytes").state == "UNKNOWN"

    lab.kill("pg2")
    assert check(lab).state == "CRITICAL"


def test_a_silent_node_ends_a_run_in_time_and_says_where(lab, check):
    lab.freeze("pg3")
    started_s = time.monotonic()

    seen = check(lab, "--timeout", "1500ms")

    assert time.monotonic() - started_s < 3
    assert seen.text == "REPL UNKNOWN: pg3: the run's time was over while connecting"
    assert "pg2_lag_bytes" in seen.data  # also what is measured against the primary is known by then


def test_an_unreachable_node_can_be_unknown(lab, check, tmp_path):
    lab.kill("pg1")
    path = tmp_path / "lenient.toml"
    path.write_text(lab.inventory_path.read_text() + '\n[checks]\nunreachable = "unknown"\n')
    path.chmod(0o600)

    assert check(lab, "reachable", "primary").state == "CRITICAL"
    assert check(lab, "-i", str(path), "reachable", "primary").state == "UNKNOWN"


# ---- fifty runs of a cron job

# What happens before a run, its exit code, and whether it prints with --for 2 --notify-changes.
SILENT, SAYS = False, True
FIFTY_RUNS: list[tuple[str, int, bool]] = [
    ("nothing yet", 0, SAYS),  # no memory: even that all is well is news
    ("", 0, SILENT),
    ("pause", 0, SILENT),  # bad, but for the first time
    ("", 1, SAYS),
    ("", 1, SILENT),
    ("", 1, SILENT),
    ("resume", 0, SAYS),
    ("", 0, SILENT),
    ("pause", 0, SILENT),
    ("resume", 0, SILENT),  # it was never said, and never will be
    ("", 0, SILENT),
    ("kill", 0, SILENT),
    ("", 2, SAYS),
    ("", 2, SILENT),
    ("pause", 2, SILENT),  # the second finding is young
    ("", 2, SAYS),
    ("lose", 2, SAYS),
    ("", 2, SILENT),
    ("truncate", 2, SAYS),
    ("", 2, SILENT),
    ("corrupt", 2, SAYS),
    ("", 2, SILENT),
    ("start", 1, SAYS),
    ("resume", 0, SAYS),
    ("", 0, SILENT),
    ("lose", 0, SAYS),
    ("", 0, SILENT),
    ("pause", 0, SILENT),
    ("lose", 1, SAYS),  # without a memory a first bad run counts
    ("", 1, SILENT),
    ("lock", 1, SAYS),  # nothing can be remembered: every run counts, every run speaks
    ("", 1, SAYS),
    ("unlock", 1, SAYS),  # what was there while it was locked is not believed
    ("", 1, SILENT),
    ("resume", 0, SAYS),
    ("", 0, SILENT),
    ("lock and kill", 2, SAYS),
    ("unlock", 2, SAYS),
    ("", 2, SILENT),
    ("foreign", 2, SAYS),
    ("", 2, SILENT),
    ("start", 0, SAYS),
    ("freeze", 0, SILENT),
    ("", 2, SAYS),
    ("thaw", 0, SAYS),
    ("directory", 0, SAYS),
    ("kill", 2, SAYS),
    ("mend", 2, SAYS),
    ("", 2, SILENT),
    ("start", 0, SAYS),
]


class Scene:
    """The cluster and the memory that the events happen to."""

    def __init__(self, lab: Lab, state: Path) -> None:
        self.lab, self.memory, self.lock_file = lab, state / "lab.alerts.json", state / "lab.alerts.lock"
        self.locked = ExitStack()

    def happen(self, event: str) -> None:
        for one in event.split(" and "):
            getattr(self, one.replace(" ", "_") or "nothing")()

    def nothing(self) -> None: ...

    def nothing_yet(self) -> None:
        assert not self.memory.exists()

    def pause(self) -> None:
        execute(self.lab, "pg2", "SELECT pg_wal_replay_pause()")

    def resume(self) -> None:
        execute(self.lab, "pg2", "SELECT pg_wal_replay_resume()")

    def kill(self) -> None:
        self.lab.kill("pg3")

    def start(self) -> None:
        self.lab.start("pg3")

    def freeze(self) -> None:
        self.lab.freeze("pg3")

    def thaw(self) -> None:
        self.lab.thaw("pg3")

    def lose(self) -> None:
        self.memory.unlink()

    def truncate(self) -> None:
        self.memory.write_bytes(self.memory.read_bytes()[:-40])

    def corrupt(self) -> None:
        self.memory.write_bytes(b"\xff\x00" * 500)

    def foreign(self) -> None:
        self.memory.write_text('{"format": 1, "views": {"' + '": 7, "'.join("abc") + '": [[]]}}')

    def directory(self) -> None:
        self.memory.unlink()
        (self.memory / "in the way").mkdir(parents=True)

    def mend(self) -> None:
        (self.memory / "in the way").rmdir()
        self.memory.rmdir()

    def lock(self) -> None:
        self.locked.enter_context(held(self.lock_file))

    def unlock(self) -> None:
        self.locked.close()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Somebody else holds the lock."""
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.slow
def test_fifty_runs_of_a_cron_job(lab, state, capfd, tmp_path):
    """Two jobs a minute: one that prints what changes, and a process that prints what is bad."""
    assert len(FIFTY_RUNS) == 50
    inventory = impatient(lab, tmp_path / "lab.toml")
    options = ["reachable", "replay-paused", "--for", "2", "--skip", "slots", "--skip", "sync"]
    scene = Scene(lab, state)
    with scene.locked:
        for number, (event, code, says) in enumerate(FIFTY_RUNS, 1):
            scene.happen(event)

            changes = run(["check", "-i", str(inventory), *options, "--notify-changes"])
            out, err = capfd.readouterr()
            quiet = as_cron_does(inventory, state, *options, "-q")

            row = f"run {number}, {event or 'nothing happens'}"
            assert (changes, bool(out), err) == (code, says, ""), row
            assert (quiet.returncode, bool(quiet.stdout), quiet.stderr) == (code, code != 0, ""), row
            for text in filter(None, (out, quiet.stdout)):
                assert icinga.read(code, text).state == icinga.STATES[code], row


def impatient(lab: Lab, path: Path) -> Path:
    """The lab's inventory, but a silent node is given up after a second."""
    text = lab.inventory_path.read_text()
    assert text.count("[connection]\n") == 1
    path.write_text(text.replace("[connection]\n", "[connection]\nconnect_timeout_s = 1\n"))
    path.chmod(0o600)
    return path
