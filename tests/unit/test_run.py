"""The loop that carries a plan out, on a world in which every step does what it is expected to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from replctl.controller.run import carry_out
from replctl.core.outcome import Ending, Outcome
from replctl.core.plan import Plan
from replctl.core.situation import Request, Situation, Vote
from replctl.core.steps import ProveSilence, Step, TakeVotes, with_facts
from tests.unit.builders import primary, replica, unreachable
from tests.unit.test_plan import cut, situation


@dataclass
class Projected:
    """A world of situations: a step leads to its projection, and what is handed over befalls it then."""

    now: Situation
    befall: Callable[[Step, Situation], Situation]
    restored: list[tuple[str, ...]] = field(default_factory=list)

    async def observe(self) -> Situation:
        return self.now

    async def prove(self, situation: Situation) -> None:
        """The votes hold."""

    async def apply(self, step: Step, situation: Situation) -> None:
        self.now = self.befall(step, step.project(situation))

    async def restore(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        self.restored.append(nodes)
        return ()


def run(world: Projected) -> Outcome:
    async def go_on(plan: Plan) -> bool:
        return True

    return asyncio.run(carry_out(world, lambda result: None, go_on))


def back_after_the_votes(step: Step, now: Situation) -> Situation:
    """The primary answers again as soon as the votes are taken."""
    if not isinstance(step, TakeVotes):
        return now
    return replace(now, state=replace(now.state, nodes=(primary("pg1"), *now.state.nodes[1:])))


def test_what_an_earlier_run_has_cut_is_undone_by_a_run_that_stops_before_it_cuts() -> None:
    world = Projected(situation(unreachable("pg1"), cut("pg2"), cut("pg3")), back_after_the_votes)
    assert run(world).ending is Ending.REFUSED
    assert world.restored == [("pg2", "pg3")]


def test_what_an_earlier_run_has_cut_is_left_alone_by_a_run_that_did_not_get_the_votes() -> None:
    def taken(step: Step, now: Situation) -> Situation:
        return replace(now, votes=dict.fromkeys(now.voters, Vote.TAKEN))

    world = Projected(situation(unreachable("pg1"), cut("pg2"), cut("pg3")), taken)
    assert run(world).ending is Ending.REFUSED
    assert world.restored == []


def test_a_run_that_stops_and_finds_nothing_cut_restores_nothing() -> None:
    start = situation(unreachable("pg1"), replica("pg2"), replica("pg3"), request=Request(lost="pg1"))

    def lives(step: Step, now: Situation) -> Situation:
        return with_facts(now, primary("pg1")) if isinstance(step, ProveSilence) else now

    world = Projected(start, lives)
    assert run(world).ending is Ending.REFUSED
    assert world.restored == []
