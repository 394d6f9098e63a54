"""From a situation to a plan: which steps, in which order, or why not.

`next_step` looks at one situation and names the one thing to do now. A plan is what comes of doing so
again and again on the projected situations; so planning again after any step of an undisturbed run gives
exactly the steps that remained, and a converged cluster the empty plan.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from replctl.core.quorum import same_rule
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
    Step,
    TakeVotes,
)
from replctl.core.topology import upstream_of

STEPS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why nothing is done, and what would change that."""

    code: str
    message: str
    remedy: str


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
    if (reason := _foreign(situation)) is not None:
        return reason
    if situation.promoted is not None:
        return _after_promotion(situation, situation.promoted)
    return (
        _objection(situation)
        or _votes(situation)
        or _evidence(situation)
        or _cuts(situation)
        or _promotion(situation)
    )


def _foreign(situation: Situation) -> Reason | None:
    """What forbids every step, also the last ones of a failover that was begun."""
    settings = situation.settings
    if settings.manager != "replctl":
        return Reason(
            code="FOREIGN_MANAGER",
            message=f"{settings.manager} manages this cluster",
            remedy=f"{settings.manager}ctl failover {settings.name}",
        )
    rivals = [f for f in situation.writable if f.timeline == situation.writable[0].timeline]
    if len(rivals) > 1:
        names = " and ".join(f.node for f in rivals)
        return Reason(
            code="SPLIT_BRAIN",
            message=f"{names} accept writes on the same timeline {rivals[0].timeline}",
            remedy="decide which one is right, and fence the other: replctl fence NODE",
        )
    if settings.replication is None:
        return Reason(
            code="NO_REPLICATION_SETTINGS",
            message="the inventory has no [replication]: no primary_conninfo could be written",
            remedy='add [replication] with user = "…"',
        )
    return None


def _objection(situation: Situation) -> Reason | None:
    """What forbids a failover whatever the votes."""
    request = situation.request
    lost = situation.facts(request.lost) if request.lost is not None else None
    if situation.word is Word.ANSWERED or lost is not None:
        return Reason(
            code="PRIMARY_ALIVE",
            message=f"{request.lost or 'the primary'} answers",
            remedy="replctl switchover moves a healthy primary",
        )
    if situation.word is Word.UNCLEAR and request.lost is not None and request.lost not in request.fenced:
        return Reason(
            code="PRIMARY_UNKNOWN",
            message=f"the probe cannot tell whether {request.lost} lives",
            remedy=f"mend the connection to it, or switch it off and say --fenced {request.lost}",
        )
    if request.to is not None and request.to == request.lost:
        return Reason(
            code="NO_CANDIDATE",
            message=f"{request.to} is the lost primary",
            remedy="choose another with --to",
        )
    return _sync_objection(situation)


def _sync_objection(situation: Situation) -> Reason | None:
    """Whether the synchronous rule is one from which anything can be proven."""
    wanted, seen = situation.settings.failover.synchronous, situation.sync_seen
    if _may_lose(situation):
        return None
    if wanted is None and situation.request.automatic:
        return Reason(
            code="SYNC_MISMATCH",
            message="the inventory does not say what synchronous_standby_names must be",
            remedy='[failover] synchronous = "ANY 1 (…)", or "" for asynchronous replication',
        )
    if wanted is not None and same_rule(wanted, seen) is False:
        return Reason(
            code="SYNC_MISMATCH",
            message=f"the lost primary had {seen!r}, the inventory expects {wanted!r}",
            remedy="make the inventory right if the server was, or --allow-loss unknown",
        )
    if "*" in situation.outsiders:
        return Reason(
            code="SYNC_WILDCARD",
            message="synchronous = '*' lets anybody confirm a commit: zero loss cannot be proven",
            remedy="list the replicas by name, or --allow-loss unknown",
        )
    return None


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
            code="VOTES_TAKEN",
            message=f"another controller holds the votes of {', '.join(taken)}",
            remedy="replctl votes shows who; replctl votes --break NODE ends a dead one's",
        )
    return Reason(
        code="NO_MAJORITY",
        message=f"{len(free)} of {len(situation.voters)} voters answer, {situation.majority} are needed",
        remedy="reach more nodes, add a witness, or name a node that is off with --fenced NODE",
    )


