"""`replctl failover`, as its user meets it: the plan, the question, the run, and what may be asked of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from replctl.lab import Lab
from tests.live.failover_support import (
    configure,
    environment,
    fail_over,
    picture,
    value,
    wait_streaming,
)
from tests.live.terminal import Terminal
from tests.support import replctl, wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1")]

PLAN = """\
PRIMARY_DOWN:
  pg1 does not answer: refused (Connection refused)
  pg2 has no connection to pg1
  pg3 has no connection to pg1

Ranking:
  pg2     LSN  may be promoted once it is cut
  pg3     LSN  may be promoted once it is cut

Plan:
  1. take the votes of a majority
  2. cut pg2 from its upstream
  3. cut pg3 from its upstream
  4. promote pg2
  5. create slot pg3 on pg2
  6. repoint pg3 to pg2
  7. checkpoint pg2

Loss: none, proven ("""
RUN = """\
  done  TIME  take the votes of a majority
  done  TIME  cut pg2 from its upstream
  done  TIME  cut pg3 from its upstream
  done  TIME  promote pg2
  done  TIME  create slot pg3 on pg2
  done  TIME  repoint pg3 to pg2
  done  TIME  checkpoint pg2
pg2 is the primary.
"""
STEPS = ("take_votes", "cut", "cut", "promote", "create_slot", "repoint", "checkpoint")


def without_numbers(text: str) -> str:
    """The same text whatever the positions and times."""
    text = re.sub(r" +[0-9A-F]+/[0-9A-F]{7,8}", "     LSN", text)
    return re.sub(r"done +[0-9.]+ m?s ", "done  TIME ", text)


def lose(lab: Lab) -> Path:
    """Kill the primary, and wait until both replicas have noticed."""
    lab.kill("pg1")
    for name in ("pg2", "pg3"):
        query = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        wait_until(lambda name=name, query=query: not value(lab, name, query), f"{name} has no receiver")
    return lab.inventory_path


def votes_held(inventory: Path) -> list[str]:
    """The voters whose vote somebody holds."""
    done = replctl("votes", "-o", "json", env=environment(inventory))
    return [row["voter"] for row in json.loads(done.stdout)["votes"] if row["state"] == "held"]


@pytest.mark.parametrize("option", ["--dry-run", "--explain"])
def test_a_plan_says_what_is_the_matter_who_is_chosen_each_step_and_the_loss(lab: Lab, option: str) -> None:
    inventory = lose(lab)
    as_it_was = picture(lab)

    done = fail_over(inventory, option)

    assert (done.returncode, done.stderr) == (0, "")
    assert without_numbers(done.stdout).startswith(PLAN)
    assert (picture(lab), votes_held(inventory)) == (as_it_was, [])


@pytest.mark.every_pg
def test_a_run_tells_every_step_with_its_time_and_ends_with_who_is_the_primary(lab: Lab) -> None:
    inventory = lose(lab)

    done = fail_over(inventory)

    assert (done.returncode, done.stderr) == (0, "")
    shown = without_numbers(done.stdout)
    assert (shown.startswith(PLAN), shown.endswith(RUN)) == (True, True)
    assert lab.primary() == "pg2"
    wait_streaming(lab, "pg2", "pg3")
    assert value(lab, "pg2", "SHOW synchronous_standby_names") == lab.synchronous


def log_of(lab: Lab, node: str) -> str:
    """What a server has logged."""
    return (lab.directory / node / "postgresql.log").read_text()


PLAN_KEYS = {
    "schema_version": int,
    "cluster": str,
    "action": str,
    "decision": str,
    "target": str,
    "loss": dict,
    "steps": list,
    "ranking": list,
    "refusals": list,
    "warnings": list,
}
STEP_KEYS = {"n", "kind", "node", "describe", "sql", "command"}


def test_a_plan_and_a_run_as_json_have_every_key_of_the_contract(lab: Lab) -> None:
    inventory = lose(lab)

    planned = fail_over(inventory, "--dry-run", "-o", "json")
    run = fail_over(inventory, "--json")

    plan: dict[str, Any] = json.loads(planned.stdout)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert {key: type(content) for key, content in plan.items()} == PLAN_KEYS
    assert (plan["decision"], plan["target"]) == ("plan", "pg2")
    assert plan["loss"] | {"basis": "…"} == {
        "proven_zero": True,
        "known_bytes": 0,
        "observed_age_s": None,
        "basis": "…",
    }
    assert [(s["n"], s["kind"]) for s in plan["steps"]] == list(enumerate(STEPS, 1))
    assert all(set(s) == STEP_KEYS for s in plan["steps"])
    assert [set(c) for c in plan["ranking"]] == [
        {"node", "eligible", "reason", "timeline", "received_lsn"}
    ] * 2

    done: dict[str, Any] = json.loads(run.stdout)
    assert run.returncode == 0
    assert set(done) == {*PLAN_KEYS, "outcome", "write_path_down_s"}
    assert done["outcome"] == "done"
    assert [s["result"] for s in done["steps"]] == ["done"] * len(STEPS)
    assert all(set(s) == {*STEP_KEYS, "took_s", "result"} and s["took_s"] >= 0 for s in done["steps"])


def test_the_wished_node_is_promoted(lab: Lab) -> None:
    done = fail_over(lose(lab), "--to", "pg3")

    assert (done.returncode, lab.primary()) == (0, "pg3")
    assert done.stdout.endswith("pg3 is the primary.\n")
    wait_streaming(lab, "pg3", "pg2")


def test_printed_statements_are_those_that_the_servers_get(lab: Lab) -> None:
    for name in ("pg2", "pg3"):
        configure(lab, name, log_statement="all")
    inventory = lose(lab)
    planned = json.loads(fail_over(inventory, "--dry-run", "-o", "json").stdout)["steps"]
    as_text = fail_over(inventory, "--dry-run", "--print-sql").stdout

    assert fail_over(inventory).returncode == 0

    logs = {name: " ".join(log_of(lab, name).split()) for name in ("pg2", "pg3")}
    for step in planned:
        for statement in step["sql"]:
            assert statement in as_text
            # A promotion has a moment until which it is asked for.
            exact = statement.removesuffix(";").partition(" WHERE clock_timestamp() <")[0]
            for name in [step["node"]] if step["node"] else ("pg2", "pg3"):
                assert exact in logs[name], f"{name}: {exact}"


def test_a_working_primary_is_refused_and_the_reason_is_told(shared_lab: Lab) -> None:
    as_it_was = picture(shared_lab)

    refused = fail_over(shared_lab.inventory_path)
    planned = fail_over(shared_lab.inventory_path, "--dry-run", "-o", "json")

    assert refused.returncode == planned.returncode == 3
    assert refused.stdout.startswith("HEALTHY:\n  pg1 is the primary\n  2 replica(s) follow\n\nRanking:\n")
    assert refused.stderr.splitlines()[0] == "replctl: PRIMARY_ALIVE: pg1 answers"
    document = json.loads(planned.stdout)
    assert (document["decision"], document["target"], document["loss"], document["steps"]) == (
        "refused",
        None,
        None,
        [],
    )
    assert [r["code"] for r in document["refusals"]] == ["PRIMARY_ALIVE"]
    assert picture(shared_lab) == as_it_was


USAGE = {
    ("--to", "pg9"): "no node 'pg9' in the inventory\nhint: known: pg1, pg2, pg3",
    ("--fenced", "pg9"): "no node 'pg9' in the inventory\nhint: known: pg1, pg2, pg3",
    ("--allow-loss", "lots"): "--allow-loss lots: not a number and a unit\n"
    "hint: --allow-loss 16MiB, or unknown",
    ("--allow-loss", "-5"): "--allow-loss -5: not a number and a unit\nhint: --allow-loss 16MiB, or unknown",
    ("--once",): "--once and --log-format belong to --auto\nhint: replctl failover --auto --once",
    ("--log-format", "json"): "--once and --log-format belong to --auto\n"
    "hint: replctl failover --auto --once",
    ("--auto", "-o", "json"): "--auto has no document to show\nhint: --log-format json: one event a line",
    **{
        ("--auto", *wish): "--auto takes no wishes: what may be given up is the operator's decision\n"
        "hint: leave out all but --once and --log-format, or leave out --auto"
        for wish in (
            ("--to", "pg2"),
            ("--allow-loss", "unknown"),
            ("--fenced", "pg1"),
            ("--without-votes", "pg1"),
            ("--allow-replay", "pg2"),
            ("--dry-run",),
            ("--print-sql",),
        )
    },
}


@pytest.mark.parametrize("options", USAGE, ids=" ".join)
def test_options_that_do_not_fit_are_refused_before_anything_is_asked(
    shared_lab: Lab, options: tuple[str, ...]
) -> None:
    done = replctl("failover", *options, env=environment(shared_lab.inventory_path))

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"replctl: {USAGE[options]}\n")


@pytest.mark.lab(sync="ANY 1", witness=True)
def test_a_witness_cannot_be_promoted_but_can_be_off(lab: Lab) -> None:
    inventory = lose(lab)

    wished = replctl("failover", "--to", "w1", env=environment(inventory))
    answers = fail_over(inventory, "--fenced", "w1", "--dry-run")
    lab.kill("w1")
    without = fail_over(inventory, "--fenced", "w1", "--dry-run")

    assert (wished.returncode, wished.stderr) == (
        2,
        "replctl: w1 is a witness: it only votes\nhint: nodes: pg1, pg2, pg3\n",
    )
    assert (answers.returncode, without.returncode) == (3, 0)


# ---- the question


def test_off_a_terminal_nothing_is_done_without_yes(lab: Lab) -> None:
    inventory = lose(lab)
    as_it_was = picture(lab)

    done = replctl("failover", env=environment(inventory))

    assert (done.returncode, done.stderr) == (
        2,
        "replctl: a failover needs a confirmation\nhint: --yes does it, --dry-run only shows it\n",
    )
    assert picture(lab) == as_it_was


def test_on_a_terminal_it_asks_and_a_no_changes_nothing_and_a_yes_does_it(lab: Lab) -> None:
    inventory = lose(lab)
    as_it_was = picture(lab)
    with Terminal("failover", env=environment(inventory), columns=40) as terminal:
        terminal.wait_for("Run it? [y/N]: ")
        terminal.type("n\r")
        code, text = terminal.end()
        assert (code, text.splitlines()[-1]) == (1, "replctl: not confirmed: nothing was done")
    assert picture(lab) == as_it_was

    with Terminal("failover", env=environment(inventory)) as terminal:
        terminal.wait_for("Run it? [y/N]: ")
        terminal.type("y\r")
        code, text = terminal.end()

    assert (code, text.splitlines()[-1], lab.primary()) == (0, "pg2 is the primary.", "pg2")


def test_a_primary_that_returns_while_the_question_stands_is_not_failed_over(lab: Lab) -> None:
    inventory = lose(lab)
    as_it_was = picture(lab)
    with Terminal("failover", env=environment(inventory)) as terminal:
        terminal.wait_for("Run it? [y/N]: ")
        lab.start("pg1")
        wait_streaming(lab, "pg1", "pg2", "pg3")
        terminal.type("y\r")
        code, text = terminal.end()

    assert code == 3, text
    assert "the primary answers again" in text
    assert {n: p for n, p in picture(lab).items() if n != "pg1"} == as_it_was
    wait_streaming(lab, "pg1", "pg2", "pg3")


def test_ctrl_c_at_the_question_changes_nothing(lab: Lab) -> None:
    inventory = lose(lab)
    as_it_was = picture(lab)
    with Terminal("failover", env=environment(inventory)) as terminal:
        terminal.wait_for("Run it? [y/N]: ")
        terminal.type("\x03")
        code, text = terminal.end()

    assert (code, text.splitlines()[-1]) == (130, "replctl: interrupted")
    assert picture(lab) == as_it_was


# ---- without a quorum


@pytest.mark.lab(sync=None)
def test_a_frozen_asynchronous_primary_needs_the_operators_word_that_it_is_off(lab: Lab) -> None:
    inventory = lab.inventory_path
    assert replctl("status", env=environment(inventory)).returncode == 0  # it is known how far pg1 was
    lab.freeze("pg1")
    as_it_was = picture(lab)

    refused = fail_over(inventory)
    assert (refused.returncode, "FENCE_REQUIRED" in refused.stderr, picture(lab)) == (3, True, as_it_was)
    allowed = fail_over(inventory, "--fenced", "pg1")

    assert (allowed.returncode, allowed.stderr) == (0, "")
    assert re.search(r"^Loss: none that is known of \(.* old\)\.$", allowed.stdout, re.MULTILINE)
    assert lab.primary() == "pg2"
