"""ClusterStatus → Diagnosis: one code of a closed set, with the observed facts that led to it.

A diagnosis is not yet a decision: the failure detector repeats it, and a plan adds its own proofs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from replctl.core.candidates import rank
from replctl.core.coverage import votes_of
from replctl.core.model import Cause, NodeFacts
from replctl.core.situation import Request, Situation, is_cut
from replctl.core.status import ClusterStatus, NodeState, NodeStatus


class Code(StrEnum):
    """What the cluster as a whole is in."""

    HEALTHY = "HEALTHY"
    REPLICA_LAGGING = "REPLICA_LAGGING"
    REPLICA_DETACHED = "REPLICA_DETACHED"
    PRIMARY_DOWN = "PRIMARY_DOWN"
    PRIMARY_UNREACHABLE_BUT_ALIVE = "PRIMARY_UNREACHABLE_BUT_ALIVE"
    PRIMARY_STATE_UNKNOWN = "PRIMARY_STATE_UNKNOWN"
    STALE_PRIMARY = "STALE_PRIMARY"
    SPLIT_BRAIN = "SPLIT_BRAIN"
    NO_PRIMARY = "NO_PRIMARY"
    NO_CANDIDATE = "NO_CANDIDATE"
    SYNC_BLOCKED = "SYNC_BLOCKED"
    SYNC_MISMATCH = "SYNC_MISMATCH"
    CUT_ABANDONED = "CUT_ABANDONED"
    CONTROLLER_ISOLATED = "CONTROLLER_ISOLATED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The code and its evidence, one sentence each."""

    code: Code
    evidence: tuple[str, ...]


def diagnose(status: ClusterStatus) -> Diagnosis:
    """The most serious condition first; each excludes the ones below it."""
    if not any(n.reachable for n in status.nodes):
        return Diagnosis(code=Code.UNKNOWN, evidence=tuple(_not_answering(n) for n in status.nodes))
    return _of_primary(status) or _of_replicas(status)


def _of_primary(status: ClusterStatus) -> Diagnosis | None:
    writable = [n for n in status.nodes if n.state is NodeState.PRIMARY]
    stale = [n for n in status.nodes if n.state is NodeState.STALE_PRIMARY]
    if len(writable) > 1:
        return Diagnosis(
            code=Code.SPLIT_BRAIN,
            evidence=tuple(f"{n.name} accepts writes on timeline {n.timeline}" for n in writable),
        )
    if stale:
        newest = (
            [f"{status.primary} is the primary on timeline {status[status.primary].timeline}"]
            if status.primary
            else [_not_answering(n) for n in status.nodes if not n.reachable]
        )
        older = (f"{n.name} accepts writes on the older timeline {n.timeline}" for n in stale)
        return Diagnosis(code=Code.STALE_PRIMARY, evidence=(*older, *newest))
    if (abandoned := _abandoned(status)) is not None:
        return abandoned
    if not writable:
        return _without_primary(status)
    return None


def _abandoned(status: ClusterStatus) -> Diagnosis | None:
    """Replicas that were cut, while nobody holds the votes of a majority: whoever did it is gone."""
    cut = [f.node for f in status.state.facts if is_cut(f) and _streamed_once(f)]
    voted = status.state.voted
    if not cut or voted is None or len(voted) >= votes_of(status.settings).majority:
        return None
    silent = [_not_answering(n) for n in status.nodes if not n.reachable]
    evidence = (
        *(f"{name} was cut from its upstream" for name in cut),
        "no controller holds the votes of a majority",
        *silent,
    )
    return Diagnosis(code=Code.CUT_ABANDONED, evidence=evidence)


def _streamed_once(facts: NodeFacts) -> bool:
    """Not a replica that is fed from an archive and was never given an upstream: a cut leaves its slot."""
    return not facts.settings.get("restore_command") or facts.primary_slot_name is not None


def _without_primary(status: ClusterStatus) -> Diagnosis:
    """Nobody answers as primary: is it a node that does not answer, and what do its replicas see?"""
    strangers = [n for n in status.nodes if n.cause is Cause.WRONG_CLUSTER]
    silent = [n for n in status.nodes if not n.reachable and n not in strangers]
    followed = {n.upstream for n in status.replicas}
    suspects = [n for n in silent if n.name in followed] or silent
    evidence = [_not_answering(n) for n in suspects]
    if not suspects:
        fenced = [f"{n.name} is fenced" for n in status.nodes if n.state is NodeState.FENCED]
        every = [f"{n.name} is a replica" for n in status.replicas]
        others = [_not_answering(n) for n in strangers]
        return Diagnosis(code=Code.NO_PRIMARY, evidence=(*others, *fenced, *every))
    if (isolated := _isolated(status)) is not None:
        return isolated
    names = {n.name for n in suspects}
    followers = [n for n in status.replicas if n.upstream in names]
    connected = [n for n in followers if _is_connected(n)]
    evidence += [_seen_by(n) for n in connected]
    if any(n.cause in _SAYS_NO for n in suspects) or any(_heard_lately(n) for n in connected):
        return Diagnosis(code=Code.PRIMARY_UNREACHABLE_BUT_ALIVE, evidence=tuple(evidence))
    cut_off = [n for n in followers if n not in connected and n.facts is not None and n.facts.is_complete]
    evidence += [f"{n.name} has no connection to {n.upstream}" for n in cut_off]
    cut = [n for n in status.replicas if n.facts is not None and is_cut(n.facts) and _streamed_once(n.facts)]
    evidence += [f"{n.name} is cut from its upstream: a failover is under way" for n in cut]
    gone = all(n.cause in (Cause.REFUSED, Cause.STARTING_UP) for n in suspects)
    down = gone and (followers or cut) and cut_off == followers
    if down and not (ranking := rank(_assumed(status, suspects[0].name))).eligible:
        reasons = (f"{c.node} {c.reason}" for c in ranking.candidates)
        return Diagnosis(code=Code.NO_CANDIDATE, evidence=(*evidence[: len(suspects)], *reasons))
    code = Code.PRIMARY_DOWN if down else Code.PRIMARY_STATE_UNKNOWN
    return Diagnosis(code=code, evidence=tuple(evidence))


