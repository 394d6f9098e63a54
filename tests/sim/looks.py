"""What a look at a simulated node shows, and what a controller remembers of its looks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

from replctl.core.candidates import incomplete
from replctl.core.model import FENCE_NAME, ClusterState, Lsn, NodeFacts, Receiver, Slot
from replctl.core.situation import KnownLsn, Position
from tests.sim.cluster import Cluster, Node, lsn
from tests.unit.builders import SYSTEM_IDENTIFIER
from tests.unit.builders import address as address_of

address = cache(address_of)


@dataclass
class Memory:
    """What a controller remembers between its looks; losing it must only make it stricter."""

    last_lsn: Lsn | None = None
    timeline: int | None = None  # of the primary
    replicas: dict[str, Lsn] = field(default_factory=dict)


def shown(node: Node) -> int:
    """How many records any function of the node tells of: after a restart only what it has replayed."""
    return len(node.wal) if node.received_known or not node.in_recovery else node.replayed


def complete(state: ClusterState, name: str, position: Position) -> Position:
    """Mark a position behind which the node may have flushed more."""
    facts = next(f for f in state.facts if f.node == name)
    return replace(position, incomplete=incomplete(facts, position.lsn))


def identify(node: Node) -> Position:
    """IDENTIFY_SYSTEM: the end of the timeline that is replayed, whatever else was received."""
    on = next((t for t in sorted(node.forks) if node.replayed < node.forks[t]), node.timeline)
    return Position(timeline=on, lsn=lsn(shown(node) if on == node.timeline else node.replayed))


def forks_of(node: Node) -> dict[int, Lsn]:
    return {timeline: lsn(end) for timeline, end in node.forks.items()}


def remember(memory: Memory, state: ClusterState) -> None:
    """Keep the greatest positions that were ever seen."""
    for facts in state.facts:
        at = facts.write_lsn if not facts.in_recovery else None
        if facts.receiver is not None and facts.receiver.latest_end_lsn is not None:
            at = max(at or Lsn(0), facts.receiver.latest_end_lsn)
        if at is not None:
            memory.last_lsn = max(memory.last_lsn or Lsn(0), at)
        if facts.in_recovery and facts.received_lsn is not None:
            memory.replicas[facts.node] = max(memory.replicas.get(facts.node, Lsn(0)), facts.received_lsn)


def known(memory: Memory) -> KnownLsn | None:
    """The greatest position of the primary."""
    if memory.last_lsn is None:
        return None
    return KnownLsn(lsn=memory.last_lsn, age_s=0.0, source="the last look")


def facts_of(cluster: Cluster, node: Node) -> NodeFacts:
    """What the observer's query gives."""
    receiver = None
    if node.receiver is not None:
        spec = node.receiver
        receiver = Receiver(
            pid=1,
            status="waiting" if node.waiting else "streaming",
            sender_host=address(spec),
            sender_port=5432,
            slot_name=None,
            received_timeline=node.timeline,
            written_lsn=lsn(len(node.wal)),
            flushed_lsn=lsn(len(node.wal)),
            latest_end_lsn=lsn(len(node.wal)),
            latest_end_age_s=0.0,
            last_message_age_s=cluster.now_s - node.heard_s,
        )
    return NodeFacts(
        node=node.name,
        server_version_num=160000,
        capabilities=frozenset({"wal_receiver_timeout_cut"} if node.timeout_cut else ()),
        system_identifier=SYSTEM_IDENTIFIER,
        in_recovery=node.in_recovery,
        timeline=node.timeline if receiver is not None else identify(node).timeline,
        write_lsn=None if node.in_recovery else lsn(len(node.wal)),
        flush_lsn=None if node.in_recovery else lsn(len(node.wal)),
        received_lsn=lsn(shown(node)) if node.in_recovery else None,
        replayed_lsn=lsn(node.replayed) if node.in_recovery else None,
        receive_lsn_known=node.received_known if node.in_recovery else None,
        upstream_host=None if node.upstream is None else address(node.upstream),
        upstream_port=None if node.upstream is None else 5432,
        upstream_known=True,
        conninfo={} if node.upstream is None else {"host": address(node.upstream), "port": "5432"},
        own_application_name=node.name,
        primary_slot_name=None,
        receiver=receiver,
        sampled_at_s=cluster.now_s,
        receiver_processes=0 if receiver is None else 1,
        slots=tuple(_slot(name) for name in sorted(node.slots)),
        replay_pause=("paused" if node.paused else "not paused") if node.in_recovery else None,
        apply_delay_s=600.0 if node.delayed else 0.0,
        startup_wait_event=_wait_event(node),
        synchronous_standby_names=FENCE_NAME if node.fenced else node.sync,
        checkpoint_timeline=node.checkpoint_timeline,
    )


def _wait_event(node: Node) -> str | None:
    if not node.in_recovery or node.promoting is not None:
        return None
    if node.in_conflict and node.replayed < len(node.wal):
        return "RecoveryConflictSnapshot"
    if node.paused:
        return "RecoveryPause"
    if node.delayed and node.replayed < len(node.wal):
        return "RecoveryApplyDelay"
    if node.replayed < len(node.wal):
        return None
    return "RecoveryWalStream" if node.receiver is not None else "RecoveryRetrieveRetryInterval"


def _slot(name: str) -> Slot:
    return Slot(
        name=name,
        kind="physical",
        active=False,
        active_pid=None,
        temporary=False,
        restart_lsn=None,
        retained_bytes=0,
        wal_status="reserved",
        safe_wal_bytes=None,
    )
