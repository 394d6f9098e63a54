"""`replctl failover --auto` as a service: what it logs, how it ends, what holds it back, and side by side."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replctl.lab import Lab
from tests.live.failover_hooks import write_hook
from tests.live.failover_support import (
    GRACES,
    Auto,
    ask,
    environment,
    fail_over,
    picture,
    value,
    wait_streaming,
    write_inventory,
)
from tests.live.terminal import Terminal
from tests.support import replctl, wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1")]

EVENT_KEYS = {"at", "cluster", "event", "message"}
STARTING_EVENTS = ["primary", "diagnosis", "votes", "covers", "covers", "covers", "verdict"]
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z lab (\w+): (.+)")


def run(inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run that has to succeed."""
    done = replctl(*arguments, env=environment(inventory))
    assert done.returncode == 0, done.stderr
    return done


# ---- once


def test_once_says_nothing_and_writes_nothing_down_while_all_is_well(lab: Lab) -> None:
    inventory = write_inventory(lab, failover=GRACES)

    done = fail_over(inventory, "--auto", "--once")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(run(inventory, "events", "--json").stdout)["events"] == []
    with Terminal("failover", "--auto", "--once", env=environment(inventory)) as terminal:
        assert terminal.end() == (0, "lab: nothing to do: alive: the primary answers\n")


def test_once_fails_over_and_then_is_blocked_until_it_was_acknowledged(lab: Lab) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    lab.kill("pg1")

    done = fail_over(inventory, "--auto", "--once")

    assert (done.returncode, lab.primary()) == (0, "pg2")
    events = [match[1] for line in done.stdout.splitlines() if (match := LINE.fullmatch(line))]
    assert len(events) == len(done.stdout.splitlines())
    assert (events[0], events[-1]) == ("diagnosis", "done")
    assert "step" in events

    lab.start("pg1")  # comes back fenced, and its vote counts again
    assert fail_over(inventory, "--auto", "--once").returncode == 0
    wait_streaming(lab, "pg2", "pg3")
    shown = json.loads(run(inventory, "status", "-o", "json").stdout)["automatic_failover"]
    assert (shown["state"], shown["reason"]) == ("blocked", "pg1 was replaced by pg2")
    lab.kill("pg2")

    blocked = fail_over(inventory, "--auto", "--once")

    assert (blocked.returncode, value(lab, "pg3", "SELECT pg_is_in_recovery()")) == (3, True)
    assert "blocked after a failover: pg1 was replaced by pg2" in blocked.stdout


def test_ack_ends_the_block_at_once(lab: Lab) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    with Auto(inventory) as auto:
        auto.wait_for("verdict", "alive")
        lab.kill("pg1")
        auto.wait_for("done")
        auto.wait_for("marks", "blocked after a failover: pg1 was replaced by pg2")
        assert run(inventory, "ack", "--dry-run").stdout.startswith(
            "lab: would be done, by a row of replctl."
        )
        done = run(inventory, "ack")
        auto.wait_for("marks", "neither paused nor blocked")
        again = run(inventory, "ack")

    assert done.stdout == "lab: The next automatic failover is allowed.\n"
    assert again.stdout == "lab: nothing to do, it is not blocked.\n"
    assert value(lab, "pg2", "SELECT count(*) FROM replctl.state WHERE key = 'block'") == 0


# ---- its lines