def _evidence(situation: Situation) -> Step | Reason | None:
    """Silence has to be proven; an asynchronous primary fenced, or its death evidenced."""
    request, failover = situation.request, situation.settings.failover
    lost = request.lost
    if lost is not None and lost in request.fenced:
        return None
    fence = FenceCommand(lost) if lost is not None and lost in situation.fence_commands else None
    connected = [f for f in situation.replicas if f.receiver is not None and is_orphan(situation, f)]
    if connected and not situation.silence_proven:
        # While replay is held up, a receiver stays whatever happens: such a replica proves nothing.
        willing = [f for f in connected if not is_held(f)]
        return ProveSilence(willing[0].node) if willing else fence or _unproven(lost, connected)
    if failover.fencing == "required":
        return fence or Reason(
            code="FENCE_REQUIRED",
            message=f'fencing = "required", and {lost or "the lost primary"} has no fence command',
            remedy="[nodes.commands] fence = […], or switch it off and say --fenced NODE",
        )
    dead = situation.word is Word.REFUSED and not connected
    if situation.rule is not None or failover.fencing == "none" or dead:
        return None
    return fence or Reason(
        code="FENCE_REQUIRED",
        message=f"{lost or 'the primary'} is silent, which proves no death, and replication is asynchronous",
        remedy="switch it off and say --fenced NODE, give it a fence command, or use synchronous replication",
    )


def _unproven(lost: str | None, connected: list[NodeFacts]) -> Reason:
    names = ", ".join(f.node for f in connected)
    return Reason(
        code="SILENCE_UNPROVEN",
        message=f"{names} follows {lost or 'its upstream'}, and its replay is held up: it cannot be asked",
        remedy="resume its replay, or switch the primary off and say --fenced NODE",
    )


def _cuts(situation: Situation) -> Step | Reason | None:
    """Every orphan that can be cut; with a rule at least n-k+1 of its members."""
    members = situation.members
    stuck: list[str] = []
    for facts in situation.replicas:
        if is_cut(facts) or not is_orphan(situation, facts):
            continue
        means = _means(situation, facts)
        if means is not None and facts.node not in situation.stubborn:
            return Cut(facts.node, means)
        if facts.node in members:
            stuck.append(facts.node)
    if situation.rule is None or _may_lose(situation) or is_proven(situation):
        return None
    cut = [m for m in members if is_proof(situation, m)]
    able = len(members) + len(situation.outsiders)
    reason = f"{len(cut)} of {able} synchronous members can be cut, {situation.cuts_needed} are needed"
    if stuck:
        reason += f"; {', '.join(stuck)} does not let go"
    vague = [m for m in members if m not in cut and (f := situation.facts(m)) is not None and is_cut(f)]
    reason += "".join(f"; {c.node} {c.reason}" for c in rank(situation).candidates if c.node in vague)
    return Reason(
        code="TOO_FEW_CUT",
        message=f"{reason}: zero loss cannot be proven",
        remedy="bring the missing replica back, --allow-replay NODE, or --allow-loss unknown",
    )


def is_proven(situation: Situation) -> bool:
    """Whether enough members are cut for every acknowledged commit to be on one of them."""
    cut = [m for m in situation.members if is_proof(situation, m)]
    return situation.rule is not None and len(cut) >= situation.cuts_needed


def _means(situation: Situation, facts: NodeFacts) -> str | None:
    """How this replica can be cut; None where it cannot, or is outside the rule and not named."""
    if not is_held(facts):
        return "plain"
    named = facts.node in situation.request.allow_replay
    if facts.node not in situation.members and not named:
        return None
    if "wal_receiver_timeout_cut" in facts.capabilities:
        return "timeout"
    return "replay" if named or situation.settings.failover.allow_replay_changes else None


def _may_lose(situation: Situation) -> bool:
    return situation.request.allow_unknown_loss and not situation.request.automatic


def _promotion(situation: Situation) -> Step | Reason:
    """The best eligible node, or the wished one after it has caught up."""
    ranking = rank(situation)
    cut = {f.node for f in situation.replicas if is_cut(f)}
    if (twins := _twins(situation, cut)) is not None:
        return twins
    eligible = [c for c in ranking.eligible if c.node in cut]
    wish = situation.request.to
    if wish is not None:
        chosen = next((c for c in eligible if c.node == wish), None)
    else:
        chosen = min(eligible, key=lambda c: _preference(situation, ranking, c.node), default=None)
    if chosen is None:
        asked = [c for c in ranking.candidates if wish in (None, c.node)]
        return Reason(
            code="NO_CANDIDATE",
            message="; ".join(f"{c.node} {c.reason}" for c in asked) or "there is no other node",
            remedy="replctl failover --explain" if wish is None else "leave out --to, or choose another",
        )
    known = [c for c in ranking.candidates if c.node in cut and strays(situation, c.node) is None]
    best = max(known, key=_end)
    if best.timeline is not None and best.received_lsn is not None and _end(best) > _end(chosen):
        return FastForward(chosen.node, best.node, best.timeline, best.received_lsn)
    return (
        _may_be_ahead(situation, chosen, ranking, cut)
        or _loss_objection(situation, chosen.node)
        or Promote(chosen.node)
    )


