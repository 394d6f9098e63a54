"""Each step: its sentence, what proves it, and what it is expected to change, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from replctl.core.model import ClusterState, NodeFacts
from replctl.core.plan import Plan, plan_failover
from replctl.core.situation import Request, Situation, Vote, is_cut
from replctl.core.steps import (
    Checkpoint,
    CreateSlot,
    Cut,
    FastForward,
    FenceCommand,
    Promote,
    ProveSilence,
    Repoint,
    SetSynchronous,
    Step,
    TakeVotes,
    with_facts,
)
from tests.unit.builders import END, address, node, primary, receiver, replica, settings, state, unreachable
from tests.unit.strategies import situations
from tests.unit.test_situation import CONNECTED, CUT

STEPS: list[tuple[Step, str]] = [
    (TakeVotes(), "take the votes of a majority"),
    (ProveSilence("pg2"), "make pg2 reconnect, to see whether the primary is really silent"),
    (FenceCommand("pg1"), "switch pg1 off with its fence command"),
    (Cut("pg2"), "cut pg2 from its upstream"),
    (
        Cut("pg2", "timeout"),
        "cut pg2 from its upstream by wal_receiver_timeout, since its replay does not let go",
    ),
    (Cut("pg2", "replay"), "cut pg2 from its upstream, changing its replay for that"),
    (FastForward("pg2", "pg3", 1, END), f"let pg2 catch up with pg3 to {END}, and cut it again"),
    (
        SetSynchronous("pg2", "ANY 1 (pg1, pg2)"),
        "set synchronous_standby_names of pg2 to 'ANY 1 (pg1, pg2)'",
    ),
    (Promote("pg2"), "promote pg2"),
    (CreateSlot("pg2", "pg3"), "create slot pg3 on pg2"),
    (Repoint("pg3", "pg2"), "repoint pg3 to pg2"),
    (Checkpoint("pg2"), "checkpoint pg2"),
]


@pytest.mark.parametrize(("step", "sentence"), STEPS, ids=[sentence for _, sentence in STEPS])
def test_a_step_is_one_imperative_sentence(step: Step, sentence: str):
    assert step.describe() == sentence


def test_every_kind_of_step_is_described_here():
    assert {type(step) for step, _ in STEPS} == set(Step.__args__)


def situation(*nodes: object, **keys: object) -> Situation:
    given_: dict[str, object] = {
        "settings": settings("pg1", "pg2", "pg3"),
        "state": ClusterState(nodes=nodes),  # type: ignore[arg-type]
        "request": Request(lost="pg1"),
    }
    return Situation(**given_ | keys)  # type: ignore[arg-type]


NOW = situation(unreachable("pg1"), replica("pg2", **CONNECTED), replica("pg3", **CONNECTED))


def facts(now: Situation, name: str) -> NodeFacts:
    found = now.facts(name)
    assert found is not None
    return found


def test_votes_are_taken_from_those_who_answer_and_are_free():
    now = replace(NOW, votes={"pg3": Vote.TAKEN})

    assert TakeVotes().project(now).votes == {"pg2": Vote.HELD, "pg3": Vote.TAKEN}


def test_votes_of_witnesses_count():
    voting = replace(NOW.settings, witnesses=())
    after = TakeVotes().project(
        replace(NOW, settings=voting, state=state(*NOW.state.nodes, witnesses=(node("w1"),)))
    )

    assert (after.votes, TakeVotes().done(after)) == ({"pg2": Vote.HELD, "pg3": Vote.HELD}, True)


def test_a_cut_is_proven_by_everything_that_must_be_gone():
    after = Cut("pg2").project(NOW)

    assert is_cut(facts(after, "pg2"))
    assert after.positions["pg2"].lsn == END
    assert not Cut("pg2").done(NOW)


def test_a_fast_forward_is_done_when_the_wal_is_there_and_it_is_cut_again():
    now = with_facts(NOW, replica("pg2", lsn=END - 5, **CUT))
    step = FastForward("pg2", "pg3", 1, END)

    assert not step.done(now)
    after = step.project(now)
    assert step.done(after)
    assert not step.done(with_facts(after, replica("pg2", **CONNECTED)))


def test_a_promoted_node_writes_on_the_next_timeline_from_where_it_was():
    after = facts(Promote("pg2").project(NOW), "pg2")

    assert (after.in_recovery, after.timeline, after.write_lsn, after.checkpoint_timeline) == (
        False,
        2,
        END,
        1,
    )


def test_what_streams_from_a_promoted_node_follows_it_to_its_timeline():
    below = replica("pg3", "pg2", **CONNECTED | {"conninfo": {"host": address("pg2"), "port": "5432"}})
    after = facts(Promote("pg2").project(with_facts(NOW, below)), "pg3")

    assert after.receiver is not None
    assert (after.timeline, after.receiver.received_timeline) == (2, 2)


def test_promoted_is_who_is_not_in_recovery():
    assert Promote("pg2").done(with_facts(NOW, primary("pg2", timeline=2)))
    assert not Promote("pg1").done(NOW)


def test_a_slot_is_made_once():
    now = with_facts(NOW, primary("pg2", timeline=2))
    step = CreateSlot("pg2", "pg3")

    assert [step.done(now), step.done(step.project(now))] == [False, True]


FOLLOWS = {"conninfo": {"host": address("pg2"), "port": "5432"}, "receiver_processes": 1}
NEW = with_facts(NOW, primary("pg2", "pg3", timeline=2))


@pytest.mark.parametrize(
    ("pg3", "done"),
    [
        (replica("pg3", "pg2", receiver=receiver("pg2", received_timeline=2), **FOLLOWS), True),
        (replica("pg3", "pg2", receiver=receiver("pg2", received_timeline=1), **FOLLOWS), False),
        (
            replica("pg3", "pg2", receiver=receiver("pg2", received_timeline=2, status="waiting"), **FOLLOWS),
            False,
        ),
        (replica("pg3", "pg2", receiver=None, **FOLLOWS), False),
        (replica("pg3", "pg2", receiver=None, replay_pause="paused", **FOLLOWS), True),
        (replica("pg3", "pg1", receiver=receiver("pg1", received_timeline=2), **CONNECTED), False),
        (unreachable("pg3"), False),
    ],
    ids=["streams", "old timeline", "waits at the fork", "no receiver", "held up", "elsewhere", "silent"],
)
def test_a_repointing_is_proven_by_streaming_on_the_new_timeline(pg3: object, done: bool):
    now = situation(unreachable("pg1"), facts(NEW, "pg2"), pg3)

    assert Repoint("pg3", "pg2").done(now) is done


def test_a_repointed_replica_has_no_cut_position_left():
    cut = Cut("pg3").project(NEW)

    assert "pg3" in cut.positions
    assert "pg3" not in Repoint("pg3", "pg2").project(cut).positions


def test_a_checkpoint_is_proven_by_the_control_file():
    behind = with_facts(NOW, primary("pg2", timeline=2, checkpoint_timeline=1))
    step = Checkpoint("pg2")

    assert [step.done(behind), step.done(step.project(behind))] == [False, True]


def test_a_fence_command_takes_the_node_out_of_the_voters():
    after = FenceCommand("pg1").project(NOW)

    assert FenceCommand("pg1").done(after)
    assert "pg1" not in after.voters


@pytest.mark.parametrize("step", [step for step, _ in STEPS if step.node is not None], ids=str)
def test_a_step_on_a_node_that_does_not_answer_is_not_done(step: Step):
    gone = situation(unreachable("pg1"), unreachable("pg2"), unreachable("pg3"))

    assert not step.done(gone)


@given(situations())
def test_a_step_changes_the_node_that_it_names_and_takes_no_wal_away(now: Situation):
    plan = plan_failover(now)
    for step in plan.steps if isinstance(plan, Plan) else ():
        after = step.project(now)
        for before_node, after_node in zip(now.state.nodes, after.state.nodes, strict=True):
            may = after_node.node == step.node or isinstance(step, Promote)  # what streams from it follows
            assert may or before_node == after_node
        for name in now.positions.keys() & after.positions.keys():
            assert after.positions[name].lsn >= now.positions[name].lsn
        assert after.settings == now.settings
        now = after
