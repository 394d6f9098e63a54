"""Deliberate faults must be caught: one that survives means a missing check or a missing misfortune."""

from __future__ import annotations

from itertools import count, islice

import pytest

from tests.sim.calm import resume
from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.story import build, tell

STORIES_MAX = 250  # most mutants are caught within thirty of the stories that they are about


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_stories_catch(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.plant(monkeypatch)
    seeds = islice((seed for seed in count() if mutant.about(build(seed))), STORIES_MAX)
    for told, seed in enumerate(seeds, start=1):
        if (wrong := [resume(seed)] if mutant.calm else tell(seed).violations) not in ([], [None]):
            print(f"seed {seed}, the {told}. of its stories: {wrong[0]}")
            return
    pytest.fail(f"{mutant.name} survived {STORIES_MAX} stories")


def test_there_are_enough_of_them() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 25
