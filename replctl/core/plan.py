"""From a situation to a plan: which steps, in which order, or why not.

`next_step` looks at one situation and names the one thing to do now. A plan is what comes of doing so
again and again on the projected situations; so planning again after any step of an undisturbed run gives
exactly the steps that remained, and a converged cluster the empty plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from replctl.core.candidates import (
    Candidate,
    Ranking,
    is_orphan,
    is_proof,
    newest_line,
    position_of,
    rank,
    strays,
)
from replctl.core.detector import Word
from replctl.core.model import Lsn, NodeFacts
from replctl.core.objections import doubt, may_lose, no_failover, no_step_at_all
from replctl.core.quorum import same_rule
from replctl.core.refusals import Reason, RefusalCode
from replctl.core.rivals import rival, rival_of
from replctl.core.situation import Situation, Vote, is_cut, is_held
from replctl.core.steps import (
    Checkpoint,
    CreateSlot,
    Cut,
    FastForward,
    FenceCommand,
    Promote,
    ProveSilence,
    Repoint,
    SetSynchronous,
    Step,
    TakeVotes,
)
from replctl.core.topology import is_fenced, upstream_of

STEPS_MAX = 200
REJOIN = "pg_rewind or pg_basebackup, docs/failover.md"
_GRANTS = "the rights that replctl grants prints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What the failover costs in acknowledged commits."""

    proven_zero: bool
    known_bytes: int | None  # None = not known
    observed_age_s: float | None
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps that lead to a primary with replicas. Empty = there already."""

    steps: tuple[Step, ...]
    target: str | None
    ranking: Ranking
    loss: Loss
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Nothing is done."""

    reasons: tuple[Reason, ...]
    ranking: Ranking


def plan_failover(situation: Situation) -> Plan | Refusal:
    """Every step from here to the end, or the reasons for which there is no way."""
    ranking, target, loss = rank(situation), None, None
    steps: list[Step] = []
    now = situation
    for _ in range(STEPS_MAX):
        following = next_step(now)
        if isinstance(following, Reason):
            return Refusal(reasons=(following,), ranking=ranking)
        if following is None:
            break
        if isinstance(following, Promote):
            target, loss = following.node, loss_of(now, following.node)
            if (uncertain := doubt(situation)) is not None:  # a cut replica no longer shows all of it
                loss = replace(loss, proven_zero=False, known_bytes=None, basis=uncertain.message)
        steps.append(following)
        now = following.project(now)
    if target is None and now.promoted is not None:
        target = now.promoted.node
    return Plan(
        steps=tuple(steps),
        target=target,
        ranking=ranking,
        loss=loss or Loss(proven_zero=True, known_bytes=0, observed_age_s=None, basis="nothing is promoted"),
        warnings=_warnings(now),
    )


def next_step(situation: Situation) -> Step | Reason | None:
    """The one thing to do now; a reason where that is nothing; None when all is done."""
    if (reason := no_step_at_all(situation)) is not None:
        return reason
    if situation.promoted is not None:
        return _after_promotion(situation, situation.promoted)
    return (
        no_failover(situation)
        or _votes(situation)
        or _evidence(situation)
        or _cuts(situation)
        or rival(situation)
        or _promotion(situation)
    )


def _votes(situation: Situation) -> Step | Reason | None:
    """A majority, or why there is none."""
    if len(situation.votes_held) >= situation.majority:
        return None
    answering = {f.node for f in situation.state.facts}
    answering |= {w.node for w in situation.state.witnesses if isinstance(w, NodeFacts)}
    taken = [v for v in situation.voters if situation.votes.get(v) is Vote.TAKEN]
    away = [v for v in situation.voters if situation.votes.get(v) is Vote.UNREACHABLE]
    free = [v for v in situation.voters if v in answering and v not in (*taken, *away)]
    if len(free) >= situation.majority:
        return TakeVotes()
    if taken:
        return Reason(
            code=RefusalCode.VOTES_TAKEN,
            message=f"another controller holds the votes of {', '.join(taken)}",
            remedy="replctl votes shows who; replctl votes --break NODE ends a dead one's",
        )
    return _no_majority(situation, free, answering)


