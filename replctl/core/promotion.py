"""Which cut replica is promoted, whether it has to catch up first, and what that loses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from replctl.core.candidates import Candidate, Ranking, is_proof, position_of, rank, strays
from replctl.core.cuts import is_proven, twins
from replctl.core.model import Lsn, NodeFacts
from replctl.core.objections import may_lose
from replctl.core.quorum import same_rule
from replctl.core.refusals import GRANTS, Reason, RefusalCode
from replctl.core.situation import Situation, is_cut, is_held
from replctl.core.steps import FastForward, Promote, SetSynchronous, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What the failover costs in acknowledged commits."""

    proven_zero: bool
    known_bytes: int | None  # None = not known
    observed_age_s: float | None
    basis: str


def next_promotion(situation: Situation) -> Step | Reason:
    """The best eligible node, or the wished one after it has caught up."""
    ranking = rank(situation)
    cut = {f.node for f in situation.replicas if is_cut(f)}
    if (reason := twins(situation)) is not None:
        return reason
    known = [c for c in ranking.candidates if c.node in cut and strays(situation, c.node) is None]
    best = max(known, key=_end, default=None)
    eligible = [c for c in ranking.eligible if c.node in cut and not _is_stuck_behind(situation, c, best)]
    wish = situation.request.to
    if wish is not None:
        chosen = next((c for c in eligible if c.node == wish), None)
    else:
        chosen = min(eligible, key=lambda c: _preference(situation, ranking, c.node), default=None)
    if chosen is None or best is None:
        asked = [c for c in ranking.candidates if wish in (None, c.node)]
        stuck = "is behind, and cannot catch up while its replay is held up"
        asked = [replace(c, reason=stuck) if _is_stuck_behind(situation, c, best) else c for c in asked]
        return _no_candidate(situation, asked)
    if best.timeline is not None and best.received_lsn is not None and _end(best) > _end(chosen):
        return FastForward(chosen.node, best.node, best.timeline, best.received_lsn)
    return (
        _may_be_ahead(situation, chosen, ranking, cut)
        or _loss_objection(situation, chosen.node)
        or _rule_of_its_own(situation, chosen.node)
        or Promote(chosen.node)
    )


def _rule_of_its_own(situation: Situation, node: str) -> Step | None:
    """What has to be set where the next primary would not wait for replicas as the inventory says."""
    wanted, facts = situation.settings.failover.synchronous, situation.facts(node)
    if wanted is None or facts is None or same_rule(facts.synchronous_standby_names, wanted) is not False:
        return None
    return SetSynchronous(node, wanted)


def _is_stuck_behind(situation: Situation, candidate: Candidate, best: Candidate | None) -> bool:
    """Whether it would have to catch up, and cannot: a replica whose replay is held up asks for no WAL."""
    facts = situation.facts(candidate.node)
    if facts is None or best is None or not candidate.eligible:
        return False
    return is_held(facts) and _end(best) > _end(candidate)


def _end(candidate: Candidate) -> tuple[int, int]:
    return (candidate.timeline or 0, candidate.received_lsn or 0)


def _no_candidate(situation: Situation, asked: list[Candidate]) -> Reason:
    """Why each of them may not be promoted, and what would change that for the first where anything would."""
    remedies = {
        "is fenced": "replctl unfence {0}",
        "is delayed": "replctl failover --allow-replay {0}",
        "has promote": 'another value of promote for {0} in the inventory, such as "avoid"',
        "does not show": GRANTS,
        "does not let": "replctl doctor shows why {0} ignores its settings",
        "is behind": "replctl failover --allow-replay {0}, or SELECT pg_wal_replay_resume() on it",
        "does not answer": "bring {0} back",
    }
    found = (r.format(c.node) for c in asked for k, r in remedies.items() if c.reason.startswith(k))
    wish = situation.request.to
    return Reason(
        code=RefusalCode.NO_CANDIDATE,
        message="; ".join(f"{c.node} {c.reason}" for c in asked) or "there is no other node",
        remedy=next(found, "replctl doctor") if wish is None else "leave out --to, or choose another",
    )


