"""The registry: every metric that replctl exports, with its name, labels, unit and help, in this one place.

Rules, dashboards and documentation take their names from here, so that none can ask for a metric that
nobody exports. A family is declared once; its samples are made in `collect`.
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a family is to Prometheus."""

    GAUGE = "gauge"
    COUNTER = "counter"
    INFO = "info"  # always 1: what it tells stands in its labels


UNITS = ("bytes", "seconds")
_SUFFIXES = {Kind.GAUGE: "", Kind.COUNTER: "_total", Kind.INFO: "_info"}


@dataclass(frozen=True, slots=True, eq=False)  # each is itself only, and found fast
class Family:
    """One metric. `base` is its name without the suffix that its kind asks for."""

    base: str
    kind: Kind
    help: str
    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its samples, which expressions use."""
        return self.base + _SUFFIXES[self.kind]

    @property
    def unit(self) -> str | None:
        """`bytes` or `seconds`, the end of its name; None for what is counted otherwise."""
        return next((unit for unit in UNITS if self.base.endswith(f"_{unit}")), None)


Value = tuple[tuple[str, ...], float]
"""The values of a family's labels, in its order, and the number."""
Samples = tuple[Family, list[Value]]
Found = Iterator[tuple[Family, tuple[str, ...], float | None]]
"""What was found for one family after another; None = not known, so no sample."""

_DECLARED: list[Family] = []


def _declare(kind: Kind, base: str, labels: str, help_text: str) -> Family:
    family = Family(base, kind, help_text, tuple(labels.split()))
    _DECLARED.append(family)
    return family


def _gauge(base: str, labels: str, help_text: str) -> Family:
    return _declare(Kind.GAUGE, base, labels, help_text)


def _counter(base: str, labels: str, help_text: str) -> Family:
    return _declare(Kind.COUNTER, base, labels, help_text)


def _info(base: str, labels: str, help_text: str) -> Family:
    return _declare(Kind.INFO, base, labels, help_text)


# ---- the names that alerts of the common pattern already use

REPLICATION_LAG = _gauge(
    "db_replication_lag_seconds", "cluster replica", "The same as replctl_lag_seconds, by its common name."
)
FAILOVERS = _counter(
    "db_failover", "cluster", "Times that another node was seen to have taken over the writes."
)

# ---- the cluster

PRIMARIES = _gauge(
    "replctl_cluster_primaries",
    "cluster",
    "Nodes that are primaries and not fenced. Absent where silence of a node is no finding.",
)
NODES_EXPECTED = _gauge("replctl_cluster_nodes_expected", "cluster", "Nodes in the inventory.")
CLUSTER_STATUS = _gauge(
    "replctl_cluster_status", "cluster", "Verdict of all checks: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN."
)
DIAGNOSIS = _gauge(
    "replctl_cluster_diagnosis", "cluster code", "1 for the diagnosis that holds, 0 for every other."
)
CHECK_STATUS = _gauge(
    "replctl_check_status",
    "cluster node check",
    "Worst result of a check on a node, or of the cluster where node is empty: 0 OK, 1 WARNING, "
    "2 CRITICAL, 3 UNKNOWN.",
)
OBSERVED_AT = _gauge(
    "replctl_cluster_observed_timestamp_seconds", "cluster", "When the cluster was looked at, by our clock."
)
OBSERVATION = _gauge(
    "replctl_cluster_observation_duration_seconds", "cluster", "How long looking at every node took."
)
SYNC_MATCHES = _gauge(
    "replctl_sync_matches",
    "cluster",
    "1 where synchronous_standby_names is what the inventory expects, 0 where it is not.",
)
SYNC_TOLERATED = _gauge(
    "replctl_sync_tolerated_losses",
    "cluster purpose",
    "Replicas that may still be lost before writes wait (writes), or before a failover could lose "
    "something (failover). Negative: it has come to that.",
)
AUTOMATIC = _gauge(
    "replctl_automatic_failover", "cluster state", "1 for the state that automatic failover is in."
)
CONTROLLERS = _gauge("replctl_controllers", "cluster", "Controllers that run, as seen on the nodes.")
WITNESS_UP = _gauge("replctl_witness_up", "cluster witness", "Whether a witness answers.")