def _no_majority(situation: Situation, free: list[str], answering: set[str]) -> Reason:
    """Who is missing, and what can be done about just that."""
    request, voters = situation.request, situation.voters
    message = f"{len(free)} of {len(voters)} voters give their vote, {situation.majority} are needed"
    missing = [v for v in voters if v not in free]
    # Through a pooler no lock is ours; just after a restart a voter may have forgotten one that counts.
    mute = [v for v in missing if v in answering]
    gone = [v for v in missing if v not in mute]
    lost = request.lost if request.lost in gone else None
    without = next((v for v in gone if v != lost), None)
    remedies: list[str] = []
    if mute:
        message += f"; of {', '.join(mute)} it cannot be had: restarted just now, or behind a pooler"
        remedies += ["try again in a few seconds", "replctl doctor"]
    if gone:
        remedies.append(f"bring back {', '.join(gone)}")
    if lost is not None:
        remedies.append(f"if {lost} is off: replctl failover --fenced {lost}")
    if without is not None:
        remedies.append(f"or do without its vote: replctl failover --without-votes {without}")
    if len(voters) == 2:
        remedies.append("for the next time, add a witness")
    return Reason(
        code=RefusalCode.NO_MAJORITY,
        message=message,
        remedy="; ".join(remedies) or "leave out --without-votes",
    )


def _evidence(situation: Situation) -> Step | Reason | None:
    """Silence has to be proven; an asynchronous primary fenced, or its death evidenced."""
    lost = situation.request.lost
    connected = _connected(situation)
    if connected and not situation.silence_proven:
        # While replay is held up, a receiver stays whatever happens: such a replica proves nothing.
        willing = [f for f in connected if not is_held(f)]
        if willing:  # also where it is said to be off: another machine may have been switched off
            return ProveSilence(willing[0].node)
        if not situation.is_off:
            return _fence(situation) or _unproven(situation, connected)
    if situation.settings.failover.fencing == "required" and not situation.is_off:
        return _fence(situation) or Reason(
            code=RefusalCode.FENCE_REQUIRED,
            message=f'fencing = "required", and {lost or "the lost primary"} has no fence command',
            remedy=_switch_off(situation, "give it a fence command in [nodes.commands]"),
        )
    return None if situation.rule is not None else _dead(situation, "replication is asynchronous")


def _connected(situation: Situation) -> list[NodeFacts]:
    """Replicas that may be connected to the lost primary; not those that follow a node which answers."""
    answering = {f.node for f in situation.state.facts}
    return [
        f
        for f in situation.replicas
        if f.receiver is not None
        and is_orphan(situation, f)
        and upstream_of(f, situation.state, situation.settings) not in answering
    ]


def _fence(situation: Situation) -> FenceCommand | None:
    lost = situation.request.lost
    return FenceCommand(lost) if lost is not None and lost in situation.fence_commands else None


def _dead(situation: Situation, why: str) -> Step | Reason | None:
    """Without a proven quorum the lost primary could go on confirming: it has to be off, or dead for sure."""
    if situation.is_off or situation.settings.failover.fencing == "none":
        return None
    # A replica that may not show its receiver is no evidence that it has none.
    connected = _connected(situation) or [
        f for f in situation.replicas if not f.is_complete and is_orphan(situation, f)
    ]
    if situation.word is Word.REFUSED and not connected:
        return None
    seen = _SEEN.get(situation.word, "is silent")
    if connected and situation.word is Word.REFUSED:
        seen += f", while {connected[0].node} {'is' if connected[0].receiver else 'may be'} connected to it"
    return _fence(situation) or Reason(
        code=RefusalCode.FENCE_REQUIRED,
        message=f"{situation.request.lost or 'the primary'} {seen}: that proves no death, and {why}",
        remedy=_switch_off(
            situation, "give it a fence command, or replicate synchronously, for the next time"
        ),
    )


