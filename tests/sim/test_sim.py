"""Thousands of stories on each run, none of which may break an invariant; and proof that they are stories."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.__main__ import play_block
from tests.sim.calm import resume
from tests.sim.story import tell

SEEDS = 3000  # from 0 on, the same on every run; `make campaign` plays others
# What so many stories must have in them, to be worth something: about half of what they have on average.
AT_LEAST = {
    "promoted": 300,
    "promoted again": 15,
    "rejoined": 15,
    "run done": 300,
    "run partial": 20,
    "run not_restored": 30,
    "run stopped and restored": 200,
    "two runs at once": 200,
    "controller died in a run": 25,
    "fast-forwarded": 10,
    "cut by timeout": 8,
    "cut by replay": 3,
    "promoted too late": 1,
    "shown to live by a reconnection": 15,
    "stale primary fenced": 25,
    "judged dead": 1000,
    "judged silent": 300,
    "judged vetoed": 500,
    "judged isolated": 1000,
    "dry run planned": 200,
    "dry run refused": 300,
    "refused TOO_FEW_CUT": 50,
    "refused TWO_HISTORIES": 40,
    "refused PRIMARY_ALIVE": 25,
    "refused FENCE_REQUIRED": 200,
    "refused SILENCE_UNPROVEN": 10,
    "refused NO_CANDIDATE": 25,
    "refused NO_MAJORITY": 5,
    "refused MAY_BE_PROMOTED": 10,
    "ambush before Promote": 30,
    "ambush after Promote": 15,
    "ambush before Cut": 20,
    "ambush after Cut": 20,
    "ambush before Repoint": 5,
    "ambush after TakeVotes": 10,
}


@pytest.fixture(scope="module")
def played() -> tuple[list[str], Counter[str]]:
    """What was wrong with the stories of this module, and what befell them, all together."""
    print(f"make campaign FROM=0 SEEDS={SEEDS}")
    return play_block(0, SEEDS)


@pytest.mark.slow
def test_no_story_breaks_an_invariant(played: tuple[list[str], Counter[str]]) -> None:
    wrong, counts = played
    assert wrong == [], "python -m tests.sim SEED tells the story"
    assert counts["stories"] == SEEDS


@pytest.mark.slow
def test_the_stories_have_everything_in_them(played: tuple[list[str], Counter[str]]) -> None:
    _, counts = played
    missing = {what: counts[what] for what, least in AT_LEAST.items() if counts[what] < least}
    assert missing == {}


def test_a_seed_tells_the_same_story_again() -> None:
    for seed in range(20):
        assert tell(seed).cluster.log == tell(seed).cluster.log


@pytest.mark.parametrize("block", range(5))
def test_a_run_that_resumes_does_what_was_left_and_picks_the_same_node(block: int) -> None:
    seeds = range(block * 80, block * 80 + 80)
    print(f"calm seeds {seeds.start} to {seeds.stop - 1}")
    assert [resume(seed) for seed in seeds] == [None] * len(seeds)