def _may_be_ahead(situation: Situation, chosen: Candidate, ranking: Ranking, cut: set[str]) -> Reason | None:
    """Without a proven quorum: whoever is not cut, and may have WAL that the chosen one lacks.

    With one: whoever follows a history that is newer than the chosen one's, and is out of our reach.
    """
    if (reason := _newer_line(situation, chosen, cut)) is not None:
        return reason
    if is_proven(situation) or may_lose(situation):
        return None
    off = situation.request.fenced
    for other in ranking.candidates:
        last_lsn = situation.last_known_lsns.get(other.node)
        behind = last_lsn is None or last_lsn <= (chosen.received_lsn or 0)
        facts = situation.facts(other.node)
        if facts is None and (behind or other.node in off):
            continue
        vague = facts is not None and (p := position_of(situation, facts)) is not None and p.incomplete
        if facts is not None and not vague and (other.node in cut or _end(other) <= _end(chosen)):
            continue
        if facts is not None and (not facts.in_recovery or strays(situation, other.node) is not None):
            continue
        return Reason(
            code=RefusalCode.MAY_BE_AHEAD,
            message=f"{other.node} may have more WAL than {chosen.node}, and is not cut: {_uncut(facts)}",
            remedy=f"{_remedy_ahead(other.node, facts)}, or replctl failover --allow-loss unknown",
        )
    return None


def _newer_line(situation: Situation, chosen: Candidate, cut: set[str]) -> Reason | None:
    """Somebody was promoted after the chosen one's timeline began: it would begin a second one like it."""
    ours, lost = chosen.timeline or 0, situation.request.lost
    newer = [f.node for f in situation.replicas if (f.timeline or 0) > ours and f.node not in cut]
    # While another primary is still there, the lost one was promoted after it, and is on a newer timeline.
    replaced = [(f.timeline or 0) + 1 for f in situation.writable]
    if not newer and (may_lose(situation) or max(situation.lost_timeline or 0, *replaced, 0) <= ours):
        return None
    where = f"{newer[0]} is" if newer else f"{lost} was the primary"
    return Reason(
        code=RefusalCode.TWO_HISTORIES,
        message=f"{where} on a newer timeline than {chosen.node}, which is still on {ours} and would begin"
        " another history of the same number",
        remedy=f"bring {lost or 'the newest primary'} back"
        + ("" if newer else ", or replctl failover --allow-loss unknown"),
    )


def _uncut(facts: NodeFacts | None) -> str:
    if facts is None:
        return "it does not answer now, and was ahead when it was last seen"
    return "its replay is held up" if is_held(facts) else "it does not let go, or does not tell its position"


def _remedy_ahead(node: str, facts: NodeFacts | None) -> str:
    if facts is None:
        return f"bring it back; if it is off: replctl failover --fenced {node}"
    return f"replctl failover --allow-replay {node}" if is_held(facts) else "replctl doctor"


def _preference(situation: Situation, ranking: Ranking, name: str) -> int:
    """A preferred node goes first even when it has to catch up; otherwise the order of the ranking."""
    order = [c.node for c in ranking.eligible]
    preferred = situation.spec(name).promote == "prefer"
    return order.index(name) - (len(order) if preferred else 0)


def loss_of(situation: Situation, target: str) -> Loss:
    """What promoting `target` loses, and how that is known."""
    if is_proven(situation):
        cut = len([m for m in situation.members if is_proof(situation, m)])
        basis = f"cut: {cut} of {situation.able} members, needed: {situation.cuts_needed}"
        return Loss(proven_zero=True, known_bytes=0, observed_age_s=None, basis=basis)
    position = situation.positions.get(target)
    known = situation.known_lsn
    if known is None or position is None:
        return Loss(
            proven_zero=False, known_bytes=None, observed_age_s=None, basis="nobody knows how far it was"
        )
    return Loss(
        proven_zero=False,
        known_bytes=max(0, int(known.lsn) - int(position.lsn)),
        observed_age_s=known.age_s,
        basis=f"{known.source}: {Lsn(known.lsn)}",
    )


def _loss_objection(situation: Situation, target: str) -> Reason | None:
    """Whether the loss is more than what may be given up."""
    loss = loss_of(situation, target)
    if loss.proven_zero or may_lose(situation):
        return None
    limit = situation.request.allow_loss_bytes
    limit = situation.settings.failover.max_loss_bytes if limit is None else limit
    if loss.known_bytes is None:
        return Reason(
            code=RefusalCode.LOSS_UNKNOWN,
            message="it is not known how far the lost primary was",
            remedy="replctl failover --allow-loss unknown",
        )
    if loss.known_bytes > limit:
        return Reason(
            code=RefusalCode.LOSS_TOO_LARGE,
            message=f"at least {loss.known_bytes} bytes would be lost, {limit} are allowed",
            remedy=f"bring a replica back that has them, or replctl failover --allow-loss {loss.known_bytes}",
        )
    return None
