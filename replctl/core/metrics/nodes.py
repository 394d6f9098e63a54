"""The samples of every node: what it is, where it stands, how far it is behind, to whom it is connected."""

from __future__ import annotations

from replctl.core.lag import LagBound
from replctl.core.metrics import families as f
from replctl.core.metrics.families import Found
from replctl.core.model import Cause, NodeFacts, Unreachable
from replctl.core.status import ClusterStatus, NodeState, NodeStatus, Role


def node_samples(status: ClusterStatus) -> Found:
    """Everything about the nodes but what they store."""
    cluster = status.settings.name
    seen = _Seen(status)
    for node in status.nodes:
        of = (cluster, node.name)
        yield from _node(node, of, status)
        yield f.EXPECTED_CONNECTED, of, seen.connected(node)
        if node.facts is not None:
            version, system = node.server_version or "", node.facts.system_identifier
            told = (version, system, node.spec.application_name, node.zone or "")
            yield f.NODE_INFO, (*of, *told), 1
            yield from _server(node.facts, of)
        if node.facts is not None and node.role is Role.REPLICA:
            yield from _replica(node, node.facts, of)


def _node(node: NodeStatus, of: tuple[str, str], status: ClusterStatus) -> Found:
    yield f.UP, of, node.reachable
    silent = None if node.reachable else status.state[node.name]
    took_s = silent.took_s if isinstance(silent, Unreachable) else node.round_trip_s
    yield f.SCRAPE_DURATION, of, took_s
    for cause in Cause:
        yield f.SCRAPE_ERROR, (*of, cause), cause is node.cause
    yield f.ROLE, (*of, "unknown"), node.role is None
    for role in Role:
        yield f.ROLE, (*of, role), role is node.role
    for state in NodeState:
        yield f.STATE, (*of, state), state is node.state
    yield f.IN_POOL, of, None if node.role is Role.PRIMARY else node.in_pool


def _server(facts: NodeFacts, of: tuple[str, str]) -> Found:
    yield f.STARTED_AT, of, facts.started_at
    yield f.TIMELINE, of, facts.timeline
    yield f.CLOCK_SKEW, of, facts.clock_skew_s
    yield f.POSITION, of, facts.write_lsn
    if not facts.is_complete:
        return
    yield f.SENDERS, of, len(facts.senders)
    yield f.SENDERS_MAX, of, _whole(facts.settings.get("max_wal_senders"))
    yield f.SLOTS, of, len(facts.slots)
    yield f.SLOTS_MAX, of, _whole(facts.settings.get("max_replication_slots"))


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _replica(node: NodeStatus, facts: NodeFacts, of: tuple[str, str]) -> Found:
    lag, seconds = node.lag, node.lag.seconds
    yield f.RECEIVED, of, facts.received_lsn
    yield f.REPLAYED, of, facts.replayed_lsn
    yield f.LAG_BYTES, of, lag.lag_bytes
    yield f.TRANSPORT_LAG, of, lag.transport_lag_bytes
    yield f.APPLY_LAG, of, lag.apply_lag_bytes
    # As the check does: what a replica is behind at most is no reason for an alert.
    lag_s = None if seconds.bound is LagBound.UPPER else seconds.value_s
    yield f.LAG_SECONDS, of, lag_s
    yield f.REPLICATION_LAG, of, lag_s
    if seconds.source is not None and seconds.bound is not None:
        yield f.LAG_ESTIMATE, (*of, seconds.source, seconds.bound), 1
    yield f.APPLY_DELAY, of, facts.apply_delay_s
    yield f.LAST_XACT_AT, of, moment(facts, facts.last_replayed_xact_age_s)
    yield f.REPLAY_PAUSED, of, node.replay_paused
    for kind, count in facts.conflicts.items():
        yield f.CONFLICTS, (*of, kind), count
    if node.upstream is not None:
        yield f.UPSTREAM_INFO, (*of, node.upstream), 1
    yield f.RECEIVER_CONNECTED, of, _receives(facts)
    if facts.receiver is not None:
        receiver = facts.receiver
        yield f.RECEIVER_MESSAGE_AT, of, moment(facts, receiver.last_message_age_s)
        yield f.RECEIVER_FLUSHED, of, receiver.flushed_lsn
        yield f.UPSTREAM_END, of, receiver.latest_end_lsn
        yield f.UPSTREAM_END_AT, of, moment(facts, receiver.latest_end_age_s)
    synced = node.sync_state
    yield f.SYNC_REPLICA, of, None if synced is None else synced in ("sync", "quorum")


def moment(facts: NodeFacts, age_s: float | None) -> float | None:
    """The time of something that the node said the age of, by its own clock."""
    return None if facts.clock_at is None or age_s is None else facts.clock_at - age_s


def _receives(facts: NodeFacts) -> bool | None:
    """None where the privilege to see it lacks."""
    if facts.receiver is None:
        return False if facts.is_complete else None
    return None if facts.receiver.status is None else facts.receiver.status == "streaming"


class _Seen:
    """Whose walsenders were seen on the nodes that show them."""

    def __init__(self, status: ClusterStatus) -> None:
        self._status = status
        self._shown = {facts.node: facts for facts in status.state.facts if facts.is_complete}
        rows = (row for facts in self._shown.values() for row in facts.senders)
        self._names = {row.application_name for row in rows}

    def connected(self, node: NodeStatus) -> bool | None:
        """Whether this replica has one; None where that is not to be seen, or it needs none."""
        if node.role is Role.PRIMARY:
            return None
        if node.facts is not None:
            if node.sender is not None:
                return True
            archive_only = node.facts.upstream_known and node.facts.upstream_host is None
            return None if archive_only or node.upstream not in self._shown else False
        if node.cause is Cause.WRONG_CLUSTER or node.name in self._status.state.cut_short:
            return None
        if node.spec.application_name in self._names:
            return True
        return False if self._status.primary in self._shown else None
