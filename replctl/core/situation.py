"""Everything that a failover is decided from, in one value: the cluster, the votes, the proofs, the wish."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from replctl.core.detector import Word
from replctl.core.model import ClusterState, Lsn, NodeFacts
from replctl.core.quorum import SyncRule, parse_sync_rule
from replctl.core.settings import ClusterSettings, NodeSpec
from replctl.core.topology import is_fenced, upstream_of

PROMOTE_WITHIN_S = 1.0
"""A promotion is asked for within this time of the proof that votes and cuts hold, or not at all."""

FRESH_VOTER_S = 2 * PROMOTE_WITHIN_S
"""A voter that started more recently may have forgotten a vote that a promotion still relies on."""


_parsed = lru_cache(maxsize=16)(parse_sync_rule)  # asked for many times in every decision


class Vote(StrEnum):
    """Our lock on one voter."""

    HELD = "held"
    FREE = "free"
    TAKEN = "taken"  # another controller has it
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a cut node's WAL ends, by IDENTIFY_SYSTEM. `incomplete` = why it may have more than it shows."""

    timeline: int
    lsn: Lsn
    incomplete: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLsn:
    """The greatest position the lost primary is known to have reached, and how old that knowledge is."""

    lsn: Lsn
    age_s: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is wanted, and what may be given up for it, by name."""

    lost: str | None  # the primary that is lost; None = not known which node it was
    to: str | None = None
    fenced: frozenset[str] = frozenset()  # nodes that are off: the operator's word or a fence command's
    without_votes: frozenset[str] = frozenset()
    allow_loss_bytes: int | None = None  # None = the inventory's limit for what is known
    allow_unknown_loss: bool = False
    allow_replay: frozenset[str] = frozenset()
    automatic: bool = False
    finish: bool = False  # only what a failover left over: nothing is promoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One look, with what the run has gathered so far."""

    settings: ClusterSettings
    state: ClusterState
    request: Request
    word: Word = Word.UNCLEAR  # what the last probe of the lost primary came back with
    votes: dict[str, Vote] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)  # of cut nodes
    forks: dict[int, Lsn] = field(default_factory=dict)  # where each older timeline ended, by the new primary
    histories: dict[str, dict[int, Lsn]] = field(default_factory=dict)  # the same, as each replica tells it
    last_known_lsns: dict[str, Lsn] = field(default_factory=dict)  # of replicas that do not answer now
    sync_seen: str | None = None  # synchronous_standby_names as the lost primary had it when last seen
    silence_proven: bool = False
    sync_lowered: str | None = None  # why fewer replicas have to confirm than the inventory says, if so
    stubborn: frozenset[str] = frozenset()  # replicas that did not let go when this run cut them
    own_cuts: frozenset[str] = frozenset()  # replicas that this run has cut; any other was cut by somebody
    watched: frozenset[str] = frozenset()  # nodes seen as replicas while the votes were ours
    lost_timeline: int | None = None  # the lost primary's, when it was last seen
    known_lsn: KnownLsn | None = None
    fence_commands: frozenset[str] = frozenset()  # nodes that have one

    def facts(self, name: str) -> NodeFacts | None:
        """The facts of a node; None where it does not answer."""
        return next((f for f in self.state.facts if f.node == name), None)

    @property
    def replicas(self) -> tuple[NodeFacts, ...]:
        """Every node that answers as a replica."""
        return tuple(f for f in self.state.facts if f.in_recovery)

    @property
    def writable(self) -> tuple[NodeFacts, ...]:
        """Every node but the lost one that answers as primary, the newest timeline first."""
        found = [f for f in self.state.facts if not f.in_recovery and f.node != self.request.lost]
        return tuple(sorted(found, key=lambda f: (-(f.timeline or 0), f.node)))

    @property
    def promoted(self) -> NodeFacts | None:
        """The node that has taken the lost primary's place already.

        One that is fenced, or on an older timeline than a replica's or than the lost primary's was, has not:
        it is a stale primary of an earlier failover.
        """
        newest = self.writable[0] if self.writable else None
        if newest is None or is_fenced(newest) or is_stale(newest, self.replicas):
            return None
        return newest if (newest.timeline or 0) >= (self.lost_timeline or 0) else None

    @property
    def voters(self) -> tuple[str, ...]:
        """Who votes: all nodes and witnesses, without those that are off."""
        names = (*(n.name for n in self.settings.nodes), *(w.name for w in self.settings.witnesses))
        away = self.request.fenced | self.request.without_votes
        if self.settings.failover.votes == "replicas" and self.request.lost is not None:
            away |= {self.request.lost}
        return tuple(n for n in names if n not in away)

    @property
    def majority(self) -> int:
        """How many of the voters must agree."""
        return len(self.voters) // 2 + 1

    @property
    def votes_held(self) -> tuple[str, ...]:
        """The voters whose lock is ours."""
        return tuple(v for v in self.voters if self.votes.get(v) is Vote.HELD)

    @property
    def rule(self) -> SyncRule | None:
        """The synchronous rule that every primary has by the inventory; None = asynchronous."""
        return _parsed(self.settings.failover.synchronous or "")

    @property
    def members(self) -> tuple[str, ...]:
        """The nodes that may have confirmed commits of the lost primary, by the rule; never itself."""
        rule = self.rule
        if rule is None:
            return ()
        wanted = {m.lower() for m in rule.members}
        return tuple(
            n.name
            for n in self.settings.nodes
            if n.application_name.lower() in wanted and n.name != self.request.lost
        )

    @property
    def outsiders(self) -> tuple[str, ...]:
        """Names in the rule that no node of the inventory has: they may have confirmed, and cannot be cut."""
        known = {n.application_name.lower() for n in self.settings.nodes}
        return tuple(m for m in (self.rule.members if self.rule else ()) if m.lower() not in known)

    @property
    def silent(self) -> frozenset[str]:
        """The nodes that do not answer."""
        return frozenset({n.name for n in self.settings.nodes} - {f.node for f in self.state.facts})

    @property
    def is_off(self) -> bool:
        """Whether the lost primary is off, by the operator's word or a fence command's."""
        lost = {self.request.lost} if self.request.lost is not None else self.silent
        return bool(lost) and lost <= self.request.fenced

    @property
    def able(self) -> int:
        """n: how many may have confirmed commits. Where another silent node may have been the primary, and
        the rule does not name it, then so may the one that we take for lost.
        """
        wanted = {m.lower() for m in self.rule.members} if self.rule is not None else set()
        named = {n.name for n in self.settings.nodes if n.application_name.lower() in wanted}
        mistaken = self.lost_timeline is None and self.request.lost in named and not self.silent <= named
        return len(self.members) + len(self.outsiders) + mistaken

    @property
    def cuts_needed(self) -> int:
        """n-k+1 with a synchronous rule; 0 without one."""
        rule = self.rule
        return 0 if rule is None else max(1, self.able - rule.confirmations + 1)

    def spec(self, name: str) -> NodeSpec:
        """The inventory's word about a node."""
        return self.settings.node(name)