def _end(candidate: Candidate) -> tuple[int, int]:
    return (candidate.timeline or 0, candidate.received_lsn or 0)


def _twins(situation: Situation, cut: set[str]) -> Reason | None:
    """Two histories of one timeline: which one the commits are on, nobody can tell."""
    newest = newest_line(situation)
    end = situation.facts(newest) if newest is not None else None
    for name in sorted(cut):
        facts, reason = situation.facts(name), strays(situation, name)
        if reason is not None and facts is not None and end is not None and facts.timeline == end.timeline:
            return Reason(
                code="TWO_HISTORIES",
                message=f"{name} {reason}",
                remedy="decide which one is right, and take the other out of the inventory",
            )
    return None


def _may_be_ahead(situation: Situation, chosen: Candidate, ranking: Ranking, cut: set[str]) -> Reason | None:
    """Without a proven quorum: whoever is not cut, and may have WAL that the chosen one lacks."""
    if is_proven(situation) or _may_lose(situation):
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
            code="MAY_BE_AHEAD",
            message=f"{other.node} may have more WAL than {chosen.node}: it {other.reason}",
            remedy=f"bring {other.node} into a state in which it can be cut, --allow-replay {other.node},"
            " or --allow-loss unknown",
        )
    return None


def _preference(situation: Situation, ranking: Ranking, name: str) -> int:
    """A preferred node goes first even when it has to catch up; otherwise the order of the ranking."""
    order = [c.node for c in ranking.eligible]
    preferred = situation.spec(name).promote == "prefer"
    return order.index(name) - (len(order) if preferred else 0)


def loss_of(situation: Situation, target: str) -> Loss:
    """What promoting `target` loses, and how that is known."""
    if is_proven(situation):
        cut = len([m for m in situation.members if is_proof(situation, m)])
        able = len(situation.members) + len(situation.outsiders)
        basis = f"{cut} of {able} members are cut, {situation.cuts_needed} prove it"
        return Loss(proven_zero=True, known_bytes=0, observed_age_s=None, basis=basis)
    position = situation.positions.get(target)
    known = situation.known_lsn
    if known is None or position is None:
        return Loss(
            proven_zero=False, known_bytes=None, observed_age_s=None, basis="nothing is known of its end"
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
    if loss.proven_zero or _may_lose(situation):
        return None
    limit = situation.request.allow_loss_bytes
    limit = situation.settings.failover.max_loss_bytes if limit is None else limit
    if loss.known_bytes is None:
        return Reason(
            code="LOSS_UNKNOWN",
            message="it is not known how far the lost primary was",
            remedy="--allow-loss unknown",
        )
    if loss.known_bytes > limit:
        return Reason(
            code="LOSS_TOO_LARGE",
            message=f"{loss.known_bytes} bytes are known to be lost, {limit} are allowed",
            remedy=f"--allow-loss {loss.known_bytes}",
        )
    return None


def _after_promotion(situation: Situation, primary: NodeFacts) -> Step | Reason | None:
    """Slots and upstreams of the others, then the control file. Upstreams are changed under the votes only:
    another controller may be cutting the same replicas.
    """
    spec = situation.settings
    followers = [f for f in situation.replicas if _should_follow(situation, f, primary)]
    astray = [f for f in followers if not Repoint(f.node, primary.node).done(situation)]
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
    for facts in end.writable:
        if facts.node != primary.node:
            found.append(f"{facts.node} accepts writes on an older timeline: replctl fence {facts.node}")
    if end.request.lost is not None:
        found.append(
            f"{end.request.lost} has to be rejoined when it is back: replctl rejoin {end.request.lost}"
        )
    for facts in end.replicas:
        if upstream_of(facts, end.state, end.settings) == end.request.lost:
            found.append(f"{facts.node} is ahead of {primary.node} and has to be rejoined")
    return tuple(found)
