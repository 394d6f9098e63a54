"""How each policy spreads reads: over whom, in which shares, and never over anybody else."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.model import Lsn
from replctl.core.routing import POLICIES
from replctl.core.routing.policies import SLOTS_MAX, Candidate, smooth
from tests.unit.builders import END, primary, replica, spec
from tests.unit.routing import MIB, Looks, answer, chosen, fit

# The value that a chi-square of so many degrees of freedom exceeds once in 100 000 runs.
CHI_SQUARE_MAX = {1: 19.5, 2: 23.0, 3: 25.9, 4: 28.5}
NAMES = ("pg1", "pg2", "pg3", "pg4")
REPLICAS = tuple(replica(name) for name in NAMES[1:])

candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from([f"pg{i}" for i in range(2, 70)]),
        zone=st.sampled_from([None, "a", "b"]),
        weight=st.integers(1, 10_000),
        lag_bytes=st.integers(0, 16 * MIB),
        replayed_lsn=st.integers(0, 2**40).map(Lsn),
    ),
    max_size=64,
    unique_by=lambda c: c.name,
)


def chi_square(counts: Counter[str | None], shares: dict[str, float]) -> float:
    """How far the counts are from the shares; nobody else may have been chosen."""
    assert set(counts) <= set(shares)
    total = sum(counts.values()) / sum(shares.values())
    return sum((counts[name] - share * total) ** 2 / (share * total) for name, share in shares.items())


def weighted(**weights: int):
    return tuple(spec(name, weight=weight) for name, weight in ({"pg1": 100} | weights).items())


@pytest.mark.parametrize(
    ("policy", "nodes", "shares"),
    [
        ("round-robin", None, {"pg2": 1, "pg3": 1, "pg4": 1}),
        ("round-robin", weighted(pg2=5, pg3=1, pg4=1), {"pg2": 1, "pg3": 1, "pg4": 1}),
        ("least-lag", None, {"pg2": 1, "pg3": 1, "pg4": 1}),
        ("weighted", None, {"pg2": 1, "pg3": 1, "pg4": 1}),
        ("weighted", weighted(pg2=500, pg3=100, pg4=100), {"pg2": 5, "pg3": 1, "pg4": 1}),
        ("weighted", weighted(pg2=0, pg3=30, pg4=10), {"pg3": 3, "pg4": 1}),
        ("weighted", weighted(pg2=9973, pg3=4999, pg4=1), {"pg2": 171, "pg3": 85, "pg4": 1}),
        ("zone", weighted(pg2=3, pg3=1, pg4=1), {"pg2": 3, "pg3": 1, "pg4": 1}),
    ],
)
def test_reads_are_spread_in_these_shares(policy, nodes, shares, seed):
    looks = Looks.of(*NAMES, nodes=nodes, policy=policy)
    snapshot = looks.look(primary("pg1", *NAMES[1:]), *REPLICAS)

    in_turn = chosen(snapshot, times=100 * sum(shares.values()))
    assert chi_square(in_turn, shares) < 0.01

    # Many processes, each of which began at a place of its own and reads once.
    draw = random.Random(seed)
    apart: Counter[str | None] = Counter()
    for _ in range(3000):
        apart += chosen(replace(snapshot, turns=itertools.count(draw.randrange(1 << 20))))
    assert chi_square(apart, shares) < CHI_SQUARE_MAX[len(shares) - 1]


def test_threads_that_share_a_snapshot_share_it_evenly():
    snapshot = Looks.of(*NAMES).look(primary("pg1", *NAMES[1:]), *REPLICAS)
    counts: list[Counter[str | None]] = []
    threads = [threading.Thread(target=lambda: counts.append(chosen(snapshot, times=3000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(counts, Counter()) == {"pg2": 4000, "pg3": 4000, "pg4": 4000}


def test_a_new_snapshot_goes_on_where_the_last_one_was():
    looks = Looks.of(*NAMES)
    nodes = (primary("pg1", *NAMES[1:]), *REPLICAS)

    assert sum((chosen(looks.look(*nodes)) for _ in range(9)), Counter()) == {"pg2": 3, "pg3": 3, "pg4": 3}


def test_a_heavy_replica_is_not_asked_in_bursts():
    assert "".join("abc"[i] for i in smooth((5, 1, 1))) == "aabacaa"


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=64).map(tuple))
def test_the_wheel_is_short_and_has_everybody_in_proportion(weights):
    wheel = Counter(smooth(weights))

    assert set(wheel) == set(range(len(weights)))
    assert wheel.total() <= SLOTS_MAX + len(weights)
    for i, weight in enumerate(weights):
        exact = weight / sum(weights) * wheel.total()
        assert abs(wheel[i] - exact) <= 1 + exact * len(weights) / SLOTS_MAX


@given(candidates, st.sampled_from(sorted(POLICIES)), st.sampled_from([None, "a", "z"]))
def test_no_policy_leaves_the_fit_replicas_or_chooses_nobody_of_them(found, policy, zone):
    wheel = POLICIES[policy](found, zone)

    assert {c.name for c, _ in wheel} <= {c.name for c in found}
    assert bool(wheel) == bool(found)


def test_least_lag_takes_the_one_that_is_least_behind():
    looks = Looks.of(*NAMES, policy="least-lag")
    nodes = (replica("pg2", lsn=END - 300), replica("pg3", lsn=END - 100), replica("pg4", lsn=END - 200))
    snapshot = looks.look(primary("pg1", *NAMES[1:]), *nodes)

    assert chosen(snapshot, times=10) == {"pg3": 10}


@pytest.mark.parametrize(
    ("zone", "lost", "expected"),
    [
        ("a", (), (["pg2"], "zone")),
        ("b", (), (["pg3", "pg4"], "zone")),
        ("a", ("pg2",), (["pg3", "pg4"], "other_zone")),
        ("c", (), (["pg2", "pg3", "pg4"], "other_zone")),
        (None, (), (["pg2", "pg3", "pg4"], "other_zone")),
    ],
)
def test_the_own_zone_comes_first(zone, lost, expected):
    zones = {"pg1": "a", "pg2": "a", "pg3": "b", "pg4": "b"}
    looks = Looks.of(nodes=tuple(spec(n, zone=z) for n, z in zones.items()), policy="zone", zone=zone)
    nodes = [replica(n, lsn=END - 64 * MIB if n in lost else END) for n in NAMES[1:]]
    snapshot = looks.look(primary("pg1", *NAMES[1:]), *nodes)

    assert (sorted(chosen(snapshot, times=30)), answer(snapshot)[1]) == expected


@given(
    st.lists(st.integers(0, 32 * MIB), min_size=1, max_size=6),
    st.sampled_from(sorted(POLICIES)),
    st.integers(0, 100),
)
def test_a_read_never_goes_to_a_replica_beyond_the_policy(lags, policy, first):
    names = [f"pg{i + 2}" for i in range(len(lags))]
    looks = Looks.of("pg1", *names, policy=policy)
    looks.turns = itertools.count(first)
    nodes = [replica(name, lsn=END - lag) for name, lag in zip(names, lags, strict=True)]
    snapshot = looks.look(primary("pg1", *names), *nodes)
    within = {name for name, lag in zip(names, lags, strict=True) if lag <= 16 * MIB}

    assert fit(snapshot) == within
    assert set(chosen(snapshot, times=20)) <= (within or {"pg1"})
