"""What must never be planned, each from one small situation in which it nearly was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from replctl.controller.sync import flushed_by_enough
from replctl.core.detector import Word
from replctl.core.lag import LagHistory
from replctl.core.model import FENCE_NAME, Cause, ClusterState, Lsn, NodeFacts, Observation
from replctl.core.plan import Plan, Refusal, plan_failover
from replctl.core.refusals import RefusalCode
from replctl.core.settings import WitnessSpec
from replctl.core.situation import KnownLsn, Request, Situation, Vote, lost_primary
from replctl.core.status import assess
from replctl.core.steps import FenceCommand, Promote, ProveSilence, Repoint
from replctl.errors import RefusedError
from replctl.inventory import Connection, load
from replctl.journal import redacted
from replctl.pg.act import Hands
from replctl.pg.locks import Ballot
from replctl.pg.marks import keeper
from replctl.pg.statements import statements
from tests.unit.builders import END, address, node, primary, replica, sender, settings, unreachable

KNOWN = KnownLsn(lsn=Lsn(END), age_s=1.0, source="the last look at the primary")
RULE = "ANY 1 (pg1, pg2, pg3)"
INVENTORY = """
schema = 1
[cluster]
name = "orders"
[[nodes]]
name = "pg1"
host = "10.0.0.1"
[[nodes]]
name = "pg2"
host = "10.0.0.2"
"""
WITNESS = WitnessSpec(name="w1", host="10.0.0.99")


def streaming(name: str, upstream: str = "pg1", **facts: object) -> NodeFacts:
    given = {"conninfo": {"host": address(upstream), "port": "5432"}, "receiver_processes": 1}
    return replica(name, upstream, **given | facts)


def detached(name: str, upstream: str = "pg1", **facts: object) -> NodeFacts:
    return streaming(name, upstream, **{"receiver": None, "receiver_processes": 0} | facts)


def cut(name: str, **facts: object) -> NodeFacts:
    gone = {"conninfo": {}, "upstream_host": None, "upstream_port": None}
    return detached(name, **gone | {"startup_wait_event": "RecoveryRetrieveRetryInterval"} | facts)


def silent(name: str) -> Observation:
    return unreachable(name, Cause.TIMEOUT)


def situation(*nodes: Observation, sync: str, witness: bool = False, **keys: object) -> Situation:
    names = [n.node for n in nodes]
    inventory = settings(
        *names, failover={"synchronous": sync}, witnesses=(WITNESS,) if witness else (), slot=None
    )
    given: dict[str, object] = {
        "settings": inventory,
        "state": ClusterState(nodes=nodes, witnesses=(node("w1"),) if witness else ()),
        "request": Request(lost="pg1"),
        "word": Word.SILENT,
        "known_lsn": KNOWN,
    }
    return Situation(**given | keys)  # type: ignore[arg-type]


def refused(now: Situation) -> RefusalCode:
    plan = plan_failover(now)
    assert isinstance(plan, Refusal), plan
    return plan.reasons[0].code


def promoted(now: Situation) -> str:
    plan = plan_failover(now)
    assert isinstance(plan, Plan), plan
    return next(step.node for step in plan.steps if isinstance(step, Promote))


def kinds(now: Situation) -> list[str]:
    plan = plan_failover(now)
    assert isinstance(plan, Plan), plan
    return [type(step).__name__ for step in plan.steps]


def test_giving_up_what_may_be_lost_does_not_allow_a_second_primary():
    """pg1 and pg3 may be together behind a partition, and go on: pg3 is enough to confirm."""
    loss = Request(lost="pg1", allow_unknown_loss=True)
    now = situation(
        silent("pg1"), detached("pg2"), silent("pg3"), sync="ANY 1 (pg2, pg3)", witness=True, request=loss
    )
    votes = dict.fromkeys(("pg2", "w1"), Vote.HELD)
    now = replace(now, votes=votes, watched=frozenset({"pg3"}), own_cuts=frozenset({"pg2"}))
    now = replace(now, request=replace(loss, without_votes=frozenset({"pg3"})))

    assert refused(now) is RefusalCode.FENCE_REQUIRED
    fenced = replace(now, request=replace(now.request, fenced=frozenset({"pg1"})))
    assert "Promote" in kinds(fenced)
    armed = replace(now, fence_commands=frozenset({"pg1"}))
    plan = plan_failover(armed)
    assert isinstance(plan, Plan)
    assert plan.steps.index(FenceCommand("pg1")) < plan.steps.index(Promote("pg2"))
    dead = replace(now, word=Word.REFUSED)
    assert "Promote" in kinds(dead)


def test_what_is_left_of_a_failover_is_finished_without_promoting_anybody():
    """The primary answers, one replica was left cut; just then the primary misses one look."""
    now = situation(silent("pg1"), cut("pg2"), sync="ANY 1 (pg2)", witness=True, word=Word.UNCLEAR)

    for request in (Request(lost=None, automatic=True, finish=True), Request(lost=None, automatic=True)):
        assert refused(replace(now, request=request)) is RefusalCode.PRIMARY_UNKNOWN
    known = replace(now, word=Word.REFUSED, request=Request(lost="pg1", automatic=True, finish=True))
    assert refused(known) is RefusalCode.PRIMARY_UNKNOWN


def test_a_lost_replica_that_is_taken_for_the_primary_counts_among_those_that_confirm():
    """pg1 was the primary and is silent; pg2 confirmed alone and is silent; most follow pg2."""
    followers = (detached("pg3", "pg2"), detached("pg4", "pg1"), detached("pg5", "pg2"))
    now = situation(silent("pg1"), silent("pg2"), *followers, sync="ANY 1 (pg2, pg3)")
    lost = lost_primary(now.state, now.settings)
    assert lost == "pg2"
    guessed = replace(now, request=Request(lost=lost, fenced=frozenset({"pg1"})))

    assert guessed.cuts_needed == 2
    assert refused(guessed) is RefusalCode.TOO_FEW_CUT
    assert replace(guessed, lost_timeline=1).cuts_needed == 1  # a controller has seen it as the primary
    everybody = settings(
        "pg1", "pg2", "pg3", "pg4", "pg5", failover={"synchronous": "ANY 2 (pg1, pg2, pg3, pg4, pg5)"}
    )
    assert replace(guessed, settings=everybody).cuts_needed == 3  # whichever of them was the primary


@pytest.mark.parametrize(
    "event",
    ["RecoveryApplyDelay", "RecoveryPause", "RecoveryConflictSnapshot", "RecoveryConflictTablespace"],
)
def test_a_restarted_replica_that_does_not_get_on_with_its_own_wal_proves_nothing(event: str):
    """It shows only what it has replayed; it may have confirmed more before it was restarted."""
    hidden = cut("pg2", lsn=END - 5000, receive_lsn_known=False, startup_wait_event=event)
    now = situation(unreachable("pg1"), hidden, cut("pg3"), sync="ANY 1 (pg1, pg2, pg3)", word=Word.REFUSED)

    assert refused(now) is RefusalCode.TOO_FEW_CUT


def test_a_replica_that_may_not_show_its_receiver_is_no_evidence_of_a_death():
    """The host of pg1 rejects us; pg3, whose role sees nothing, may well be streaming from it."""
    blind = replace(detached("pg3"), settings={}, upstream_known=False, receiver_processes=None, conninfo={})
    auto = Request(lost="pg1", automatic=True)
    now = situation(unreachable("pg1"), detached("pg2"), blind, sync="", word=Word.REFUSED, request=auto)

    assert refused(now) is RefusalCode.FENCE_REQUIRED


def test_the_operators_word_that_the_primary_is_off_is_tried_where_a_replica_is_connected_to_it():
    """He may have switched off another machine."""
    word = Request(lost="pg1", fenced=frozenset({"pg1"}))
    now = situation(silent("pg1"), streaming("pg2"), streaming("pg3"), sync="", request=word)

    plan = plan_failover(now)
    assert isinstance(plan, Plan)
    assert plan.steps[1] == ProveSilence("pg2")
    held = {"replay_pause": "paused", "startup_wait_event": "RecoveryPause"}
    unasked = situation(silent("pg1"), detached("pg2"), streaming("pg3", **held), sync="", request=word)
    assert "ProveSilence" not in kinds(unasked)


@pytest.mark.parametrize("name", ["pg3", "w1"])
def test_a_voter_that_answers_is_not_off(name: str):
    """Its vote may be another controller's: without it, both would have a majority."""
    word = Request(lost="pg1", fenced=frozenset({"pg1", name}))
    now = situation(
        silent("pg1"), detached("pg2"), detached("pg3"), sync="ANY 1 (pg2, pg3)", witness=True, request=word
    )

    assert refused(now) is RefusalCode.PRIMARY_ALIVE