# ---- every node

_NODE = "cluster node"
WRITE_TARGET = _gauge(
    "replctl_write_target",
    _NODE,
    "1 for the node that replctl serve calls the primary, 0 for every other. Only serve has it: it goes by "
    "earlier looks, too.",
)
UP = _gauge("replctl_node_up", _NODE, "Whether a node answered.")
SCRAPE_DURATION = _gauge(
    "replctl_node_scrape_duration_seconds", _NODE, "How long a node took to answer, or was waited for."
)
SCRAPE_ERROR = _gauge(
    "replctl_node_scrape_error", f"{_NODE} reason", "1 for the reason why a node gave no facts."
)
ROLE = _gauge("replctl_node_role", f"{_NODE} role", "1 for the role that a node has by its own word.")
STATE = _gauge("replctl_node_state", f"{_NODE} state", "1 for the state that a node is in.")
NODE_INFO = _info(
    "replctl_node", f"{_NODE} version system_identifier application_name zone", "What a node is."
)
UPSTREAM_INFO = _info("replctl_upstream", f"{_NODE} upstream", "Whom a replica is set to stream from.")
STARTED_AT = _gauge(
    "replctl_node_start_timestamp_seconds", _NODE, "When a node's PostgreSQL was started, by its own clock."
)
TIMELINE = _gauge("replctl_node_timeline", _NODE, "Timeline that a node is on.")
IN_POOL = _gauge(
    "replctl_node_in_pool", _NODE, "Whether a replica may serve reads by this one look; not of primaries."
)
CLOCK_SKEW = _gauge("replctl_clock_skew_seconds", _NODE, "A node's clock minus ours.")
SENDERS = _gauge("replctl_wal_senders", _NODE, "Walsenders in use.")
SENDERS_MAX = _gauge("replctl_wal_senders_max", _NODE, "max_wal_senders.")
SLOTS = _gauge("replctl_replication_slots", _NODE, "Replication slots there are.")
SLOTS_MAX = _gauge("replctl_replication_slots_max", _NODE, "max_replication_slots.")

# ---- positions and lag

POSITION = _gauge("replctl_wal_position_bytes", _NODE, "Position that a primary writes at.")
RECEIVED = _gauge("replctl_wal_received_bytes", _NODE, "Position up to which a replica has received.")
REPLAYED = _gauge("replctl_wal_replayed_bytes", _NODE, "Position up to which a replica has replayed.")
LAG_BYTES = _gauge(
    "replctl_lag_bytes", _NODE, "WAL that a replica has not replayed. Negative: it is ahead, so diverged."
)
TRANSPORT_LAG = _gauge("replctl_transport_lag_bytes", _NODE, "WAL that a replica has not received.")
APPLY_LAG = _gauge("replctl_apply_lag_bytes", _NODE, "WAL that a replica has received and not replayed.")
LAG_SECONDS = _gauge(
    "replctl_lag_seconds",
    _NODE,
    "How old the data on a replica is, or at least is. Absent where only the most it can be is known.",
)
LAG_ESTIMATE = _info(
    "replctl_lag_estimate", f"{_NODE} source bound", "Where the seconds of lag come from, and what they are."
)
APPLY_DELAY = _gauge("replctl_apply_delay_seconds", _NODE, "recovery_min_apply_delay of a replica.")
LAST_XACT_AT = _gauge(
    "replctl_last_replayed_xact_timestamp_seconds", _NODE, "When the last replayed commit was made."
)
REPLAY_PAUSED = _gauge("replctl_replay_paused", _NODE, "Whether replay is paused, or about to be.")
CONFLICTS = _counter(
    "replctl_recovery_conflicts", f"{_NODE} type", "Queries that replay cancelled on a replica."
)

