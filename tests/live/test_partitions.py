"""Networks that fall apart between controller, primary and replicas, in one direction or in both.

With network namespaces where that is possible, else with a proxy before every server: see namespaces.py
and Network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from replctl.core.outcome import Ending, StepResult
from replctl.core.steps import Cut
from replctl.lab import Lab, Load
from replctl.lab.ledger import LoadReport
from tests.live.failover_runs import attempt
from tests.live.failover_support import (
    GRACES,
    Auto,
    Network,
    behind,
    configure,
    fail_over,
    network,
    picture,
    wait_streaming,
    writable,
    write_inventory,
)
from tests.live.namespaces import Namespaces, addresses, namespaces, possible
from tests.support import need, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]

STALL_S = 1.0  # a busy machine may halt the writers for a moment; a partition lasts longer


@dataclass(frozen=True, kw_only=True)
class Run:
    """A cluster in such a network, a controller, and writers: one that goes wherever it can, one to pg1."""

    lab: Lab
    net: Namespaces | Network
    auto: Auto
    load: Load


@contextlib.contextmanager
def parted(lab: Lab, **failover: object) -> Iterator[Run]:
    """The lab in a network that can be cut, watched and under load."""
    with contextlib.ExitStack() as stack:
        if possible():
            net: Namespaces | Network = stack.enter_context(namespaces(lab))
            nodes = addresses(net)
        else:
            net = stack.enter_context(network(lab))
            nodes = behind(net)
        inventory = write_inventory(lab, failover={**GRACES, **failover}, nodes=nodes)
        auto = stack.enter_context(Auto(inventory, inside=net.inside))
        load = stack.enter_context(Load(lab, pinned=["pg1"], ordinary=False))
        load.wait_for_rows(20)
        yield Run(lab=lab, net=net, auto=auto, load=load)


def prove_untouched(run: Run, before: dict[str, tuple[object, ...]]) -> LoadReport:
    """After the network is whole again: nothing was done, and nothing is lost."""
    run.net.mend()
    run.auto.wait_for("verdict", "alive")
    run.load.wait_for_rows(20, timeout_s=20)
    wait_streaming(run.lab, "pg1", *(set(run.lab.nodes) - {"pg1"}))
    report = run.load.stop()
    assert [run.auto.acted, picture(run.lab), writable(run.lab)] == [[], before, {"pg1"}]
    assert [report.rows_lost, report.rows_late] == [0, 0]
    return report


def prove_replaced(run: Run) -> LoadReport:
    """One node took over; the old primary confirmed nothing afterwards, and is fenced when it is seen."""
    run.auto.wait_for("done")
    promoted = run.auto.events("done")[0]["node"]
    run.load.wait_for_rows(20)
    run.net.mend()
    wait_until(lambda: writable(run.lab) == {promoted}, "pg1 is fenced, by whoever saw it first")
    run.load.wait_for_rows(20)
    report = run.load.stop()
    assert writable(run.lab) == {promoted}
    assert len(run.auto.events("failover")) == 1
    assert [report.rows_lost, report.rows_late] == [0, 0]
    return report


# ---- the controller is the one who is cut off


@pytest.mark.lab(sync="ANY 1")
@pytest.mark.parametrize("direction", ["to", "from"])
def test_a_primary_that_only_the_controller_does_not_hear_is_left_alone(lab: Lab, direction: str) -> None:
    with parted(lab) as run:
        before = picture(lab)
        run.net.drop(*(("controller", "pg1") if direction == "to" else ("pg1", "controller")))
        run.auto.wait_for("verdict", "vetoed")
        run.load.wait_for_rows(100)
        report = prove_untouched(run, before)
    assert report.longest_outage_s < STALL_S


@pytest.mark.lab(sync="ANY 1")
def test_a_controller_that_hears_nobody_does_nothing(lab: Lab) -> None:
    with parted(lab) as run:
        before = picture(lab)
        run.net.part("controller", "pg1", "pg2", "pg3")
        run.auto.wait_for("verdict", "isolated")
        run.load.wait_for_rows(100)
        report = prove_untouched(run, before)
    assert report.longest_outage_s < STALL_S


@pytest.mark.lab(sync="ANY 1")
def test_a_controller_that_hears_one_of_three_does_nothing(lab: Lab) -> None:
    with parted(lab) as run:
        before = picture(lab)
        run.net.part("controller", "pg1", "pg2")
        run.auto.wait_for("verdict", "isolated")
        run.load.wait_for_rows(100)
        prove_untouched(run, before)


# ---- the primary is the one who is cut off


@pytest.mark.lab(sync="ANY 1")
@pytest.mark.parametrize("direction", ["deaf", "mute"])  # both: see the matrix
def test_a_primary_that_nobody_hears_or_that_hears_nobody_is_replaced(lab: Lab, direction: str) -> None:
    """deaf: what it sends arrives, WAL too, and nothing that is sent to it."""
    with parted(lab) as run:
        for other in ("controller", "pg2", "pg3"):
            run.net.drop(*((other, "pg1") if direction == "deaf" else ("pg1", other)))
        prove_replaced(run)


@pytest.mark.lab(sync="ANY 1")
def test_a_primary_that_only_its_replicas_do_not_hear_is_left_alone(lab: Lab) -> None:
    """It answers the controller. Its commits wait until the network is whole again."""
    configure(lab, "pg1", wal_sender_timeout="3s")
    with parted(lab) as run:
        before = picture(lab)
        run.net.part("pg1", "pg2", "pg3")
        run.auto.wait_for("sync_short")
        prove_untouched(run, before)


@pytest.mark.lab(replicas=3, sync="ANY 2", witness=True)
def test_a_primary_with_a_minority_of_its_replicas_is_replaced(lab: Lab) -> None:
    """pg1 and pg2 on one side: one replica cannot confirm for two. Nor can it on the other."""
    with parted(lab, on_sync_short="degrade") as run:
        for one in ("pg1", "pg2"):
            run.net.part(one, "controller", "pg3", "pg4", "w1")
        prove_replaced(run)


@pytest.mark.lab(replicas=3, sync="ANY 1")
def test_a_primary_whose_replica_may_confirm_on_its_side_is_not_replaced(lab: Lab) -> None:
    """pg1 and pg2 on one side, and one replica is enough: there the commits go on."""
    with parted(lab) as run:
        before = picture(lab)
        for one in ("pg1", "pg2"):
            run.net.part(one, "controller", "pg3", "pg4")
        run.auto.wait_for("verdict", "isolated")
        run.load.wait_for_rows(100)
        prove_untouched(run, before)


@pytest.mark.lab(replicas=3, sync="ANY 1", witness=True)
def test_votes_of_a_majority_do_not_replace_the_proof_that_nothing_is_lost(lab: Lab) -> None:
    """As before, and a witness gives the controller's side the majority of five."""
    with parted(lab) as run:
        before = picture(lab)
        for one in ("pg1", "pg2"):
            run.net.part(one, "controller", "pg3", "pg4", "w1")
        run.auto.wait_for("ended", "TOO_FEW_CUT")
        run.load.wait_for_rows(100)
        prove_untouched(run, before)


