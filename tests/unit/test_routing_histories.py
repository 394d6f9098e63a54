"""Histories with failovers: whoever asks for what he has written never reads a state without it.

A small world of nodes that write, replicate, crash, are promoted, and come back, some of them with WAL that
is lost; and processes that look at it now and then, each seeing only a part. What a process then decides is
checked against what the chosen node really has.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from replctl.core.model import Observation
from replctl.core.routing import Decision, Snapshot, decide, read_after
from tests.unit.builders import END, primary, receiver, replica, unreachable
from tests.unit.routing import Looks, position

NAMES = ("pg1", "pg2", "pg3", "pg4")
STEP = 64  # bytes of one write
Commit = tuple[int, int]  # timeline, LSN


@dataclass
class Node:
    """Where a node's WAL ends, and what it is."""

    timeline: int = 1
    lsn: int = END
    is_primary: bool = False
    is_up: bool = True
    upstream: str = "pg1"


@dataclass
class World:
    """What really is."""

    nodes: dict[str, Node] = field(default_factory=lambda: {name: Node() for name in NAMES})
    parents: dict[int, Commit] = field(default_factory=dict)  # timeline → where it left which
    commits: list[Commit] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(2))

    def __post_init__(self) -> None:
        self.nodes["pg1"].is_primary = True

    def includes(self, at: Commit, commit: Commit) -> bool:
        """Whether the state at a position has a commit."""
        timeline, end = at
        while timeline != commit[0]:
            if timeline not in self.parents:
                return False
            timeline, switch = self.parents[timeline]
            end = min(end, switch)
        return commit[1] <= end

    def survives(self, commit: Commit) -> bool:
        return self.includes((max(node.timeline for node in self.nodes.values()), 2**62), commit)

    # ---- what happens; each does nothing where it cannot

    def write(self, name: str) -> None:
        node = self.nodes[name]
        if node.is_primary and node.is_up:  # an old primary may go on writing
            node.lsn += STEP
            self.commits.append((node.timeline, node.lsn))

    def replicate(self, name: str, writes: int) -> None:
        node = self.nodes[name]
        above = self.nodes[node.upstream]
        if (
            not node.is_primary
            and above.is_up
            and self.includes((above.timeline, above.lsn), (node.timeline, node.lsn))
        ):
            node.timeline = above.timeline
            node.lsn = max(node.lsn, min(above.lsn, node.lsn + writes * STEP))

    def promote(self, name: str) -> None:
        node = self.nodes[name]
        if node.is_primary or not node.is_up or node.timeline != max(n.timeline for n in self.nodes.values()):
            return
        timeline = next(self.numbers)
        self.parents[timeline] = (node.timeline, node.lsn)
        node.timeline, node.is_primary = timeline, True
        node.lsn += 8  # the record of its promotion
        for other in self.nodes.values():
            if other is not node and not other.is_primary:
                other.upstream = name

    def rejoin(self, name: str) -> None:
        """An old primary, or a replica of another history, is rewound and follows the newest."""
        node = self.nodes[name]
        new_name, new = max(self.nodes.items(), key=lambda item: item[1].timeline)
        if node is new or not new.is_primary:
            return
        timeline, end = new.timeline, new.lsn
        while timeline in self.parents and not self.includes((timeline, end), (node.timeline, 0)):
            timeline, end = self.parents[timeline]
        end = new.lsn
        line = new.timeline
        while line != node.timeline:
            if line not in self.parents:
                return
            line, switch = self.parents[line]
            end = min(end, switch)
        node.lsn, node.timeline = min(node.lsn, end), new.timeline
        node.is_primary, node.is_up, node.upstream = False, True, new_name

    def seen(self, name: str) -> Observation:
        node = self.nodes[name]
        if not node.is_up:
            return unreachable(name)
        if node.is_primary:
            return primary(name, timeline=node.timeline, lsn=node.lsn)
        following = receiver(node.upstream, lsn=node.lsn, received_timeline=node.timeline)
        return replica(name, node.upstream, lsn=node.lsn, timeline=node.timeline, receiver=following)


