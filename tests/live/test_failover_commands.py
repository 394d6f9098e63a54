"""`votes`, `fence`, `unfence` and `events`, as their users meet them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replctl.lab import Lab
from replctl.pg.grants import statements
from tests.live.failover_hooks import Hook, write_hook
from tests.live.failover_support import (
    GRACES,
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


def run(inventory: Path, *arguments: str, code: int = 0) -> tuple[str, list[str]]:
    """What a run that ends with this code prints: its standard output, and the lines of its messages."""
    done = replctl(*arguments, env=environment(inventory))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr.splitlines()


def rows(inventory: Path, command: str, *arguments: str) -> list[dict[str, Any]]:
    """The rows of the JSON document of `votes` or `events`."""
    document = json.loads(run(inventory, command, *arguments, "-o", "json")[0])
    assert set(document) == {"schema_version", "cluster", command}
    found: list[dict[str, Any]] = document[command]
    return found


# ---- votes


@contextmanager
def failover_that_waits(lab: Lab) -> Iterator[tuple[Path, Hook, subprocess.Popen[str]]]:
    """A failover that holds its votes and waits for a hook."""
    hook = write_hook(lab.directory.parent, "before", waits=True)
    inventory = write_inventory(
        lab, failover={**GRACES, "hook_timeout_s": 30, "hooks": {"before": hook.argv}}
    )
    lab.kill("pg1")
    with subprocess.Popen(
        [sys.executable, "-m", "replctl", "failover", "--yes"],
        env={**os.environ, **environment(inventory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            hook.wait_started()
            yield inventory, hook, process
        finally:
            hook.let_go()


def test_votes_shows_who_holds_them_and_a_second_failover_is_refused(lab: Lab) -> None:
    with failover_that_waits(lab) as (inventory, hook, process):
        found = {row["voter"]: row for row in rows(inventory, "votes")}
        assert {voter: row["state"] for voter, row in found.items()} == {
            "pg1": "unreachable",
            "pg2": "held",
            "pg3": "held",
        }
        assert found["pg2"]["holder"].split()[:2] == ["replctl", "failover"]
        assert found["pg2"]["holder"].endswith(f" {process.pid}")
        assert all(found["pg2"][key] is not None for key in ("pid", "address", "since"))
        as_it_was = picture(lab)

        _, messages = run(inventory, "failover", "--yes", code=3)

        assert messages[0].startswith(
            "replctl: stopped before the promotion; everything is as it was: VOTES_TAKEN: "
        )
        assert picture(lab) == as_it_was
        hook.let_go()
        assert process.wait(30) == 0
    assert lab.primary() == "pg2"
    assert {row["state"] for row in rows(inventory, "votes")} == {"unreachable", "free"}


def test_breaking_a_vote_stops_the_failover_that_held_it_and_another_goes_on(lab: Lab) -> None:
    with failover_that_waits(lab) as (inventory, hook, process):
        shown, _ = run(inventory, "votes", "--break", "pg2", "--dry-run")
        assert shown.startswith("pg2: the vote is held by replctl failover ")
        assert {row["state"] for row in rows(inventory, "votes")} == {"unreachable", "held"}
        assert run(inventory, "votes", "--break", "pg2", code=2)[1] == [
            "replctl: ending a vote needs a confirmation",
            "hint: --yes does it, --dry-run only shows it",
        ]

        shown, _ = run(inventory, "votes", "--break", "pg2", "--yes")

        assert shown.splitlines()[1:] == ["pg2: its session was ended."]
        hook.let_go()
        _, messages = process.communicate(timeout=30)
    # Without its votes it may not undo its cuts: whoever has them now may count on these.
    assert process.returncode == 4
    assert messages.startswith(
        "replctl: stopped before the promotion, and still cut from the lost primary: pg2, pg3: "
    )
    assert messages.endswith("hint: replctl failover goes on from there\n")
    assert fail_over(lab.inventory_path).returncode == 0
    wait_streaming(lab, "pg2", "pg3")


def test_a_vote_that_nobody_holds_cannot_be_broken(shared_lab: Lab) -> None:
    inventory = shared_lab.inventory_path

    assert run(inventory, "votes", "--break", "pg2", code=3)[1] == [
        "replctl: nobody holds the vote of pg2",
        "hint: replctl votes",
    ]
    assert run(inventory, "votes", "--break", "pg9", code=2)[1] == [
        "replctl: no voter 'pg9' in the inventory",
        "hint: known: pg1, pg2, pg3",
    ]
    assert run(inventory, "votes", "-o", "name")[0] == "pg1\npg2\npg3\n"


# ---- fence


def may_write(lab: Lab, node: str) -> bool:
    """Whether an application could."""
    try:
        ask(lab, node, "SELECT lo_create(0)", user="app")
    except psycopg.Error:
        return False
    return True


def replaced(lab: Lab, **nodes: dict[str, Any]) -> Path:
    """The old primary is back after a failover by hand, and nobody has fenced it."""
    inventory = write_inventory(lab, nodes=nodes)
    lab.kill("pg1")
    assert fail_over(inventory).returncode == 0
    lab.start("pg1")
    assert value(lab, "pg1", "SELECT NOT pg_is_in_recovery()")
    return inventory


def test_a_stale_primary_is_fenced_and_unfenced_only_when_it_is_alone(lab: Lab) -> None:
    inventory = replaced(lab)
    as_it_was = picture(lab)
    shown, _ = run(inventory, "fence", "pg1", "--dry-run")
    assert "  ALTER SYSTEM SET default_transaction_read_only = 'on';\n" in shown
    assert run(inventory, "fence", "pg1", code=2)[1][0] == "replctl: fencing needs a confirmation"
    assert picture(lab) == as_it_was
    with psycopg.connect(lab.dsn("pg1", "app"), autocommit=True) as client:
        shown, messages = run(inventory, "fence", "pg1", "--yes")
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")

    assert shown.endswith("pg1: fenced. It takes no more writes.\n")
    assert messages == [
        "replctl: pg1: the role may not write server files, so the fence is a setting that whoever starts "
        "the server can take away (replctl grants --role fencer)"
    ]
    assert value(lab, "pg1", "SHOW default_transaction_read_only") == "on"
    assert not may_write(lab, "pg1")
    states = {n["name"]: n["state"] for n in json.loads(run(inventory, "status", "--json")[0])["nodes"]}
    assert states == {"pg1": "fenced", "pg2": "primary", "pg3": "streaming"}
    assert run(inventory, "fence", "pg1", "--yes")[0].endswith("pg1: fenced. It takes no more writes.\n")

    _, messages = run(inventory, "unfence", "pg1", "--yes", code=3)
    assert messages[0] == (
        "replctl: pg2, pg3 went on without pg1: unfenced, it would be a second primary with an older history"
    )
    assert value(lab, "pg1", "SHOW default_transaction_read_only") == "on"


def test_a_fence_that_may_write_files_outlives_a_restart(lab: Lab) -> None:
    for statement in statements(lab.major, "fencer"):
        ask(lab, "pg1", statement)
    wait_until(
        lambda: value(lab, "pg2", "SELECT pg_has_role('replctl', 'pg_write_server_files', 'USAGE')"),
        "the role is on pg2",
    )
    inventory = replaced(lab)

    _, messages = run(inventory, "fence", "pg1", "--yes")
    lab.stop("pg1")
    lab.start("pg1")

    assert messages == []
    assert value(lab, "pg1", "SELECT pg_is_in_recovery()") is True


@pytest.mark.parametrize(
    ("command", "code", "end"),
    [
        (["true"], 0, "pg1: its fence command succeeded: it is off.\n"),
        (
            ["false"],
            4,
            "replctl: pg1 takes no more writes, but it is not off: the fence command of pg1 failed",
        ),
        (
            ["sleep", "60"],
            4,
            "replctl: pg1 takes no more writes, but it is not off: the fence command of pg1 did",
        ),
        (
            ["/nonexistent"],
            4,
            "replctl: pg1 takes no more writes, but it is not off: the fence command of pg1",
        ),
    ],
    ids=["succeeds", "fails", "hangs", "is not there"],
)
def test_the_fence_command_is_run_after_the_statements_and(
    lab: Lab, command: list[str], code: int, end: str
) -> None:
    inventory = write_inventory(
        lab, failover={"fence_timeout_s": 1}, nodes={"pg1": {"commands": {"fence": command}}}
    )

    done = replctl("fence", "pg1", "--stop-writes", "--yes", env=environment(inventory))

    assert (done.returncode, end in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
    assert not may_write(lab, "pg1")
    shown, _ = run(inventory, "unfence", "pg1", "--yes")
    assert shown.endswith("its next start is as a replica.\n")
    wait_streaming(lab, "pg1", "pg2", "pg3")
    wait_until(lambda: may_write(lab, "pg1"), "pg1 takes writes again")


def test_what_need_not_or_cannot_be_fenced_is_refused(lab: Lab) -> None:
    inventory = lab.inventory_path
    assert run(inventory, "fence", "pg1", "--yes", code=3)[1] == [
        "replctl: pg1 is the primary: fenced, nobody could write any more",
        "hint: --stop-writes fences it all the same",
    ]
    assert run(inventory, "fence", "pg2", "--yes", code=3)[1][0] == (
        "replctl: pg2 is a replica: it takes no writes as it is"
    )
    assert run(inventory, "fence", "pg9", "--yes", code=2)[1][0] == "replctl: no node 'pg9' in the inventory"
    assert run(inventory, "unfence", "pg1", "--yes")[0] == "pg1: nothing to do, it is not fenced.\n"
    lab.freeze("pg1")
    assert run(inventory, "fence", "pg1", "--yes", code=3)[1] == [
        "replctl: pg1 does not answer, and has no fence command: nothing can be done to it by SQL",
        "hint: switch it off, then replctl failover --fenced pg1; or give it a fence command",
    ]


# ---- events


def test_events_shows_each_failover_by_its_id_step_by_step(lab: Lab) -> None:
    inventory = lab.inventory_path
    shown, messages = run(inventory, "events")
    assert (shown, len(messages)) == ("", 1)
    assert messages[0].startswith("replctl: nothing has been written down on this machine, in /")
    assert run(inventory, "events", "last", code=1)[1][0].startswith(
        "replctl: no failover has been written down on this machine: in /"
    )
    lab.kill("pg1")
    assert fail_over(inventory).returncode == 0

    every, steps = rows(inventory, "events"), rows(inventory, "events", "last")

    assert [row["event"] for row in every] == ["failover", "done"]
    cuts = ["found", "found", "step", "step"]  # both at once
    assert [row["event"] for row in steps] == ["failover", "step", *cuts, *["step"] * 4, "done"]
    (run_id,) = {row["id"] for row in steps}
    keys = {"at", "id", "event", "node", "took_s", "message", "by", "before", "after"}
    assert all(set(row) == keys for row in steps)
    assert all(row["took_s"] > 0 for row in steps if row["event"] == "step")
    assert rows(inventory, "events", run_id) == rows(inventory, "events", run_id[:-2]) == steps
    assert run(inventory, "events", "-o", "name")[0] == f"{run_id}\n"
    assert run(inventory, "events", "19990101", code=2)[1][0] == "replctl: no event with ID '19990101'"
    assert rows(inventory, "events", "--last", "1") == every[-1:]


def test_events_on_a_narrow_terminal_keeps_every_word(lab: Lab) -> None:
    lab.kill("pg1")
    assert fail_over(lab.inventory_path).returncode == 0
    with Terminal("events", "last", env=environment(lab.inventory_path), columns=60) as terminal:
        code, text = terminal.end()

    assert code == 0
    assert max(map(len, text.splitlines())) <= 60
    assert "promote pg2" in text
