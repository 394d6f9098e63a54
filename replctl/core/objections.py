"""What forbids a failover whatever the votes: who manages the cluster, who lives, what was synchronous."""

from __future__ import annotations

from collections import Counter

from replctl.core.candidates import is_orphan
from replctl.core.detector import Word
from replctl.core.model import NodeFacts, Unreachable
from replctl.core.quorum import same_rule
from replctl.core.refusals import Reason, RefusalCode
from replctl.core.situation import Situation, is_cut
from replctl.core.topology import is_fenced


def may_lose(situation: Situation) -> bool:
    """Whether a person has given up the proof that nothing is lost."""
    return situation.request.allow_unknown_loss and not situation.request.automatic


def no_step_at_all(situation: Situation) -> Reason | None:
    """What forbids every step, also the last ones of a failover that was begun."""
    settings = situation.settings
    if settings.manager != "replctl":
        return Reason(
            code=RefusalCode.FOREIGN_MANAGER,
            message=f"{settings.manager} manages this cluster",
            remedy=f"{settings.manager}ctl failover {settings.name}",
        )
    writable = [f for f in situation.state.facts if not f.in_recovery]
    newest = max((f.timeline or 0 for f in writable), default=0)
    rivals = [f.node for f in writable if (f.timeline or 0) == newest]
    if len(rivals) > 1:
        return Reason(
            code=RefusalCode.SPLIT_BRAIN,
            message=f"{_and(rivals)} accept writes on the same timeline {newest}",
            remedy="decide which one is right; replctl fence NODE stops the writes on the other, "
            "which then has to be rebuilt",
        )
    if settings.replication is None:
        return Reason(
            code=RefusalCode.NO_REPLICATION_SETTINGS,
            message="the inventory has no [replication]: no primary_conninfo could be written",
            remedy='add [replication] with user = "…"',
        )
    return None


def no_failover(situation: Situation) -> Reason | None:
    """What forbids a promotion."""
    request, lost = situation.request, situation.request.lost
    found = situation.state[lost] if lost is not None else None
    if isinstance(found, NodeFacts) or situation.word is Word.ANSWERED:
        return _alive(situation, found)
    if (answering := _answering(situation, request.fenced)) is not None:
        return Reason(
            code=RefusalCode.PRIMARY_ALIVE,
            message=f"{answering} is not off: it answers",
            remedy=f"leave out --fenced {answering}",
        )
    if request.finish or (lost is None and request.automatic):
        return Reason(
            code=RefusalCode.PRIMARY_UNKNOWN,
            message="the primary does not answer now, and nothing was decided about that yet",
            remedy="replctl failover",
        )
    if situation.word is Word.UNCLEAR and lost is not None and lost not in request.fenced:
        cause = f" ({found.cause})" if isinstance(found, Unreachable) else ""
        return Reason(
            code=RefusalCode.PRIMARY_UNKNOWN,
            message=f"it cannot be told whether {lost} lives{cause}",
            remedy=f"mend the connection to it; if it is off: replctl failover --fenced {lost}",
        )
    if lost is None and not any(is_cut(f) or is_orphan(situation, f) for f in situation.replicas):
        names = _and([f.node for f in situation.replicas])
        if len(situation.state.facts) == len(situation.settings.nodes):
            return Reason(
                code=RefusalCode.NO_CANDIDATE,
                message=f"no node is lost: {names} answer, and each follows another of them",
                remedy="replctl status --tree shows who follows whom",
            )
    if request.to is not None and request.to == lost:
        return Reason(
            code=RefusalCode.NO_CANDIDATE,
            message=f"{request.to} is the lost primary",
            remedy="choose another with --to",
        )
    return None if may_lose(situation) else doubt(situation)


def _answering(situation: Situation, fenced: frozenset[str]) -> str | None:
    """A node that is said to be off and is not: left out of the voters, it would still vote for others."""
    seen = (*situation.state.facts, *(w for w in situation.state.witnesses if isinstance(w, NodeFacts)))
    return next((f.node for f in seen if f.node in fenced), None)


def _alive(situation: Situation, found: NodeFacts | Unreachable | None) -> Reason:
    """The primary lives: what stands in the way is something else, or nothing."""
    lost = situation.request.lost or "the primary"
    message, remedy = f"{lost} answers", "nothing to do; to move a healthy primary, stop its server first"
    stale = [f.node for f in situation.writable if not is_fenced(f)]
    if isinstance(found, Unreachable):
        message = f"{lost} lives: it answers, if only to say no ({found.cause})"
        remedy = "mend what keeps us out; to move a healthy primary, stop its server first"
    elif isinstance(found, NodeFacts) and is_fenced(found):
        message = f"{lost} is fenced, and answers"
        remedy = f"replctl unfence {lost}, or switch it off and run this again"
    elif stale:
        message = f"{lost} is the primary and answers; {_and(stale)} accepts writes on an older timeline"
        remedy = f"replctl fence {stale[0]}"
    return Reason(code=RefusalCode.PRIMARY_ALIVE, message=message, remedy=remedy)


def doubt(situation: Situation) -> Reason | None:
    """Why nothing can be proven from the synchronous rule of the inventory; None where it can."""
    wanted, seen = situation.settings.failover.synchronous, situation.sync_seen
    if wanted is None and situation.request.automatic:
        return Reason(
            code=RefusalCode.SYNC_MISMATCH,
            message="the inventory does not say what synchronous_standby_names must be",
            remedy='[failover] synchronous = "ANY 1 (…)", or "" for asynchronous replication',
        )
    if wanted is not None and same_rule(wanted, seen) is False:
        return Reason(
            code=RefusalCode.SYNC_MISMATCH,
            message=f"the lost primary had {seen!r}, the inventory expects {wanted!r}",
            remedy="make the inventory right if the server was, or replctl failover --allow-loss unknown",
        )
    if situation.sync_lowered is not None:
        return Reason(
            code=RefusalCode.SYNC_MISMATCH,
            message=f"fewer replicas had to confirm than {wanted!r} says ({situation.sync_lowered})",
            remedy="replctl failover --allow-loss unknown",
        )
    if "*" in situation.outsiders:
        return Reason(
            code=RefusalCode.SYNC_WILDCARD,
            message="'*' in the synchronous rule lets anybody confirm a commit: zero loss cannot be proven",
            remedy="list the replicas by name, or replctl failover --allow-loss unknown",
        )
    return _sync_names(situation)


def _sync_names(situation: Situation) -> Reason | None:
    """Whether each name of the rule is one node's. Of a cut replica the name it used is no longer known."""
    members = {m.lower() for m in situation.rule.members} if situation.rule else set()
    names = Counter(n.application_name.lower() for n in situation.settings.nodes)
    shared = sorted(name for name in members if names[name] > 1)
    if shared:
        message = f"{names[shared[0]]} nodes have the application_name {shared[0]!r}, which the rule means"
        return _ambiguous(message)
    for facts in situation.replicas:
        own = (facts.own_application_name or "").lower()
        named = situation.spec(facts.node).application_name.lower()
        if facts.conninfo and own in members and own != named:
            return _ambiguous(
                f"{facts.node} confirms commits as {own!r}, by which the rule means another node"
            )
    return None


def _ambiguous(message: str) -> Reason:
    return Reason(
        code=RefusalCode.SYNC_NAMES,
        message=f"{message}: zero loss cannot be proven",
        remedy="give each node an application_name of its own, or replctl failover --allow-loss unknown",
    )


def _and(names: list[str]) -> str:
    """pg1, pg2 and pg3"""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