def check(world: World, decision: Decision, commit: Commit) -> None:
    """What the user has written, or could have read before that, is on the chosen node unless it is lost."""
    if decision.node is None or not world.nodes[decision.node].is_up:
        return
    node = world.nodes[decision.node]
    if not decision.replica and not node.is_primary:
        return  # the check of a connection's role refuses it
    if decision.wait_lsn is not None and node.lsn < decision.wait_lsn:
        return  # it waits in vain, and asks the primary
    event("replica" if decision.replica else "primary")
    lost = [
        c
        for c in world.commits
        if world.includes(commit, c)
        and world.survives(c)
        and not world.includes((node.timeline, node.lsn), c)
    ]
    assert lost == [], f"{decision} for {commit} does not have {lost}; {world.nodes}, {world.parents}"


names = st.sampled_from(NAMES)
process = st.integers(0, 1)
write = st.tuples(st.just("write"), names)
replicate = st.tuples(st.just("replicate"), names, st.integers(1, 4))
look = st.tuples(st.just("look"), process, st.sets(names, max_size=1))
read = st.tuples(st.just("read"), process, st.integers(0, 20), st.floats(0, 8))
change = st.tuples(st.sampled_from(["down", "up", "promote", "promote", "rejoin"]), names)
# In turn, so that most stories get somewhere; any of it may do nothing.
turn = st.tuples(write, replicate, replicate, change, look, look, read, write, read, read)
turns = st.lists(turn, min_size=2, max_size=10).map(lambda found: [step for each in found for step in each])
BOTH_LOOK = (("look", 0, set()), ("look", 1, set()))
LOST = (
    *(("write", "pg1"), ("replicate", "pg2", 9), ("replicate", "pg3", 9), *BOTH_LOOK),
    *(("write", "pg1"), ("write", "pg1"), ("down", "pg1"), ("promote", "pg2"), *BOTH_LOOK),
    *(("write", "pg2"), ("replicate", "pg3", 9), ("rejoin", "pg1"), *BOTH_LOOK, *BOTH_LOOK),
)


@settings(max_examples=400)
@given(
    turns,
    st.sampled_from(["primary", "wait", "error"]),
    st.sampled_from(["primary", "least-lag", "error"]),
    st.sampled_from(["round-robin", "least-lag", "weighted", "zone"]),
)
@example([*LOST, *(("read", 0, i, 0.0) for i in range(4))], "primary", "primary", "round-robin")
@example([*LOST, *(("read", 0, i, 0.0) for i in range(4))], "wait", "least-lag", "weighted")
def test_whoever_asks_for_what_was_written_never_reads_less(story, on_behind, on_all_unfit, policy):
    world = World()
    routing = {"on_behind": on_behind, "on_all_unfit": on_all_unfit, "policy": policy}
    quick = {"readmit_after": 1, "eject_after": 1, "hold_s": 0, "max_lag_s": 3, "readmit_lag_s": 3}
    looks = [Looks.of(*NAMES, **routing, **quick) for _ in range(2)]
    snapshots: list[Snapshot | None] = [None, None]
    for what, *given_ in story:
        if what == "down":
            world.nodes[given_[0]].is_up = False
        elif what == "up":
            world.nodes[given_[0]].is_up = True
        elif what == "look":
            who, hidden = given_
            seen = [unreachable(name) if name in hidden else world.seen(name) for name in NAMES]
            snapshots[who] = looks[who].look(*seen)
        elif what == "read":
            who, which, later_s = given_
            snapshot = snapshots[who]
            if snapshot is not None and world.commits:
                commit = world.commits[which % len(world.commits)]
                need = read_after(position(commit[1], commit[0]))
                check(world, decide(need, None, snapshot, snapshot.taken_s + later_s), commit)
        else:
            getattr(world, what)(*given_)
