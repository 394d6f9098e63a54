"""Who may be promoted, in which order; who strays. The reasons, word for word: tests/scenarios."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from replctl.core.candidates import (
    Candidate,
    is_orphan,
    is_proof,
    newest_line,
    position_of,
    rank,
    strays,
)
from replctl.core.model import Lsn, NodeFacts, Observation
from replctl.core.situation import Position, Request, Situation
from tests.unit.builders import END, address, primary, replica, settings, spec, state, unreachable
from tests.unit.strategies import situations
from tests.unit.test_situation import CUT


def follower(name: str, upstream: str = "pg1", **facts: object) -> NodeFacts:
    """A replica that lost its upstream."""
    gone: dict[str, object] = {"receiver": None, "receiver_processes": 0}
    gone["conninfo"] = {"host": address(upstream), "port": "5432"}
    return replica(name, upstream, **gone | facts)


def of(*nodes: Observation, specs: dict[str, dict[str, object]] | None = None, **keys: object) -> Situation:
    named = tuple(spec(n.node, **(specs or {}).get(n.node, {})) for n in nodes)
    given_: dict[str, object] = {
        "settings": settings(nodes=named),
        "state": state(*nodes),
        "request": Request(lost="pg1"),
    }
    return Situation(**given_ | keys)  # type: ignore[arg-type]


LOST = unreachable("pg1")


def order(now: Situation) -> list[str]:
    return [c.node for c in rank(now).candidates]


def test_the_greatest_received_position_comes_first():
    now = of(LOST, follower("pg2", lsn=END - 2), follower("pg3"), follower("pg4", lsn=END - 1))

    assert order(now) == ["pg3", "pg4", "pg2"]


def test_what_was_received_counts_not_what_was_replayed():
    slow = replace(follower("pg2"), replayed_lsn=Lsn(END - 5000))

    assert order(of(LOST, follower("pg3", lsn=END - 1), slow)) == ["pg2", "pg3"]


def test_a_newer_timeline_comes_before_a_greater_position():
    far = follower("pg2", lsn=END, timeline=1)
    new = follower("pg3", lsn=END - 10, timeline=2)

    assert order(of(LOST, far, new, histories={"pg3": {1: Lsn(END)}, "pg2": {}})) == ["pg3", "pg2"]


def test_level_nodes_are_ordered_by_preference_zone_and_name():
    specs = {
        "pg1": {"zone": "a"},
        "pg2": {"zone": "b"},
        "pg3": {"zone": "a"},
        "pg4": {"zone": "a", "promote": "avoid"},
        "pg5": {"zone": "b", "promote": "prefer"},
        "pg6": {"zone": "b"},
    }
    now = of(LOST, *(follower(f"pg{i}") for i in range(2, 7)), specs=specs)

    assert order(now) == ["pg5", "pg3", "pg2", "pg6", "pg4"]


def test_a_node_whose_replay_is_held_up_comes_after_its_equals_and_before_whoever_is_behind():
    held = (
        follower("pg2", replay_pause="paused"),
        follower("pg3", startup_wait_event="RecoveryConflictSnapshot"),
    )
    now = of(LOST, *held, follower("pg4"), follower("pg5", lsn=END - 1))

    assert order(now) == ["pg4", "pg2", "pg3", "pg5"]


def test_a_preferred_node_comes_first_also_where_its_replay_is_held_up():
    held = follower("pg3", replay_pause="paused")

    assert order(of(LOST, follower("pg2"), held, specs={"pg3": {"promote": "prefer"}})) == ["pg3", "pg2"]


def test_a_position_that_identify_system_gave_counts_more_than_what_is_shown():
    told = {"pg2": Position(timeline=1, lsn=Lsn(END + 7))}
    now = of(LOST, replica("pg2", **CUT), replica("pg3", **CUT), positions=told)

    assert rank(now).candidates[0] == Candidate(
        node="pg2", eligible=True, reason="is cut and complete", timeline=1, received_lsn=Lsn(END + 7)
    )


def test_whoever_may_not_be_promoted_comes_last_and_keeps_its_position():
    never = {"pg2": {"promote": "never"}}
    last = rank(of(LOST, follower("pg2"), follower("pg3", lsn=END - 9), specs=never)).candidates[-1]

    assert last == Candidate(
        node="pg2", eligible=False, reason='has promote = "never"', timeline=1, received_lsn=END
    )


def test_a_delayed_replica_is_eligible_where_it_is_named():
    now = of(LOST, follower("pg2", apply_delay_s=60.0))
    named = replace(now, request=Request(lost="pg1", allow_replay=frozenset({"pg2"})))

    assert [len(rank(s).eligible) for s in (now, named)] == [0, 1]


def test_a_node_that_writes_is_no_candidate():
    assert rank(of(LOST, primary("pg2"))).eligible == ()


# ---- who follows whom


def test_orphans_are_those_of_the_lost_primary_and_of_nobody_in_the_inventory():
    stranger = follower("pg4", "pg9")
    now = of(LOST, follower("pg2"), follower("pg3", "pg2"), stranger)

    assert [is_orphan(now, f) for f in now.replicas] == [True, False, True]


def test_a_preferred_replica_that_was_catching_up_from_a_cut_one_is_an_orphan():
    now = of(LOST, follower("pg2", "pg3"), replica("pg3", **CUT), specs={"pg2": {"promote": "prefer"}})
    plain = of(LOST, follower("pg2", "pg3"), replica("pg3", **CUT))

    assert [is_orphan(s, s.replicas[0]) for s in (now, plain)] == [True, False]


# ---- one history


def test_on_one_timeline_with_the_same_history_nobody_strays():
    histories = {"pg2": {1: Lsn(5)}, "pg3": {1: Lsn(5)}}
    nodes = LOST, follower("pg2", timeline=2), follower("pg3", timeline=2, lsn=END - 1)

    assert strays(of(*nodes, histories=histories), "pg3") is None


def test_on_one_timeline_by_another_way_one_strays():
    histories = {"pg2": {1: Lsn(5)}, "pg3": {1: Lsn(6)}}
    now = of(LOST, follower("pg2", timeline=2), follower("pg3", timeline=2, lsn=END - 1), histories=histories)

    assert newest_line(now) == "pg2"
    assert strays(now, "pg3") == "came to timeline 2 by another way than pg2"


def test_replay_up_to_the_fork_is_part_of_the_newer_history_and_beyond_it_is_not():
    histories = {"pg2": {1: Lsn(END - 4)}}
    new = follower("pg2", timeline=2)
    upto, past = follower("pg3", lsn=END - 4), follower("pg3", lsn=END - 3)

    assert strays(of(LOST, new, upto, histories=histories), "pg3") is None
    assert strays(of(LOST, new, past, histories=histories), "pg3") == (
        f"has replayed past {Lsn(END - 4)}, where timeline 2 of pg2 began"
    )


def test_an_unfinished_record_behind_the_fork_hinders_nobody():
    tail = replace(follower("pg3", lsn=END), replayed_lsn=Lsn(END - 40))
    now = of(LOST, follower("pg2", timeline=2), tail, histories={"pg2": {1: Lsn(END - 40)}})

    assert strays(now, "pg3") is None


@given(situations())
def test_the_ranking_names_every_node_with_a_reason_and_only_safe_ones_as_eligible(now: Situation):
    ranking = rank(now)
    found = ranking.candidates

    assert sorted(c.node for c in found) == sorted(n.name for n in now.settings.nodes if n.name != "pg1")
    assert all(c.reason for c in found)
    assert ranking.eligible == found[: len(ranking.eligible)]
    for candidate in ranking.eligible:
        assert_safe(now, candidate.node)
    backwards = replace(now, settings=replace(now.settings, nodes=now.settings.nodes[::-1]))
    assert rank(backwards) == ranking, "the order of the inventory decides nothing"


def assert_safe(now: Situation, name: str):
    """What must be true of a node before it may be promoted."""
    facts = now.facts(name)
    assert facts is not None
    assert facts.in_recovery
    assert now.spec(name).promote != "never"
    assert strays(now, name) is None
    position = position_of(now, facts)
    assert position is not None
    assert position.incomplete is None
    assert not facts.apply_delay_s or name in now.request.allow_replay


@pytest.mark.parametrize(
    ("pg2", "proof"),
    [
        (replica("pg2", **CUT), True),
        (follower("pg2"), False),
        (replica("pg2", **CUT | {"received_lsn": None}), False),
        (
            replica("pg2", **CUT | {"startup_wait_event": "RecoveryApplyDelay", "receive_lsn_known": False}),
            False,
        ),
        (replica("pg2", lsn=END - 1, **CUT), True),
        (replica("pg2", timeline=2, **CUT), True),
    ],
    ids=["cut", "not cut", "no position", "restarted and delayed", "behind", "on a newer timeline"],
)
def test_a_member_counts_when_it_is_cut_and_tells_all_it_has(pg2: NodeFacts, proof: bool):
    histories = {"pg2": {1: Lsn(END)} if pg2.timeline == 2 else {}, "pg3": {}}
    now = of(LOST, pg2, replica("pg3", **CUT), histories=histories)

    assert is_proof(now, "pg2") is proof
