"""What changed between two looks at a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from replctl.core.status import ClusterStatus, NodeStatus


@dataclass(frozen=True, slots=True)
class Change:
    """One fact that is another now. `at` is our Unix time of the look that saw it."""

    at: float
    node: str | None  # None = the cluster
    fact: str  # primary | state | role | timeline | upstream
    before: str
    after: str


def changes(
    before: ClusterStatus, after: ClusterStatus, last: Mapping[str, NodeStatus]
) -> tuple[Change, ...]:
    """What is another now. `last` holds each node's last facts, older than `before` where it was silent."""
    found: list[Change] = []
    if before.primary != after.primary:
        was, now = before.primary or "none", after.primary or "none"
        found.append(Change(after.observed_at, None, "primary", was, now))
    known = {node.name: node for node in before.nodes}
    for node in after.nodes:
        if node.name not in known:
            continue
        if known[node.name].state != node.state:
            was = known[node.name].state
            found.append(Change(after.observed_at, node.name, "state", was, node.state))
        for fact, earlier, later in _facts(last.get(node.name), node):
            found.append(Change(after.observed_at, node.name, fact, earlier, later))
    return tuple(found)


def _facts(before: NodeStatus | None, after: NodeStatus) -> Iterator[tuple[str, str, str]]:
    """Facts that were known and are known: what is unknown now has not changed."""
    for fact in ("role", "timeline", "upstream"):
        was, now = getattr(before, fact, None), getattr(after, fact)
        if was is not None and now is not None and was != now:
            yield fact, str(was), str(now)
