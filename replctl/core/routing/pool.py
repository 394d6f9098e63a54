"""Who is in the read pool and who takes writes: what is made of one look after the other.

A replica leaves above `max_lag_*`, after `eject_after` bad looks in a row; it returns only below
`readmit_lag_*`, after `readmit_after` good ones and `hold_s`. One that cannot be read from at all (it does
not answer, or has another history) leaves at once. `advance` is the only way from one memory to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from replctl.core.lag import LagBound
from replctl.core.marks import Marks
from replctl.core.model import Cause, Lsn
from replctl.core.routing.reasons import SOFT, Fitness
from replctl.core.routing.timelines import shown
from replctl.core.settings import RoutingSettings
from replctl.core.status import ClusterStatus, NodeState, NodeStatus, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What is remembered of one node. Times are of the looks' monotonic clock."""

    fitness: Fitness  # of the last look; of one that is well again, why it is out all the same
    in_pool: bool
    bad: int = 0  # looks in a row, while in the pool
    good: int = 0  # looks in a row, while out of it
    out_since_s: float = -math.inf
    streamed_s: float = -math.inf  # when it was last seen streaming


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What all looks so far have taught."""

    system: str | None = None  # the system identifier; None = no node has answered yet
    timelines: Mapping[str, int] = field(default_factory=dict)  # the newest that each node has shown
    began_by: Lsn | None = None  # where a primary was when first seen on it: it began no later
    members: dict[str, Member] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()
    writer: str | None = None  # who took writes when that was last seen
    writer_seen_s: float = -math.inf

    @property
    def newest(self) -> int:
        """The newest timeline there is; 0 = none is known."""
        return max(self.timelines.values(), default=0)


def is_blind(status: ClusterStatus) -> bool:
    """Whether nobody answered: such a look says more about who looks than about any node."""
    return not any(node.reachable for node in status.nodes)


def advance(memory: Memory, status: ClusterStatus, now_s: float, now_at: float) -> Memory:
    """The memory after one more look. `now_s` is when it began; `now_at` (Unix time) is for marks that end.

    A blind look changes nothing: all at once, no node is judged by accident.
    """
    if is_blind(status):
        return memory
    marks = status.state.marks
    # Marks that cannot be read now hold on.
    drained = memory.drained if marks is None else drained_nodes(marks, now_at)
    memory = replace(_of_system(memory, status), drained=drained)
    if memory.system != status.system_identifier:
        strangers = {n.name: Member(fitness=Fitness.WRONG_CLUSTER, in_pool=False) for n in status.nodes}
        return replace(memory, members=strangers)
    memory = _of_newest_timeline(memory, status)
    members = {
        node.name: _next(memory.members.get(node.name), node, memory.newest, status.settings.routing, now_s)
        for node in status.nodes
    }
    return replace(memory, members=members)


def drained_nodes(marks: Marks, now_at: float) -> frozenset[str]:
    """The nodes that were taken out by hand."""
    return frozenset(name for name, mark in marks.drained.items() if mark.holds(now_at))


def _of_system(memory: Memory, status: ClusterStatus) -> Memory:
    """A fresh memory where half of the nodes or more have become another cluster, as after pg_upgrade.

    Fewer are strangers at the addresses of nodes that do not answer.
    """
    seen = status.system_identifier
    if memory.system == seen:
        return memory
    if memory.system is None or 2 * len(status.state.facts) >= len(status.nodes):
        return Memory(system=seen)
    return memory


def _of_newest_timeline(memory: Memory, status: ClusterStatus) -> Memory:
    """The memory with the newest timeline, also of nodes that answer no more, and where it began."""
    before, memory = memory.newest, replace(memory, timelines=shown(memory.timelines, status))
    newest = memory.newest
    if newest != before:
        memory = replace(memory, began_by=None, writer=None)  # it is the writer no more
    if memory.began_by is None:
        seen = [f.write_lsn for f in status.state.facts if not f.in_recovery and f.timeline == newest]
        memory = replace(memory, began_by=min((lsn for lsn in seen if lsn is not None), default=None))
    return memory


def _next(
    before: Member | None, node: NodeStatus, newest: int, routing: RoutingSettings, now_s: float
) -> Member:
    """One node after one more look. One that is seen for the first time is taken at its word."""
    streamed_s = -math.inf if before is None else before.streamed_s
    if node.state is NodeState.STREAMING:
        streamed_s = now_s
    returning = before is not None and not before.in_pool
    fitness = _judge(node, newest, routing, returning=returning, silent_s=now_s - streamed_s)
    if before is None:
        return Member(fitness=fitness, in_pool=fitness is Fitness.FIT, streamed_s=streamed_s)
    now = replace(before, streamed_s=streamed_s, fitness=fitness)
    if before.in_pool:
        if fitness is Fitness.FIT:
            return replace(now, bad=0)
        bad = before.bad + 1
        if fitness in SOFT and bad < routing.eject_after:
            return replace(now, fitness=Fitness.SUSPECT, bad=bad)
        return replace(now, in_pool=False, bad=0, good=0, out_since_s=now_s)
    if fitness is not Fitness.FIT:
        return replace(now, good=0)
    good = before.good + 1
    if good < routing.readmit_after:
        return replace(now, fitness=Fitness.PROBATION, good=good)
    if now_s - before.out_since_s < routing.hold_s:
        return replace(now, fitness=Fitness.HELD, good=good)
    return replace(now, in_pool=True, good=0)


_STATES = {
    NodeState.FENCED: Fitness.FENCED,
    NodeState.STALE_PRIMARY: Fitness.STALE_PRIMARY,
    NodeState.PRIMARY: Fitness.PRIMARY,
    NodeState.DIVERGED: Fitness.DIVERGED,
    NodeState.NO_PRIVILEGE: Fitness.NO_PRIVILEGE,
}


def _judge(
    node: NodeStatus, newest: int, routing: RoutingSettings, *, returning: bool, silent_s: float
) -> Fitness:
    """What this look says. `returning`: by the limits for coming back; `silent_s`: since it streamed."""
    if not node.reachable:
        return Fitness.WRONG_CLUSTER if node.cause is Cause.WRONG_CLUSTER else Fitness.UNREACHABLE
    older = node.timeline is not None and node.timeline < newest
    if older and node.role is Role.PRIMARY and node.state is NodeState.PRIMARY:
        return Fitness.STALE_PRIMARY
    if node.state in _STATES:
        return _STATES[node.state]
    if node.timeline is None:
        return Fitness.NO_PRIVILEGE
    if older:
        return Fitness.OLDER_HISTORY
    if node.apply_delay_s:
        return Fitness.DELAYED
    return _judge_lag(node, routing, returning=returning, silent_s=silent_s)


def _judge_lag(node: NodeStatus, routing: RoutingSettings, *, returning: bool, silent_s: float) -> Fitness:
    limit_bytes = routing.readmit_lag_bytes if returning else routing.max_lag_bytes
    limit_s = routing.readmit_lag_s if returning else routing.max_lag_s
    if node.lag.lag_bytes is None:
        return Fitness.LAG_UNKNOWN
    if node.lag.lag_bytes > limit_bytes:
        return Fitness.LAG_BYTES
    seconds = node.lag.seconds
    if seconds.value_s is not None and seconds.bound is not LagBound.UPPER and seconds.value_s > limit_s:
        return Fitness.LAG_S
    # Without a receiver the numbers are of what it last heard, and do not grow while nobody is heard.
    return Fitness.NOT_STREAMING if silent_s > limit_s else Fitness.FIT