def test_every_line_is_one_event_for_people_or_for_programs(lab: Lab) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    with Auto(inventory) as auto:
        auto.wait_for("verdict", "alive")
    assert [line["event"] for line in auto.logged] == STARTING_EVENTS
    assert all(set(line) >= EVENT_KEYS for line in auto.logged)

    with subprocess.Popen(
        [sys.executable, "-m", "replctl", "failover", "--auto"],
        env={**os.environ, **environment(inventory)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().rstrip("\n") for _ in STARTING_EVENTS]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert [match[1] for line in lines if (match := LINE.fullmatch(line))] == STARTING_EVENTS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_at_rest_within_a_second_and_leaves_nothing(
    lab: Lab, number: signal.Signals
) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    auto = Auto(inventory)
    auto.wait_for("verdict", "alive")
    began_s = time.monotonic()

    code = auto.end(number)

    assert (code, auto.stray) == (0, [])
    assert time.monotonic() - began_s < 3
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'replctl%'"
    for name in lab.nodes:
        wait_until(
            lambda name=name, query=query: value(lab, name, query) == 0, f"nobody is connected to {name}"
        )


def test_a_reader_that_went_away_does_not_hinder_a_failover(lab: Lab) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    process = subprocess.Popen(
        [sys.executable, "-m", "replctl", "failover", "--auto"],
        env={**os.environ, **environment(inventory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    lab.kill("pg1")

    wait_until(lambda: lab.primary() == "pg2", "pg2 is the primary", limit_s=20)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(10)) == (b"", 0)
    process.stderr.close()


# ---- systemd


@contextmanager
def notified(directory: Path) -> Iterator[tuple[socket.socket, str]]:
    """What listens where systemd would."""
    path = str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.settimeout(15)
        yield receiver, path


def until_message(receiver: socket.socket, wanted: str) -> list[str]:
    """The messages up to the one that begins so."""
    found: list[str] = []
    while not found or not found[-1].startswith(wanted):
        found.append(receiver.recv(4096).decode())
    return found


def test_systemd_is_told_when_it_is_ready_how_it_is_and_that_it_lives(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = write_hook(lab.directory.parent, "before", waits=True)
    inventory = write_inventory(lab, failover={**GRACES, "hooks": {"before": hook.argv}})
    with notified(lab.directory.parent) as (receiver, path):
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        with Auto(inventory) as auto:
            started = until_message(receiver, "STATUS=alive: the primary answers")
            assert "READY=1" in started
            until_message(receiver, "WATCHDOG=1")
            lab.kill("pg1")
            hook.wait_started()
            # In the midst of a failover, waiting for a hook: the event loop turns all the same.
            until_message(receiver, "WATCHDOG=1")
            until_message(receiver, "WATCHDOG=1")
            assert {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(hook.environment) == set()
            hook.let_go()
            auto.wait_for("done")
        until_message(receiver, "STOPPING=1")


# ---- side by side


def test_a_pause_holds_every_controller_back_until_resume(lab: Lab) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    with Auto(inventory) as one, Auto(inventory) as other:
        done = run(inventory, "pause", "--for", "2h", "--reason", "kernel updates")
        assert re.fullmatch(r"lab: Automatic failover is paused until .* UTC\.\n", done.stdout)
        for auto in (one, other):
            auto.wait_for("marks", "paused: kernel updates")
        as_it_was = {n: p for n, p in picture(lab).items() if n != "pg1"}
        lab.kill("pg1")
        for auto in (one, other):
            auto.wait_for("refused", "automatic failover is not done: paused: kernel updates")
        assert picture(lab) == as_it_was
        refused = replctl("resume", env=environment(inventory))
        assert (refused.returncode, refused.stderr.splitlines()) == (
            3,
            [
                "replctl: there is no primary: what holds for every controller is written there",
                "hint: replctl failover, by hand: it heeds neither a pause nor a block",
            ],
        )
        lab.start("pg1")
        wait_streaming(lab, "pg1", "pg2", "pg3")
        run(inventory, "resume")
        for auto in (one, other):
            auto.wait_for("marks", "neither paused nor blocked")
            auto.wait_for("verdict", "alive")
        lab.kill("pg1")
        wait_until(lambda: one.events("done") or other.events("done"), "one of them is done", limit_s=20)
        wait_streaming(lab, "pg2", "pg3")

    promotions = [e for auto in (one, other) for e in auto.events("step", "promote ")]
    assert [e["message"] for e in promotions] == ["promote pg2"]
    assert lab.primary() == "pg2"


@pytest.mark.lab(sync="ANY 1")
def test_a_failover_by_hand_heeds_no_pause(lab: Lab) -> None:
    inventory = write_inventory(lab)
    run(inventory, "pause")
    lab.kill("pg1")

    done = fail_over(inventory)

    assert (done.returncode, lab.primary()) == (0, "pg2")
    shown = json.loads(run(inventory, "status", "-o", "json").stdout)["automatic_failover"]
    assert shown["state"] == "paused"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--for", "soon"), "--for soon: not a number and a unit\nhint: for example --for 10s"),
        (("--for", "0"), "--for 0: expected more than 0\nhint: for example --for 10s"),
        (
            ("--reason", ""),
            "--reason: expected 1 to 200 letters in one line\nhint: --reason upgrade",
        ),
        (
            ("--reason", "two\nlines"),
            "--reason: expected 1 to 200 letters in one line\nhint: --reason upgrade",
        ),
    ],
)
def test_a_pause_without_an_end_or_a_reason_that_can_be_read_is_refused(
    shared_lab: Lab, options: tuple[str, ...], why: str
) -> None:
    done = replctl("pause", *options, env=environment(shared_lab.inventory_path))

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"replctl: {why}\n")


def test_without_its_table_a_pause_is_refused_with_the_statements_that_make_it(lab: Lab) -> None:
    ask(lab, "pg1", "DROP SCHEMA replctl CASCADE")
    wait_streaming(lab, "pg1", "pg2", "pg3")

    done = replctl("pause", env=environment(lab.inventory_path))

    assert (done.returncode, done.stdout) == (3, "")
    what, hint, *statements = done.stderr.splitlines()
    assert what == "replctl: there is no table replctl.state on pg1, or it may not be read"
    assert hint == "hint: run this on pg1 as a superuser:"
    ask(lab, "pg1", "\n".join(statements))
    assert run(lab.inventory_path, "pause").returncode == 0