_SEEN = {
    Word.REFUSED: "refuses connections",
    Word.STARTING_UP: "is starting up",
    Word.STOPPING: "is shutting down",
}


def _switch_off(situation: Situation, otherwise: str) -> str:
    lost = situation.request.lost
    names = [lost] if lost is not None else sorted(situation.silent) or ["NODE"]
    options = " ".join(f"--fenced {name}" for name in names)
    return f"switch it off and run replctl failover {options}, or {otherwise}"


def _unproven(situation: Situation, connected: list[NodeFacts]) -> Reason:
    lost = situation.request.lost
    names = ", ".join(f.node for f in connected)
    return Reason(
        code=RefusalCode.SILENCE_UNPROVEN,
        message=f"{lost or 'the primary'} is silent, still connected to {names}, and as long as their replay"
        " is held up none of them can be made to reconnect",
        remedy=f"SELECT pg_wal_replay_resume() on {connected[0].node} if it is paused;"
        f" or {_switch_off(situation, 'wait until they have given it up')}",
    )


def _cuts(situation: Situation) -> Step | Reason | None:
    """Every orphan that can be cut; with a rule at least n-k+1 of its members."""
    for facts in situation.replicas:
        if is_cut(facts) or not is_orphan(situation, facts) or not facts.upstream_known:
            continue
        means = _means(situation, facts)
        if means is not None and facts.node not in situation.stubborn:
            return Cut(facts.node, means)
    if situation.rule is None or is_proven(situation):
        return None
    if may_lose(situation):  # what may be lost is given up, not that there is one primary
        return _dead(situation, "replicas that are not cut may go on confirming its commits")
    return _twins(situation) or _too_few(situation)


def _too_few(situation: Situation) -> Reason:
    """Each member that does not count, why, and what would make it count."""
    members, ranking = situation.members, rank(situation)
    proof = [m for m in members if is_proof(situation, m)]
    reasons = {c.node: c.reason for c in ranking.candidates}
    lacking, remedies = [], []
    for member in (m for m in members if m not in proof):
        facts = situation.facts(member)
        held = facts is not None and not is_cut(facts) and is_held(facts) and _means(situation, facts) is None
        lacking.append(
            f"{member} {'keeps its receiver while replay is held up' if held else reasons[member]}"
        )
        position = position_of(situation, facts) if facts is not None else None
        if facts is None:
            remedies.append(f"bring {member} back")
        elif held or (position is not None and position.incomplete is not None):
            remedies.append(f"replctl failover --allow-replay {member}")
        elif member in situation.stubborn:
            remedies.append("replctl doctor")
        elif facts.in_recovery and (not facts.upstream_known or position is None):
            remedies.append(_GRANTS)
    lacking += [f"{name} is not in the inventory" for name in situation.outsiders]
    return Reason(
        code=RefusalCode.TOO_FEW_CUT,
        message=f"{len(proof)} of {situation.able} synchronous members can be cut, "
        f"{situation.cuts_needed} prove that nothing is lost; {'; '.join(lacking)}",
        remedy=", or ".join([*dict.fromkeys(remedies), "replctl failover --allow-loss unknown"]),
    )


def is_proven(situation: Situation) -> bool:
    """Whether enough members are cut for every acknowledged commit to be on one of them."""
    cut = [m for m in situation.members if is_proof(situation, m)]
    return situation.rule is not None and len(cut) >= situation.cuts_needed


def _means(situation: Situation, facts: NodeFacts) -> str | None:
    """How this replica can be cut; None where it cannot, or is outside the rule and not named."""
    named = facts.node in situation.request.allow_replay
    may = named or situation.settings.failover.allow_replay_changes
    position = position_of(situation, facts)
    if may and position is not None and position.incomplete is not None:
        return "replay"  # what it has but does not show, only its replay can tell
    if not is_held(facts):
        return "plain"
    if situation.rule is not None and facts.node not in situation.members and not named:
        return None  # it confirms nothing
    if facts.receiver is None and facts.receiver_processes == 0:
        return "plain"  # nothing has to let go
    if facts.node not in situation.members and not named:
        return None
    if "wal_receiver_timeout_cut" in facts.capabilities:
        return "timeout"
    return "replay" if may else None


