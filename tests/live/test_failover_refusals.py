"""What a failover is refused for, or stopped by: the reason, the remedy, and a cluster that is as it was."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from replctl.lab import Lab
from tests.live.failover_support import (
    GRACES,
    Auto,
    ask,
    configure,
    environment,
    fail_over,
    picture,
    streaming,
    value,
    wait_streaming,
    write_inventory,
)
from tests.live.pooler import pooled
from tests.support import need, replctl, wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1")]

RESTORED = "replctl: stopped before the promotion; everything is as it was: "


def lose(lab: Lab) -> None:
    """Kill the primary, and wait until the replicas have noticed."""
    lab.kill("pg1")
    for name in ("pg2", "pg3"):
        query = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        wait_until(lambda name=name, query=query: not value(lab, name, query), f"{name} has no receiver")


def refused(lab: Lab, inventory: Path, *options: str) -> str:
    """The sentence and the remedy of a refusal: a dry run says the same, and everything is as it was."""
    as_it_was = picture(lab)
    planned = fail_over(inventory, "--dry-run", *options)
    run = fail_over(inventory, *options)
    assert (planned.returncode, run.returncode) == (3, 3), planned.stdout + run.stdout + run.stderr
    assert picture(lab) == as_it_was
    what, hint = run.stderr.splitlines()
    code, sentence = what.removeprefix("replctl: ").split(": ", 1)
    assert f"Refused ({code}): {sentence}.\n{hint}\n" in planned.stdout
    return f"{code}: {sentence}\n{hint}"


def stopped(lab: Lab, inventory: Path, *options: str) -> str:
    """Why a run stopped in the midst, after which everything is as it was."""
    as_it_was = picture(lab)
    run = fail_over(inventory, *options)
    assert run.returncode == 3, run.stdout + run.stderr
    assert picture(lab) == as_it_was
    what, hint = run.stderr.splitlines()
    assert hint == "hint: replctl doctor names what stands in the way, replctl events last shows the steps"
    assert what.startswith(RESTORED)
    return what.removeprefix(RESTORED)


# ---- what the plan refuses


def test_without_a_majority_it_is_refused(lab: Lab) -> None:
    lose(lab)
    lab.kill("pg2")

    said = refused(lab, lab.inventory_path)

    assert said.startswith(
        "NO_MAJORITY: 1 of 3 voters give their vote, 2 are needed\nhint: bring back pg1, pg2;"
    )
    assert "replctl failover --fenced pg1" in said


def test_where_nobody_may_be_promoted_it_is_refused(lab: Lab) -> None:
    inventory = write_inventory(lab, nodes={"pg2": {"promote": "never"}, "pg3": {"promote": "never"}})
    lose(lab)

    said = refused(lab, inventory)

    assert said.startswith('NO_CANDIDATE: pg2 has promote = "never"; pg3 has promote = "never"\nhint: ')


def test_a_wish_for_a_node_that_may_not_be_promoted_is_refused(lab: Lab) -> None:
    inventory = write_inventory(lab, nodes={"pg3": {"promote": "never"}})
    lose(lab)

    never, lost = refused(lab, inventory, "--to", "pg3"), refused(lab, inventory, "--to", "pg1")

    assert never.startswith('NO_CANDIDATE: pg3 has promote = "never"\nhint: leave out --to, ')
    assert lost.startswith("NO_CANDIDATE: pg1 is the lost primary\nhint: ")


def test_two_replicas_of_one_name_prove_nothing(lab: Lab) -> None:
    for name in ("pg2", "pg3"):
        old = value(lab, name, "SHOW primary_conninfo")
        configure(lab, name, primary_conninfo=old.replace(f"application_name={name}", "application_name=pg2"))
    query = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg2' AND state = 'streaming'"
    wait_until(lambda: value(lab, "pg1", query) == 2, "both stream as pg2")
    lose(lab)

    said = refused(lab, lab.inventory_path)

    assert said.startswith("SYNC_NAMES: pg3 confirms commits as 'pg2', by which the rule means another node")


def test_a_rule_that_lets_anybody_confirm_is_no_inventory(lab: Lab) -> None:
    inventory = write_inventory(lab, failover={"synchronous": "*"})

    done = fail_over(inventory, "--dry-run")

    assert (done.returncode, done.stdout) == (2, "")
    assert (
        "* is any receiver, also one that is no node of this inventory: nothing can be proven" in done.stderr
    )


def test_a_primary_that_lets_anybody_confirm_is_not_failed_over_automatically(lab: Lab) -> None:
    configure(lab, "pg1", synchronous_standby_names="*")
    inventory = write_inventory(lab, failover=GRACES)
    reason = "synchronous_standby_names is '*', expected 'ANY 1 (pg1, pg2, pg3)'"
    with Auto(inventory) as auto:
        auto.wait_for("impossible", f"watching only: {reason}")
        auto.wait_for("verdict", "alive")
        as_it_was = {n: p for n, p in picture(lab).items() if n != "pg1"}
        lab.kill("pg1")
        auto.wait_for("refused", f"automatic failover is not done: {reason}")

    assert (auto.acted, picture(lab)) == ([], as_it_was)


# ---- who else is there


def test_another_manager_at_a_node_is_refused_and_its_absence_is_not(lab: Lab) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    lose(lab)
    with psycopg.connect(lab.dsn("pg3"), application_name="repmgrd", autocommit=True):
        by_hand = refused(lab, inventory)
        as_it_was = picture(lab)
        by_itself = fail_over(inventory, "--auto", "--once")
        assert picture(lab) == as_it_was

    sentence = "FOREIGN_MANAGER: repmgrd is connected to pg3"
    assert by_hand == f"{sentence}\nhint: stop it, or leave the failover to it"
    assert (by_itself.returncode, sentence in by_itself.stdout) == (3, True)
    wait_until(
        lambda: (
            value(lab, "pg3", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'repmgrd'") == 0
        ),
        "repmgrd is gone",
    )
    assert fail_over(inventory).returncode == 0


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (("failover", "--yes"), "patronictl failover lab"),
        (("pause",), "patronictl pause lab; patronictl resume lab"),
        (("ack",), "patronictl pause lab; patronictl resume lab"),
        (("fence", "pg1", "--yes"), "patronictl pause lab, then stop PostgreSQL on pg1"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_another_manager_has_is_left_to_it(lab: Lab, command: tuple[str, ...], hint: str) -> None:
    inventory = write_inventory(lab, cluster={"manager": "patroni"})
    lose(lab)
    as_it_was = picture(lab)

    done = replctl(*command, env=environment(inventory))

    assert (done.returncode, done.stderr.splitlines()[-1]) == (3, f"hint: {hint}")
    assert "patroni manages this cluster" in done.stderr
    assert picture(lab) == as_it_was


def test_through_a_pooler_there_is_no_vote(lab: Lab) -> None:
    program = shutil.which("pgbouncer")
    need("PgBouncer", program, "apt-get install pgbouncer")
    assert program is not None
    with pooled(lab, program, "pg2") as second, pooled(lab, program, "pg3") as third:
        inventory = write_inventory(lab, nodes={"pg2": {"port": second}, "pg3": {"port": third}})
        lose(lab)

        said = stopped(lab, inventory)

    assert "NO_MAJORITY: 0 of 3 voters give their vote, 2 are needed" in said
    assert "of pg2, pg3 it cannot be had" in said
    assert "behind a pooler" in said


# ---- servers that do not do what they are told


@contextlib.contextmanager
def with_lines(lab: Lab, text: str, *nodes: str) -> Iterator[None]:
    """Lines at the end of postgresql.conf, taken away again."""
    files = [lab.directory / node / "data" / "postgresql.conf" for node in nodes]
    before = [file.read_text() for file in files]
    for file, content in zip(files, before, strict=True):
        file.write_text(f"{content}\n{text}\n")
    try:
        yield
    finally:
        for file, content in zip(files, before, strict=True):
            file.write_text(content)
        for node in nodes:
            ask(lab, node, "SELECT pg_reload_conf()")


@pytest.mark.parametrize("nodes", [("pg2",), ("pg2", "pg3")], ids=" ".join)
def test_a_syntax_error_that_swallows_reloads_stops_it_and_all_is_put_back(
    lab: Lab, nodes: tuple[str, ...]
) -> None:
    lose(lab)
    with with_lines(lab, "this is = = wrong", *nodes):
        said = stopped(lab, lab.inventory_path)
        shown = replctl("doctor", env=environment(lab.inventory_path)).stdout

    for node in nodes:
        assert f"{node} did not take primary_conninfo: a reload was ignored" in said
        assert f"{node}: a syntax error makes it ignore every reload: " in shown
    # What was written while nobody took notice comes into force now: it is what had been there.
    lab.start("pg1")
    wait_streaming(lab, "pg1", "pg2", "pg3")


@pytest.mark.pg(">= 17")
def test_servers_that_do_not_allow_alter_system_stop_it_and_nothing_was_changed(lab: Lab) -> None:
    with with_lines(lab, "allow_alter_system = off", "pg2", "pg3"):
        for node in ("pg2", "pg3"):
            ask(lab, node, "SELECT pg_reload_conf()")
            wait_until(lambda node=node: value(lab, node, "SHOW allow_alter_system") == "off", "it is off")
        lose(lab)
        said = stopped(lab, lab.inventory_path)
        shown = replctl("doctor", env=environment(lab.inventory_path)).stdout

    assert "cut pg2 from its upstream: ALTER SYSTEM is not allowed in this environment" in said
    assert "pg2: allow_alter_system is off: it can be neither cut nor repointed" in shown


def test_a_role_without_the_rights_stops_it_and_nothing_was_changed(lab: Lab) -> None:
    ask(lab, "pg1", "CREATE ROLE weak LOGIN IN ROLE pg_monitor")
    for name in ("pg2", "pg3"):
        query = "SELECT count(*) FROM pg_roles WHERE rolname = 'weak'"
        wait_until(lambda name=name, query=query: value(lab, name, query), f"the role is on {name}")
    inventory = write_inventory(lab, failover=GRACES, connection={"user": "weak"})
    lose(lab)

    said = stopped(lab, inventory)
    as_it_was = picture(lab)
    by_itself = fail_over(inventory, "--auto", "--once")
    shown = replctl("doctor", env=environment(inventory)).stdout

    assert "cut pg2 from its upstream: " in said
    assert "permission denied" in said
    assert (by_itself.returncode, picture(lab)) == (3, as_it_was)
    assert "replctl grants --pg" in shown


# ---- the state directory


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """A file system of 16 KiB with nothing left on it."""
    path.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(path)], capture_output=True, timeout=10
        ).returncode
    )
    need("the right to mount a small tmpfs", mounted, "run the tests as root")
    try:
        with contextlib.suppress(OSError), (path / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 1024)
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True, timeout=10)


def test_a_full_disk_costs_the_journal_and_is_told(lab: Lab) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    state = Path(environment(inventory)["REPLCTL_STATE_DIR"])
    with full_disk(state):
        lose(lab)
        done = fail_over(inventory)
        watched = fail_over(inventory, "--auto", "--once")

    assert (done.returncode, lab.primary()) == (0, "pg2")
    assert done.stderr == (
        f"replctl: 11 events are not in {state}/lab.events.jsonl: No space left on device; nothing else "
        "depends on it\n"
    )
    assert watched.returncode == 0
    assert streaming(lab, "pg2") == {"pg3"}
