"""What befalls a simulated cluster: at any time, or in ambush at a step of a run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replctl.core.steps import Step
from tests.sim.cluster import Cluster

if TYPE_CHECKING:
    from tests.sim.story import Story

STEPS = (
    *("TakeVotes", "TakeVotes", "ProveSilence", "Cut", "Cut", "FastForward", "Promote", "Promote", "Promote"),
    *("CreateSlot", "Repoint", "Repoint", "Checkpoint"),
)


@dataclass
class Ambush:
    """Waits for a run to come to a step of this kind, so many times."""

    when: str  # before | after
    kind: str
    skip: int
    what: Callable[[Story, str, str], None]


def lay_ambushes(rng: random.Random) -> list[Ambush]:
    """None, one or a few."""
    found = []
    if rng.random() < 0.25:
        found.append(Ambush("after", "Checkpoint", 0, the_new_primary_is_lost_too))
    return found + [
        Ambush(
            when=rng.choice(("before", "after")),
            kind=rng.choice(STEPS),
            skip=rng.choice((0, 0, 0, 1, 2)),
            what=rng.choice(TRAPS),
        )
        for _ in range(rng.choice((0, 1, 1, 2, 2, 3)))
    ]


def spring(story: Story, controller: str, when: str, step: Step) -> None:
    """Let the first ambush that waits for this moment happen."""
    for ambush in story.ambushes:
        if (ambush.when, ambush.kind) != (when, type(step).__name__):
            continue
        if ambush.skip:
            ambush.skip -= 1
            continue
        story.ambushes.remove(ambush)
        story.cluster.counts[f"ambush {when} {ambush.kind}"] += 1
        node = step.node or story.rng.choice(list(story.cluster.nodes))
        story.cluster.say(controller, f"is ambushed {when}: {step.describe()}")
        ambush.what(story, controller, node)
        return


# ---- in ambush: the controller that acts, and the node that it acts on


def controller_dies(story: Story, controller: str, node: str) -> None:
    story.kill_controller(controller)


def controller_stalls(story: Story, controller: str, node: str) -> None:
    length_s = story.rng.uniform(0.2, 2.5)
    story.cluster.say(controller, f"is stopped for {length_s:.1f} s")
    story.cluster.stalled_until_s[controller] = story.cluster.now_s + length_s


def node_crashes(story: Story, controller: str, node: str) -> None:
    story.cluster.crash(node, reset_heard=story.rng.random() < 0.6)


def node_restarts(story: Story, controller: str, node: str) -> None:
    restart(story, node, story.rng.uniform(0.02, 0.8))


def any_voter_restarts(story: Story, controller: str, node: str) -> None:
    restart(story, story.rng.choice(list(story.cluster.nodes)), story.rng.uniform(0.02, 0.3))


def its_votes_are_forgotten_while_it_is_stopped(story: Story, controller: str, node: str) -> None:
    """Servers restart, and what the others could not reach before, they do now."""
    cluster, rng = story.cluster, story.rng
    cluster.stalled_until_s[controller] = cluster.now_s + rng.choice((0.3, 0.45, 1.0, 2.5)) * rng.random()
    cluster.say(controller, "is stopped")
    for name in [n for n in cluster.nodes if cluster.nodes[n].up]:
        if rng.random() < 0.9:
            restart(story, name, rng.uniform(0.01, 0.1))
    if rng.random() < 0.7:
        cluster.heal()
    if rng.random() < 0.4:
        the_old_primary_returns(story, controller, node)


def its_answer_is_lost_and_the_old_primary_returns(story: Story, controller: str, node: str) -> None:
    """What is asked for happens, and nobody hears of it."""
    story.cluster.block(node, controller, one_way=True)
    back_s = story.rng.uniform(0.1, 1.0)
    asyncio.get_running_loop().call_later(back_s, the_old_primary_returns, story, controller, node)


def replay_stops_there(story: Story, controller: str, node: str) -> None:
    _stop_replay(story.cluster, story.rng, node)


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


def the_new_primary_is_lost_too(story: Story, controller: str, node: str) -> None:
    """The old one has been brought back as a replica by then, or has not."""
    cluster, rng, loop = story.cluster, story.rng, asyncio.get_running_loop()
    for old in cluster.nodes.values():
        if not old.in_recovery and not old.is_witness and old.name != node and rng.random() < 0.8:
            cluster.rejoin(old.name, node)
    if rng.random() < 0.7:
        cluster.heal()
    loop.call_later(rng.uniform(0.3, 1.0), cluster.crash, node)


TRAPS: tuple[Callable[[Story, str, str], None], ...] = (
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


def prepare(story: Story) -> None:
    """What was so for long before anything happened: nobody thinks of it as a misfortune."""
    cluster, rng = story.cluster, story.rng
    replicas = [n for n in cluster.nodes.values() if n.in_recovery]
    if rng.random() < 0.25:
        for controller in sorted(story.tasks):
            if rng.random() < 0.6:
                cluster.block(controller, rng.choice(replicas).name)
    for node in replicas:
        if node.holds_on and rng.random() < 0.3:
            asyncio.get_running_loop().call_later(rng.uniform(0.0, 0.5), restart, story, node.name, 0.05)


def prepare_amnesia(story: Story) -> None:
    """The replica that is ahead is out of one controller's reach, which is to be stopped in its run."""
    cluster, rng = story.cluster, story.rng
    replicas = [n for n in cluster.nodes.values() if n.in_recovery]
    ahead = rng.choice(replicas)
    cluster.block("c1", ahead.name)
    for node in replicas:
        node.slow = node is not ahead
    when, kind = rng.choice(
        (
            ("after", "TakeVotes"),
            ("after", "Cut"),
            ("before", "Promote"),
            ("before", "Promote"),
            ("before", "Repoint"),
        )
    )
    story.ambushes.insert(0, Ambush(when, kind, 0, its_votes_are_forgotten_while_it_is_stopped))
    story.cluster.counts["story of forgotten votes"] += 1


def take_sides(story: Story) -> None:
    """Two halves of replicas and controllers; the witnesses are in touch with both."""
    cluster, rng = story.cluster, story.rng
    nodes = [n.name for n in cluster.nodes.values() if not n.is_witness]
    side = {name: rng.random() < 0.5 for name in [*nodes, *sorted(story.tasks)]}
    for one in side:
        for other in side:
            if side[one] != side[other]:
                cluster.blocked.add((one, other))
    cluster.say(
        "net",
        f"{', '.join(n for n in side if side[n]) or 'nobody'} | {', '.join(n for n in side if not side[n])}",
    )


def befall(story: Story, *, main: bool) -> None:
    """Something happens: to the primary first, then to anybody."""
    cluster, rng = story.cluster, story.rng
    primary = max(
        (n for n in cluster.nodes.values() if not n.in_recovery and not n.is_witness),
        key=lambda n: n.timeline,
    ).name
    anybody = primary if main or rng.random() < 0.35 else rng.choice(list(cluster.nodes))
    what = rng.choice(AT_FIRST if main else LATER)
    if main and story.is_amnesia:
        what = rng.choice(("crash", "freeze"))
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
    elif what == "heal":
        cluster.heal()
    elif what == "replay stops":
        _stop_replay(cluster, rng, anybody)
    elif what == "return":
        for name in list(cluster.nodes):
            cluster.start(name)
    elif what == "controller dies" and story.tasks:
        story.kill_controller(rng.choice(sorted(story.tasks)))


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
