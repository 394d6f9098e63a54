"""Controllers side by side, controllers that die in the midst, and clusters of two nodes."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest

from replctl.controller.incident import reason_of
from replctl.core.outcome import StepResult
from replctl.core.plan import Plan
from replctl.core.steps import Promote, TakeVotes
from replctl.lab import Lab, Load
from tests.live.failover_runs import KilledError, attempt
from tests.live.failover_support import (
    GRACES,
    Auto,
    fail_over,
    picture,
    value,
    wait_streaming,
    writable,
    write_inventory,
)
from tests.support import wait_until

pytestmark = pytest.mark.live

RUNS_MAX = 20


@pytest.mark.lab(sync="ANY 1")
@pytest.mark.parametrize("loss", ["killed", "frozen"])
def test_of_several_controllers_one_acts(lab: Lab, loss: str) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    with ExitStack() as stack:
        controllers = [stack.enter_context(Auto(inventory)) for _ in range(3)]
        load = stack.enter_context(Load(lab, pinned=["pg1"], ordinary=False))
        load.wait_for_rows(20)
        (lab.kill if loss == "killed" else lab.freeze)("pg1")

        wait_until(lambda: any(c.events("done") for c in controllers), "one is done", limit_s=20)
        load.wait_for_rows(20)
        (lab.start if loss == "killed" else lab.thaw)("pg1")
        wait_until(lambda: writable(lab) == {lab.primary()}, "pg1 is back, and fenced")
        load.wait_for_rows(20)
        report = load.stop()

        promoted = [e["node"] for c in controllers for e in c.events("step", "promote ")]
        done = [e["node"] for c in controllers for e in c.events("done")]
        texts = "\n\n".join(c.text for c in controllers)
    assert [promoted, writable(lab)] == [[lab.primary()], {lab.primary()}], texts
    assert set(done) == {lab.primary()}
    assert value(lab, str(lab.primary()), "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)") == (
        "00000002"
    )
    assert [report.rows_lost, report.rows_late] == [0, 0]


@pytest.mark.lab(replicas=3, sync="ANY 2")
def test_a_run_that_is_killed_after_each_step_is_finished_with_the_same_node(lab: Lab) -> None:
    """Each run dies after its first step beyond the votes, so that every step is once the last."""
    inventory = write_inventory(lab)
    targets: list[str | None] = []
    steps: list[str] = []

    def begin(plan: Plan) -> None:
        targets.append(plan.target)

    def die_after_one(result: StepResult) -> None:
        assert result.error is None
        if isinstance(result.step, TakeVotes) and steps:
            return
        steps.append(result.step.describe())
        raise KilledError

    with Load(lab, ordinary=False) as load:
        load.wait_for_rows(20)
        lab.kill("pg1")
        for _ in range(RUNS_MAX):
            try:
                outcome = attempt(inventory, die_after_one, begin)
            except KilledError:
                continue
            if "PRIMARY_ALIVE" in reason_of(outcome):  # the new one: there is nothing left to do
                break
        else:
            pytest.fail(f"not finished after {RUNS_MAX} runs: {steps}")
        load.wait_for_rows(20)
        report = load.stop()

    primary = str(lab.primary())
    assert set(targets) == {primary}, steps
    assert [step for step in steps if step.startswith("promote ")] == [f"promote {primary}"]
    wait_streaming(lab, primary, *({"pg2", "pg3", "pg4"} - {primary}))
    assert [report.rows_lost, report.rows_late, len(steps) >= 4] == [0, 0, True], steps


@pytest.mark.lab(replicas=3, sync="ANY 2")
def test_what_a_shot_controller_left_is_finished_by_the_next(lab: Lab) -> None:
    """SIGKILL at its first sign of action, whatever it is at then."""
    inventory = write_inventory(lab, failover=GRACES)
    with Load(lab, ordinary=False) as load:
        load.wait_for_rows(20)
        first = Auto(inventory)
        first.wait_for("covers")
        lab.kill("pg1")
        first.wait_for("step")
        first.end(signal.SIGKILL)

        with Auto(inventory):
            load.wait_for_rows(20, timeout_s=30)
            primary = str(lab.primary())
            wait_streaming(lab, primary, *({"pg2", "pg3", "pg4"} - {primary}))
        report = load.stop()

    assert [writable(lab), report.rows_lost, report.rows_late] == [{primary}, 0, 0]


@pytest.mark.lab(sync="ANY 1")
def test_a_cut_that_nobody_holds_is_undone_when_the_primary_is_well(lab: Lab) -> None:
    """A run was killed between the cut and the promotion, and the primary came back."""
    inventory = write_inventory(lab, failover=GRACES)
    before = picture(lab)

    def die_after_the_cuts(result: StepResult) -> None:
        if isinstance(result.step, Promote):
            pytest.fail("it was promoted")
        if not isinstance(result.step, TakeVotes):
            raise KilledError

    lab.freeze("pg1")
    with pytest.raises(KilledError):
        attempt(inventory, die_after_the_cuts)
    lab.thaw("pg1")
    with Auto(inventory), Load(lab, ordinary=False) as load:
        load.wait_for_rows(20, timeout_s=20)
        wait_streaming(lab, "pg1", "pg2", "pg3")
    assert [writable(lab), load.report.rows_lost] == [{"pg1"}, 0]
    assert {n: found[0] for n, found in picture(lab).items()} == {n: found[0] for n, found in before.items()}


# ---- two nodes


@pytest.mark.lab(replicas=1, sync="ANY 1", witness=True)
def test_two_nodes_and_a_witness_fail_over(lab: Lab) -> None:
    prove_two_nodes(lab, "frozen", {})


@pytest.mark.lab(replicas=1, sync="ANY 1")
def test_two_nodes_fail_over_where_replicas_alone_vote(lab: Lab) -> None:
    prove_two_nodes(lab, "killed", {"votes": "replicas"})


def prove_two_nodes(lab: Lab, loss: str, failover: dict[str, object]) -> None:
    """The replica takes over; where asked to, it stops waiting for a replica that it does not have."""
    inventory = write_inventory(lab, failover={**GRACES, "on_sync_short": "degrade", **failover})
    with Auto(inventory) as auto, Load(lab, pinned=["pg1"], ordinary=False) as load:
        load.wait_for_rows(20)
        (lab.kill if loss == "killed" else lab.freeze)("pg1")
        auto.wait_for("done")
        auto.wait_for("sync_lowered")
        load.wait_for_rows(20)
        (lab.start if loss == "killed" else lab.thaw)("pg1")
        auto.wait_for("fenced", "pg1")
        load.wait_for_rows(20)
        report = load.stop()
    assert [writable(lab), report.rows_lost, report.rows_late] == [{"pg2"}, 0, 0]


@pytest.mark.lab(replicas=1, sync="ANY 1")
def test_two_nodes_alone_have_no_majority(lab: Lab) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    with Auto(inventory) as auto:
        assert "add a witness" in auto.wait_for("impossible")["message"]
        lab.kill("pg1")
        auto.wait_for("verdict", "it is we who are cut off")
    refused = fail_over(inventory)
    assert [refused.returncode, "NO_MAJORITY" in refused.stderr, writable(lab)] == [3, True, set()]
