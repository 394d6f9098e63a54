"""`replctl metrics` and `events` on a real cluster: accepted by Prometheus in every state."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replctl.inventory import load
from replctl.lab import Lab
from replctl.render.prometheus import render
from tests.live.failover_support import GRACES, ask, environment, fail_over, wait_streaming, write_inventory
from tests.promtool import accept_metrics, fire_just
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live

Break = Callable[[Lab], object]


def pause(lab: Lab) -> None:
    ask(lab, "pg2", "SELECT pg_wal_replay_pause()")


def lose_everybody(lab: Lab) -> None:
    for node in ("pg2", "pg3", "pg1"):
        lab.kill(node)


def run_away(lab: Lab) -> None:
    """A second primary, on a newer timeline."""
    ask(lab, "pg3", "SELECT pg_promote()")


STATES: dict[str, tuple[Break, int, tuple[str, ...]]] = {
    "well": (lambda _: None, 0, ()),
    "a killed replica": (lambda lab: lab.kill("pg2"), 0, ("ReplctlNodeDown! pg2",)),
    "a frozen replica": (lambda lab: lab.freeze("pg2"), 0, ("ReplctlNodeDown! pg2",)),
    "a cut replica": (lambda lab: lab.cut("pg2"), 0, ("ReplctlReplicaNotStreaming! pg2",)),
    "a paused replica": (pause, 0, ("ReplctlReplayPaused pg2",)),
    "a killed primary": (
        lambda lab: lab.kill("pg1"),
        0,
        (
            "ReplctlAllReplicasUnfit",
            "ReplctlNoPrimary!",
            "ReplctlNodeDown! pg1",
            "ReplctlReplicaNotStreaming! pg2",
            "ReplctlReplicaNotStreaming! pg3",
        ),
    ),
    "a second primary": (
        run_away,
        0,
        (
            "ReplctlAllReplicasUnfit",
            "ReplctlMultiplePrimaries!",
            "ReplctlReplicaDiverged! pg2",
            "ReplctlStalePrimary! pg1",
        ),
    ),
    "nobody": (
        lose_everybody,
        1,
        (
            "ReplctlAllReplicasUnfit",
            "ReplctlNoPrimary!",
            *(f"ReplctlNodeDown! pg{n}" for n in (1, 2, 3)),
            "ReplctlRunFailed",
        ),
    ),
}

UNUSED_SLOTS = {"a killed replica": "pg2", "a cut replica": "pg2", "a second primary": "pg3"}


@pytest.mark.parametrize("name", STATES)
def test_what_is_printed_in_every_state_is_accepted_and_fires_just_its_alerts(
    name: str, lab: Lab, pg_major: int, tmp_path: Path
) -> None:
    spoil, code, fires = STATES[name]
    if pg_major < 17 and (unused := UNUSED_SLOTS.get(name)):
        # Such a server does not tell since when; it is taken to be as long as it was seen.
        fires += (f"ReplctlSlotInactive pg1 {unused}", f"ReplctlSlotInactive! pg1 {unused}")
    inventory = write_inventory(lab)
    wait_streaming(lab, "pg1", "pg2", "pg3")
    spoil(lab)
    if name == "a cut replica":
        wait_streaming(lab, "pg1", "pg3")
    rules = tmp_path / "rules.yml"
    rules.write_text(render([load(inventory).settings]).text)
    done = replctl("metrics", "-o", "text", "--timeout", "4s", env=environment(inventory))
    assert (done.returncode, done.stderr) == (code, "")
    accept_metrics(done.stdout)
    fire_just(rules, done.stdout, *fires, now=time.time())


def test_a_textfile_is_replaced_whole_readable_and_written_also_when_nodes_fail(
    lab: Lab, tmp_path: Path
) -> None:
    inventory, file = write_inventory(lab), tmp_path / "replctl.prom"
    file.write_text("old\n")
    file.chmod(0o600)
    run = ("metrics", "--textfile", str(file), "--timeout", "4s")
    before = os.umask(0o077)
    try:
        done = replctl(*run, env=environment(inventory))
    finally:
        os.umask(before)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    first = file.read_text()
    accept_metrics(first)
    assert "\nreplctl_last_run_success 1\n" in first
    assert "# EOF" not in first  # node_exporter reads the text format

    lose_everybody(lab)
    assert replctl(*run, env=environment(inventory)).returncode == 1
    second = file.read_text()
    accept_metrics(second)
    assert "\nreplctl_last_run_success 0\n" in second
    assert '\nreplctl_node_up{cluster="lab",node="pg1"} 0\n' in second
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_textfile_that_cannot_be_written_is_an_error_and_a_device_is_refused(
    lab: Lab, tmp_path: Path
) -> None:
    inventory = write_inventory(lab)
    missing = tmp_path / "none" / "replctl.prom"
    done = replctl("metrics", "--textfile", str(missing), env=environment(inventory))
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"replctl: {missing} cannot be written: No such file or directory\n"
    assert done.stderr == f"{expected}hint: what is there is as it was\n"
    refused = replctl("metrics", "--textfile", "/dev/null", env=environment(inventory))
    assert (refused.returncode, refused.stderr) == (
        2,
        "replctl: --textfile /dev/null: it is there, and not a file\n",
    )


def test_one_broken_inventory_hides_no_other_cluster(lab: Lab, tmp_path: Path) -> None:
    directory = tmp_path / "inventories"
    directory.mkdir(mode=0o755)
    (directory / "good.toml").write_text(write_inventory(lab).read_text())
    (directory / "bad.toml").write_text("schema = 1\n")
    for path in directory.iterdir():
        path.chmod(0o644)
    state = {"REPLCTL_STATE_DIR": str(tmp_path / "state")}
    file = tmp_path / "replctl.prom"
    done = replctl("metrics", "-i", str(directory), "--textfile", str(file), env=state)
    assert done.returncode == 2
    assert "bad.toml" in done.stderr
    assert '\nreplctl_node_up{cluster="lab",node="pg1"} 1\n' in file.read_text()
    assert "\nreplctl_last_run_success 0\n" in file.read_text()

    (directory / "good.toml").unlink()
    assert replctl("metrics", "-i", str(directory), "--textfile", str(file), env=state).returncode == 2
    assert "replctl_last_run_success 0\n" in file.read_text()
    accept_metrics(file.read_text())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-i", "{missing}"), "replctl: {missing}: not found (named by --inventory)"),
        (("--cluster", "orders"), "replctl: no cluster 'orders' in the inventory"),
        (("-i", "{broken}", "--cluster", "lab"), "replctl: the inventory has 2 problems"),
    ],
)
def test_a_textfile_says_that_the_inventory_could_not_be_used(
    lab: Lab, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    environ, file = environment(write_inventory(lab)), tmp_path / "replctl.prom"
    assert replctl("metrics", "--textfile", str(file), env=environ).returncode == 0
    assert "\nreplctl_last_run_success 1\n" in file.read_text()
    named = {"missing": str(tmp_path / "none.toml"), "broken": str(tmp_path / "broken.toml")}
    (tmp_path / "broken.toml").write_text("schema = 1\n")
    (tmp_path / "broken.toml").chmod(0o600)

    options = [one.format(**named) for one in arguments]
    done = replctl("metrics", *options, "--textfile", str(file), env=environ)

    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (2, "", said.format(**named))
    assert "\nreplctl_last_run_success 0\n" in file.read_text()
    accept_metrics(file.read_text())
    without = replctl("metrics", *options, env=environ)
    assert (without.returncode, without.stdout, without.stderr) == (2, "", done.stderr)


def _events(inventory: Path) -> list[dict[str, Any]]:
    done = replctl("events", "--lines", env=environment(inventory))
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_checks_of_cron_leave_the_events_of_a_failover_between_them(lab: Lab) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    wait_streaming(lab, "pg1", "pg2", "pg3")
    assert replctl("check", "-q", env=environment(inventory)).returncode in (0, 1)
    assert _events(inventory) == []
    lab.kill("pg1")
    assert fail_over(inventory, "--to", "pg2").returncode == 0
    wait_until(lambda: ask(lab, "pg3", "SELECT count(*) FROM pg_stat_wal_receiver") == [(1,)], "pg3 follows")
    replctl("check", "-q", env=environment(inventory))
    found = [e for e in _events(inventory) if e["before"] is not None]
    assert {(e["event"], e["node"], e["before"], e["after"]) for e in found} >= {
        ("primary", "pg2", "pg1", "pg2"),
        ("role", "pg2", "replica", "primary"),
        ("timeline", "pg2", "1", "2"),
        ("upstream", "pg3", "pg1", "pg2"),
        ("state", "pg1", "primary", "unreachable"),
    }
    assert {e["cluster"] for e in found} == {"lab"}
    steps = replctl("events", "last", "--lines", env=environment(inventory)).stdout.splitlines()
    told = [json.loads(line) for line in steps]
    assert "step" in {e["event"] for e in told}
    assert all(e["took_s"] is not None for e in told if e["event"] == "step")
    metrics = replctl("metrics", env=environment(inventory)).stdout
    assert '\ndb_failover_total{cluster="lab"} 1\n' in metrics
