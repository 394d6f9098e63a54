"""Who may be promoted, who not and why. Safety first: a policy only orders nodes that are already safe."""

from __future__ import annotations

from dataclasses import dataclass

from replctl.core.model import Lsn, NodeFacts, Unreachable
from replctl.core.situation import HELD_WAIT_EVENTS, Position, Situation, is_cut, is_held
from replctl.core.topology import is_fenced, upstream_of

_PREFERENCE = {"prefer": 0, "neutral": 1, "avoid": 2, "never": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node, whether it may be promoted, and the reason in a sentence."""

    node: str
    eligible: bool
    reason: str
    timeline: int | None = None
    received_lsn: Lsn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The eligible in order, the best first, then the others with their reasons."""

    candidates: tuple[Candidate, ...]

    @property
    def eligible(self) -> tuple[Candidate, ...]:
        """Those that may be promoted, the best first."""
        return tuple(c for c in self.candidates if c.eligible)


def rank(situation: Situation) -> Ranking:
    """Every node but the lost one: greatest (timeline, LSN) first, then preference, zone, name.

    One whose replay is held up comes after its equals: what it has not replayed makes writes wait.
    """
    found = [
        _candidate(situation, spec.name)
        for spec in situation.settings.nodes
        if spec.name != situation.request.lost
    ]
    zone = _lost_zone(situation)

    def key(candidate: Candidate) -> tuple[object, ...]:
        spec = situation.spec(candidate.node)
        return (
            not candidate.eligible,
            -(candidate.timeline or 0),
            -(candidate.received_lsn or 0),  # the greater LSN comes first
            _PREFERENCE[spec.promote],
            spec.zone != zone,
            _is_held(situation, candidate.node),
            candidate.node,
        )

    return Ranking(candidates=tuple(sorted(found, key=key)))


def _is_held(situation: Situation, name: str) -> bool:
    facts = situation.facts(name)
    return facts is not None and is_held(facts)


def _lost_zone(situation: Situation) -> str | None:
    lost = situation.request.lost
    return situation.spec(lost).zone if lost is not None else None


def position_of(situation: Situation, facts: NodeFacts) -> Position | None:
    """Where a replica's WAL ends: what IDENTIFY_SYSTEM said once it was cut, before that what it shows."""
    if facts.node in situation.positions:
        return situation.positions[facts.node]
    if facts.received_lsn is None or facts.timeline is None:
        return None
    return Position(timeline=facts.timeline, lsn=facts.received_lsn, incomplete=incomplete(facts))


def incomplete(facts: NodeFacts, identified_lsn: Lsn | None = None) -> str | None:
    """Why a replica may have flushed more than it shows, or than IDENTIFY_SYSTEM says (`identified_lsn`).

    After a restart the received position is gone, and a replica whose replay is held up has not replayed
    its local WAL: it may have acknowledged more than any function tells. And IDENTIFY_SYSTEM looks at the
    timeline that is replayed only (GetStandbyFlushRecPtr in walsender.c).
    """
    if identified_lsn is not None and (facts.received_lsn or 0) > identified_lsn:
        return "it has received more than it has replayed, on another timeline"
    if facts.receive_lsn_known is False and facts.startup_wait_event in HELD_WAIT_EVENTS:
        return "it was restarted and has not replayed its own WAL yet"
    return None


def is_proof(situation: Situation, name: str) -> bool:
    """Whether this cut member counts: all it ever confirmed is in a position that can be compared."""
    facts = situation.facts(name)
    if facts is None or not is_cut(facts):
        return False
    position = position_of(situation, facts)
    return position is not None and position.incomplete is None and strays(situation, name) is None


def newest_line(situation: Situation) -> str | None:
    """The node whose history the others are compared with: the one furthest on the newest timeline."""
    known = {f.node: position_of(situation, f) for f in situation.replicas}
    ends = {node: (p.timeline, p.lsn, node) for node, p in known.items() if p is not None}
    return max(ends, key=lambda node: ends[node], default=None)


def strays(situation: Situation, name: str) -> str | None:
    """Why a replica's WAL is no earlier part of the newest line's, or cannot be compared; else None."""
    newest = newest_line(situation)
    facts, other = situation.facts(name), situation.facts(newest) if newest is not None else None
    if facts is None or other is None or newest is None or newest == name:
        return None
    position, end = position_of(situation, facts), position_of(situation, other)
    if position is None or end is None:
        return None
    theirs, own = situation.histories.get(newest), situation.histories.get(name)
    if position.timeline == end.timeline:
        if theirs is not None and own is not None and theirs != own:
            return f"came to timeline {position.timeline} by another way than {newest}"
        return None
    if theirs is None:
        return f"cannot be compared with {newest}, which does not tell how it came to timeline {end.timeline}"
    fork_lsn = theirs.get(position.timeline)
    if fork_lsn is None:
        return f"is on timeline {position.timeline}, which is not in the history of {newest}"
    if (facts.replayed_lsn or position.lsn) > fork_lsn:
        return f"has replayed past {fork_lsn}, where timeline {end.timeline} of {newest} began"
    return None


def _candidate(situation: Situation, name: str) -> Candidate:
    observation = situation.state[name]
    if isinstance(observation, Unreachable):
        return Candidate(node=name, eligible=False, reason=f"does not answer ({observation.cause})")
    position = position_of(situation, observation)
    known = {
        "timeline": position.timeline if position else None,
        "received_lsn": position.lsn if position else None,
    }
    reason = _objection(situation, observation, position)
    if reason is not None:
        return Candidate(node=name, eligible=False, reason=reason, **known)  # type: ignore[arg-type]
    said = "is cut and complete" if is_cut(observation) else "may be promoted once it is cut"
    said += "; its replay is held up" if is_held(observation) else ""
    return Candidate(node=name, eligible=True, reason=said, **known)  # type: ignore[arg-type]


def _objection(situation: Situation, facts: NodeFacts, position: Position | None) -> str | None:
    """The first reason not to promote this node; None when there is none."""
    spec = situation.spec(facts.node)
    if not facts.in_recovery:
        return "is not a replica"
    if spec.promote == "never":
        return 'has promote = "never"'
    if is_fenced(facts):
        return "is fenced: promoted, it would take no writes"
    if not facts.upstream_known:
        return "does not show its upstream (the role lacks pg_monitor)"
    if position is None:
        return "does not tell its position"
    if position.incomplete is not None:
        return f"does not tell its position: {position.incomplete}"
    if (astray := strays(situation, facts.node)) is not None:
        return astray
    if facts.apply_delay_s and facts.node not in situation.request.allow_replay:
        return f"is delayed by {facts.apply_delay_s:g} s (recovery_min_apply_delay)"
    if not _is_direct(situation, facts):
        return "streams from another replica"
    if facts.node in situation.stubborn and not is_cut(facts):
        return "does not let go of its upstream"
    return None


def _is_direct(situation: Situation, facts: NodeFacts) -> bool:
    """Whether it follows the lost primary itself (or is cut already): only those confirm commits."""
    return not facts.conninfo or is_orphan(situation, facts)


def is_orphan(situation: Situation, facts: NodeFacts) -> bool:
    """Whether a replica is set to stream from the lost primary, or from nobody in the inventory.

    So is a synchronous member or preferred node that streams from a cut one: its catching up, or the run
    that began it, may have been interrupted.
    """
    upstream = upstream_of(facts, situation.state, situation.settings)
    others = {n.name for n in situation.settings.nodes} - {situation.request.lost}
    if upstream is None or upstream not in others:
        return True
    above = situation.facts(upstream)
    wanted = facts.node in situation.members or situation.spec(facts.node).promote == "prefer"
    return wanted and above is not None and above.in_recovery and is_cut(above)
