"""What `status` tells: every fact of a cluster with what it means. Mirrors the JSON of the contract.

`assess` is the one way from observation to meaning; screens, JSON, checks and metrics all start from
its result.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from replctl.core.lag import (
    Lag,
    LagBound,
    LagHistory,
    LagSource,
    Point,
    Reference,
    Seconds,
    measure,
    reference,
)
from replctl.core.model import (
    Cause,
    ClusterState,
    Lsn,
    NodeFacts,
    Sender,
    Slot,
    Unreachable,
)
from replctl.core.quorum import parse_sync_rule, same_rule, tolerance
from replctl.core.settings import ClusterSettings, NodeSpec
from replctl.core.topology import current_primary, is_fenced, is_outrun, primaries, sender_for, upstream_of
from replctl.core.units import format_version, parse_bytes

ADVANCING_WITHIN_S = 60.0  # a replica that replays from the archive moves once per segment


class NodeState(StrEnum):
    """One word per node; drives colour and severity."""

    PRIMARY = "primary"
    STREAMING = "streaming"
    CATCHUP = "catchup"
    ARCHIVE = "archive"  # no receiver, replay advancing
    STALLED = "stalled"  # no receiver, not advancing
    PAUSED = "paused"
    DIVERGED = "diverged"
    STALE_PRIMARY = "stale_primary"
    FENCED = "fenced"
    UNREACHABLE = "unreachable"
    NO_PRIVILEGE = "no_privilege"


class Role(StrEnum):
    """What a node is by its own word."""

    PRIMARY = "primary"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node: what it said, and what that means. Unknown is None."""

    name: str
    host: str
    port: int
    zone: str | None
    state: NodeState
    reachable: bool
    cause: Cause | None = None
    message: str | None = None
    role: Role | None = None
    timeline: int | None = None
    upstream: str | None = None
    sync_state: str | None = None
    lag: Lag = field(default_factory=Lag)
    lag_trend_bytes_per_s: float | None = None
    write_lsn: Lsn | None = None
    received_lsn: Lsn | None = None
    replayed_lsn: Lsn | None = None
    replay_paused: bool | None = None
    apply_delay_s: float | None = None
    slot: Slot | None = None  # the upstream's slot that this replica uses
    in_pool: bool = False
    routing_reason: str = ""
    server_version_num: int | None = None
    clock_skew_s: float | None = None
    round_trip_s: float | None = None
    sampled_at_s: float = 0.0
    facts: NodeFacts | None = None
    sender: Sender | None = None
    spec: NodeSpec

    @property
    def lag_s(self) -> float | None:
        """Seconds behind; None = unknown."""
        return self.lag.seconds.value_s

    @property
    def lag_source(self) -> LagSource | None:
        """Where `lag_s` comes from."""
        return self.lag.seconds.source

    @property
    def lag_bound(self) -> LagBound | None:
        """What `lag_s` is."""
        return self.lag.seconds.bound

    @property
    def server_version(self) -> str | None:
        """Such as `15.18`."""
        return None if self.server_version_num is None else format_version(self.server_version_num)

    @property
    def catch_up_eta_s(self) -> float | None:
        """When the lag will be gone if it goes on shrinking as now; None when it does not shrink."""
        if self.lag.lag_bytes is None or not self.lag_trend_bytes_per_s or self.lag_trend_bytes_per_s >= 0:
            return None
        return max(0, self.lag.lag_bytes) / -self.lag_trend_bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncStatus:
    """Synchronous replication: what the primary has, what the inventory expects, what may still be lost."""

    configured: str | None = None  # None = no primary answered; "" = asynchronous
    expected: str | None = None
    matches: bool | None = None
    tolerated_replica_losses_for_writes: int | None = None
    tolerated_replica_losses_for_failover: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessStatus:
    """A voter that holds no data."""

    name: str
    reachable: bool
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """One look at one cluster, interpreted. Diagnosis, problems and verdict are added by `core.checks`."""

    settings: ClusterSettings
    system_identifier: str | None
    observed_at: float
    took_s: float
    primary: str | None
    nodes: tuple[NodeStatus, ...]
    witnesses: tuple[WitnessStatus, ...]
    sync: SyncStatus
    state: ClusterState
    history: LagHistory

    def __getitem__(self, name: str) -> NodeStatus:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def with_seconds(self, seconds: dict[str, Seconds]) -> ClusterStatus:
        """The same with seconds of lag that were found out otherwise, by node."""
        nodes = tuple(
            replace(n, lag=replace(n.lag, seconds=seconds[n.name])) if n.name in seconds else n
            for n in self.nodes
        )
        return replace(self, nodes=nodes)

    @property
    def replicas(self) -> tuple[NodeStatus, ...]:
        """The nodes that answered as replicas."""
        return tuple(n for n in self.nodes if n.role is Role.REPLICA)

    @property
    def primary_node(self) -> NodeStatus | None:
        """The primary's row, if there is one."""
        return self[self.primary] if self.primary is not None else None


