"""Deliberate faults of the core and of its use: each is what somebody might have written in good faith."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from replctl.controller import run
from replctl.core import candidates, objections, plan, rivals, situation, steps
from replctl.core.candidates import Candidate, Ranking
from replctl.core.model import NodeFacts
from replctl.core.situation import Position, Situation, is_cut
from tests.sim import looks, story, world
from tests.sim.misfortune import (
    it_loses_the_node,
    its_answer_is_lost_and_the_old_primary_returns,
    node_crashes,
)
from tests.sim.story import Story
from tests.sim.world import SimWorld

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    name: str
    plant: Callable[[Patch], None]
    about: Callable[[Story], bool] = lambda story: True  # the kind of story that has a chance to catch it


def forgotten_votes(story: Story) -> bool:
    return story.is_amnesia


def held_up_replay(story: Story) -> bool:
    return any(n.holds_on for n in story.cluster.nodes.values())


def lost_answers(story: Story) -> bool:
    traps = {a.what for a in story.ambushes if a.kind == "Promote"}
    return bool(traps & {its_answer_is_lost_and_the_old_primary_returns, it_loses_the_node, node_crashes})


def _everywhere(patch: Patch, name: str, new: Any) -> None:
    """Replace a function in every module that has it by this name."""
    for module in (candidates, objections, run, plan, rivals, situation, steps, looks, story, world):
        if hasattr(module, name):
            patch.setattr(module, name, new)


def ascending_rank(patch: Patch) -> None:
    def backwards(now: Situation) -> Ranking:
        found = candidates.rank(now).candidates
        return Ranking(candidates=tuple(sorted(found, key=lambda c: (not c.eligible, c.received_lsn or 0))))

    def end(candidate: Candidate) -> tuple[int, int]:
        return (-(candidate.timeline or 0), -(candidate.received_lsn or 0))

    patch.setattr(plan, "rank", backwards)
    patch.setattr(plan, "_end", end)


def no_vote_check(patch: Patch) -> None:
    patch.setattr(Situation, "majority", property(lambda self: 0))


def hidden_nodes_ignored(patch: Patch) -> None:
    def needed(self: Situation) -> int:
        seen = [m for m in self.members if self.facts(m) is not None]
        return 0 if self.rule is None else max(1, len(seen) - self.rule.confirmations + 1)

    patch.setattr(Situation, "cuts_needed", property(needed))


def one_cut_too_few(patch: Patch) -> None:
    right = Situation.cuts_needed.fget  # type: ignore[attr-defined]
    patch.setattr(Situation, "cuts_needed", property(lambda self: max(0, right(self) - 1)))


def silence_is_believed(patch: Patch) -> None:
    patch.setattr(plan, "_evidence", lambda now: None)


def divergence_ignored(patch: Patch) -> None:
    _everywhere(patch, "strays", lambda now, name: None)


def delayed_is_promoted(patch: Patch) -> None:
    right = candidates._objection

    def objection(now: Situation, facts: NodeFacts, position: Position | None) -> str | None:
        return right(now, replace(facts, apply_delay_s=0.0), position)

    patch.setattr(candidates, "_objection", objection)


def never_is_overlooked(patch: Patch) -> None:
    right = Situation.spec
    patch.setattr(Situation, "spec", lambda self, name: replace(right(self, name), promote="neutral"))


def replayed_for_received(patch: Patch) -> None:
    def position_of(now: Situation, facts: NodeFacts) -> Position | None:
        if facts.timeline is None or facts.replayed_lsn is None:
            return None
        return Position(timeline=facts.timeline, lsn=facts.replayed_lsn)

    _everywhere(patch, "position_of", position_of)


def hidden_wal_counts_as_proof(patch: Patch) -> None:
    def is_proof(now: Situation, name: str) -> bool:
        facts = now.facts(name)
        return facts is not None and is_cut(facts)

    _everywhere(patch, "is_proof", is_proof)


def setting_for_cut(patch: Patch) -> None:
    _everywhere(patch, "is_cut", lambda facts: facts.in_recovery and not facts.conninfo)


def nothing_is_restored(patch: Patch) -> None:
    async def restore(self: SimWorld, nodes: tuple[str, ...]) -> tuple[str, ...]:
        return ()

    patch.setattr(SimWorld, "restore", restore)


def restored_without_votes(patch: Patch) -> None:
    async def ours(self: SimWorld, name: str) -> None:
        self.votes[name] = situation.Vote.HELD

    right = SimWorld.restore

    async def restore(self: SimWorld, nodes: tuple[str, ...]) -> tuple[str, ...]:
        self.votes = dict.fromkeys(self.votes, situation.Vote.HELD)
        self._still_ours = ours.__get__(self)  # type: ignore[method-assign]
        return await right(self, nodes)

    patch.setattr(SimWorld, "restore", restore)


def restored_after_a_promotion_without_answer(patch: Patch) -> None:
    class Result(run.StepResult):
        """Never begun."""

        def __init__(self, **given: Any) -> None:
            super().__init__(**given | {"begun": False})

    patch.setattr(run, "StepResult", Result)


def promotion_without_time_limit(patch: Patch) -> None:
    patch.setattr(world, "PROMOTE_WITHIN_S", 1e9)


def nobody_is_repointed(patch: Patch) -> None:
    patch.setattr(plan, "_should_follow", lambda now, facts, primary: False)


def past_the_fork_is_overlooked(patch: Patch) -> None:
    patch.setattr(plan, "_is_past_fork", lambda now, facts, primary: False)


def answers_are_ignored(patch: Patch) -> None:
    patch.setattr(plan, "no_failover", lambda now: None)


def cut_replicas_are_given_to_whoever_writes(patch: Patch) -> None:
    patch.setattr(plan, "rival_of", lambda now, primary, replica: None)


def another_is_promoted_where_the_first_is_silent(patch: Patch) -> None:
    patch.setattr(run, "_asked_for_promotion", lambda outcome: False)


def silence_is_enough_without_quorum(patch: Patch) -> None:
    patch.setattr(plan, "_dead", lambda now, why: None)


def held_up_replica_is_told_to_catch_up(patch: Patch) -> None:
    patch.setattr(plan, "_is_stuck_behind", lambda now, candidate, best: False)


def whoever_is_below_a_cut_replica_is_asked(patch: Patch) -> None:
    def connected(now: Situation) -> list[NodeFacts]:
        return [f for f in now.replicas if f.receiver is not None and candidates.is_orphan(now, f)]

    patch.setattr(plan, "_connected", connected)


def cut_replicas_below_a_cut_one_are_forgotten(patch: Patch) -> None:
    def is_orphan(now: Situation, facts: NodeFacts) -> bool:
        upstream = candidates.upstream_of(facts, now.state, now.settings)
        return upstream not in {n.name for n in now.settings.nodes} - {now.request.lost}

    _everywhere(patch, "is_orphan", is_orphan)


MUTANTS = (
    Mutant("ascending_rank", ascending_rank),
    Mutant("no_vote_check", no_vote_check, forgotten_votes),
    Mutant("hidden_nodes_ignored", hidden_nodes_ignored),
    Mutant("one_cut_too_few", one_cut_too_few),
    Mutant("silence_is_believed", silence_is_believed),
    Mutant("divergence_ignored", divergence_ignored),
    Mutant("delayed_is_promoted", delayed_is_promoted, held_up_replay),
    Mutant("never_is_overlooked", never_is_overlooked),
    Mutant("replayed_for_received", replayed_for_received, held_up_replay),
    Mutant("hidden_wal_counts_as_proof", hidden_wal_counts_as_proof, held_up_replay),
    Mutant("setting_for_cut", setting_for_cut, held_up_replay),
    Mutant("nothing_is_restored", nothing_is_restored),
    Mutant("restored_without_votes", restored_without_votes, forgotten_votes),
    Mutant(
        "restored_after_a_promotion_without_answer", restored_after_a_promotion_without_answer, lost_answers
    ),
    Mutant("promotion_without_time_limit", promotion_without_time_limit, forgotten_votes),
    Mutant("nobody_is_repointed", nobody_is_repointed),
    Mutant("past_the_fork_is_overlooked", past_the_fork_is_overlooked),
    Mutant("answers_are_ignored", answers_are_ignored),
    Mutant("cut_replicas_are_given_to_whoever_writes", cut_replicas_are_given_to_whoever_writes),
    Mutant(
        "another_is_promoted_where_the_first_is_silent",
        another_is_promoted_where_the_first_is_silent,
        lost_answers,
    ),
    Mutant("silence_is_enough_without_quorum", silence_is_enough_without_quorum),
    Mutant("held_up_replica_is_told_to_catch_up", held_up_replica_is_told_to_catch_up, held_up_replay),
    Mutant("whoever_is_below_a_cut_replica_is_asked", whoever_is_below_a_cut_replica_is_asked),
    Mutant("cut_replicas_below_a_cut_one_are_forgotten", cut_replicas_below_a_cut_one_are_forgotten),
)
