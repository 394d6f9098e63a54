"""Deliberate faults must be caught: one that survives means a missing check or a missing misfortune."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.story import tell

SEEDS_MAX = 1000


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_stories_catch(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.plant(monkeypatch)
    for seed in range(mutant.first, mutant.first + SEEDS_MAX):
        if tell(seed).violations:
            return
    pytest.fail(f"{mutant.name} survived {SEEDS_MAX} stories from seed {mutant.first}")


def test_there_are_enough_of_them() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 12
