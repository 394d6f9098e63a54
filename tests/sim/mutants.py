"""Deliberate faults of the core and of its use: each is what somebody might have written in good faith."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest

from replctl.controller import run
from replctl.core import (
    candidates,
    cuts,
    evidence,
    following,
    objections,
    plan,
    promotion,
    rivals,
    situation,
    steps,
)
from replctl.core.candidates import Candidate, Ranking
from replctl.core.model import NodeFacts
from replctl.core.refusals import Reason
from replctl.core.situation import Position, Situation, is_cut
from tests.sim import controller, looks, story, world
from tests.sim.cluster import Node
from tests.sim.story import Story
from tests.sim.world import SimWorld

Patch = pytest.MonkeyPatch
CORE = (candidates, cuts, evidence, following, objections, plan, promotion, rivals, situation, steps)
MODULES = (*CORE, run, looks, story, world)


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    plant: Callable[[Patch], None]
    about: Callable[[Story], bool] = lambda story: True  # the kind of story that has a chance to catch it
    calm: bool = False  # what it does shows when nothing but the loss of the primary happens

    @property
    def name(self) -> str:
        """That of its function."""
        return self.plant.__name__


def theme(*names: str) -> Callable[[Story], bool]:
    """Stories about one of these."""
    return lambda story: story.theme is not None and story.theme.name in names


def replicas(story: Story) -> list[Node]:
    return [n for n in story.cluster.nodes.values() if n.in_recovery]


def held_up_replay(story: Story) -> bool:
    return any(n.holds_on for n in replicas(story))


def held_up_favourite(story: Story) -> bool:
    return any(n.holds_on and story.settings.node(n.name).promote == "prefer" for n in replicas(story))


def asynchronous(story: Story) -> bool:
    return story.cluster.rule is None


def earlier_failover(story: Story) -> bool:
    return any(n.timeline > 1 for n in story.cluster.nodes.values())


def two_histories_and_all_confirm(story: Story) -> bool:
    """Any one replica that is cut proves that nothing is lost."""
    rule = story.cluster.rule
    return earlier_failover(story) and rule is not None and rule.confirmations == len(replicas(story))


def cascade(story: Story) -> bool:
    return any(n.upstream not in (None, "pg1") for n in story.cluster.nodes.values())


def somebody_is_never_promoted(story: Story) -> bool:
    return any(n.promote == "never" for n in story.settings.nodes)


def _everywhere(patch: Patch, name: str, new: Any) -> None:
    """Replace a function in every module that has it by this name."""
    for module in MODULES:
        if hasattr(module, name):
            patch.setattr(module, name, new)


def ascending_rank(patch: Patch) -> None:
    def backwards(now: Situation) -> Ranking:
        found = candidates.rank(now).candidates
        return Ranking(candidates=tuple(sorted(found, key=lambda c: (not c.eligible, c.received_lsn or 0))))

    def end(candidate: Candidate) -> tuple[int, int]:
        return (-(candidate.timeline or 0), -(candidate.received_lsn or 0))

    patch.setattr(promotion, "rank", backwards)
    patch.setattr(promotion, "_end", end)


def _majority(patch: Patch, wrong: Callable[[Situation], int]) -> None:
    """Wherever votes are counted; what others may have done out of our sight is still asked rightly."""

    class Right(Situation):
        majority = Situation.majority

    def right_rival(now: Situation) -> Reason | None:
        return rivals.rival(Right(**{f.name: getattr(now, f.name) for f in fields(now)}))

    patch.setattr(Situation, "majority", property(wrong))
    for module in (plan, run):
        patch.setattr(module, "rival", right_rival)


def no_vote_check(patch: Patch) -> None:
    _majority(patch, lambda now: 0)


def minority_is_enough(patch: Patch) -> None:
    _majority(patch, lambda now: len(now.voters) // 2)


def hidden_nodes_ignored(patch: Patch) -> None:
    def needed(self: Situation) -> int:
        seen = [m for m in self.members if self.facts(m) is not None]
        return 0 if self.rule is None else max(1, len(seen) - self.rule.confirmations + 1)

    patch.setattr(Situation, "cuts_needed", property(needed))


def one_cut_too_few(patch: Patch) -> None:
    right = Situation.cuts_needed.fget  # type: ignore[attr-defined]
    patch.setattr(Situation, "cuts_needed", property(lambda self: max(0, right(self) - 1)))


def silence_is_believed(patch: Patch) -> None:
    patch.setattr(plan, "require_silence", lambda now: None)


def second_look_skipped(patch: Patch) -> None:
    async def prove(self: SimWorld, now: Situation) -> None:
        self.proven_s = self.cluster.now_s

    patch.setattr(SimWorld, "_prove", prove)


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


def fresh_voter_is_trusted(patch: Patch) -> None:
    patch.setattr(world, "fresh_voter_s", lambda: 0.0)


def promotion_without_time_limit(patch: Patch) -> None:
    patch.setattr(world, "PROMOTE_WITHIN_S", 1e9)


def stale_primary_is_taken(patch: Patch) -> None:
    _everywhere(patch, "is_stale", lambda facts, replicas: False)


def votes_end_with_the_promotion(patch: Patch) -> None:
    right = plan.next_following

    def after(now: Situation, primary: NodeFacts) -> Any:
        votes = dict.fromkeys(now.voters, situation.Vote.HELD)
        return right(replace(now, votes=votes), primary)

    patch.setattr(plan, "next_following", after)


def nobody_is_repointed(patch: Patch) -> None:
    patch.setattr(following, "_should_follow", lambda now, facts, primary: False)


def past_the_fork_is_overlooked(patch: Patch) -> None:
    _everywhere(patch, "is_past_fork", lambda now, facts, primary: False)


def answers_are_ignored(patch: Patch) -> None:
    patch.setattr(plan, "no_failover", lambda now: None)


def traces_are_overlooked(patch: Patch) -> None:
    patch.setattr(plan, "rival", lambda now: None)


def cut_replicas_are_given_to_whoever_writes(patch: Patch) -> None:
    patch.setattr(following, "rival_of", lambda now, primary, replica: None)


def another_is_promoted_where_the_first_is_silent(patch: Patch) -> None:
    patch.setattr(run, "_asked_for_promotion", lambda outcome: False)


def fork_of_the_lost_timeline_is_forgotten(patch: Patch) -> None:
    patch.setattr(promotion, "_newer_line", lambda now, chosen, cut: None)


def silence_is_enough_without_quorum(patch: Patch) -> None:
    _everywhere(patch, "require_death", lambda now, why: None)


def held_up_replica_is_told_to_catch_up(patch: Patch) -> None:
    patch.setattr(promotion, "_is_stuck_behind", lambda now, candidate, best: False)


def whoever_is_below_a_cut_replica_is_asked(patch: Patch) -> None:
    def connected(now: Situation) -> list[NodeFacts]:
        return [f for f in now.replicas if f.receiver is not None and candidates.is_orphan(now, f)]

    patch.setattr(evidence, "connected_to_lost", connected)


def cut_replicas_below_a_cut_one_are_forgotten(patch: Patch) -> None:
    def is_orphan(now: Situation, facts: NodeFacts) -> bool:
        upstream = candidates.upstream_of(facts, now.state, now.settings)
        return upstream not in {n.name for n in now.settings.nodes} - {now.request.lost}

    _everywhere(patch, "is_orphan", is_orphan)


def rule_of_the_new_primary_is_forgotten(patch: Patch) -> None:
    patch.setattr(promotion, "_rule_of_its_own", lambda now, node: None)


def unseen_primary_is_taken_for_the_first(patch: Patch) -> None:
    patch.setattr(plan, "unseen_promotion", lambda now: None)


def stale_primary_is_not_fenced(patch: Patch) -> None:
    patch.setattr(controller, "is_stale", lambda facts, replicas: False)


def what_is_behind_is_promoted_at_once(patch: Patch) -> None:
    """The preferred one, without letting it catch up."""
    patch.setattr(promotion, "_end", lambda candidate: (0, 0))


def twins_are_overlooked(patch: Patch) -> None:
    for module in (cuts, promotion):
        patch.setattr(module, "twins", lambda now: None)


MUTANTS = (
    Mutant(ascending_rank),
    Mutant(no_vote_check, theme("two sides")),
    Mutant(minority_is_enough, theme("two sides")),
    Mutant(hidden_nodes_ignored, theme("its own side")),
    Mutant(one_cut_too_few, theme("its own side")),
    Mutant(silence_is_believed, asynchronous),
    Mutant(second_look_skipped, theme("forgotten votes")),
    Mutant(divergence_ignored, earlier_failover, calm=True),
    Mutant(delayed_is_promoted, held_up_replay),
    Mutant(never_is_overlooked, somebody_is_never_promoted),
    Mutant(replayed_for_received, held_up_replay),
    Mutant(hidden_wal_counts_as_proof, theme("forgotten WAL")),
    Mutant(setting_for_cut, theme("replay stops at the cut")),
    Mutant(nothing_is_restored),
    Mutant(restored_without_votes, theme("late restoration")),
    Mutant(restored_after_a_promotion_without_answer, theme("lost heir", "lost heir of few")),
    Mutant(fresh_voter_is_trusted, theme("restarted voters")),
    Mutant(promotion_without_time_limit, theme("forgotten votes")),
    Mutant(stale_primary_is_taken, theme("old primary")),
    Mutant(stale_primary_is_not_fenced, theme("old primary")),
    Mutant(votes_end_with_the_promotion, theme("forgotten votes")),
    Mutant(nobody_is_repointed),
    Mutant(past_the_fork_is_overlooked, earlier_failover),
    Mutant(answers_are_ignored),
    Mutant(traces_are_overlooked, theme("lost heir", "lost heir of few")),
    Mutant(cut_replicas_are_given_to_whoever_writes, theme("lost heir of few")),
    Mutant(another_is_promoted_where_the_first_is_silent, theme("lost heir", "lost heir of few")),
    Mutant(fork_of_the_lost_timeline_is_forgotten, theme("heir of nobody")),
    Mutant(unseen_primary_is_taken_for_the_first, theme("heir of nobody")),
    Mutant(silence_is_enough_without_quorum, asynchronous),
    Mutant(held_up_replica_is_told_to_catch_up, held_up_favourite, calm=True),
    Mutant(whoever_is_below_a_cut_replica_is_asked, cascade),
    Mutant(cut_replicas_below_a_cut_one_are_forgotten, cascade),
    Mutant(rule_of_the_new_primary_is_forgotten, theme("old primary")),
    Mutant(what_is_behind_is_promoted_at_once),
    Mutant(twins_are_overlooked, two_histories_and_all_confirm),
)