@pytest.mark.lab(sync="ANY 1")
def test_of_two_controllers_on_two_sides_the_one_with_the_majority_acts(lab: Lab) -> None:
    need("a network of namespaces", possible(), "run as root, with iproute2")
    with parted(lab) as run:
        assert isinstance(run.net, Namespaces)
        inventory = lab.directory.parent / "cluster.toml"
        with Auto(inventory, inside=run.net.beside("pg1")) as minority:
            run.net.isolate("pg1")
            prove_replaced(run)
            assert [minority.events("step", "promote"), minority.events("failover", "promoting")] == [[], []]


# ---- between two steps


@pytest.mark.lab(sync="ANY 1")
def test_a_replica_that_is_lost_between_cut_and_promotion_stops_it(lab: Lab) -> None:
    """Nothing is given back without the votes; the next run, which has them, goes on from there."""
    with network(lab) as net:
        inventory = write_inventory(lab, nodes=behind(net))
        lab.kill("pg1")
        cuts: list[str] = []

        def lose_after_the_last_cut(result: StepResult) -> None:
            if isinstance(result.step, Cut):
                cuts.append(result.step.node)
            if len(cuts) == 2:
                net.part("controller", "pg3")

        outcome = attempt(inventory, lose_after_the_last_cut)
        assert [outcome.ending, outcome.promoted, writable(lab)] == [Ending.NOT_RESTORED, None, set()]
        net.mend()
        done = fail_over(inventory)
        assert [done.returncode, writable(lab)] == [0, {"pg2"}], done.stdout + done.stderr