def _promotion(situation: Situation) -> Step | Reason:
    """The best eligible node, or the wished one after it has caught up."""
    ranking = rank(situation)
    cut = {f.node for f in situation.replicas if is_cut(f)}
    if (twins := _twins(situation)) is not None:
        return twins
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
        "does not show": _GRANTS,
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


def _twins(situation: Situation) -> Reason | None:
    """Two histories of one timeline: which one the commits are on, nobody can tell."""
    newest = newest_line(situation)
    end = situation.facts(newest) if newest is not None else None
    for facts in situation.replicas:
        reason = strays(situation, facts.node) if is_cut(facts) else None
        if reason is not None and end is not None and facts.timeline == end.timeline:
            return Reason(
                code=RefusalCode.TWO_HISTORIES,
                message=f"{facts.node} {reason}",
                remedy="decide which one is right, and take the other out of the inventory",
            )
    return None


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
    if not newer and (may_lose(situation) or (situation.lost_timeline or 0) <= ours):
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


def _after_promotion(situation: Situation, primary: NodeFacts) -> Step | Reason | None:
    """Slots and upstreams of the others, then the control file. Upstreams are changed under the votes only:
    another controller may be cutting the same replicas.
    """
    spec = situation.settings
    followers = [f for f in situation.replicas if _should_follow(situation, f, primary)]
    astray = [f for f in followers if not Repoint(f.node, primary.node).done(situation)]
    for facts in astray:
        if (reason := rival_of(situation, primary, facts)) is not None:
            return reason
    if astray and (votes := _votes(situation)) is not None:
        return votes
    for facts in astray:
        slot = spec.slot_name(facts.node)
        if slot is not None and not CreateSlot(primary.node, slot).done(situation):
            return CreateSlot(primary.node, slot)
    for facts in astray:
        return Repoint(facts.node, primary.node)
    checkpoint = Checkpoint(primary.node)
    return None if checkpoint.done(situation) else checkpoint


def _should_follow(situation: Situation, facts: NodeFacts, primary: NodeFacts) -> bool:
    """Replicas that lost their upstream. A cascade stays below its own; one that is ahead needs a rewind."""
    upstream = upstream_of(facts, situation.state, situation.settings)
    names = {n.name for n in situation.settings.nodes}
    if upstream in names - {situation.request.lost, primary.node}:
        return False
    return not _is_past_fork(situation, facts, primary)


def _is_past_fork(situation: Situation, facts: NodeFacts, primary: NodeFacts) -> bool:
    """Whether it has replayed WAL of its timeline from after the point where the new one began.

    Received is not replayed: the beginning of a record that the lost primary never finished lies behind
    the fork on every replica, and hinders none.
    """
    if facts.timeline is None or facts.timeline == primary.timeline or facts.replayed_lsn is None:
        return False
    fork_lsn = situation.forks.get(facts.timeline)
    return fork_lsn is not None and facts.replayed_lsn > fork_lsn


def _warnings(end: Situation) -> tuple[str, ...]:
    """What is left to do by hand when the plan is through."""
    found: list[str] = []
    primary = end.promoted
    if primary is None:
        return ()
    for facts in end.state.facts:
        if not facts.in_recovery and facts.node != primary.node and not is_fenced(facts):
            found.append(f"{facts.node} accepts writes on an older timeline: replctl fence {facts.node}")
    lost = end.request.lost
    if lost is not None:
        back = "" if end.facts(lost) is not None else " when it is back"
        found.append(f"{lost} has to be made a replica again{back}: {REJOIN}")
    for facts in end.replicas:
        if is_held(facts):
            found.append(f"{facts.node} follows {primary.node} only when its replay goes on")
        if _is_past_fork(end, facts, primary):
            found.append(f"{facts.node} is ahead of {primary.node} and has to be rewound: {REJOIN}")
    return tuple(found)
