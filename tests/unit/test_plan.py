"""The step laws over many situations; what is promoted, and when. What refusals say: tests/scenarios."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import event, given

from replctl.core.candidates import is_proof, strays
from replctl.core.detector import Word
from replctl.core.model import Cause, ClusterState, Lsn, NodeFacts, Observation
from replctl.core.objections import may_lose
from replctl.core.plan import Plan, Refusal, plan_failover
from replctl.core.promotion import Loss
from replctl.core.refusals import RefusalCode
from replctl.core.situation import Position, Request, Situation, Vote, is_cut
from replctl.core.steps import (
    Checkpoint,
    CreateSlot,
    Cut,
    FastForward,
    FenceCommand,
    Promote,
    ProveSilence,
    Repoint,
    Step,
    TakeVotes,
)
from tests.unit.builders import END, address, primary, receiver, replica, settings, unreachable
from tests.unit.step_laws import assert_step_laws
from tests.unit.strategies import situations

RULE = "ANY 1 (pg1, pg2, pg3)"


def detached(name: str, **facts: object) -> NodeFacts:
    """A replica whose upstream is gone: no receiver, still set to follow it."""
    given_: dict[str, object] = {"conninfo": {"host": address("pg1"), "port": "5432"}}
    given_ |= {"receiver": None, "receiver_processes": 0, "synchronous_standby_names": RULE}
    return replica(name, **given_ | facts)


def cut(name: str, **facts: object) -> NodeFacts:
    """A replica that was cut."""
    gone = {"conninfo": {}, "upstream_host": None, "upstream_port": None}
    return detached(name, **gone | {"startup_wait_event": "RecoveryRetrieveRetryInterval"} | facts)


def situation(*nodes: Observation, sync: str = RULE, **keys: object) -> Situation:
    given_: dict[str, object] = {
        "settings": settings(*(n.node for n in nodes), failover={"synchronous": sync}),
        "state": ClusterState(nodes=nodes),
        "request": Request(lost="pg1"),
        "word": Word.REFUSED,
    }
    return Situation(**given_ | keys)  # type: ignore[arg-type]


DEAD = situation(unreachable("pg1"), detached("pg2"), detached("pg3", lsn=END - 100))


def steps_of(plan: Plan | Refusal) -> list[Step]:
    assert isinstance(plan, Plan), plan
    return list(plan.steps)


def code_of(plan: Plan | Refusal) -> RefusalCode:
    assert isinstance(plan, Refusal), plan
    return plan.reasons[0].code


def test_a_dead_primary_is_replaced_by_the_most_advanced_replica():
    assert steps_of(plan_failover(DEAD)) == [
        TakeVotes(),
        Cut("pg2"),
        Cut("pg3"),
        Promote("pg2"),
        CreateSlot("pg2", "pg3"),
        Repoint("pg3", "pg2"),
        Checkpoint("pg2"),
    ]


def test_a_silent_primary_is_asked_through_a_replica_before_anything_is_cut():
    quiet = replica("pg2", conninfo={"host": address("pg1"), "port": "5432"}, receiver_processes=1)
    now = situation(unreachable("pg1", Cause.TIMEOUT), quiet, detached("pg3"), word=Word.SILENT)

    assert steps_of(plan_failover(now))[:3] == [TakeVotes(), ProveSilence("pg2"), Cut("pg2")]


def test_without_a_quorum_silence_asks_for_the_fence_command_first():
    now = situation(
        unreachable("pg1", Cause.TIMEOUT), detached("pg2"), detached("pg3"), sync="", word=Word.SILENT
    )

    assert code_of(plan_failover(now)) is RefusalCode.FENCE_REQUIRED
    armed = replace(now, fence_commands=frozenset({"pg1"}), known_lsn=None)
    assert steps_of(plan_failover(replace(armed, request=Request(lost="pg1", allow_unknown_loss=True))))[
        :3
    ] == [TakeVotes(), FenceCommand("pg1"), Cut("pg2")]


def test_a_wished_replica_that_is_behind_fetches_the_rest_from_the_most_advanced_one():
    wish = replace(DEAD, request=Request(lost="pg1", to="pg3"))

    assert FastForward("pg3", "pg2", 1, END) in steps_of(plan_failover(wish))


def test_two_primaries_on_one_timeline_stop_everything_even_the_rest_of_a_failover():
    nodes = primary("pg1", "pg3"), primary("pg2"), replica("pg3")
    for lost in ("pg1", "pg2", None):
        now = situation(*nodes, request=Request(lost=lost, allow_unknown_loss=True))

        assert code_of(plan_failover(now)) is RefusalCode.SPLIT_BRAIN


def test_what_streams_from_the_promoted_node_is_left_as_it_is():
    below = replica("pg4", "pg2", conninfo={"host": address("pg2"), "port": "5432"}, receiver_processes=1)
    steps = steps_of(plan_failover(situation(unreachable("pg1"), detached("pg2"), detached("pg3"), below)))

    assert [s for s in steps if s.node == "pg4"] == []


def test_with_a_doubtful_rule_no_zero_loss_is_claimed():
    seen = replace(DEAD, sync_seen="ANY 1 (pg2)", request=Request(lost="pg1", allow_unknown_loss=True))
    plan = plan_failover(seen)

    assert isinstance(plan, Plan)
    assert plan.loss == Loss(
        proven_zero=False,
        known_bytes=None,
        observed_age_s=None,
        basis=f"the lost primary had 'ANY 1 (pg2)', the inventory expects '{RULE}'",
    )


def test_a_replica_ahead_of_the_new_primary_is_not_repointed_but_named():
    new = primary("pg2", timeline=2, checkpoint_timeline=2)
    now = situation(unreachable("pg1"), new, cut("pg3"), forks={1: Lsn(END - 500)})
    plan = plan_failover(now)

    assert steps_of(plan) == []
    assert isinstance(plan, Plan)
    assert plan.warnings == (
        "pg1 has to be made a replica again when it is back: pg_rewind or pg_basebackup, docs/failover.md",
        "pg3 is ahead of pg2 and has to be rewound: pg_rewind or pg_basebackup, docs/failover.md",
    )


# ---- laws


@given(situations())
def test_plans_keep_the_step_laws(now: Situation):
    plan = assert_step_laws(now)
    event(plan.reasons[0].code if isinstance(plan, Refusal) else "planned")


def promotions(now: Situation) -> list[tuple[Situation, str]]:
    """What the plan promotes, and the situation just before."""
    plan, found = plan_failover(now), []
    for step in plan.steps if isinstance(plan, Plan) else ():
        if isinstance(step, Promote):
            found.append((now, step.node))
        now = step.project(now)
    return found


@given(situations())
def test_a_promotion_rests_on_cuts_on_proof_and_on_votes(now: Situation):
    for before, node in promotions(now):
        assert_nobody_is_ahead(before, node)
        assert_enough_members_are_cut(before)
        assert_the_primary_is_no_danger(before)
        held = [v for v in before.voters if before.votes.get(v) is Vote.HELD]
        assert 2 * len(held) > len(before.voters)


def assert_nobody_is_ahead(before: Situation, node: str):
    """What is promoted is cut, and no cut node of its history has more."""
    facts, chosen = before.facts(node), before.positions[node]
    assert facts is not None
    assert is_cut(facts)
    assert before.spec(node).promote != "never"
    for other, position in before.positions.items():
        if strays(before, other) is None:
            assert (chosen.timeline, chosen.lsn) >= (position.timeline, position.lsn)


def assert_enough_members_are_cut(before: Situation):
    """With a rule n-k+1 members are cut, and known, unless a person gave that up."""
    if before.rule is not None and not may_lose(before):
        proof = [m for m in before.members if is_proof(before, m)]
        assert len(proof) >= len(before.members) - before.rule.confirmations + 1


def assert_the_primary_is_no_danger(before: Situation):
    """Without a rule it is off or its host said so, unless safety was given up by name."""
    if before.rule is None and before.word is not Word.REFUSED:
        assert before.settings.failover.fencing == "none" or "pg1" in before.request.fenced


@given(situations())
def test_a_primary_that_answers_is_never_failed_over(now: Situation):
    alive = replace(now, word=Word.ANSWERED)

    assert code_of(plan_failover(alive)) is RefusalCode.PRIMARY_ALIVE


@given(situations())
def test_a_plan_touches_the_lost_primary_and_replay_only_where_it_may(now: Situation):
    plan = plan_failover(now)
    steps = plan.steps if isinstance(plan, Plan) else ()
    changed = {s.node for s in steps if isinstance(s, Cut) and s.means == "replay"}

    assert {type(step) for step in steps if step.node == "pg1"} <= {FenceCommand}
    assert changed <= now.request.allow_replay or now.settings.failover.allow_replay_changes


@given(situations())
def test_giving_up_more_never_turns_a_plan_into_a_refusal(now: Situation):
    if isinstance(plan_failover(now), Plan):
        wider = replace(now, request=replace(now.request, allow_unknown_loss=True))
        assert isinstance(plan_failover(wider), Plan)


@given(situations())
def test_after_the_plan_every_direct_replica_follows_the_new_primary(now: Situation):
    plan = plan_failover(now)
    if isinstance(plan, Refusal):
        return
    for step in plan.steps:
        now = step.project(now)
    assert now.promoted is not None
    assert now.promoted.node == plan.target
    assert steps_of(plan_failover(now)) == []
    left = [f.node for f in now.replicas if is_cut(f)]
    assert left == []


def test_a_position_that_may_hide_more_is_no_proof():
    hidden = Position(timeline=1, lsn=END, incomplete="it was restarted")
    now = situation(unreachable("pg1"), cut("pg2"), cut("pg3"), positions={"pg3": hidden})

    assert (is_proof(now, "pg2"), is_proof(now, "pg3")) == (True, False)
    assert code_of(plan_failover(replace(now, votes=dict.fromkeys(("pg2", "pg3"), Vote.HELD)))) is (
        RefusalCode.TOO_FEW_CUT
    )


def test_a_receiver_of_the_new_timeline_is_what_proves_a_repointing():
    new = primary("pg2", "pg3", timeline=2, checkpoint_timeline=2)
    follows = {"conninfo": {"host": address("pg2"), "port": "5432"}, "receiver_processes": 1}
    on_old = replica("pg3", "pg2", receiver=receiver("pg2", received_timeline=1), **follows)
    on_new = replica("pg3", "pg2", receiver=receiver("pg2", received_timeline=2), **follows)

    done = [Repoint("pg3", "pg2").done(situation(unreachable("pg1"), new, f)) for f in (on_old, on_new)]
    assert done == [False, True]
