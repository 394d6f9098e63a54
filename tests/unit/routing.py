"""Looks at a small cluster, one after the other, as the monitor takes them; and who is chosen from them."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from replctl.core.lag import LagHistory
from replctl.core.marks import Mark, Marks
from replctl.core.model import Lsn, Observation
from replctl.core.routing import (
    READ,
    Memory,
    Need,
    Position,
    Scope,
    Snapshot,
    advance,
    choose_writer,
    decide,
    fingerprint,
    make_snapshot,
)
from replctl.core.settings import ClusterSettings, RoutingSettings
from replctl.core.status import assess
from tests.unit.builders import END, NOW, SYSTEM_IDENTIFIER, settings, state

SYSTEM = fingerprint(SYSTEM_IDENTIFIER)
MIB = 1024 * 1024
STALE_S = 5.0


def position(lsn: int = END, timeline: int = 1, system: str = SYSTEM) -> Position:
    return Position(system, timeline, Lsn(lsn))


def drained(*names: str, until_at: float | None = None) -> Marks:
    mark = Mark(reason="new disks", since_at=NOW, until_at=until_at)
    return Marks(drained=dict.fromkeys(names, mark))


@dataclass
class Looks:
    """What a process has learnt. Each look comes a second after the one before."""

    inventory: ClusterSettings
    zone: str | None = None
    memory: Memory = field(default_factory=Memory)
    history: LagHistory = field(default_factory=LagHistory)
    turns: Any = field(default_factory=itertools.count)
    now_s: float = 100.0

    @classmethod
    def of(cls, *names: str, zone: str | None = None, nodes: Any = None, **routing: Any) -> Looks:
        keys: dict[str, Any] = {"routing": RoutingSettings(**routing)} | ({"nodes": nodes} if nodes else {})
        return cls(settings(*names, **keys), zone=zone)

    def look(self, *nodes: Observation, after_s: float = 1.0, **keys: Any) -> Snapshot:
        """The snapshot after one more look."""
        self.now_s += after_s
        status = assess(state(*nodes, **{"observed_at": self.now_s} | keys), self.inventory, self.history)
        self.history = status.history
        memory = advance(self.memory, status, self.now_s, NOW)
        self.memory, write = choose_writer(memory, status, self.now_s)
        return make_snapshot(
            self.memory,
            status,
            write,
            turns=self.turns,
            taken_s=self.now_s,
            stale_at_s=self.now_s + STALE_S,
            zone=self.zone,
        )


def pool(snapshot: Snapshot) -> dict[str, str]:
    """Why each node is in the pool or out of it."""
    return {view.name: str(view.fitness) for view in snapshot.nodes}


def fit(snapshot: Snapshot) -> set[str]:
    return {view.name for view in snapshot.nodes if view.fit}


def chosen(
    snapshot: Snapshot, need: Need = READ, scope: Scope | None = None, *, times: int = 1
) -> Counter[str | None]:
    """How often each node was chosen."""
    return Counter(decide(need, scope, snapshot, snapshot.taken_s).node for _ in range(times))


def answer(
    snapshot: Snapshot, need: Need = READ, scope: Scope | None = None, *, later_s: float = 0.0
) -> tuple[str | None, str]:
    """Node and reason of one decision, so long after the look."""
    decision = decide(need, scope, snapshot, snapshot.taken_s + later_s)
    return decision.node, str(decision.reason)