def test_a_rule_that_was_lowered_on_the_primary_proves_nothing_by_the_inventory():
    rule = "ANY 2 (pg1, pg2, pg3, pg4)"
    nodes = (unreachable("pg1"), detached("pg2"), detached("pg3"), detached("pg4"))
    now = situation(*nodes, sync=rule, word=Word.REFUSED)
    assert "Promote" in kinds(now)

    assert refused(replace(now, sync_lowered="1 of 2 replicas stream")) is RefusalCode.SYNC_MISMATCH


def test_a_replica_that_still_has_a_fence_is_not_promoted():
    """It came back as a replica; as a primary it would wait for a replica that does not exist."""
    fenced = detached("pg2", synchronous_standby_names=FENCE_NAME)
    now = situation(unreachable("pg1"), fenced, sync="ANY 1 (pg2)", witness=True, word=Word.REFUSED)

    assert refused(now) is RefusalCode.NO_CANDIDATE
    assert (
        promoted(situation(*now.state.nodes, detached("pg3", lsn=END - 9), sync=RULE, word=Word.REFUSED))
        == "pg3"
    )


def test_marks_are_not_written_on_a_primary_that_was_replaced():
    """Its replacement does not answer, a replica of it does: what is written on pg1 nobody would see."""
    stale = primary("pg1", "pg4", timeline=1, state_table=True)
    inventory = settings("pg1", "pg2", "pg3", "pg4")
    left = streaming("pg4", "pg1", timeline=1)
    state = ClusterState(nodes=(stale, silent("pg2"), detached("pg3", "pg2", timeline=2), left))
    connections = {n.name: Connection(host=n.host, port=n.port) for n in inventory.nodes}

    with pytest.raises(RefusedError, match="there is no primary"):
        keeper(state, connections)
    alone = ClusterState(nodes=(stale, left))
    assert keeper(alone, connections) is stale


