"""ClusterStatus → Diagnosis: one code of a closed set, with the observed facts that led to it.

A diagnosis is not yet a decision: the failure detector repeats it, and a plan adds its own proofs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from replctl.core.coverage import votes_of
from replctl.core.model import Cause, NodeFacts
from replctl.core.situation import is_cut
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
            f"{status.primary} is the primary on timeline {status[status.primary].timeline}"
            if status.primary
            else ""
        )
        return Diagnosis(
            code=Code.STALE_PRIMARY,
            evidence=(
                *(f"{n.name} accepts writes on the older timeline {n.timeline}" for n in stale),
                newest,
            ),
        )
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
    silent = [n for n in status.nodes if not n.reachable and n.cause is not Cause.WRONG_CLUSTER]
    followed = {n.upstream for n in status.replicas}
    suspects = [n for n in silent if n.name in followed] or silent
    evidence = [_not_answering(n) for n in suspects]
    if not suspects:
        fenced = [f"{n.name} is fenced" for n in status.nodes if n.state is NodeState.FENCED]
        every = [f"{n.name} is a replica" for n in status.replicas]
        return Diagnosis(code=Code.NO_PRIMARY, evidence=(*fenced, *every))
    names = {n.name for n in suspects}
    followers = [n for n in status.replicas if n.upstream in names]
    if live := [n for n in followers if _is_connected(n)]:
        evidence += [f"{n.name} still streams from {n.upstream}" for n in live]
        return Diagnosis(code=Code.PRIMARY_UNREACHABLE_BUT_ALIVE, evidence=tuple(evidence))
    cut_off = [n for n in followers if n.facts is not None and n.facts.is_complete]
    evidence += [f"{n.name} has no connection to {n.upstream}" for n in cut_off]
    gone = all(n.cause in (Cause.REFUSED, Cause.STARTING_UP) for n in suspects)
    down = gone and followers and cut_off == followers
    code = Code.PRIMARY_DOWN if down else Code.PRIMARY_STATE_UNKNOWN
    return Diagnosis(code=code, evidence=tuple(evidence))


def _is_connected(node: NodeStatus) -> bool:
    """Whether its receiver has a connection: a row shows it even where its columns are hidden."""
    receiver = node.facts.receiver if node.facts is not None else None
    return receiver is not None and receiver.status != "stopped"


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
