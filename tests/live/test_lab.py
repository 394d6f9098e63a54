"""The lab: what it builds, how it breaks and mends, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replctl.errors import LabError, RefusedError, UsageError
from replctl.inventory import load
from replctl.lab import Lab, remove
from tests.live.servers import fitting, in_turn
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live


def ask(lab: Lab, node: str, query: str, user: str = "postgres") -> list[tuple[Any, ...]]:
    with psycopg.connect(lab.dsn(node, user), autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def streaming(lab: Lab, upstream: str) -> dict[str, str]:
    rows = ask(
        lab,
        upstream,
        "SELECT application_name, sync_state FROM pg_stat_replication WHERE state = 'streaming'",
    )
    return dict(rows)


def at_work(directory: Path) -> list[str]:
    """Command lines and working directories of living processes that have to do with a directory."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                what = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                where = str((process / "cwd").readlink())
            except OSError:
                continue
            if state != "Z" and (f"{directory}/" in what + " " or where.startswith(f"{directory}/")):
                found.append(what)
    return found


def own_segments(lab: Lab) -> set[str]:
    """The ids of the System V shared memory of this lab's running servers: line 7 of postmaster.pid."""
    files = [node.data_directory / "postmaster.pid" for node in lab.nodes.values()]
    return {file.read_text().splitlines()[6].split()[1] for file in files}


def all_segments() -> set[str]:
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


# ---- what is built


def test_every_replica_streams_from_the_first_primary(shared_lab: Lab) -> None:
    assert streaming(shared_lab, "pg1") == {"pg2": "quorum", "pg3": "quorum"}
    assert shared_lab.primary() == "pg1"


def test_every_node_is_set_for_being_failed_over_and_rewound(shared_lab: Lab) -> None:
    names = "wal_log_hints", "wal_level", "hot_standby", "synchronous_standby_names", "cluster_name", "fsync"
    query = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)

    settings = {node: ask(shared_lab, node, query)[0] for node in shared_lab.nodes}

    assert settings == {
        node: ("on", "replica", "on", "ANY 1 (pg1, pg2, pg3)", node, "off") for node in ("pg1", "pg2", "pg3")
    }


def test_every_replica_has_its_slot_on_its_upstream(shared_lab: Lab) -> None:
    assert ask(shared_lab, "pg1", "SELECT slot_name, active FROM pg_replication_slots ORDER BY 1") == [
        ("pg2", True),
        ("pg3", True),
    ]


def test_servers_listen_on_loopback_alone(shared_lab: Lab) -> None:
    query = "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
    assert ask(shared_lab, "pg2", query) == [("127.0.0.1", "")]


def test_the_inventory_is_what_replctl_reads(shared_lab: Lab) -> None:
    inventory = load(shared_lab.inventory_path)
    document = tomllib.loads(shared_lab.inventory_path.read_text())

    found = {(spec.name, spec.host, spec.port, spec.data_directory) for spec in inventory.settings.nodes}
    assert found == {
        (node.name, "127.0.0.1", node.port, str(node.data_directory)) for node in shared_lab.nodes.values()
    }
    assert document["connection"] == {"user": "replctl", "dbname": "postgres", "sslmode": "disable"}
    assert document["replication"] == {"user": "replicator", "sslmode": "disable", "slot": "{name}"}
    assert document["failover"] == {"synchronous": "ANY 1 (pg1, pg2, pg3)"}


def test_the_inventory_may_be_written_by_its_owner_alone(shared_lab: Lab) -> None:
    assert shared_lab.inventory_path.stat().st_mode & 0o777 == 0o644


def test_the_inventory_s_prefix_runs_programs_as_the_servers_account(shared_lab: Lab) -> None:
    prefix = load(shared_lab.inventory_path).commands["pg1"].run
    assert prefix is not None

    shown = subprocess.run([*prefix, "id", "-u"], capture_output=True, text=True, check=True, timeout=10)

    assert int(shown.stdout) == shared_lab.nodes["pg1"].data_directory.stat().st_uid