def test_a_lower_rule_is_over_only_when_enough_replicas_have_what_was_committed_under_it():
    rule = "ANY 2 (pg1, pg2, pg3, pg4)"
    inventory = settings("pg1", "pg2", "pg3", "pg4", failover={"synchronous": rule})
    now = primary("pg1", "pg2", "pg3", "pg4", synchronous_standby_names=rule)
    replicas = tuple(streaming(name) for name in ("pg2", "pg3", "pg4"))

    def enough(*ends: int) -> bool:
        senders = tuple(sender(f"pg{i}", flush_lsn=Lsn(end)) for i, end in enumerate(ends, 2))
        state = ClusterState(nodes=(replace(now, senders=senders), *replicas))
        return flushed_by_enough(assess(state, inventory, LagHistory()), Lsn(END))

    assert [enough(END, END - 1, END - 1), enough(END, END, 0), enough(0, 0, 0)] == [False, True, False]


def test_no_secret_of_a_connection_string_is_shown(tmp_path: Path):
    path = tmp_path / "cluster.toml"
    path.write_text(INVENTORY)
    inventory = load(path)
    hands = Hands(inventory, Ballot(inventory, ("pg1", "pg2")))
    hands.found_conninfo["pg2"] = "host=10.0.0.1 user=replicator password=hush sslpassword=hush"

    assert "hush" in hands.conninfo("pg2", "pg1")
    shown = " ".join(statements(Repoint("pg2", "pg1"), hands))
    assert "user=replicator" in shown
    assert "hush" not in shown
    assert "hush" not in repr(hands)
    line = "scram_client_key=hush scram_server_key='hush hush' oauth_client_secret=hush sslpassword = hush"
    assert "hush" not in redacted(line)
