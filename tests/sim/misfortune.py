"""What befalls a simulated cluster: at any time, or in ambush at a step of a run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tests.sim.cluster import Cluster

if TYPE_CHECKING:
    from tests.sim.story import Story

MOMENTS = (
    *("looking", "proving", "restoring", "before TakeVotes", "after TakeVotes", "before ProveSilence"),
    *(
        "before Cut",
        "after Cut",
        "before FastForward",
        "after FastForward",
        "before Promote",
        "after Promote",
    ),
    *("before CreateSlot", "before Repoint", "after Repoint", "before Checkpoint", "after Checkpoint"),
    *("before Cut", "after Cut", "before Promote", "before Promote", "after Promote", "before Repoint"),
)


Trap: TypeAlias = "Callable[[Story, str, str], None]"  # the controller that acts, and on which node


@dataclass
class Ambush:
    """Waits for a run to come to this moment, so many times."""

    moment: str
    skip: int
    what: Trap


def lay_ambushes(rng: random.Random) -> list[Ambush]:
    """None, one or a few."""
    found = []
    if rng.random() < 0.2:
        found.append(Ambush("after Checkpoint", 0, the_new_primary_is_lost_too))
    return found + [
        Ambush(moment=rng.choice(MOMENTS), skip=rng.choice((0, 0, 0, 1, 2)), what=rng.choice(TRAPS))
        for _ in range(rng.choice((0, 1, 1, 2, 2, 3)))
    ]


def spring(story: Story, controller: str, moment: str, node: str | None) -> None:
    """Let the first ambush that waits for this moment happen."""
    for ambush in story.ambushes:
        if ambush.moment != moment:
            continue
        if ambush.skip:
            ambush.skip -= 1
            continue
        story.ambushes.remove(ambush)
        story.cluster.counts[f"ambush {moment}"] += 1
        story.cluster.say(controller, f"is ambushed {moment} {node or ''}")
        ambush.what(story, controller, node or story.rng.choice(list(story.cluster.nodes)))
        return


# ---- in ambush: the controller that acts, and the node that it acts on


def controller_dies(story: Story, controller: str, node: str) -> None:
    story.kill_controller(controller)


def controller_stalls(story: Story, controller: str, node: str, length_s: float | None = None) -> None:
    length_s = length_s or story.rng.uniform(0.2, 2.5)
    story.cluster.say(controller, f"is stopped for {length_s:.1f} s")
    story.cluster.stalled_until_s[controller] = story.cluster.now_s + length_s


def voters_are_restarted_while_it_is_stopped(story: Story, controller: str, node: str) -> None:
    """Between its proof and its promotion; and another acts at once."""
    cluster, rng = story.cluster, story.rng
    controller_stalls(story, controller, node, length_s=rng.uniform(0.35, 0.45))
    for name in [n for n in cluster.nodes if n != node]:
        restart(story, name, rng.uniform(0.01, 0.03))
    story.later(0.06, story.somebody_acts, story.checkers.worlds[controller].request.lost)


def it_is_stopped_until_another_promotes(story: Story, controller: str, node: str) -> None:
    """Then it goes on, without its votes and with the old primary back."""
    controller_stalls(story, controller, node, length_s=3.0)
    for name in list(story.cluster.nodes):
        restart(story, name, story.rng.uniform(0.01, 0.03))
    story.later(0.06, story.somebody_acts, story.checkers.worlds[controller].request.lost)
    story.ambushes.insert(0, Ambush("before Promote", 0, who_was_stopped_goes_on))


def who_was_stopped_goes_on(story: Story, controller: str, node: str) -> None:
    """At the worst moment: when another is about to promote, or just has."""
    for name in story.cluster.stalled_until_s:
        story.cluster.stalled_until_s[name] = story.cluster.now_s
    if story.rng.random() < 0.7:
        the_old_primary_returns(story, controller, node)


def node_crashes(story: Story, controller: str, node: str) -> None:
    story.cluster.crash(node, reset_heard=story.rng.random() < 0.6)


def node_restarts(story: Story, controller: str, node: str) -> None:
    restart(story, node, story.rng.uniform(0.02, 0.8))


def any_voter_restarts(story: Story, controller: str, node: str) -> None:
    restart(story, story.rng.choice(list(story.cluster.nodes)), story.rng.uniform(0.02, 0.3))


def its_votes_are_forgotten_while_it_is_stopped(story: Story, controller: str, node: str) -> None:
    """Servers restart, and what the others could not reach before, they do now."""
    cluster, rng = story.cluster, story.rng
    length_s = rng.choice((rng.uniform(0.2, 0.5), rng.uniform(0.5, 2.5)))
    cluster.stalled_until_s[controller] = cluster.now_s + length_s
    cluster.say(controller, f"is stopped for {length_s:.1f} s")
    if rng.random() < 0.5:
        moment = rng.choice(("before Promote", "after Promote"))
        story.ambushes.insert(0, Ambush(moment, 0, who_was_stopped_goes_on))
    if rng.random() < 0.7:
        lost = story.checkers.worlds[controller].request.lost
        story.later(rng.uniform(0.05, 0.2), story.somebody_acts, lost)
    for name in [n for n in cluster.nodes if cluster.nodes[n].up]:
        if rng.random() < 0.9:
            restart(story, name, rng.uniform(0.01, 0.1))
    if rng.random() < 0.3:
        cluster.heal()
    if rng.random() < 0.4:
        the_old_primary_returns(story, controller, node)


def its_answer_is_lost_and_the_old_primary_returns(story: Story, controller: str, node: str) -> None:
    """What is asked for happens, and nobody hears of it."""
    story.cluster.block(node, controller, one_way=True)
    back_s = story.rng.uniform(0.1, 1.0)
    story.later(back_s, the_old_primary_returns, story, controller, node)


def replay_stops_there(story: Story, controller: str, node: str) -> None:
    _stop_replay(story.cluster, story.rng, node)


def replay_is_paused_there(story: Story, controller: str, node: str) -> None:
    """And the old primary is back as soon as another is promoted."""
    if story.cluster.nodes[node].in_recovery:
        story.cluster.nodes[node].paused = True
        story.cluster.say(node, "replay is paused")
        story.ambushes.insert(0, Ambush("after Promote", 0, the_old_primary_returns))


def the_network_heals(story: Story, controller: str, node: str) -> None:
    story.cluster.heal()


def it_loses_the_node(story: Story, controller: str, node: str) -> None:
    story.cluster.block(controller, node, one_way=story.rng.random() < 0.4)


def it_loses_all(story: Story, controller: str, node: str) -> None:
    for name in story.cluster.nodes:
        story.cluster.block(controller, name)


def the_others_lose_the_node(story: Story, controller: str, node: str) -> None:
    for other in [*story.cluster.nodes, *story.tasks]:
        if other not in (controller, node):
            story.cluster.block(other, node)


def the_network_splits(story: Story, controller: str, node: str) -> None:
    split(story, controller)


def the_old_primary_returns(story: Story, controller: str, node: str) -> None:
    for one in story.cluster.nodes.values():
        if not one.in_recovery:
            story.cluster.thaw(one.name)
            story.cluster.start(one.name)
    if story.rng.random() < 0.5:
        story.cluster.heal()


def the_heir_is_lost(story: Story, controller: str, node: str) -> None:
    """The new primary, or who is about to be it, is gone, at least for others; the old one may return."""
    rng = story.rng
    newest = story.checkers.newest()
    heir = newest.name if newest.works else node
    loss = rng.choice((node_crashes, node_restarts, it_loses_the_node, the_others_lose_the_node))
    story.later(rng.choice((0.0, rng.uniform(0.0, 0.2))), loss, story, controller, heir)
    if rng.random() < 0.5:
        story.later(rng.uniform(0.1, 1.0), the_old_primary_returns, story, controller, heir)
    if rng.random() < 0.6:
        story.later(rng.choice((0.0, rng.uniform(0.02, 0.15))), controller_dies, story, controller, heir)


def the_heir_is_lost_before_anybody_follows(story: Story, controller: str, node: str) -> None:
    """The others are given to it all the same; and perhaps nobody is left who saw it as the primary."""
    story.cluster.crash(story.checkers.newest().name)
    if story.rng.random() < 0.6:
        story.later(story.rng.uniform(0.03, 0.1), the_controllers_die, story, controller, node)


def the_new_primary_is_lost_too(story: Story, controller: str, node: str) -> None:
    """The old one has been brought back as a replica by then, or comes back as what it was."""
    cluster, rng = story.cluster, story.rng
    then_s = rng.uniform(0.3, 1.0)
    for old in cluster.nodes.values():
        if old.in_recovery or old.is_witness or old.name == node:
            continue
        if rng.random() < 0.6:
            cluster.rejoin(old.name, node)
        elif rng.random() < 0.7:
            story.later(then_s + rng.uniform(-0.1, 0.3), cluster.start, old.name)
    if rng.random() < 0.7:
        cluster.heal()
    story.later(then_s, cluster.crash, node)


def the_new_primary_is_lost_and_the_old_one_is_back(story: Story, controller: str, node: str) -> None:
    """As a primary; and whoever saw all that dies in the midst of replacing the new one."""
    cluster, rng = story.cluster, story.rng
    then_s = rng.uniform(0.1, 0.4)
    story.later(then_s, cluster.crash, node)
    for old in [n for n in cluster.nodes.values() if not n.in_recovery and not n.is_witness]:
        if old.name != node:
            story.later(then_s + rng.uniform(0.0, 0.8), cluster.start, old.name)
    story.ambushes.insert(0, Ambush("after Cut", 0, the_controllers_die))


def the_controllers_die(story: Story, controller: str, node: str) -> None:
    for name in sorted(story.tasks):
        story.kill_controller(name)


TRAPS: tuple[Trap, ...] = (
    controller_dies,
    controller_dies,
    controller_dies,
    controller_stalls,
    controller_stalls,
    node_crashes,
    node_restarts,
    any_voter_restarts,
    its_votes_are_forgotten_while_it_is_stopped,
    its_votes_are_forgotten_while_it_is_stopped,
    its_answer_is_lost_and_the_old_primary_returns,
    replay_stops_there,
    the_network_heals,
    it_loses_the_node,
    it_loses_all,
    the_others_lose_the_node,
    the_network_splits,
    the_old_primary_returns,
)


# ---- at any time


def restart(story: Story, name: str, away_s: float) -> None:
    """Down and up again."""
    if story.cluster.nodes[name].up:
        story.cluster.crash(name)
        asyncio.get_running_loop().call_later(away_s, story.cluster.start, name)


def split(story: Story, anybody: str) -> None:
    """Two halves that do not hear each other."""
    cluster, rng = story.cluster, story.rng
    everybody = [*cluster.nodes, *story.tasks]
    ours = {anybody, *(n for n in everybody if rng.random() < 0.35)}
    for one in sorted(ours):
        for other in everybody:
            if other not in ours:
                cluster.block(one, other)


def take_sides(story: Story) -> None:
    """Two halves of replicas and controllers; the witnesses are in touch with both."""
    cluster, rng = story.cluster, story.rng
    nodes = [n.name for n in cluster.nodes.values() if not n.is_witness]
    rng.shuffle(nodes)
    side = {name: place % 2 == 0 for place, name in enumerate(nodes)}
    side |= {"c1": True, "c2": False} | {c: rng.random() < 0.5 for c in story.tasks if c not in ("c1", "c2")}
    _part(story, side)


def leave_the_primary_alone_with_one(story: Story, primary: str) -> None:
    """It and a replica on one side; all controllers, the other replicas and the witnesses on the other."""
    one = story.rng.choice([n.name for n in story.cluster.nodes.values() if n.in_recovery])
    _part(story, {name: name in (primary, one) for name in [*story.cluster.nodes, *story.tasks]})


def _part(story: Story, side: dict[str, bool]) -> None:
    for one in side:
        for other in side:
            if side[one] != side[other]:
                story.cluster.blocked.add((one, other))
    halves = [", ".join(n for n in side if side[n] is which) for which in (True, False)]
    story.cluster.say("net", " | ".join(half or "nobody" for half in halves))


def befall(story: Story, *, main: bool) -> None:
    """Something happens: to the primary first, then to anybody."""
    cluster, rng = story.cluster, story.rng
    primary = max(
        (n for n in cluster.nodes.values() if not n.in_recovery and not n.is_witness),
        key=lambda n: n.timeline,
    ).name
    anybody = primary if main or rng.random() < 0.35 else rng.choice(list(cluster.nodes))
    what = rng.choice(AT_FIRST if main else LATER)
    if main and story.theme is not None:
        what = rng.choice(story.theme.first)
    cluster.counts[f"misfortune {what}"] += 1
    if what == "crash":
        cluster.crash(anybody)
    elif what == "vanish":
        cluster.crash(anybody, reset_heard=False)
    elif what == "freeze":
        cluster.freeze(anybody)
        asyncio.get_running_loop().call_later(rng.uniform(0.3, 6.0), cluster.thaw, anybody)
    elif what == "restart":
        restart(story, anybody, rng.uniform(0.05, 2.0))
    elif what == "cut off from controllers":
        _cut_off(story, anybody)
    elif what == "split":
        split(story, anybody)
    elif what == "crash and sides":
        cluster.crash(anybody)
        take_sides(story)
    elif what == "a side for the primary":
        leave_the_primary_alone_with_one(story, anybody)
    elif what == "heal":
        cluster.heal()
    elif what == "replay stops":
        _stop_replay(cluster, rng, anybody)
    elif what == "return":
        for name in list(cluster.nodes):
            cluster.start(name)
    elif what == "controller dies" and story.tasks:
        story.kill_controller(rng.choice(sorted(story.tasks)))
    if main and story.theme is not None:
        story.theme.after(story)


def _cut_off(story: Story, name: str) -> None:
    """Alive, but controllers do not reach it, or only hear a refusal."""
    cluster, rng = story.cluster, story.rng
    for controller in sorted(story.tasks):
        if rng.random() < 0.8:
            if rng.random() < 0.3:
                cluster.reject(controller, name)
            else:
                cluster.block(controller, name, one_way=rng.random() < 0.3)


def _stop_replay(cluster: Cluster, rng: random.Random, name: str) -> None:
    node = cluster.nodes[name]
    if node.in_recovery:
        node.paused = rng.random() < 0.5
        node.in_conflict = not node.paused
        cluster.say(name, "replay is paused" if node.paused else "replay waits for a query")


AT_FIRST = (
    *("crash", "crash", "vanish", "freeze", "freeze", "restart", "cut off from controllers", "split"),
    "crash and sides",
)
LATER = (
    *("crash", "vanish", "freeze", "restart", "restart", "cut off from controllers", "split", "heal"),
    *("replay stops", "replay stops", "return", "controller dies"),
)
