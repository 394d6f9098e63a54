"""What half of the stories are about, beside their accidents: what chance alone would seldom put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.sim import misfortune
from tests.sim.cluster import Node
from tests.sim.misfortune import Ambush

if TYPE_CHECKING:
    from tests.sim.story import Story


def _anything(story: Story) -> None:
    """Nothing more than what the first misfortune does."""


@dataclass(frozen=True)
class Theme:
    """A danger. `arrange` comes long before the first misfortune, `after` just behind it."""

    name: str
    first: tuple[str, ...]
    arrange: Callable[[Story], None] = _anything
    after: Callable[[Story], None] = _anything
    nodes: tuple[int, ...] = (3, 3, 4, 5)
    few: bool = False  # one confirmation is enough; otherwise more than half of the replicas
    witnesses: int | None = None
    plain: bool = False  # no replica is odd in any way
    controllers: tuple[int, ...] = (2, 3)


def prepare(story: Story) -> None:
    """What was so for long before anything happened, and the traps that the theme of a story asks for."""
    cluster, rng = story.cluster, story.rng
    for node in _replicas(story):
        if node.holds_on and rng.random() < 0.3:
            later = rng.uniform(0.0, 0.5)
            asyncio.get_running_loop().call_later(later, misfortune.restart, story, node.name, 0.05)
    if story.theme is not None:
        cluster.counts[f"about {story.theme.name}"] += 1
        story.theme.arrange(story)
    elif rng.random() < 0.25:
        for controller in sorted(story.tasks):
            if rng.random() < 0.6:
                cluster.block(controller, rng.choice(_replicas(story)).name)


def _replicas(story: Story) -> list[Node]:
    return [n for n in story.cluster.nodes.values() if n.in_recovery]


def _one_is_ahead(story: Story) -> None:
    """One controller has not seen the most advanced replica for long."""
    ahead = story.rng.choice(_replicas(story))
    story.cluster.block("c1", ahead.name)
    for node in _replicas(story):
        node.slow = node is not ahead


def _trap(story: Story, moments: tuple[str, ...], skip: int, what: misfortune.Trap) -> None:
    story.ambushes.insert(0, Ambush(story.rng.choice(moments), skip, what))


def _forgotten_votes(story: Story) -> None:
    """The look that a promotion is decided from is the third of a run, or a later one."""
    _one_is_ahead(story)
    what = misfortune.its_votes_are_forgotten_while_it_is_stopped
    if story.rng.random() < 0.4:
        _trap(story, ("looking",), story.rng.choice((2, 3)), what)
    else:
        moments = ("proving", "restoring", "after Cut", "before Promote", "before Promote", "before Repoint")
        _trap(story, moments, 0, what)


def _restarted_voters(story: Story) -> None:
    _one_is_ahead(story)
    _trap(story, ("before Promote",), 0, misfortune.voters_are_restarted_while_it_is_stopped)


def _late_restoration(story: Story) -> None:
    """A run that has lost its votes gives back what another counts on."""
    _trap(story, ("proving",), 0, misfortune.it_is_stopped_until_another_promotes)


def _lost_heir(story: Story) -> None:
    """The controller that does not see the one that is ahead is also late."""
    _one_is_ahead(story)
    story.cluster.stalled_until_s["c1"] = story.cluster.now_s + story.rng.uniform(0.5, 1.5)
    moments = ("before Promote", "after Promote", "after Promote", "before CreateSlot", "before Repoint")
    _trap(story, (*moments, "after Repoint", "before Checkpoint"), 0, misfortune.the_heir_is_lost)


def _unseen_heir(story: Story) -> None:
    _trap(story, ("before Repoint",), 0, misfortune.the_heir_is_lost_before_anybody_follows)


def _replay_stops_at_the_cut(story: Story) -> None:
    """Between the look that found it well and the setting that is to end its receiver."""
    _trap(story, ("before Cut",), story.rng.choice((0, 1)), misfortune.replay_is_paused_there)


def _is_kept_for_its_delay(story: Story) -> None:
    """One replica receives at once and replays later, the others are behind."""
    delayed = story.rng.choice(_replicas(story))
    for node in _replicas(story):
        node.slow, node.delayed = node is not delayed, node is delayed
        node.paused = node.in_conflict = False


def _it_is_restarted(story: Story) -> None:
    """What the delayed one has received, and perhaps nobody else, it does not show now."""
    for node in _replicas(story):
        if node.delayed:
            story.later(story.rng.uniform(0.0, 0.3), misfortune.restart, story, node.name, 0.05)


def _the_old_primary_is_back_when_the_new_one_is_lost(story: Story) -> None:
    _trap(story, ("after Checkpoint",), 0, misfortune.the_new_primary_is_lost_and_the_old_one_is_back)


_LOST = ("crash", "crash", "freeze")
THEMES = {
    theme.name: theme
    for theme in (
        Theme("two sides", ("crash and sides",), nodes=(3, 3, 5), witnesses=0),
        Theme("its own side", ("a side for the primary",), nodes=(4, 4, 5), few=True, witnesses=1),
        Theme(
            "forgotten votes",
            _LOST,
            _forgotten_votes,
            nodes=(4, 5),
            witnesses=1,
            plain=True,
            controllers=(1, 1, 2),
        ),
        Theme(
            "restarted voters",
            ("crash",),
            _restarted_voters,
            nodes=(4,),
            witnesses=1,
            plain=True,
            controllers=(1,),
        ),
        Theme(
            "late restoration",
            ("crash",),
            _late_restoration,
            nodes=(3,),
            few=True,
            plain=True,
            controllers=(1,),
        ),
        Theme("lost heir", _LOST, _lost_heir, nodes=(4, 5), witnesses=1, plain=True),
        Theme("lost heir of few", _LOST, _lost_heir, few=True, plain=True),
        Theme("heir of nobody", ("crash",), _unseen_heir, nodes=(4, 5), witnesses=1, plain=True),
        Theme("forgotten WAL", ("crash",), _is_kept_for_its_delay, _it_is_restarted, few=True),
        Theme("replay stops at the cut", ("freeze",), _replay_stops_at_the_cut, few=True, plain=True),
        Theme("old primary", ("crash",), _the_old_primary_is_back_when_the_new_one_is_lost, plain=True),
    )
}
