"""Hooks around a failover: what they are told, and what comes of one that fails, hangs or is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from replctl.lab import Lab
from tests.live.failover_hooks import Hook, write_hook
from tests.live.failover_support import (
    GRACES,
    Auto,
    environment,
    fail_over,
    picture,
    wait_streaming,
    write_inventory,
)
from tests.support import wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1")]

HOOK_LIMIT_S = 1.0


def with_hooks(lab: Lab, **hooks: Hook | list[str]) -> Path:
    """The lab's inventory with these hooks."""
    argvs = {name: hook.argv if isinstance(hook, Hook) else hook for name, hook in hooks.items()}
    return write_inventory(lab, failover={**GRACES, "hooks": argvs})


def hook_of(lab: Lab, name: str, then: str = "exit 0", *, waits: bool = False) -> Hook:
    return write_hook(lab.directory.parent, name, then, waits=waits)


def test_hooks_are_told_of_a_failover_before_and_after_it(lab: Lab) -> None:
    before, after, failed = (hook_of(lab, name) for name in ("before", "after", "on_failure"))
    inventory = with_hooks(lab, before=before, after=after, on_failure=failed)
    lab.kill("pg1")

    done = fail_over(inventory)

    assert (done.returncode, done.stderr) == (0, "")
    (first,), (second,) = before.runs, after.runs
    told: dict[str, Any] = {
        "schema_version": 1,
        "hook": "before",
        "cluster": "lab",
        "inventory": str(inventory),
        "id": first["id"],
        "action": "failover",
        "automatic": False,
        "lost": "pg1",
        "target": "pg2",
        "outcome": None,
        "problem": None,
    }
    assert first == told
    assert second == told | {"hook": "after", "outcome": "done"}
    assert failed.runs == []
    as_text = {f"REPLCTL_{k.upper()}": "" if v is None else str(v) for k, v in second.items()}
    assert after.environment | as_text == after.environment


REFUSALS = {
    "fails": ("echo 'not on a Sunday' >&2; exit 3", "the before hook failed: exit code 3, not on a Sunday"),
    "hangs": ("sleep 60", "the before hook did not end: within 1 s"),
    "leaves children": ("sleep 60 & wait", "the before hook did not end: within 1 s"),
    "is killed": ("kill -9 $$", "the before hook failed: exit code -9"),
}


@pytest.mark.parametrize("way", REFUSALS)
def test_a_before_hook_prevents_the_failover_and_nothing_is_changed_when_it(lab: Lab, way: str) -> None:
    then, why = REFUSALS[way]
    before, failed = hook_of(lab, "before", then), hook_of(lab, "on_failure")
    inventory = write_inventory(
        lab,
        failover={
            **GRACES,
            "hook_timeout_s": HOOK_LIMIT_S,
            "hooks": {"before": before.argv, "on_failure": failed.argv},
        },
    )
    lab.kill("pg1")
    as_it_was = picture(lab)

    refused = fail_over(inventory)

    assert (refused.returncode, refused.stderr.splitlines()) == (
        3,
        [
            f"replctl: stopped before the promotion; everything is as it was: {why}",
            "hint: replctl doctor names what stands in the way, replctl events last shows the steps",
        ],
    )
    assert picture(lab) == as_it_was
    assert [(run["outcome"], run["problem"]) for run in failed.runs] == [("refused", why)]


def test_a_before_hook_that_does_not_exist_prevents_the_failover(lab: Lab) -> None:
    inventory = with_hooks(lab, before=["/nonexistent/hook"])
    lab.kill("pg1")
    as_it_was = picture(lab)

    refused = fail_over(inventory)

    assert (refused.returncode, picture(lab)) == (3, as_it_was)
    assert "the before hook cannot be started: /nonexistent/hook: No such file or directory" in refused.stderr


def test_an_after_hook_that_fails_leaves_a_failover_that_is_done(lab: Lab) -> None:
    inventory = with_hooks(lab, after=hook_of(lab, "after", "echo 'no route to the proxy'; exit 1"))
    lab.kill("pg1")

    partial = fail_over(inventory)

    assert (partial.returncode, partial.stderr.splitlines()) == (
        4,
        [
            "replctl: pg2 is the primary, but not all that follows was done: the after hook failed: exit "
            "code 1, no route to the proxy",
            "hint: do by hand what a hook does, by replctl render-… --apply what proxies lack; "
            "replctl events last shows the rest",
        ],
    )
    assert lab.primary() == "pg2"
    wait_streaming(lab, "pg2", "pg3")


def test_a_controller_tells_of_a_hook_that_fails_and_tries_again(lab: Lab) -> None:
    marker = lab.directory.parent / "mended"
    before = hook_of(lab, "before", f"[ -e {marker} ] || exit 1")
    inventory = with_hooks(lab, before=before, after=hook_of(lab, "after", "exit 1"))
    with Auto(inventory) as auto:
        auto.wait_for("verdict", "alive")
        lab.kill("pg1")
        auto.wait_for("step_failed", "the before hook failed: exit code 1")
        auto.wait_for("ended", "refused: the before hook failed")
        assert lab.primary() is None
        marker.touch()
        done = auto.wait_for("done")
        auto.wait_for("hook_failed", "the after hook failed: exit code 1")

    assert (done["node"], lab.primary()) == ("pg2", "pg2")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_before_hook_runs_stops_everything(lab: Lab, number: signal.Signals) -> None:
    before = hook_of(lab, "before", waits=True)
    inventory = with_hooks(lab, before=before)
    lab.kill("pg1")
    as_it_was = picture(lab)
    process = subprocess.Popen(
        [sys.executable, "-m", "replctl", "failover", "--yes"],
        env={**os.environ, **environment(inventory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    before.wait_started()

    process.send_signal(number)
    _, messages = process.communicate(timeout=10)

    assert (process.returncode, messages.splitlines()) == (
        130,
        ["replctl: stopped before the promotion; everything is as it was", "replctl: interrupted"],
    )
    assert picture(lab) == as_it_was


def test_a_controller_that_is_told_to_stop_in_the_midst_undoes_what_it_began(lab: Lab) -> None:
    before = hook_of(lab, "before", waits=True)
    inventory = with_hooks(lab, before=before)
    with Auto(inventory) as auto:
        auto.wait_for("verdict", "alive")
        lab.kill("pg1")
        before.wait_started()
        as_it_was, began_s = picture(lab), time.monotonic()
        assert auto.end(signal.SIGTERM) == 0
        assert time.monotonic() - began_s < 5

    assert [event["message"] for event in auto.events("ended")] == [
        "refused: told to stop before the promotion"
    ]
    assert picture(lab) == as_it_was


def test_a_controller_that_dies_in_the_midst_is_followed_by_another(lab: Lab) -> None:
    before = hook_of(lab, "before", waits=True)
    inventory = with_hooks(lab, before=before)
    first = Auto(inventory)
    first.wait_for("verdict", "alive")
    lab.kill("pg1")
    before.wait_started()
    first.end(signal.SIGKILL)
    before.let_go()

    with Auto(inventory) as second:
        second.wait_for("done")

    wait_until(lambda: lab.primary() == "pg2", "pg2 is the primary")
    wait_streaming(lab, "pg2", "pg3")