@pytest.mark.lab(replicas=3, cascade=True, sync="FIRST 2")
def test_the_last_replica_of_a_cascade_streams_from_the_one_before_it(lab: Lab) -> None:
    assert streaming(lab, "pg1") == {"pg2": "sync", "pg3": "sync"}
    assert streaming(lab, "pg3") == {"pg4": "async"}
    assert lab.synchronous == "FIRST 2 (pg1, pg2, pg3, pg4)"


@pytest.mark.lab(replicas=0, witness=True)
def test_a_witness_is_a_server_of_its_own(lab: Lab) -> None:
    query = "SELECT system_identifier, pg_is_in_recovery() FROM pg_control_system()"
    primary, witness = ask(lab, "pg1", query)[0], ask(lab, "w1", query)[0]

    assert (primary[1], witness[1]) == (False, False)
    assert primary[0] != witness[0]
    assert list(lab.witnesses) == ["w1"] and list(lab.nodes) == ["pg1"]


def test_an_asynchronous_lab_says_so_in_its_inventory(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab(replicas=1)
    assert tomllib.loads(lab.inventory_path.read_text())["failover"] == {"synchronous": ""}
    assert streaming(lab, "pg1") == {"pg2": "async"}


# ---- broken and mended


@pytest.mark.lab(replicas=1)
def test_a_killed_server_starts_again_and_its_replica_follows(lab: Lab) -> None:
    before = lab.nodes["pg1"].pid

    assert lab.kill("pg1")
    assert (lab.nodes["pg1"].state, lab.nodes["pg1"].pid) == ("stopped", None)
    assert not lab.kill("pg1")

    assert lab.start("pg1")
    assert not lab.start("pg1")
    assert lab.nodes["pg1"].pid not in (None, before)
    wait_until(lambda: streaming(lab, "pg1") == {"pg2": "async"}, "pg2 streams again")


@pytest.mark.lab(replicas=0)
def test_a_frozen_server_answers_nobody_until_it_is_thawed(lab: Lab) -> None:
    assert lab.freeze("pg1")
    assert lab.nodes["pg1"].state == "frozen"
    assert not lab.freeze("pg1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(lab.dsn("pg1"), connect_timeout=2)
    with pytest.raises(RefusedError, match="frozen"):
        lab.stop("pg1")
    with pytest.raises(RefusedError, match="frozen"):
        lab.start("pg1")

    assert lab.thaw("pg1")
    assert ask(lab, "pg1", "SELECT 1") == [(1,)]
    assert not lab.thaw("pg1")


@pytest.mark.lab(replicas=1)
def test_a_stopped_server_shut_down_in_order(lab: Lab) -> None:
    assert lab.stop("pg1")
    assert not lab.stop("pg1")
    assert "database system is shut down" in lab.nodes["pg1"].log_file.read_text()
    assert lab.primary() is None


@pytest.mark.lab(replicas=2)
def test_a_cut_replica_stays_away_and_keeps_its_upstream_s_address(lab: Lab) -> None:
    address = f"port={lab.nodes['pg1'].port}"

    assert lab.cut("pg3")
    assert not lab.cut("pg3")
    wait_until(lambda: streaming(lab, "pg1") == {"pg2": "async"}, "pg1 notices that pg3 has gone")
    assert address in ask(lab, "pg3", "SHOW primary_conninfo")[0][0]

    assert lab.mend("pg3")
    assert not lab.mend("pg3")
    assert streaming(lab, "pg1") == {"pg2": "async", "pg3": "async"}


@pytest.mark.lab(replicas=1)
def test_a_replica_whose_replay_is_paused_can_be_cut(lab: Lab) -> None:
    ask(lab, "pg2", "SELECT pg_wal_replay_pause()")
    ask(lab, "pg1", "SELECT pg_switch_wal()")
    wait_until(
        lambda: ask(lab, "pg2", "SELECT pg_get_wal_replay_pause_state()") == [("paused",)], "replay is paused"
    )

    assert lab.cut("pg2")

    assert ask(lab, "pg2", "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'") == [(0,)]


def test_a_primary_cannot_be_cut(shared_lab: Lab) -> None:
    with pytest.raises(RefusedError, match="pg1 is a primary"):
        shared_lab.cut("pg1")


def test_a_node_that_is_not_there_is_named_with_those_that_are(shared_lab: Lab) -> None:
    with pytest.raises(UsageError, match="no node 'pg9': it has pg1, pg2, pg3"):
        shared_lab.kill("pg9")


@pytest.mark.lab(replicas=0)
def test_a_lock_file_with_another_program_s_pid_does_not_stop_a_start(lab: Lab) -> None:
    lab.kill("pg1")
    pid_file = lab.nodes["pg1"].data_directory / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    assert lab.start("pg1")


@pytest.mark.lab(replicas=0)
def test_a_server_that_cannot_start_says_why(lab: Lab) -> None:
    lab.stop("pg1")
    with (lab.nodes["pg1"].data_directory / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = 'much'\n")

    with pytest.raises(LabError, match=r"pg1 did not start: .*shared_buffers"):
        lab.start("pg1")


@pytest.mark.lab(replicas=2)
def test_after_a_promotion_the_new_primary_is_the_primary(lab: Lab) -> None:
    ask(lab, "pg2", "SELECT pg_promote()")  # and pg1 goes on: of two, the newest timeline counts

    assert lab.primary() == "pg2"
    assert {name: node.role for name, node in lab.nodes.items()} == {
        "pg1": "primary",
        "pg2": "primary",
        "pg3": "replica",
    }


# ---- nothing is left


@pytest.mark.lab(replicas=3)
def test_down_leaves_nothing_whatever_state_the_servers_are_in(lab: Lab) -> None:
    segments = own_segments(lab)
    assert len(segments) == 4 and segments <= all_segments()
    lab.kill("pg1")
    lab.freeze("pg2")
    lab.freeze("pg3")
    assert lab.nodes["pg3"].pid is not None
    os.kill(lab.nodes["pg3"].pid, signal.SIGKILL)  # its frozen children outlive it
    lab.stop("pg4")

    lab.down()

    assert not lab.directory.exists()
    assert at_work(lab.directory) == []
    assert not segments & all_segments()
    assert not remove(lab.directory)


def test_down_leaves_what_it_did_not_make(lab_directory: Path, pg_bin: Path) -> None:
    lab_directory.mkdir()
    with Lab.up(lab_directory, replicas=0, pg_bin=pg_bin, fsync=False):
        (lab_directory / "notes.txt").write_text("mine")

    assert [path.name for path in lab_directory.iterdir()] == ["notes.txt"]
    with pytest.raises(RefusedError, match="holds no lab"):
        remove(lab_directory)
    (lab_directory / "notes.txt").unlink()


def test_a_directory_in_use_is_refused(new_lab: Callable[..., Lab], tmp_path: Path) -> None:
    lab = new_lab(replicas=0)
    with pytest.raises(RefusedError, match="there is a lab in"):
        new_lab(replicas=0)
    assert ask(lab, "pg1", "SELECT 1") == [(1,)]

    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RefusedError, match="is not empty"):
        Lab.up(tmp_path)
    with pytest.raises(RefusedError, match="holds no lab"):
        remove(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_build_that_fails_leaves_nothing(new_lab: Callable[..., Lab], lab_directory: Path) -> None:
    with Lab.up(lab_directory.parent / "other", replicas=0, fsync=False) as other:
        with pytest.raises(RefusedError, match="is not free"):
            new_lab(base_port=other.nodes["pg1"].port)
        assert not lab_directory.exists()


def test_labs_that_are_built_at_the_same_moment_do_not_meet(lab_directory: Path, pg_bin: Path) -> None:
    places = [lab_directory.parent / f"lab{number}" for number in range(3)]
    with ThreadPoolExecutor() as pool:
        labs = list(pool.map(lambda place: Lab.up(place, replicas=1, pg_bin=pg_bin, fsync=False), places))
    try:
        ports = [node.port for lab in labs for node in lab.nodes.values()]
        assert len(set(ports)) == 6
        assert [streaming(lab, "pg1") for lab in labs] == [{"pg2": "async"}] * 3
        labs[0].down()
        assert [lab.primary() for lab in labs[1:]] == ["pg1", "pg1"]
    finally:
        for lab in labs:
            lab.down()


@pytest.mark.slow
def test_an_interrupted_build_leaves_nothing(lab_directory: Path, pg_bin: Path, seed: int) -> None:
    for number, moment_s in interruptions(seed, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        code = interrupted_up(lab_directory, pg_bin, number, moment_s)

        if lab_directory.exists():  # it was ready before, though it may not have said so yet
            assert code in (0, 130, -number), moment_s
            with Lab.open(lab_directory) as lab:
                assert streaming(lab, "pg1") == {"pg2": "async", "pg3": "async"}, moment_s
        else:
            assert (code, lab_directory.exists(), at_work(lab_directory)) == (130, False, []), moment_s


@pytest.mark.slow
def test_a_build_that_was_shot_is_removed_by_down(lab_directory: Path, pg_bin: Path, seed: int) -> None:
    for number, moment_s in interruptions(seed, (signal.SIGKILL,)):
        interrupted_up(lab_directory, pg_bin, number, moment_s)

        down = replctl("lab", "down", "--dir", str(lab_directory))

        assert (down.returncode, down.stderr) == (0, "")
        assert (lab_directory.exists(), at_work(lab_directory)) == (False, []), moment_s


def interruptions(seed: int, numbers: tuple[signal.Signals, ...]) -> list[tuple[signal.Signals, float]]:
    dice = random.Random(seed)
    return [(dice.choice(numbers), dice.uniform(0.0, 1.0)) for _ in range(6)]


def interrupted_up(directory: Path, pg_bin: Path, number: signal.Signals, moment_s: float) -> int:
    """The exit code of a `lab up` that gets a signal this long after it wrote lab.json, if it still runs."""
    argv = [sys.executable, "-m", "replctl", "lab", "up", "--no-fsync"]
    argv += ["--dir", str(directory), "--pg-bin", str(pg_bin)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until((directory / "lab.json").exists, "the build began")
        try:
            return process.wait(timeout=moment_s)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            return process.wait(timeout=30)


# ---- the command


def test_status_tells_each_server_s_process_and_files(shared_lab: Lab) -> None:
    answer = replctl("lab", "status", "--dir", str(shared_lab.directory), "-o", "json")

    assert (answer.returncode, answer.stderr) == (0, "")
    assert json.loads(answer.stdout) == {
        "schema_version": 1,
        "directory": str(shared_lab.directory),
        "inventory": str(shared_lab.inventory_path),
        "server_version": shared_lab.server_version,
        "synchronous": "ANY 1 (pg1, pg2, pg3)",
        "nodes": [
            {
                "name": name,
                "role": "primary" if name == "pg1" else "replica",
                "state": "running",
                "host": "127.0.0.1",
                "port": node.port,
                "pid": node.pid,
                "data_directory": str(shared_lab.directory / name / "data"),
                "log_file": str(shared_lab.directory / name / "postgresql.log"),
            }
            for name, node in shared_lab.nodes.items()
        ],
    }


def test_up_says_what_to_type_next_and_down_ends_it(lab_directory: Path, pg_bin: Path) -> None:
    where = ("--dir", str(lab_directory))
    before = os.umask(0o077)  # a careful user's must not keep the servers' account out
    try:
        up = replctl("lab", "up", *where, "--replicas", "1", "--no-fsync", "--pg-bin", str(pg_bin))
    finally:
        os.umask(before)
    assert (up.returncode, up.stderr) == (0, "")
    assert f"replctl status -i {lab_directory}/inventory.toml" in up.stdout
    assert f"export REPLCTL_INVENTORY={lab_directory}/inventory.toml" in up.stdout

    again = replctl("lab", "up", *where)
    assert (again.returncode, again.stdout) == (3, "")
    assert again.stderr == (
        f"replctl: there is a lab in {lab_directory} already\n"
        f"hint: replctl lab status --dir {lab_directory}, replctl lab down --dir {lab_directory}, "
        "or another --dir\n"
    )

    for command, said in (
        (("kill", "pg1", "pg2"), "pg1 is killed.\npg2 is killed.\n"),
        (("start", "pg1", "pg2"), "pg1 runs.\npg2 runs.\n"),
        (("cut", "pg2"), "pg2 is cut from its upstream.\n"),
        (("cut", "pg2", "--undo"), "pg2 can reach its upstream again.\n"),
        (("freeze", "pg2"), "pg2 is frozen.\n"),
        (("thaw", "pg2"), "pg2 runs on.\n"),
        (("stop", "pg2"), "pg2 is stopped.\n"),
    ):
        done = replctl("lab", *command, *where)
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")

    down = replctl("lab", "down", *where)
    assert (down.returncode, down.stdout) == (0, f"The lab in {lab_directory} is gone.\n")


def test_what_was_done_before_a_refusal_is_told(lab: Lab) -> None:
    answer = replctl("lab", "cut", "--dir", str(lab.directory), "pg2", "pg1")

    assert (answer.returncode, answer.stdout) == (4, "pg2 is cut from its upstream.\n")
    assert answer.stderr.startswith("replctl: pg1 was left as it is: pg1 is a primary")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--replicas", "99"), 2, "a lab has between 0 and 50 replicas, not 99"),
        (("--replicas", "1", "--cascade"), 2, "a cascade needs at least 2 replicas"),
        (("--sync", "ANY 3"), 2, "--sync 'ANY 3' could never be satisfied"),
        (("--sync", "SOME 1"), 2, "cannot read --sync 'SOME 1'"),
        (("--base-port", "80"), 2, "--base-port 80 does not fit"),
        (("--pg-bin", "/nonexistent"), 1, "no PostgreSQL server in /nonexistent"),
        (("--dir", "/tmp/$HOME"), 2, "a lab cannot live in '/tmp/$HOME'"),
        (("--dir", "/etc"), 3, "/etc is not empty"),
        (("--dir", "/etc/passwd"), 2, "/etc/passwd is not a directory"),
    ],
)
def test_a_wrong_option_is_told_in_a_sentence(options: tuple[str, ...], code: int, said: str) -> None:
    answer = replctl("lab", "up", *options)

    assert (answer.returncode, answer.stdout) == (code, "")
    assert answer.stderr.startswith(f"replctl: {said}")


def test_the_demo_ends_by_itself_and_leaves_nothing(tmp_path: Path) -> None:
    # A directory of its own, so that what is left behind would be seen; every user may pass it.
    place = Path("/tmp") / f"replctl-demo-test-{os.getpid()}"
    place.mkdir()
    try:
        answer = replctl("demo", env={"TMPDIR": str(place)}, limit_s=60)

        assert (answer.returncode, answer.stderr) == (0, "")
        assert "rows acknowledged, 0 lost; pg2 was promoted" in answer.stdout
        assert list(place.iterdir()) == []
        assert at_work(place) == []
    finally:
        place.rmdir()


# ---- how tests get their servers


def test_a_specification_chooses_versions() -> None:
    assert fitting(">= 16", [15, 16, 17]) == [16, 17]
    assert fitting(">= 15, < 17", [14, 15, 16, 17]) == [15, 16]
    assert fitting("", [15, 18]) == [15, 18]
    with pytest.raises(ValueError, match="expected conditions"):
        fitting("16+", [16])


def test_every_version_has_its_turn() -> None:
    chosen = [in_turn(f"tests/live/test_x.py::test_{number}", [15, 16, 17, 18]) for number in range(400)]
    assert min(chosen.count(major) for major in (15, 16, 17, 18)) > 60
