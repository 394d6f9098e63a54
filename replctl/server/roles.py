"""Whether a node is what a load balancer asks for: yes or no, and why. No I/O, no clock.

The words and codes are those of Patroni's health checks (https://patroni.readthedocs.io/en/latest/rest_api.html),
the answers those of the routing core: a primary is who provably takes writes, a replica one that is fit for
reads by the policy of the inventory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from replctl.core.routing import Fitness, NodeView
from replctl.core.settings import ClusterSettings
from replctl.core.status import NodeState, NodeStatus, Role
from replctl.core.units import format_bytes, parse_bytes
from replctl.server.watch import Seen

# What may hold a replica back but its lag: whoever gives a limit of their own goes by that instead.
_BUT_FOR_LAG = frozenset(
    {Fitness.FIT, Fitness.SUSPECT, Fitness.PROBATION, Fitness.HELD, Fitness.LAG_BYTES, Fitness.LAG_S}
)
_REPLICATION_STATES = {"streaming": NodeState.STREAMING, "in archive recovery": NodeState.ARCHIVE}
TAG = "tag_"

# Patroni's older words, which templates have in their paths; nowhere else does replctl use them.
OLDER_WORDS = ("leader", "master")
CASCADE_WORDS = ("standby-leader", "standby_leader")  # the first node of a cluster that follows another one

ROLES = {
    "primary": "primary",
    "read-write": "primary",
    **dict.fromkeys(OLDER_WORDS, "primary"),
    **dict.fromkeys(CASCADE_WORDS, "cascade"),
    "replica": "replica",
    "read-only": "read-only",
    "sync": "sync",
    "synchronous": "sync",
    "quorum": "quorum",
    "async": "async",
    "asynchronous": "async",
    "read-only-sync": "read-only-sync",
    "read-only-synchronous": "read-only-sync",
    "read-only-quorum": "read-only-quorum",
    "health": "health",
    "liveness": "liveness",
    "readiness": "readiness",
}
"""Every word of a path, and the question that it asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a replica must be besides: the query of the address. `lag_bytes` None = as the policy says."""

    lag_bytes: int | None = None
    received: bool = False  # count what is received instead of what is replayed; for readiness
    replication_state: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Yes or no, and a sentence that says why."""

    yes: bool
    why: str


def limits_of(query: Mapping[str, str]) -> Limits:
    """Read the query of an address. Raises ValueError for a lag that is not a size: no limit is no answer."""
    lag = query.get("lag")
    return Limits(
        lag_bytes=None if lag is None else parse_bytes(lag),
        received=query.get("mode") == "write",
        replication_state=query.get("replication_state"),
        tags={key.removeprefix(TAG): text for key, text in query.items() if key.startswith(TAG)},
    )


def answer(role: str, name: str, seen: Seen | None, limits: Limits) -> Answer:
    """Whether the node of this name is it. `seen` None = no look that is new enough: then it is nothing.

    Raises KeyError for a role or a node that there is not.
    """
    asked = ROLES[role]
    if seen is None:
        return Answer(yes=False, why="the last look is too old to say what any node is")
    if asked == "liveness":
        return Answer(yes=True, why="the nodes are being looked at")
    node = seen.status[name]
    if asked == "health":
        return Answer(yes=node.reachable, why="it answers" if node.reachable else _unreachable(node))
    if asked == "primary":
        return _primary(node, seen)
    if asked == "cascade":
        return Answer(yes=False, why="no cluster of an inventory follows another cluster")
    if asked == "readiness":
        return _ready(node, seen, limits)
    if asked.startswith("read-only") and (found := _primary(node, seen)).yes:
        return found
    found = _replica(node, seen, limits)
    confirms = asked.removeprefix("read-only-")
    if not found.yes or confirms in ("replica", "read-only"):
        return found
    return _confirming(node, confirms)


def writer_of(seen: Seen) -> str | None:
    """The node that is called the primary; None where none is."""
    return next((node.name for node in seen.status.nodes if _primary(node, seen).yes), None)


def _primary(node: NodeStatus, seen: Seen) -> Answer:
    """The routing core's writer, and only where this very look has shown it as a primary."""
    write = seen.snapshot.write
    if write.node is None:
        return Answer(yes=False, why=write.reason.sentence)
    if write.node != node.name:
        return Answer(yes=False, why=f"{write.node} is the primary")
    if node.state is not NodeState.PRIMARY:
        return Answer(yes=False, why=_unreachable(node) if not node.reachable else f"it is {node.state}")
    return Answer(yes=True, why="it takes writes")


def _replica(node: NodeStatus, seen: Seen, limits: Limits) -> Answer:
    view = view_of(node.name, seen)
    if node.role is not Role.REPLICA:
        return Answer(yes=False, why=view.reason)
    for key, wanted in limits.tags.items():
        if tags_of(node.name, seen.status.settings).get(key) != wanted:
            return Answer(yes=False, why=f"it has no tag {key} of this value")
    wanted_state = limits.replication_state
    if wanted_state is not None and node.state is not _REPLICATION_STATES.get(wanted_state):
        return Answer(yes=False, why=f"it is {node.state}")
    if limits.lag_bytes is None:
        return Answer(yes=view.fit, why=view.reason)
    if view.fitness not in _BUT_FOR_LAG:
        return Answer(yes=False, why=view.reason)
    return _within(node.lag.lag_bytes, limits.lag_bytes)


def _within(lag_bytes: int | None, limit_bytes: int) -> Answer:
    if lag_bytes is None:
        return Answer(yes=False, why="how far it is behind is not known")
    # Ahead of the primary is no lag: it has another history.
    yes = 0 <= lag_bytes <= limit_bytes
    return Answer(
        yes=yes, why=f"it is {format_bytes(lag_bytes)} behind; asked for {format_bytes(limit_bytes)}"
    )


def _confirming(node: NodeStatus, asked: str) -> Answer:
    """Of a fit replica: which part it has in synchronous replication. `potential` has none yet."""
    if node.sync_state is None:
        return Answer(yes=False, why="what it confirms is not known")
    own = node.sync_state if node.sync_state in ("sync", "quorum") else "async"
    return Answer(yes=own == asked, why=f"its sync_state is {node.sync_state}")


def _ready(node: NodeStatus, seen: Seen, limits: Limits) -> Answer:
    """The primary, or a replica that streams and is near enough to be promoted."""
    if (found := _primary(node, seen)).yes:
        return found
    if not node.reachable:
        return Answer(yes=False, why=_unreachable(node))
    if node.state is not NodeState.STREAMING:
        return Answer(yes=False, why=f"it is {node.state}")
    limit_bytes = limits.lag_bytes
    if limit_bytes is None:
        limit_bytes = seen.status.settings.failover.max_loss_bytes
    return _within(node.lag.transport_lag_bytes if limits.received else node.lag.lag_bytes, limit_bytes)


def view_of(name: str, seen: Seen) -> NodeView:
    """The node as routing sees it. Raises KeyError."""
    for view in seen.snapshot.nodes:
        if view.name == name:
            return view
    raise KeyError(name)


def tags_of(name: str, settings: ClusterSettings) -> dict[str, str]:
    """What the inventory says of a node, as tags."""
    spec = settings.node(name)
    return {"zone": spec.zone} if spec.zone else {}


def _unreachable(node: NodeStatus) -> str:
    return f"it does not answer ({node.cause})"