# What the startup process of a cut replica waits for: its next attempt, or what held its replay before.
CUT_WAIT_EVENTS = (
    "RecoveryRetrieveRetryInterval",
    "RecoveryPause",
    "RecoveryApplyDelay",
    "RecoveryConflictSnapshot",
    "RecoveryConflictTablespace",
)
HELD_WAIT_EVENTS = CUT_WAIT_EVENTS[1:]


def is_cut(facts: NodeFacts) -> bool:
    """Whether a replica is verifiably disconnected and will stay so.

    The view of the receiver alone is no proof, it hides one that is starting: no process of that kind may
    exist, and the startup process must be waiting for its next attempt (walreceiverfuncs.c, xlogrecovery.c).
    """
    return (
        facts.in_recovery
        and facts.upstream_known
        and not facts.conninfo
        and facts.receiver is None
        and facts.receiver_processes == 0
        and facts.startup_wait_event in CUT_WAIT_EVENTS
    )


def is_held(facts: NodeFacts) -> bool:
    """Whether its receiver stays as it is, whatever becomes of primary_conninfo.

    The startup process ends the receiver, or starts one, only when it next asks for WAL: while replay is
    paused, delayed or in conflict it does not, and the replica goes on confirming commits.
    """
    paused = facts.replay_pause not in (None, "not paused")
    conflict = (facts.startup_wait_event or "").startswith("RecoveryConflict")
    return paused or conflict or bool(facts.apply_delay_s)


def is_stale(facts: NodeFacts, replicas: tuple[NodeFacts, ...]) -> bool:
    """Whether a node that answers as primary is on an older timeline than some replica, or was fenced and
    is followed by none: a replica without a receiver may not know of its timeline yet.
    """
    replaced = is_fenced(facts) and not facts.senders and bool(replicas)
    return replaced or (facts.timeline or 0) < max((r.timeline or 0 for r in replicas), default=0)


def lost_primary(state: ClusterState, settings: ClusterSettings) -> str | None:
    """Which node a failover is about; None where that cannot be told, or where it is only to be finished.

    While a primary answers and all is well, that is the primary itself: it is not lost, and the plan says
    so. Where replicas were left behind on the timeline before, it is the one whom they followed. Where
    nothing but cut replicas is left over, whom they followed does not matter: the primary takes them.
    """
    replicas = tuple(f for f in state.facts if f.in_recovery)
    writable = [f for f in state.facts if not f.in_recovery and not is_stale(f, replicas)]
    primary = max(writable, key=lambda f: f.timeline or 0, default=None)
    gone = {n.name for n in settings.nodes} - {f.node for f in state.facts if f.in_recovery}
    gone -= {primary.node} if primary is not None else set()
    behind = [r for r in replicas if primary is None or (r.timeline or 0) < (primary.timeline or 0)]
    followed = Counter(u for r in behind if (u := upstream_of(r, state, settings)) in gone)
    if followed:
        return max(followed, key=lambda name: (followed[name], name))
    if primary is not None:
        return None if any(is_cut(r) for r in replicas) else primary.node
    silent = [n for n in gone if all(f.node != n for f in state.facts)]
    return silent[0] if len(silent) == 1 else None