def assess(state: ClusterState, settings: ClusterSettings, history: LagHistory) -> ClusterStatus:
    """Interpret one look. The history that this look extends comes back in the result."""
    if (
        history.origin is not None
        and state.facts
        and not any(f.system_identifier == history.origin[0] for f in state.facts)
    ):
        history = LagHistory()  # of a cluster that once had this name
    primary = current_primary(state)
    primary_at = _at(state, primary) if primary else state.observed_at
    extended = history.record(primary, primary_at, {})
    against = reference(primary, state, extended)
    nodes = tuple(
        _node_status(state, settings, spec, primary, against, history, extended) for spec in settings.nodes
    )
    points = {
        n.name: Point(_at(state, n.facts), n.replayed_lsn, n.lag.lag_bytes)
        for n in nodes
        if n.facts is not None and n.role is Role.REPLICA and n.replayed_lsn is not None
    }
    extended = extended.record(None, state.observed_at, points)
    return ClusterStatus(
        settings=settings,
        system_identifier=next((f.system_identifier for f in state.facts), None),
        observed_at=state.observed_at,
        took_s=state.took_s,
        primary=primary.node if primary else None,
        nodes=tuple(_with_trend(n, extended) for n in nodes),
        witnesses=tuple(
            WitnessStatus(
                name=w.node,
                reachable=isinstance(w, NodeFacts),
                message=w.message if isinstance(w, Unreachable) else None,
            )
            for w in state.witnesses
        ),
        sync=_sync_status(primary, settings),
        state=state,
        history=extended,
    )


def _at(state: ClusterState, facts: NodeFacts) -> float:
    """When a node was sampled, as our Unix time."""
    return state.observed_at + (facts.sampled_at_s - state.observed_at_s)


def _with_trend(node: NodeStatus, history: LagHistory) -> NodeStatus:
    return replace(node, lag_trend_bytes_per_s=history.trend_bytes_per_s(node.name))


