"""What a controller would do about each way to lose the primary, and the votes that it needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.coverage import Coverage, Covered, Votes, coverage, votes_of
from replctl.core.settings import WitnessSpec
from replctl.core.status import SyncStatus
from tests.unit.builders import settings

NAMES = [f"pg{n}" for n in range(1, 10)]
ASYNC = SyncStatus(configured="", expected="", matches=True)


def inventory(nodes, witnesses=0, votes="majority", **keys):
    failover = {"votes": votes} | keys.pop("failover", {})
    voting = tuple(WitnessSpec(name=f"w{n}", host=f"10.0.1.{n}") for n in range(1, witnesses + 1))
    return settings(*NAMES[:nodes], witnesses=voting, failover=failover, **keys)


# ---- votes


@pytest.mark.parametrize(
    ("nodes", "witnesses", "majority", "may_be_missing"),
    [
        (1, 0, 1, -1),
        (2, 0, 2, -1),
        (3, 0, 2, 0),
        (4, 0, 3, 0),
        (5, 0, 3, 1),
        (6, 0, 4, 1),
        (2, 1, 2, 0),
        (2, 2, 3, 0),
        (2, 3, 3, 1),
        (3, 1, 3, 0),
        (3, 2, 3, 1),
    ],
)
def test_a_majority_of_all_voters_and_how_many_more_may_be_missing(
    nodes, witnesses, majority, may_be_missing
):
    found = votes_of(inventory(nodes, witnesses))

    voters = (*NAMES[:nodes], *(f"w{n}" for n in range(1, witnesses + 1)))
    assert found == Votes(voters=voters, majority=majority, may_be_missing=may_be_missing)
    assert found.possible is (may_be_missing >= 0)


@pytest.mark.parametrize(
    ("nodes", "majority", "may_be_missing"),
    [(1, 1, -1), (2, 1, 0), (3, 2, 0), (4, 2, 1), (5, 3, 1), (6, 3, 2)],
)
def test_with_the_votes_of_the_replicas_the_lost_primary_does_not_count(nodes, majority, may_be_missing):
    found = votes_of(inventory(nodes, votes="replicas"))

    assert (found.majority, found.may_be_missing) == (majority, may_be_missing)


@given(st.integers(1, 9), st.integers(0, 5))
def test_two_majorities_always_meet_and_an_even_number_of_voters_gains_nothing(nodes, witnesses):
    found = votes_of(inventory(nodes, witnesses))
    voters = nodes + witnesses

    assert 2 * found.majority > voters
    assert found.may_be_missing == voters - 1 - found.majority
    if voters % 2 == 0:
        odd = votes_of(inventory(nodes, witnesses - 1) if witnesses else inventory(nodes - 1))
        assert found.may_be_missing == odd.may_be_missing


# ---- why automatic failover cannot work at all


@pytest.mark.parametrize(
    ("keys", "sync", "reason"),
    [
        ({"nodes": 3, "manager": "patroni"}, ASYNC, "patroni manages this cluster"),
        ({"nodes": 1}, ASYNC, "there is only one node"),
        (
            {"nodes": 2},
            ASYNC,
            "2 voters need 2, and without the primary 1 are left: add a witness",
        ),
        (
            {"nodes": 3, "replication": None},
            ASYNC,
            "the inventory has no [replication]: a new primary_conninfo could not be written",
        ),
        (
            {"nodes": 3, "failover": {"synchronous": None}},
            ASYNC,
            "[failover] synchronous is not set: say what synchronous_standby_names must be",
        ),
        (
            {"nodes": 3},
            SyncStatus(configured="pg2", expected="", matches=False),
            "synchronous_standby_names is 'pg2', expected ''",
        ),
    ],
)
def test_what_makes_automatic_failover_impossible_makes_every_loss_uncovered(keys, sync, reason):
    no = Covered(False, reason)

    assert coverage(inventory(**keys), sync, frozenset(NAMES)) == Coverage(
        impossible=reason, process_death=no, host_death=no, partition=no
    )


def test_a_setting_that_nobody_could_read_does_not_make_it_impossible():
    assert coverage(inventory(3), SyncStatus(expected=""), frozenset(NAMES)).impossible is None


# ---- what is covered


PROCESS = Covered(True, "its host refuses connections and no replica is connected to it")
FENCED = Covered(True, "every node has a fence command")


def covered(fencing, fences, synchronous=""):
    found = inventory(3, failover={"fencing": fencing, "synchronous": synchronous})
    result = coverage(found, ASYNC, frozenset(fences))
    assert result.impossible is None
    return result.process_death, result.host_death, result.partition


def test_asynchronous_replication_without_fence_commands_covers_process_death_only():
    silent = Covered(
        False,
        "asynchronous replication, and no fence command for pg2, pg3: "
        "a silent primary may still accept writes",
    )

    assert covered("auto", ["pg1"]) == (PROCESS, silent, silent)


def test_fence_commands_cover_silence():
    assert covered("auto", NAMES) == (PROCESS, FENCED, FENCED)


def test_to_promote_on_silence_covers_everything_and_says_what_it_gives_up():
    silent = Covered(True, 'fencing = "none": promotes on silence; a living primary would be a second one')

    assert covered("none", []) == (PROCESS, silent, silent)


def test_where_fencing_is_required_even_process_death_needs_the_command():
    lacking = Covered(False, "no fence command for pg1, pg3")

    assert covered("required", NAMES) == (FENCED, FENCED, FENCED)
    assert covered("required", ["pg2"]) == (lacking, lacking, lacking)
    assert covered("required", ["pg2"], "ANY 1 (pg1, pg2, pg3)") == (lacking, lacking, lacking)


@pytest.mark.parametrize(
    ("synchronous", "also"),
    [
        ("ANY 1 (pg1, pg2, pg3)", "every other member must be reachable"),
        ("ANY 2 (pg1, pg2, pg3)", "1 more replica(s) may be missing"),
        ("FIRST 2 (pg1, pg2, pg3)", "1 more replica(s) may be missing"),
    ],
)
@pytest.mark.parametrize("fencing", ["auto", "none"])
def test_a_quorum_covers_everything_without_any_fence(fencing, synchronous, also):
    yes = Covered(True, f"{synchronous}: no acknowledged commit is lost, {also}")

    assert covered(fencing, [], synchronous) == (yes, yes, yes)
