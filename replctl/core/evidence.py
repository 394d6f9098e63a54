"""What has to be so before anything is cut: a majority of votes, and silence or death of the lost primary."""

from __future__ import annotations

from replctl.core.candidates import is_orphan
from replctl.core.detector import Word
from replctl.core.model import NodeFacts
from replctl.core.refusals import Reason, RefusalCode
from replctl.core.situation import Situation, Vote, is_held
from replctl.core.steps import FenceCommand, ProveSilence, Step, TakeVotes
from replctl.core.topology import upstream_of


def require_votes(situation: Situation) -> Step | Reason | None:
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


def require_silence(situation: Situation) -> Step | Reason | None:
    """Silence has to be proven; an asynchronous primary fenced, or its death evidenced."""
    lost = situation.request.lost
    connected = connected_to_lost(situation)
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
    return None if situation.rule is not None else require_death(situation, "replication is asynchronous")


def connected_to_lost(situation: Situation) -> list[NodeFacts]:
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


def require_death(situation: Situation, why: str) -> Step | Reason | None:
    """Without a proven quorum the lost primary could go on confirming: it has to be off, or dead for sure."""
    if situation.is_off or situation.settings.failover.fencing == "none":
        return None
    # A replica that may not show its receiver is no evidence that it has none.
    connected = connected_to_lost(situation) or [
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