def _assumed(status: ClusterStatus, lost: str) -> Situation:
    """The failover that would be asked for, to see whether anybody could be promoted."""
    return Situation(settings=status.settings, state=status.state, request=Request(lost=lost))


def _isolated(status: ClusterStatus) -> Diagnosis | None:
    """More than the primary is silent, and a majority is out of reach: it may be we who are cut off."""
    votes = votes_of(status.settings)
    quiet = [n.name for n in status.nodes if n.cause in (Cause.TIMEOUT, Cause.DNS)]
    quiet += [w.name for w in status.witnesses if not w.reachable]
    answer = sum(n.reachable for n in status.nodes) + sum(w.reachable for w in status.witnesses)
    if len(quiet) < 2 or answer >= votes.majority:
        return None
    evidence = (
        f"{answer} of {len(votes.voters)} voters answer, {votes.majority} are a majority",
        *(_not_answering(n) for n in status.nodes if not n.reachable),
        *(f"{w.name} does not answer: {w.message}" for w in status.witnesses if not w.reachable),
    )
    return Diagnosis(code=Code.CONTROLLER_ISOLATED, evidence=evidence)


_SAYS_NO = (Cause.AUTH, Cause.TOO_MANY_CONNECTIONS, Cause.PRIVILEGE)  # only a server that lives says that
HEARD_WITHIN_S = 10.0  # a connection outlives a lost primary by wal_receiver_timeout: it proves little alone


def _is_connected(node: NodeStatus) -> bool:
    """Whether its receiver has a connection: a row shows it even where its columns are hidden."""
    receiver = node.facts.receiver if node.facts is not None else None
    return receiver is not None and receiver.status != "stopped"


def _heard_lately(node: NodeStatus) -> bool:
    """Whether its upstream was alive a moment ago; where the privilege to see that lacks, as good as."""
    receiver = node.facts.receiver if node.facts is not None else None
    if receiver is None or receiver.last_message_age_s is None:
        return receiver is not None
    return receiver.last_message_age_s < HEARD_WITHIN_S


def _seen_by(node: NodeStatus) -> str:
    receiver = node.facts.receiver if node.facts is not None else None
    if receiver is None or _heard_lately(node):
        return f"{node.name} still streams from {node.upstream}"
    age_s = receiver.last_message_age_s
    return f"{node.name} is connected to {node.upstream}, and has heard nothing for {age_s:.0f} s"


def _of_replicas(status: ClusterStatus) -> Diagnosis:
    sync = status.sync
    if (sync.tolerated_replica_losses_for_writes or 0) < 0:
        return Diagnosis(
            code=Code.SYNC_BLOCKED,
            evidence=(
                f"{status.primary} waits for {sync.configured!r}",
                f"{-(sync.tolerated_replica_losses_for_writes or 0)} more replica(s) must stream first",
            ),
        )
    if sync.matches is False:
        return Diagnosis(
            code=Code.SYNC_MISMATCH,
            evidence=(
                f"{status.primary} has {sync.configured!r}",
                f"the inventory expects {sync.expected!r}",
            ),
        )
    attached = (NodeState.STREAMING, NodeState.CATCHUP, NodeState.ARCHIVE, NodeState.NO_PRIVILEGE)
    detached = [
        n for n in status.nodes if n.name != status.primary and n.state not in (*attached, NodeState.PAUSED)
    ]
    if detached:
        return Diagnosis(code=Code.REPLICA_DETACHED, evidence=tuple(_detached(n) for n in detached))
    routing = status.settings.routing
    lagging = [
        n
        for n in status.replicas
        if ((n.lag.lag_bytes or 0) > routing.max_lag_bytes and not n.apply_delay_s)
        or n.state is NodeState.PAUSED
    ]
    if lagging:
        return Diagnosis(
            code=Code.REPLICA_LAGGING,
            evidence=tuple(f"{n.name} is {n.state}, {n.lag.lag_bytes} bytes behind" for n in lagging),
        )
    return Diagnosis(
        code=Code.HEALTHY,
        evidence=(f"{status.primary} is the primary", f"{len(status.replicas)} replica(s) follow"),
    )


def _detached(node: NodeStatus) -> str:
    if not node.reachable:
        return _not_answering(node)
    return f"{node.name} is {node.state}"


def _not_answering(node: NodeStatus) -> str:
    return f"{node.name} does not answer: {node.cause} ({node.message})"