def _node_status(
    state: ClusterState,
    settings: ClusterSettings,
    spec: NodeSpec,
    primary: NodeFacts | None,
    against: Reference | None,
    history: LagHistory,
    extended: LagHistory,
) -> NodeStatus:
    observation = state[spec.name]
    if isinstance(observation, Unreachable):
        return NodeStatus(
            name=spec.name,
            host=spec.host,
            port=spec.port,
            zone=spec.zone,
            state=NodeState.UNREACHABLE,
            reachable=False,
            cause=observation.cause,
            message=observation.message,
            routing_reason="unreachable",
            sampled_at_s=observation.sampled_at_s,
            spec=spec,
        )
    upstream = upstream_of(observation, state, settings) if observation.in_recovery else None
    upstream_facts = next((f for f in state.facts if f.node == upstream), None)
    sender = (
        sender_for(upstream_facts, observation, settings, streams_from_it=observation.receiver is not None)
        if upstream_facts
        else None
    )
    lag = Lag()
    if observation.in_recovery:
        lag = measure(observation, sender, against, extended, _at(state, observation))
    node_state = (
        _replica_state(state, settings, observation, sender, primary, lag, history)
        if observation.in_recovery
        else _primary_state(state, observation)
    )
    in_pool, reason = _routing(node_state, observation, lag, spec, settings)
    if in_pool and _is_drained(state, spec.name):
        in_pool, reason = False, "drained"
    return NodeStatus(
        name=spec.name,
        host=spec.host,
        port=spec.port,
        zone=spec.zone,
        state=node_state,
        reachable=True,
        role=Role.REPLICA if observation.in_recovery else Role.PRIMARY,
        timeline=observation.timeline,
        upstream=upstream,
        sync_state=sender.sync_state if sender else None,
        lag=lag,
        write_lsn=observation.write_lsn,
        received_lsn=observation.received_lsn,
        replayed_lsn=observation.replayed_lsn,
        replay_paused=None if observation.replay_pause is None else observation.replay_pause != "not paused",
        apply_delay_s=observation.apply_delay_s,
        slot=_slot_used(upstream_facts, observation),
        in_pool=in_pool,
        routing_reason=reason,
        server_version_num=observation.server_version_num,
        clock_skew_s=observation.clock_skew_s,
        round_trip_s=observation.round_trip_s,
        sampled_at_s=observation.sampled_at_s,
        facts=observation,
        sender=sender,
        spec=spec,
    )


def _slot_used(upstream: NodeFacts | None, replica: NodeFacts) -> Slot | None:
    if upstream is None or replica.primary_slot_name is None:
        return None
    return next((s for s in upstream.slots if s.name == replica.primary_slot_name), None)


def _primary_state(state: ClusterState, facts: NodeFacts) -> NodeState:
    if is_fenced(facts):
        return NodeState.FENCED
    newest = primaries(state)[0]
    if (newest.timeline or 0) > (facts.timeline or 0) or is_outrun(facts, state):
        return NodeState.STALE_PRIMARY
    return NodeState.PRIMARY


def _replica_state(
    state: ClusterState,
    settings: ClusterSettings,
    replica: NodeFacts,
    sender: Sender | None,
    primary: NodeFacts | None,
    lag: Lag,
    history: LagHistory,
) -> NodeState:
    """The first that applies; each excludes the ones below it."""
    receiver = replica.receiver
    if _is_diverged(replica, primary, lag) or _follows_another(state, settings, replica, primary):
        return NodeState.DIVERGED
    if replica.replay_pause in ("paused", "pause requested"):
        return NodeState.PAUSED
    if receiver is not None:
        if receiver.status is None:
            return NodeState.NO_PRIVILEGE
        if receiver.status == "streaming":
            caught_up = sender is None or sender.state in (None, "streaming")
            return NodeState.STREAMING if caught_up else NodeState.CATCHUP
        return NodeState.STALLED if receiver.status == "stopped" else NodeState.CATCHUP
    if not replica.is_complete:
        return NodeState.NO_PRIVILEGE
    return _state_without_receiver(state, replica, lag, history)


def _is_diverged(replica: NodeFacts, primary: NodeFacts | None, lag: Lag) -> bool:
    """On a history that is not the primary's: ahead of it, on a newer timeline, or waiting at a fork."""
    if primary is None:
        return False
    if lag.lag_bytes is not None and lag.lag_bytes < 0:
        return True
    if replica.timeline is None or primary.timeline is None:
        return False
    waits = replica.receiver is not None and replica.receiver.status == "waiting"
    return replica.timeline > primary.timeline or (waits and replica.timeline < primary.timeline)


