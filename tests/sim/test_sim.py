"""Many stories on each run, none of which may break an invariant; and proof that they are stories."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.__main__ import play_block
from tests.sim.calm import resume
from tests.sim.story import tell
from tests.sim.themes import THEMES

SEEDS = 2000  # from 0 on, the same on every run; `make campaign` plays others
# What so many stories must have in them, to be worth something: about half of what they have on average.
AT_LEAST = {
    **{f"about {name}": 25 for name in THEMES},
    "promoted": 400,
    "promoted again": 45,
    "rejoined": 20,
    "run done": 400,
    "run partial": 80,
    "run not_restored": 120,
    "run stopped and restored": 400,
    "two runs at once": 600,
    "controller died in a run": 100,
    "fast-forwarded": 30,
    "cut by timeout": 12,
    "cut by replay": 12,
    "promoted too late": 12,
    "shown to live by a reconnection": 10,
    "stale primary fenced": 90,
    "judged dead": 2000,
    "judged silent": 700,
    "judged vetoed": 400,
    "judged isolated": 2500,
    "dry run planned": 300,
    "dry run refused": 350,
    "refused TOO_FEW_CUT": 700,
    "refused TWO_HISTORIES": 200,
    "refused PRIMARY_ALIVE": 40,
    "refused FENCE_REQUIRED": 400,
    "refused SILENCE_UNPROVEN": 15,
    "refused NO_CANDIDATE": 40,
    "refused NO_MAJORITY": 20,
    "refused MAY_BE_PROMOTED": 250,
    "ambush before Promote": 75,
    "ambush after Promote": 40,
    "ambush before Cut": 60,
    "ambush after Cut": 50,
    "ambush before Repoint": 55,
    "ambush after TakeVotes": 20,
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
