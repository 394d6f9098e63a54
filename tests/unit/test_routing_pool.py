"""Who is in the read pool: leaving it, returning, being held out, and never by accident."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.marks import parse_marks
from replctl.core.model import FENCE_NAME, Cause
from replctl.core.routing import Fitness, Reason
from replctl.core.routing.pool import drained_nodes
from replctl.core.routing.reasons import SOFT
from tests.unit.builders import (
    END,
    NOW,
    primary,
    receiver,
    replica,
    spec,
    trio,
    unreachable,
    without_receiver,
)
from tests.unit.routing import MIB, Looks, answer, chosen, drained, fit, pool

NAMES = ("pg1", "pg2", "pg3")


# The limits in seconds out of the way, where a test is about bytes.
BYTES = {"max_lag_s": 9999, "readmit_lag_s": 9999}


def behind(lag_bytes: int, name: str = "pg2"):
    return replica(name, lsn=END - lag_bytes)


def story(looks: Looks, *lags_mib: float, **keys) -> str:
    """What pg2 is at each of these looks, by its lag in MiB: the first letters."""
    return " ".join(
        pool(looks.look(*trio(pg2=behind(int(lag * MIB))), **keys))["pg2"][:4] for lag in lags_mib
    )


# ---- leaving and returning


def test_one_bad_look_takes_nobody_out():
    assert story(Looks.of(*NAMES), 0, 17, 0, 17, 0) == "fit susp fit susp fit"


def test_a_replica_leaves_after_so_many_bad_looks_and_returns_after_so_many_good_ones():
    looks = Looks.of(*NAMES, eject_after=3, readmit_after=2, hold_s=0, **BYTES)

    assert story(looks, 0, 17, 17, 17, 0, 0, 0) == "fit susp susp lag_ prob fit fit"


def test_between_the_two_limits_it_stays_where_it_is():
    assert story(Looks.of(*NAMES, hold_s=0, **BYTES), 0, 15, 15, 15) == "fit fit fit fit"
    assert story(Looks.of(*NAMES, hold_s=0, **BYTES), 0, 17, 17, 15, 15, 5, 4, 4, 4) == (
        "fit susp lag_ lag_ lag_ lag_ prob prob fit"
    )


def test_it_stays_out_for_the_minimum_time_however_well_it_is():
    assert story(Looks.of(*NAMES, readmit_after=1, hold_s=4), 17, 0, 17, 17, 0, 0, 0, 0) == (
        "lag_ fit susp lag_ held held held fit"
    )


def test_seconds_count_like_bytes():
    looks = Looks.of(*NAMES, max_lag_s=5, hold_s=0)
    found = []
    for second in range(12):
        # The primary writes a kilobyte a second; pg2 stands still, then has everything.
        lsn = END + 1024 * second
        late = END if second < 9 else lsn
        seen = looks.look(
            primary("pg1", "pg2", "pg3", lsn=lsn), replica("pg2", lsn=late), replica("pg3", lsn=lsn)
        )
        found.append(pool(seen)["pg2"])

    assert found == [*["fit"] * 6, "suspect", "lag_s", "lag_s", "probation", "probation", "fit"]


def test_a_replica_that_is_seen_for_the_first_time_is_taken_at_its_word():
    looks = Looks.of(*NAMES)

    assert pool(looks.look(*trio(pg2=behind(17 * MIB)))) == {
        "pg1": "primary",
        "pg2": "lag_bytes",
        "pg3": "fit",
    }


@pytest.mark.parametrize("limit", [4 * MIB, 16 * MIB])
def test_noise_around_a_limit_does_not_move_it_in_and_out(limit, seed):
    draw = random.Random(seed)
    looks = Looks.of(*NAMES, **BYTES)
    seen = [
        "pg2" in fit(looks.look(*trio(pg2=behind(max(0, int(draw.gauss(limit, MIB / 4)))))))
        for _ in range(300)
    ]

    changes = sum(before != after for before, after in itertools.pairwise(seen))
    assert changes <= 1


# ---- at once


HARD = {
    "it refuses": (unreachable("pg2"), Fitness.UNREACHABLE),
    "it is silent": (unreachable("pg2", Cause.TIMEOUT), Fitness.UNREACHABLE),
    "it is of another cluster": (unreachable("pg2", Cause.WRONG_CLUSTER), Fitness.WRONG_CLUSTER),
    "it is ahead of the primary": (replica("pg2", lsn=END + 8192), Fitness.DIVERGED),
    "it shows too little": (replica("pg2", receiver=receiver(status=None)), Fitness.NO_PRIVILEGE),
    "its timeline is hidden": (replica("pg2", timeline=None), Fitness.NO_PRIVILEGE),
    "it is delayed": (replica("pg2", apply_delay_s=60.0), Fitness.DELAYED),
    "it takes writes": (primary("pg2", timeline=0), Fitness.STALE_PRIMARY),
    "it was fenced": (primary("pg2", synchronous_standby_names=FENCE_NAME), Fitness.FENCED),
}


@pytest.mark.parametrize(("node", "fitness"), HARD.values(), ids=HARD)
def test_what_cannot_be_read_from_leaves_at_once(node, fitness):
    looks = Looks.of(*NAMES)
    looks.look(*trio())

    assert pool(looks.look(*trio(pg2=node)))["pg2"] == fitness
    assert pool(looks.look(*trio()))["pg2"] == Fitness.PROBATION


def test_a_replica_on_an_older_timeline_leaves_at_once():
    looks = Looks.of(*NAMES)
    looks.look(*trio())
    newer = primary("pg1", "pg3", timeline=2)

    assert pool(looks.look(newer, replica("pg2"), replica("pg3", timeline=2))) == {
        "pg1": "primary",
        "pg2": "older_history",
        "pg3": "fit",
    }


def test_every_fitness_is_either_counted_or_at_once():
    out = set(Fitness) - SOFT - {Fitness.FIT, Fitness.SUSPECT, Fitness.PROBATION, Fitness.HELD}
    overlaid = {Fitness.DRAINED, Fitness.WEIGHT_ZERO}

    assert {fitness for _, fitness in HARD.values()} | overlaid | {
        Fitness.PRIMARY,
        Fitness.OLDER_HISTORY,
    } == out


# ---- the traps of lag


def test_an_idle_primary_takes_nobody_out():
    looks = Looks.of(*NAMES)
    idle = replica("pg2", last_replayed_xact_age_s=86400.0)

    assert [pool(looks.look(*trio(pg2=idle), after_s=30))["pg2"] for _ in range(5)] == ["fit"] * 5


def test_a_dead_receiver_is_not_taken_for_up_to_date():
    looks = Looks.of(*NAMES)
    looks.look(*trio())

    # It has replayed all that it received, and the idle primary has written nothing since.
    found = [pool(looks.look(*trio(pg2=without_receiver("pg2")), after_s=2))["pg2"] for _ in range(5)]
    assert found == ["fit", "fit", "suspect", "not_streaming", "not_streaming"]


def test_while_the_primary_is_gone_replicas_serve_for_as_long_as_they_may_be_behind():
    looks = Looks.of(*NAMES)
    looks.look(*trio())
    gone = trio(pg1=unreachable("pg1"), pg2=without_receiver("pg2"), pg3=without_receiver("pg3"))

    found = [sorted(map(str, chosen(looks.look(*gone), times=8))) for _ in range(8)]
    assert found == [*[["pg2", "pg3"]] * 6, ["None"], ["None"]]


def test_unknown_lag_is_not_no_lag():
    looks = Looks.of(*NAMES)
    looks.look(*trio())
    unknown = replica("pg2", replayed_lsn=None)

    assert [pool(looks.look(*trio(pg2=unknown)))["pg2"] for _ in range(2)] == ["suspect", "lag_unknown"]
    assert fit(looks.look(*trio(pg2=unknown))) == {"pg3"}


# ---- the whole set


def test_a_look_at_which_nobody_answers_changes_nothing():
    looks = Looks.of(*NAMES)
    looks.look(*trio())
    before = looks.memory
    silent = [unreachable(name, Cause.TIMEOUT) for name in NAMES]

    for _ in range(10):
        looks.look(*silent)

    assert looks.memory == before


@given(st.lists(st.lists(st.sampled_from(["well", "late", "silent"]), min_size=3, max_size=3), max_size=12))
def test_no_more_than_the_bad_ones_are_ever_out_and_reads_always_go_somewhere(looks_of_states):
    looks = Looks.of("pg1", "pg2", "pg3", "pg4", hold_s=0, readmit_after=1)
    names = ("pg2", "pg3", "pg4")
    states = {
        "well": lambda name: replica(name),
        "late": lambda name: behind(64 * MIB, name),
        "silent": lambda name: unreachable(name, Cause.TIMEOUT),
    }
    for now in looks_of_states:
        snapshot = looks.look(
            primary("pg1", *names), *(states[s](name) for name, s in zip(names, now, strict=True))
        )
        well = {name for name, s in zip(names, now, strict=True) if s == "well"}
        assert well <= fit(snapshot)
        assert None not in chosen(snapshot, times=4)
        if not fit(snapshot):
            assert answer(snapshot) == ("pg1", Reason.ALL_UNFIT)


def test_a_node_that_is_drained_by_hand_gets_no_reads_until_it_is_given_back():
    looks = Looks.of(*NAMES)
    looks.look(*trio())

    assert pool(looks.look(*trio(), marks=drained("pg2")))["pg2"] == "drained"
    assert pool(looks.look(*trio(), marks=None))["pg2"] == "drained"  # nobody could read the mark
    assert pool(looks.look(*trio(), marks=drained()))["pg2"] == "fit"


def test_a_mark_that_has_ended_drains_nobody():
    assert pool(Looks.of(*NAMES).look(*trio(), marks=drained("pg2", until_at=NOW - 1)))["pg2"] == "fit"


def test_marks_of_drained_nodes_are_read_beside_the_others():
    mark = {"reason": "new disks", "since_at": NOW, "until_at": None}
    found = parse_marks({"pause": mark, "drain:pg2": mark, "drain:pg3": "nonsense", "drained": mark})

    assert (found.of("pause"), found.of("drain:pg2")) == (found.pause, found.drained["pg2"])
    assert drained_nodes(found, NOW + 1e9) == {"pg2", "pg3"}  # what cannot be read holds
    assert found.of("drain:pg4") is None


def test_draining_every_replica_leaves_the_primary():
    looks = Looks.of(*NAMES, on_all_unfit="least-lag")

    assert answer(looks.look(*trio(), marks=drained("pg2", "pg3"))) == ("pg1", Reason.ALL_UNFIT)


def test_a_weight_of_zero_gets_no_reads():
    nodes = (spec("pg1"), spec("pg2", weight=0), spec("pg3"))

    assert pool(Looks.of(nodes=nodes).look(*trio())) == {
        "pg1": "primary",
        "pg2": "weight_zero",
        "pg3": "fit",
    }


# ---- another cluster


def test_a_stranger_at_the_address_of_the_last_node_is_not_the_cluster():
    looks = Looks.of(*NAMES)
    looks.look(*trio())
    stranger = replace(primary("pg1"), system_identifier="9")

    found = looks.look(stranger, unreachable("pg2"), unreachable("pg3"))
    assert (pool(found)["pg1"], found.writer, fit(found)) == ("wrong_cluster", None, set())
    assert looks.look(*trio()).writer == "pg1"


def test_a_cluster_that_became_another_one_is_learnt_anew():
    looks = Looks.of(*NAMES)
    looks.look(*(replace(node, timeline=7) for node in trio()))
    upgraded = looks.look(*(replace(node, system_identifier="9", timeline=1) for node in trio()))

    assert (upgraded.writer, fit(upgraded), upgraded.timeline) == ("pg1", {"pg2", "pg3"}, 1)