def _follows_another(
    state: ClusterState, settings: ClusterSettings, replica: NodeFacts, primary: NodeFacts | None
) -> bool:
    """Whether it streams, perhaps through others, from a primary of an older history than `primary`'s."""
    if primary is None or (replica.timeline or 0) >= (primary.timeline or 0):
        return False
    facts = {f.node: f for f in state.facts}
    above: NodeFacts | None = replica
    for _ in settings.nodes:
        if above is None or not above.in_recovery or above.receiver is None:
            break
        above = facts.get(upstream_of(above, state, settings) or "")
    return above is not None and not above.in_recovery and above.node != primary.node


def _state_without_receiver(
    state: ClusterState, replica: NodeFacts, lag: Lag, history: LagHistory
) -> NodeState:
    """Fed from the archive: set up for that, and moving; or fed from nothing else, and within two segments.

    A replica that is not set up for it may still replay what it had received: nobody feeds it.
    """
    archive_only = replica.upstream_known and replica.upstream_host is None
    restores = bool(replica.settings.get("restore_command"))
    if replica.settings and not restores and not archive_only:
        return NodeState.STALLED
    advanced = (
        history.advanced_since(replica.node, replica.replayed_lsn, _at(state, replica), ADVANCING_WITHIN_S)
        if replica.replayed_lsn is not None
        else None
    )
    if advanced:
        return NodeState.ARCHIVE
    segment_bytes = parse_bytes(replica.settings.get("wal_segment_size", "16MB"))
    near = lag.lag_bytes is not None and lag.lag_bytes <= 2 * segment_bytes
    if archive_only and restores and (near or advanced is None):
        return NodeState.ARCHIVE
    return NodeState.STALLED


def _is_drained(state: ClusterState, name: str) -> bool:
    mark = state.marks.drained.get(name) if state.marks is not None else None
    return mark is not None and mark.holds(state.observed_at)


def _routing(
    node_state: NodeState, facts: NodeFacts, lag: Lag, spec: NodeSpec, settings: ClusterSettings
) -> tuple[bool, str]:
    """Whether this one look would let the node serve reads, and the reason in one word or two."""
    routing = settings.routing
    if not facts.in_recovery:
        return False, "primary" if node_state is NodeState.PRIMARY else str(node_state)
    if node_state is not NodeState.STREAMING:
        return False, str(node_state)
    if spec.weight == 0:
        return False, "weight is 0"
    if facts.apply_delay_s:
        return False, "delayed"
    if lag.lag_bytes is None:
        return False, "lag unknown"
    if lag.lag_bytes > routing.max_lag_bytes:
        return False, "lag_bytes over the limit"
    seconds = lag.seconds
    if (
        seconds.value_s is not None
        and seconds.bound is not LagBound.UPPER
        and seconds.value_s > routing.max_lag_s
    ):
        return False, "lag_s over the limit"
    return True, "fit"


def _sync_status(primary: NodeFacts | None, settings: ClusterSettings) -> SyncStatus:
    expected = settings.failover.synchronous
    if primary is None or primary.synchronous_standby_names is None:
        return SyncStatus(expected=expected)
    configured = primary.synchronous_standby_names
    matches = same_rule(configured, expected)
    try:
        rule = parse_sync_rule(configured)
    except ValueError:
        rule = None
    if rule is None or not primary.monitor_privilege:  # who confirms is hidden without the privilege
        return SyncStatus(configured=configured, expected=expected, matches=matches)
    # The primary's own name may stand in the list; it can never confirm to itself.
    own = settings.node(primary.node).application_name.lower()
    confirming = {
        s.application_name.lower()
        for s in primary.senders
        if s.state == "streaming" and s.sync_state in ("sync", "quorum", "potential")
    }
    others = {n.application_name.lower() for n in settings.nodes} - {own}
    members = others if "*" in rule.members else {m.lower() for m in rule.members} - {own}
    tolerated = tolerance(rule, len(members), len(confirming.intersection(members)))
    return SyncStatus(
        configured=configured,
        expected=expected,
        matches=matches,
        tolerated_replica_losses_for_writes=tolerated.for_writes,
        tolerated_replica_losses_for_failover=tolerated.for_failover,
    )
