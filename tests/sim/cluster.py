"""The simulated servers: WAL, timelines, receivers, synchronous commits, votes, faults, and their clients.

What a server does here is what real ones were seen to do (docs/failure-model.md). A node's WAL is a list
of record numbers, unique in the whole run, so that any two histories can be compared exactly.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from replctl.core.model import Lsn
from replctl.core.quorum import parse_sync_rule

TICK_S = 0.02
BASE = 0x5000000
RECORD_BYTES = 100


def lsn(index: int) -> Lsn:
    """Where the WAL is after so many records."""
    return Lsn(BASE + RECORD_BYTES * index)


@dataclass(eq=False)
class Session:
    """A controller's connection to a node; the vote hangs on it."""

    controller: str
    node: str
    boot: int


@dataclass(eq=False)
class Node:
    """One server. `received` is `len(wal)`, everything there is flushed."""

    name: str
    upstream: str | None = None  # primary_conninfo; None with in_recovery = cut
    in_recovery: bool = True
    is_witness: bool = False
    up: bool = True
    frozen: bool = False
    reset_heard: bool = True  # False: its host vanished, so nobody's connection is reset
    boot: int = 0
    started_s: float = -1000.0
    awake_since_s: float = -1000.0
    timeline: int = 1
    forks: dict[int, int] = field(default_factory=dict)  # timeline → how many records it had at its end
    wal: list[int] = field(default_factory=list)
    replayed: int = 0
    received_known: bool = True  # False after a restart, until a receiver runs again
    receiver: str | None = None
    heard_s: float = -1000.0  # when its receiver was last told anything
    waiting: bool = False  # its receiver is connected to a timeline that it is past
    short_timeout: bool = False  # wal_receiver_timeout ends the receiver at once
    paused: bool = False
    delayed: bool = False
    slow: bool = False  # a thin line: it is often behind
    in_conflict: bool = False  # replay waits for a query
    promoting: tuple[str, str | None] | None = None  # by which controller, in whose place
    fenced: bool = False
    deaf: bool = False  # a syntax error elsewhere makes it ignore every reload
    timeout_cut: bool = True  # 16+
    sync: str = ""
    slots: set[str] = field(default_factory=set)
    checkpoint_timeline: int = 1
    vote: Session | None = None

    @property
    def works(self) -> bool:
        """Whether its processes run."""
        return self.up and not self.frozen

    @property
    def is_cut(self) -> bool:
        """What nobody in the cluster can see at once, only the simulator."""
        return self.in_recovery and self.upstream is None and self.receiver is None

    @property
    def holds_on(self) -> bool:
        """Whether its startup process does not ask for WAL, and so never ends the receiver."""
        return self.paused or self.delayed or (self.in_conflict and self.replayed < len(self.wal))


@dataclass(frozen=True)
class Promotion:
    """What happened, for the checkers."""

    at_s: float
    node: str
    controller: str
    old_timeline: int
    lost: str | None


@dataclass(eq=False)
class Pending:
    """A commit that waits for its confirmations."""

    node: Node
    boot: int
    record: int
    index: int


