"""Deliberate faults must be caught: one that survives means a missing check or a missing misfortune."""

from __future__ import annotations

import pytest

from tests.sim.calm import resume
from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.story import build, tell

SEEDS_MAX = 20_000  # most are not played: a mutant says what kind of story it is about
STORIES_MAX = 1000


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_stories_catch(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.plant(monkeypatch)
    seeds = [seed for seed in range(SEEDS_MAX) if mutant.about(build(seed))][:STORIES_MAX]
    caught = any(tell(seed).violations or resume(seed) for seed in seeds)
    assert caught, f"{mutant.name} survived {len(seeds)} stories"


def test_there_are_enough_of_them() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 12
