"""What another run may have done unseen: nobody is promoted beside a node that may be the primary already."""

from __future__ import annotations

from dataclasses import replace

from replctl.core.model import Cause
from replctl.core.plan import Plan, Refusal, plan_failover
from replctl.core.refusals import RefusalCode
from replctl.core.settings import WitnessSpec
from replctl.core.situation import Request, Situation, Vote
from replctl.core.steps import Checkpoint, FastForward, Promote, ProveSilence, Repoint
from tests.unit.builders import END, address, primary, receiver, unreachable
from tests.unit.test_plan import cut, detached, situation


def code_of(now: Situation) -> RefusalCode | None:
    """Why it is refused; None for a plan."""
    answer = plan_failover(now)
    return answer.reasons[0].code if isinstance(answer, Refusal) else None


def with_votes(now: Situation, *voters: str) -> Situation:
    return replace(now, votes=dict.fromkeys(voters, Vote.HELD))


FOUR = situation(
    unreachable("pg1"),
    cut("pg2"),
    cut("pg3"),
    unreachable("pg4", Cause.TIMEOUT),
    sync="ANY 2 (pg1, pg2, pg3, pg4)",
    request=Request(lost="pg1", without_votes=frozenset({"pg4"})),
)


def test_replicas_that_somebody_cut_promote_nobody_while_a_node_is_silent() -> None:
    assert code_of(FOUR) is RefusalCode.MAY_BE_PROMOTED


def test_what_this_run_cut_itself_is_no_trace_of_another() -> None:
    assert code_of(replace(FOUR, own_cuts=frozenset({"pg2", "pg3"}))) is None


def test_a_node_that_was_a_replica_while_the_votes_were_ours_has_not_been_promoted() -> None:
    assert code_of(replace(FOUR, watched=frozenset({"pg4"}))) is None


def test_a_node_that_is_off_by_the_operators_word_has_not_been_promoted() -> None:
    request = Request(lost="pg1", fenced=frozenset({"pg4"}))
    assert code_of(replace(FOUR, request=request)) is None


def test_a_node_that_may_never_be_promoted_has_not_been() -> None:
    nodes = tuple(replace(n, promote="never") if n.name == "pg4" else n for n in FOUR.settings.nodes)
    assert code_of(replace(FOUR, settings=replace(FOUR.settings, nodes=nodes))) is None


def test_a_cut_replica_is_not_given_back_to_a_primary_that_may_have_been_replaced() -> None:
    now = situation(primary("pg1"), cut("pg2"), unreachable("pg3", Cause.TIMEOUT), request=Request(lost=None))
    assert code_of(now) is RefusalCode.MAY_BE_PROMOTED


def test_a_cut_replica_is_given_to_the_primary_that_was_promoted_after_it_was_cut() -> None:
    new = primary("pg2", timeline=2, checkpoint_timeline=2)
    now = situation(unreachable("pg1"), new, cut("pg3"), unreachable("pg4", Cause.TIMEOUT))
    answer = plan_failover(with_votes(now, "pg2", "pg3", "pg4"))
    assert isinstance(answer, Plan)
    assert Repoint("pg3", "pg2") in answer.steps


def two_witnesses(*, automatic: bool) -> Situation:
    """pg3 is silent; the witnesses and it could have made a majority that touched nothing we see."""
    now = situation(
        unreachable("pg1"), detached("pg2"), unreachable("pg3", Cause.TIMEOUT), sync="ANY 2 (pg1, pg2, pg3)"
    )
    witnesses = tuple(WitnessSpec(name=n, host=address(n)) for n in ("w1", "w2"))
    request = Request(lost="pg1", automatic=automatic)
    seen = replace(now, request=request, settings=replace(now.settings, witnesses=witnesses))
    return with_votes(seen, "pg2", "w1", "w2")


def test_votes_that_leave_no_trace_are_enough_for_a_person_and_not_for_a_controller() -> None:
    assert code_of(two_witnesses(automatic=True)) is RefusalCode.MAY_BE_PROMOTED
    assert code_of(two_witnesses(automatic=False)) is None


def test_nobody_is_promoted_to_the_timeline_on_which_the_lost_primary_was() -> None:
    now = situation(unreachable("pg1"), cut("pg2"), cut("pg3"), own_cuts=frozenset({"pg2", "pg3"}))
    assert code_of(replace(now, lost_timeline=1)) is None
    assert code_of(replace(now, lost_timeline=2)) is RefusalCode.TWO_HISTORIES


def test_who_follows_a_cut_replica_is_not_asked_whether_the_primary_lives() -> None:
    below = detached(
        "pg3",
        upstream_host=address("pg2"),
        conninfo={"host": address("pg2"), "port": "5432"},
        receiver=receiver("pg2"),
        receiver_processes=1,
    )
    answer = plan_failover(situation(unreachable("pg1"), cut("pg2"), below))
    assert isinstance(answer, Plan)
    assert not [step for step in answer.steps if isinstance(step, ProveSilence)]


def test_a_preferred_replica_that_is_paused_and_behind_is_passed_over() -> None:
    paused = cut("pg3", lsn=END - 100, replay_pause="paused", startup_wait_event="RecoveryPause")
    now = situation(unreachable("pg1"), cut("pg2"), paused)
    preferring = tuple(replace(n, promote="prefer") if n.name == "pg3" else n for n in now.settings.nodes)
    answer = plan_failover(replace(now, settings=replace(now.settings, nodes=preferring)))
    assert isinstance(answer, Plan)
    assert not [step for step in answer.steps if isinstance(step, FastForward)]
    assert Promote("pg2") in answer.steps


def test_a_finished_failover_has_nothing_left_to_refuse() -> None:
    new = primary("pg2", timeline=2, checkpoint_timeline=2)
    now = situation(unreachable("pg1"), new, unreachable("pg3", Cause.TIMEOUT))
    answer = plan_failover(now)
    assert isinstance(answer, Plan)
    assert [s for s in answer.steps if not isinstance(s, Checkpoint)] == []


def test_a_primary_that_was_never_seen_may_have_been_promoted_beyond_the_replicas_that_answer() -> None:
    to_pg2 = {"upstream": "pg2", "conninfo": {"host": address("pg2"), "port": "5432"}}
    followers = detached("pg3", **to_pg2), detached("pg4", **to_pg2)
    nodes = (unreachable("pg1", Cause.TIMEOUT), unreachable("pg2"), *followers)
    start = situation(*nodes, sync="ANY 3 (pg1, pg2, pg3, pg4)", request=Request(lost="pg2", automatic=True))
    witnesses = (WitnessSpec(name="w1", host=address("w1")),)
    now = with_votes(
        replace(start, settings=replace(start.settings, witnesses=witnesses)), "pg3", "pg4", "w1"
    )
    assert code_of(now) is RefusalCode.MAY_BE_PROMOTED
    assert code_of(replace(now, lost_timeline=1)) is None
    assert code_of(replace(now, request=Request(lost="pg2"))) is None
    connected = replace(followers[0], receiver=receiver("pg2"), receiver_processes=1)
    streams = replace(now, state=replace(now.state, nodes=(*nodes[:2], connected, followers[1])))
    assert code_of(streams) is None