# ---- connections between nodes

RECEIVER_CONNECTED = _gauge("replctl_receiver_connected", _NODE, "Whether a replica's receiver is streaming.")
RECEIVER_MESSAGE_AT = _gauge(
    "replctl_receiver_last_message_timestamp_seconds", _NODE, "When a receiver last heard of its upstream."
)
RECEIVER_FLUSHED = _gauge(
    "replctl_receiver_flushed_bytes", _NODE, "Position up to which a receiver has flushed."
)
UPSTREAM_END = _gauge(
    "replctl_receiver_upstream_end_bytes", _NODE, "Position that the upstream said it was at."
)
UPSTREAM_END_AT = _gauge(
    "replctl_receiver_upstream_end_timestamp_seconds", _NODE, "When the upstream said so."
)
EXPECTED_CONNECTED = _gauge(
    "replctl_expected_connected", _NODE, "Whether a replica of the inventory has a walsender that was seen."
)
SYNC_REPLICA = _gauge("replctl_sync_replica", _NODE, "Whether commits may wait for this replica.")

# ---- slots

_SLOT = f"{_NODE} slot_name"
SLOT_INFO = _info("replctl_slot", f"{_SLOT} slot_type synced temporary", "What a slot is.")
SLOT_ACTIVE = _gauge("replctl_slot_active", _SLOT, "Whether a slot has a consumer.")
SLOT_RETAINED = _gauge("replctl_slot_retained_bytes", _SLOT, "WAL that a slot keeps.")
SLOT_SAFE = _gauge("replctl_slot_safe_wal_bytes", _SLOT, "WAL that may come before a slot is in danger.")
SLOT_CONFIRMED = _gauge(
    "replctl_slot_confirmed_bytes", _SLOT, "Position that the consumer of a logical slot has confirmed."
)
SLOT_INACTIVE_SINCE = _gauge(
    "replctl_slot_inactive_since_timestamp_seconds", _SLOT, "Since when a slot has had no consumer (17+)."
)
SLOT_WAL_STATUS = _gauge(
    "replctl_slot_wal_status", f"{_SLOT} wal_status", "1 for the state of a slot's WAL, 0 for every other."
)
SLOT_UNUSABLE = _gauge("replctl_slot_unusable", _SLOT, "Whether a slot has lost WAL, or was invalidated.")

SLOT_KEEP_MAX = _gauge(
    "replctl_slot_wal_keep_max_bytes",
    _NODE,
    "max_slot_wal_keep_size; absent where slots may keep everything.",
)

# ---- the archive

ARCHIVED = _counter("replctl_archived", _NODE, "WAL files that were archived.")
ARCHIVE_FAILED = _counter("replctl_archive_failed", _NODE, "Attempts to archive that failed.")
ARCHIVED_AT = _gauge(
    "replctl_archive_last_success_timestamp_seconds", _NODE, "When a WAL file was archived last."
)
ARCHIVE_FAILED_AT = _gauge(
    "replctl_archive_last_failure_timestamp_seconds", _NODE, "When archiving failed last."
)

# ---- ourselves

BUILD_INFO = _info("replctl_build", "version", "The replctl that made these metrics.")
LAST_RUN_AT = _gauge("replctl_last_run_timestamp_seconds", "", "When these metrics were made.")
LAST_RUN_DURATION = _gauge("replctl_last_run_duration_seconds", "", "How long making them took.")
LAST_RUN_SUCCESS = _gauge(
    "replctl_last_run_success", "", "1 where every inventory could be read and each cluster had an answer."
)

FAMILIES: tuple[Family, ...] = tuple(_DECLARED)
"""Every family, in the order of the output."""

BY_NAME: dict[str, Family] = {family.name: family for family in FAMILIES}
"""The same by the name of their samples."""