class Cluster:
    """All servers, the network between them and the controllers, and a client that writes where it can."""

    def __init__(self, rng: random.Random, nodes: list[Node], sync: str) -> None:
        self.rng = rng
        self.nodes = {n.name: n for n in nodes}
        self.sync = sync
        self.rule = parse_sync_rule(sync)
        self.blocked: set[tuple[str, str]] = set()  # (from, to): nothing comes through
        self.rejected: set[tuple[str, str]] = set()  # a firewall says "refused" in the node's stead
        self.open_since_s: dict[tuple[str, str], float] = {}
        self.acknowledged: dict[int, tuple[float, str]] = {}  # record → when, by whom
        self.pending: list[Pending] = []
        self.promotions: list[Promotion] = []
        self.log: list[str] = []
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()  # what befell it and what was done, for the canary
        self.stalled_until_s: dict[str, float] = {}  # controllers that were stopped for a while
        self.was_rejected = False
        self.slow_share = 0.03  # of all calls
        self.on_acknowledge: Callable[[Node, int], None] | None = None
        self.on_ask: Callable[[str, str | None], None] | None = None
        self.on_promote: Callable[[Node, str], None] | None = None
        self.records = 0
        self.client_writes = True

    # ---- telling

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def say(self, who: str, what: str) -> None:
        """One line of the story."""
        self.log.append(f"{self.now_s:8.3f}  {who:6} {what}")

    def violate(self, invariant: str, what: str) -> None:
        """A checker has seen what must never be: told once, the first time."""
        if any(seen.startswith(f"{invariant}: ") for seen in self.violations):
            return
        self.violations.append(f"{invariant}: {what}")
        self.say("!!!", f"{invariant}: {what}")

    # ---- the network

    def linked(self, one: str, other: str) -> bool:
        """Whether both directions are open."""
        return (one, other) not in self.blocked and (other, one) not in self.blocked

    def block(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Cut the network between two."""
        self.blocked.add((one, other))
        if not one_way:
            self.blocked.add((other, one))
        self.say("net", f"{one} {'→' if one_way else '↔'} {other} blocked")

    def reject(self, controller: str, name: str) -> None:
        """A firewall refuses the controller's connections in the node's stead."""
        self.rejected.add((controller, name))
        self.was_rejected = True
        self.say("net", f"{controller} → {name} is rejected by a firewall")

    def heal(self) -> None:
        """Everybody reaches everybody again."""
        for one, other in self.blocked | self.rejected:
            self.open_since_s[one, other] = self.open_since_s[other, one] = self.now_s
        self.blocked.clear()
        self.rejected.clear()
        self.say("net", "healed")

    def reachable_for_s(self, one: str, other: str) -> float:
        """For how long both directions have been open; 0 = they are not."""
        if not self.linked(one, other) or (one, other) in self.rejected:
            return 0.0
        return self.now_s - self.open_since_s.get((one, other), -1000.0)

    # ---- faults

    def crash(self, name: str, *, reset_heard: bool = True) -> None:
        """All processes are gone; or the whole host, which then resets nobody's connection."""
        node = self.nodes[name]
        if not node.up:
            return
        node.up, node.reset_heard = False, reset_heard
        node.vote = node.promoting = None
        self.say(name, "crashes" if reset_heard else "its host vanishes")
        if reset_heard:
            for other in self.nodes.values():
                if other.receiver == name and self.linked(name, other.name) and not other.frozen:
                    other.receiver = None

    def start(self, name: str) -> None:
        """Start again. Votes, the pause and the received position are gone; WAL and settings are not."""
        node = self.nodes[name]
        if node.up:
            return
        node.up, node.frozen, node.reset_heard = True, False, True
        node.boot += 1
        node.started_s = node.awake_since_s = self.now_s
        node.receiver, node.vote, node.promoting = None, None, None
        node.waiting = node.paused = node.in_conflict = node.received_known = False
        if node.in_recovery and node.wal:
            # It replays from its last restartpoint: what it had replayed lately comes again.
            node.replayed = min(node.replayed, max(0, len(node.wal) - self.rng.randrange(12)))
        else:
            node.replayed = len(node.wal)
        self.pending = [p for p in self.pending if p.node is not node]
        self.say(name, f"starts as {'replica' if node.in_recovery else 'primary'}")

    def rejoin(self, name: str, upstream: str) -> None:
        """An operator made it a replica again, by pg_rewind or from a copy."""
        node, above = self.nodes[name], self.nodes[upstream]
        self.crash(name)
        node.in_recovery, node.fenced, node.upstream = True, False, upstream
        node.wal, node.replayed = above.wal[:], len(above.wal)
        node.timeline, node.forks = above.timeline, dict(above.forks)
        self.counts["rejoined"] += 1
        self.start(name)
        node.replayed = len(node.wal)

    def freeze(self, name: str) -> None:
        """SIGSTOP to all of it."""
        self.nodes[name].frozen = True
        self.say(name, "freezes")

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        if self.nodes[name].frozen:
            self.nodes[name].frozen, self.nodes[name].awake_since_s = False, self.now_s
            self.open_since_s |= {(name, c): self.now_s for c in ("c1", "c2", "c3")}
            self.open_since_s |= {(c, name): self.now_s for c in ("c1", "c2", "c3")}
            self.say(name, "thaws")

    # ---- time passes

    async def live(self, until_s: float) -> None:
        """Replication, acknowledgements and the client, tick by tick."""
        while self.now_s < until_s:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """One moment of everybody's life."""
        self._write()
        replicas = [n for n in self.nodes.values() if n.in_recovery and not n.is_witness]
        self.rng.shuffle(replicas)
        for node in replicas:
            if node.works and node.promoting is not None:
                self._end_recovery(node)
            elif node.works:
                self._receiver(node)
                self._receive(node)
                self._replay(node)
        self._acknowledge()

    def _write(self) -> None:
        for node in self.nodes.values():
            takes = node.works and not node.in_recovery and not node.is_witness
            if self.client_writes and takes and self.rng.random() < 0.4:
                self.records += 1
                node.wal.append(self.records)
                node.replayed = len(node.wal)
                self.pending.append(Pending(node, node.boot, self.records, len(node.wal) - 1))

    def _receiver(self, node: Node) -> None:
        """End a receiver that is to end, start one that is to start."""
        # The startup process notices a changed primary_conninfo when it asks for WAL that it has not got.
        asks = not node.holds_on and node.replayed == len(node.wal)
        if node.short_timeout or (node.receiver != node.upstream and asks):
            node.receiver, node.waiting = None, False
        if node.receiver is not None:
            above = self.nodes[node.receiver]
            if not above.up and above.reset_heard and self.linked(node.name, above.name):
                node.receiver = None
        if node.receiver is None and node.upstream is not None and asks and not node.short_timeout:
            above = self.nodes[node.upstream]
            if above.works and self.linked(node.name, above.name) and self.rng.random() < 0.7:
                node.receiver = node.upstream
                node.received_known, node.heard_s = True, self.now_s

    def _receive(self, node: Node) -> None:
        """Take over some of what the upstream has and this one has not."""
        if node.receiver is None:
            return
        above = self.nodes[node.receiver]
        if not above.works or (above.name, node.name) in self.blocked:
            return
        node.heard_s = self.now_s
        if above.timeline != node.timeline:
            fork = above.forks.get(node.timeline)
            if fork is None or node.replayed > fork or above.timeline < node.timeline:
                node.waiting = True
                return
            del node.wal[fork:]
            if len(node.wal) == fork:
                self._switch_timeline(node, above)
        end = len(node.wal)
        if not _is_part(node.wal, above.wal):
            node.waiting = True
            return
        node.waiting = False
        limit = above.forks.get(node.timeline, len(above.wal))
        if above.in_recovery or not node.slow or self.rng.random() < 0.15:
            node.wal.extend(above.wal[end : min(limit, end + self.rng.randrange(6))])

    def _switch_timeline(self, node: Node, above: Node) -> None:
        """At the end of its timeline, it goes on with the next one that the upstream's history has."""
        node.timeline = min(t for t in (*above.forks, above.timeline) if t > node.timeline)
        node.forks = {t: end for t, end in above.forks.items() if t < node.timeline}

    def _replay(self, node: Node) -> None:
        if node.in_conflict and self.rng.random() < 0.02:
            node.in_conflict = False
        if not node.holds_on and node.replayed < len(node.wal):
            node.replayed = min(len(node.wal), node.replayed + 1 + self.rng.randrange(8))

    def _acknowledge(self) -> None:
        """Tell the client of every commit that has its confirmations, in the order of the WAL."""
        self.pending = [p for p in self.pending if p.node.up and p.node.boot == p.boot][-200:]
        for node in {id(p.node): p.node for p in self.pending}.values():
            if node.frozen or node.in_recovery:
                continue
            confirmed = self._confirmed(node)
            for commit in [p for p in self.pending if p.node is node and p.index < confirmed]:
                self.pending.remove(commit)
                self.acknowledged[commit.record] = (self.now_s, node.name)
                if self.on_acknowledge is not None:
                    self.on_acknowledge(node, commit.record)

    def _confirmed(self, primary: Node) -> int:
        """How many records of its WAL have the confirmations that it waits for."""
        if primary.fenced:
            return 0
        if self.rule is None or not primary.sync:
            return len(primary.wal)
        connected = [
            n
            for m in self.rule.members
            if (n := self.nodes.get(m)) is not None
            and n.receiver == primary.name
            and n.works
            and n.in_recovery
            and not n.waiting
            and self.linked(n.name, primary.name)
        ]
        if self.rule.method == "FIRST":
            connected = connected[: self.rule.confirmations]
        have = sorted((len(n.wal) for n in connected if _is_part(n.wal, primary.wal)), reverse=True)
        return have[self.rule.confirmations - 1] if len(have) >= self.rule.confirmations else 0

    # ---- what a controller can have done

    def promote(self, name: str, controller: str, lost: str | None) -> None:
        """pg_promote without waiting: it goes on whatever becomes of who asked for it."""
        node = self.nodes[name]
        if node.in_recovery and node.promoting is None:
            self.say(controller, f"asks for the promotion of {name}")
            if self.on_ask is not None:
                self.on_ask(controller, lost)
            node.promoting = (controller, lost)

    def _end_recovery(self, node: Node) -> None:
        """Everything received is replayed, then a new timeline begins."""
        assert node.promoting is not None
        node.receiver = None
        if self.rng.random() < 0.3:
            return
        controller, lost = node.promoting
        self.say(node.name, f"is promoted at {len(node.wal)} records")
        if self.on_promote is not None:
            self.on_promote(node, controller)
        self.promotions.append(
            Promotion(
                at_s=self.now_s, node=node.name, controller=controller, old_timeline=node.timeline, lost=lost
            )
        )
        node.replayed = len(node.wal)
        node.forks = {**node.forks, node.timeline: len(node.wal)}
        # The next number that the node does not know of: two nodes promoted apart choose the same.
        node.timeline += 1
        node.in_recovery, node.receiver, node.upstream, node.promoting = False, None, None, None
        node.paused = node.delayed = node.waiting = node.short_timeout = node.in_conflict = False


def _is_part(wal: list[int], whole: list[int]) -> bool:
    """Whether it is the beginning of the other. Record numbers are unique, so the last one decides."""
    return len(wal) <= len(whole) and (not wal or wal[-1] == whole[len(wal) - 1])
