"""What one look amounts to: votes, members, cuts that are needed, what a cut is, who is lost."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.model import NodeFacts, Observation
from replctl.core.settings import ClusterSettings, WitnessSpec
from replctl.core.situation import (
    Request,
    Situation,
    Vote,
    is_cut,
    is_held,
    is_stale,
    lost_primary,
)
from tests.unit.builders import address, primary, replica, settings, spec, state, trio, unreachable

CONNECTED = {"conninfo": {"host": address("pg1"), "port": "5432"}, "receiver_processes": 1}
CUT = {
    "conninfo": {},
    "upstream_host": None,
    "upstream_port": None,
    "receiver": None,
    "receiver_processes": 0,
    "startup_wait_event": "RecoveryRetrieveRetryInterval",
}


def cluster(count: int, sync: str = "", *, witnesses: int = 0, **failover: object) -> ClusterSettings:
    return settings(
        *(f"pg{i}" for i in range(1, count + 1)),
        failover={"synchronous": sync, **failover},
        witnesses=tuple(WitnessSpec(name=f"w{i}", host=f"10.0.1.{i}") for i in range(1, witnesses + 1)),
    )


def of(inventory: ClusterSettings, *nodes: Observation, **request: object) -> Situation:
    wish = Request(**{"lost": "pg1"} | request)  # type: ignore[arg-type]
    return Situation(settings=inventory, state=state(*nodes), request=wish)


# ---- votes


@pytest.mark.parametrize(
    ("nodes", "witnesses", "majority"), [(1, 0, 1), (2, 0, 2), (2, 1, 2), (3, 0, 2), (4, 0, 3), (3, 2, 3)]
)
def test_a_majority_is_more_than_half_of_all_nodes_and_witnesses(nodes: int, witnesses: int, majority: int):
    assert of(cluster(nodes, witnesses=witnesses)).majority == majority


def test_who_is_off_does_not_vote():
    now = of(cluster(3, witnesses=1), fenced=frozenset({"pg1"}), without_votes=frozenset({"w1"}))

    assert (now.voters, now.majority) == (("pg2", "pg3"), 2)


def test_with_votes_of_replicas_the_lost_primary_does_not_vote():
    assert of(cluster(2, votes="replicas")).voters == ("pg2",)
    assert of(cluster(2, votes="replicas"), lost=None).voters == ("pg1", "pg2")


def test_only_votes_that_are_held_by_voters_count():
    votes = {"pg1": Vote.HELD, "pg2": Vote.HELD, "pg3": Vote.TAKEN}
    now = replace(of(cluster(3), fenced=frozenset({"pg1"})), votes=votes)

    assert now.votes_held == ("pg2",)


@given(st.integers(1, 9))
def test_majorities_with_and_without_one_fenced_node_always_have_a_voter_in_common(count: int):
    whole, less = of(cluster(count)), of(cluster(count), fenced=frozenset({"pg1"}))

    assert whole.majority + less.majority > count or count == 1


# ---- the rule


def test_members_are_the_nodes_of_the_rule_without_the_lost_primary():
    assert of(cluster(3, "ANY 1 (pg1, PG2, pg3)")).members == ("pg2", "pg3")
    assert of(cluster(3, "ANY 1 (pg1, pg2, pg3)"), lost=None).members == ("pg1", "pg2", "pg3")
    assert of(cluster(3, "")).members == ()


def test_members_are_found_by_application_name():
    inventory = settings(
        nodes=(spec("pg1"), spec("pg2", application_name="east")), failover={"synchronous": "east"}
    )

    assert of(inventory).members == ("pg2",)


def test_whoever_is_named_and_not_in_the_inventory_is_counted_too():
    now = of(cluster(3, "ANY 1 (pg2, pg3, backup)"))

    assert (now.outsiders, now.cuts_needed) == (("backup",), 3)


@pytest.mark.parametrize(
    ("sync", "needed"),
    [
        ("", 0),
        ("ANY 1 (pg1, pg2, pg3, pg4)", 3),
        ("ANY 2 (pg1, pg2, pg3, pg4)", 2),
        ("FIRST 2 (pg2, pg3, pg4)", 2),
        ("ANY 3 (pg2, pg3, pg4)", 1),
        ("pg2", 1),
        ("ANY 9 (pg2, pg3)", 1),
    ],
)
def test_the_cuts_that_are_needed(sync: str, needed: int):
    silent = of(cluster(4, sync), unreachable("pg1"), replica("pg2"), replica("pg3"), replica("pg4"))

    assert silent.cuts_needed == needed


@given(st.data())
def test_so_many_cuts_meet_every_acknowledged_commit_and_one_less_does_not(data: st.DataObject):
    n = data.draw(st.integers(1, 5), "replicas")
    k = data.draw(st.integers(1, n), "confirmations")
    names = [f"pg{i}" for i in range(2, n + 2)]
    nodes = (unreachable("pg1"), *(replica(name) for name in names))
    needed = of(cluster(n + 1, f"ANY {k} ({', '.join(names)})"), *nodes).cuts_needed
    acknowledged = [set(holders) for holders in combinations(names, k)]

    def proves(cuts: tuple[str, ...]) -> bool:
        return all(holders & set(cuts) for holders in acknowledged)

    assert all(proves(cuts) for cuts in combinations(names, needed))
    assert not any(proves(cuts) for cuts in combinations(names, needed - 1))
    # What is not cut is too little for the old primary to acknowledge anything more.
    assert n - needed < k


# ---- replicas


def test_a_cut_needs_every_proof():
    cut = replica("pg2", **CUT)
    spoilt: list[NodeFacts] = [
        replace(cut, in_recovery=False),
        replace(cut, upstream_known=False),
        replace(cut, conninfo={"host": "10.0.0.1"}),
        replace(cut, receiver=replica("pg2").receiver),
        replace(cut, receiver_processes=1),
        replace(cut, receiver_processes=None),
        replace(cut, startup_wait_event="RecoveryWalStream"),
        replace(cut, startup_wait_event=None),
    ]

    assert is_cut(cut)
    assert [is_cut(facts) for facts in spoilt] == [False] * len(spoilt)


@pytest.mark.parametrize(
    "event", ["RecoveryPause", "RecoveryApplyDelay", "RecoveryConflictSnapshot", "RecoveryConflictTablespace"]
)
def test_a_replica_whose_replay_is_held_up_can_be_cut(event: str):
    assert is_cut(replica("pg2", **CUT | {"startup_wait_event": event}))


def test_replay_that_is_paused_delayed_or_in_conflict_holds_the_receiver():
    held = (
        replica(replay_pause="paused"),
        replica(replay_pause="pause requested"),
        replica(apply_delay_s=1.0),
        replica(startup_wait_event="RecoveryConflictSnapshot"),
    )

    assert [is_held(facts) for facts in (replica(), replica(replay_pause=None, apply_delay_s=None))] == [
        False,
        False,
    ]
    assert [is_held(facts) for facts in held] == [True] * 4


def test_a_primary_is_stale_when_a_replica_has_a_newer_timeline():
    assert is_stale(primary("pg1", timeline=1), (replica("pg2", timeline=2),))
    assert not is_stale(primary("pg1", timeline=2), (replica("pg2", timeline=2), replica("pg3", timeline=1)))
    assert not is_stale(primary("pg1"), ())


def test_a_writable_node_has_taken_over_unless_it_is_stale_or_the_lost_one():
    assert of(cluster(2), primary("pg1"), replica("pg2")).promoted is None
    new = primary("pg2", timeline=2)
    assert of(cluster(3), primary("pg1"), new, replica("pg3", timeline=2)).promoted == new
    assert of(cluster(3), unreachable("pg1"), primary("pg2"), replica("pg3", timeline=2)).promoted is None


# ---- who is lost

LOST = [
    ("a healthy primary is what a failover would be about", trio(), "pg1"),
    ("the silent one that the replicas follow", trio(pg1=unreachable("pg1")), "pg1"),
    (
        "the only one that does not answer, where all were cut",
        (unreachable("pg1"), replica("pg2", **CUT), replica("pg3", **CUT)),
        "pg1",
    ),
    (
        "not known, where two are silent and all others were cut",
        (unreachable("pg1"), unreachable("pg2"), replica("pg3", **CUT)),
        None,
    ),
    ("nobody, where a primary only has to take cut replicas", trio(pg3=replica("pg3", **CUT)), None),
    (
        "the one that was followed before the promotion",
        (unreachable("pg1"), primary("pg2", timeline=2), replica("pg3", "pg1")),
        "pg1",
    ),
    (
        "the stale primary that a replica still follows",
        (primary("pg1", "pg3"), primary("pg2", timeline=2), replica("pg3", "pg1")),
        "pg1",
    ),
    (
        "the newer one, where only a stale primary answers",
        (primary("pg1"), unreachable("pg2"), replica("pg3", "pg2", timeline=2)),
        "pg2",
    ),
    (
        "the one that most follow",
        (
            unreachable("pg1"),
            unreachable("pg2"),
            replica("pg3", "pg1"),
            replica("pg4", "pg1"),
            replica("pg5", "pg2"),
        ),
        "pg1",
    ),
    ("not known, where every node is a replica", (replica("pg1", "pg2"), replica("pg2", "pg1")), None),
]


@pytest.mark.parametrize(("nodes", "lost"), [case[1:] for case in LOST], ids=[case[0] for case in LOST])
def test_the_lost_primary_is(nodes: tuple[Observation, ...], lost: str | None):
    assert lost_primary(state(*nodes), settings(*(n.node for n in nodes))) == lost
