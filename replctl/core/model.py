"""What was observed: positions in the WAL, one node's facts or why there are none, one cluster's.

Unknown is a value. A node is `NodeFacts` or `Unreachable`; a fact that a server or a privilege did not
give is `None`, never 0. All times are seconds, all sizes bytes; `*_at` are Unix times of the node's
own clock unless said otherwise. Nothing here holds a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from replctl.core.marks import Marks

FENCE_NAME = "replctl_fenced"
"""The member of synchronous_standby_names that nobody answers to: a primary that has it is fenced."""

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class Lsn(int):
    """A position in the WAL, in bytes. Prints as PostgreSQL does (`16/B374D848`); a difference is bytes.

    https://www.postgresql.org/docs/current/datatype-pg-lsn.html
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read `16/B374D848`. Raises ValueError for anything else."""
        match = _LSN.fullmatch(text)
        if match is None:
            raise ValueError(f"not an LSN: {text!r} (expected two hexadecimal numbers such as 16/B374D848)")
        return cls((int(match[1], 16) << 32) + int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({str(self)!r})"


class Cause(StrEnum):
    """Why a node gave no facts. Only some of these say anything about whether it is alive."""

    REFUSED = "refused"  # its host answered: nobody listens on that port
    TIMEOUT = "timeout"  # no answer in time: says nothing
    DNS = "dns"
    TLS = "tls"
    AUTH = "auth"  # wrong password, no pg_hba.conf entry, no such role or database
    STARTING_UP = "starting_up"  # also: shutting down, in recovery without hot standby
    TOO_MANY_CONNECTIONS = "too_many_connections"
    WRONG_CLUSTER = "wrong_cluster"  # another system identifier than the rest
    NOT_POSTGRES = "not_postgres"
    PRIVILEGE = "privilege"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A row of pg_stat_replication: one walsender on this node. Columns that need pg_monitor may be None.

    `state` None on an existing row means that the privilege lacks, not that nothing is sent.
    """

    pid: int
    application_name: str
    client_addr: str | None
    client_port: int | None = None
    state: str | None  # startup | catchup | streaming | backup | stopping
    sync_state: str | None  # async | potential | sync | quorum
    sent_lsn: Lsn | None
    write_lsn: Lsn | None
    flush_lsn: Lsn | None
    replay_lsn: Lsn | None
    replay_lag_s: float | None
    reply_age_s: float | None
    slot_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """The row of pg_stat_wal_receiver: this replica's connection to its upstream."""

    pid: int
    status: str | None  # None = the privilege lacks
    sender_host: str | None
    sender_port: int | None
    slot_name: str | None
    received_timeline: int | None
    written_lsn: Lsn | None
    flushed_lsn: Lsn | None
    latest_end_lsn: Lsn | None  # the upstream's WAL end, as it last told
    latest_end_age_s: float | None
    last_message_age_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A row of pg_replication_slots. Columns that the server's version lacks are None."""

    name: str
    kind: str  # physical | logical
    active: bool
    active_pid: int | None
    temporary: bool
    restart_lsn: Lsn | None
    retained_bytes: int | None
    wal_status: str | None  # reserved | extended | unreserved | lost
    safe_wal_bytes: int | None
    inactive_s: float | None = None  # 17+
    invalidation_reason: str | None = None  # 17+
    synced: bool = False  # 17+: kept in step from the primary, inactive by design
    failover: bool = False  # 17+
    confirmed_flush_lsn: Lsn | None = None  # logical: up to where the consumer has confirmed


@dataclass(frozen=True, slots=True, kw_only=True)
class Archiver:
    """pg_stat_archiver, and whether archiving is configured at all."""

    configured: bool | None  # None = the privilege to see the setting lacks
    archived_count: int
    failed_count: int
    last_archived_age_s: float | None
    last_failed_age_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSession:
    """A connection of a running controller, as one node shows it. `since_at` None = the privilege lacks."""

    host: str
    pid: int
    since_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One node at one moment, from one round trip."""

    node: str
    server_version_num: int
    address: str | None = None  # the server's own, as it sees the connection; None through a socket
    capabilities: frozenset[str] = frozenset()  # what the release can or lacks, by name: queries.py
    system_identifier: str
    in_recovery: bool
    timeline: int | None
    write_lsn: Lsn | None  # primary: pg_current_wal_lsn()
    flush_lsn: Lsn | None  # primary: pg_current_wal_flush_lsn()
    received_lsn: Lsn | None  # replica: greatest of receive and replay, see queries.py
    replayed_lsn: Lsn | None
    upstream_host: str | None  # from primary_conninfo: also right when the upstream is gone
    upstream_port: int | None
    upstream_known: bool  # primary_conninfo could be read (it may be empty)
    conninfo: dict[str, str] = field(default_factory=dict)  # keywords of primary_conninfo, no secrets
    own_application_name: str | None  # what this replica calls itself to its upstream
    primary_slot_name: str | None
    receiver: Receiver | None
    senders: tuple[Sender, ...] = ()
    slots: tuple[Slot, ...] = ()
    replay_pause: str | None = None  # not paused | pause requested | paused
    apply_delay_s: float | None = None
    last_replayed_xact_age_s: float | None = None
    receive_lsn_known: bool | None = None  # False after a restart: it may have flushed more than it shows
    receiver_processes: int | None = None  # walreceivers, also one that is starting; None = not to be seen
    checkpoint_timeline: int | None = (
        None  # of the control file: behind after a promotion, until a checkpoint
    )
    startup_wait_event: str | None = None  # what the startup process waits for
    synchronous_standby_names: str | None = None
    monitor_privilege: bool = True  # the role sees what pg_monitor sees
    settings: dict[str, str] = field(default_factory=dict)
    archiver: Archiver | None = None
    conflicts: dict[str, int] = field(default_factory=dict)
    controllers: tuple[ControllerSession, ...] = ()
    state_table: bool = False  # replctl.state is there and may be read
    started_at: float | None = None  # pg_postmaster_start_time()
    clock_at: float | None = None  # clock_timestamp() of the node
    clock_skew_s: float | None = None  # node's clock minus ours, at the middle of the round trip
    round_trip_s: float = 0.0
    sampled_at_s: float = 0.0  # our monotonic clock, middle of the round trip

    @property
    def is_complete(self) -> bool:
        """False where the server forbids some view: what is None or empty is unknown then."""
        return bool(self.settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """No facts, and why."""

    node: str
    cause: Cause
    message: str
    took_s: float = 0.0
    sampled_at_s: float = 0.0


Observation = NodeFacts | Unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """One look at every node of an inventory, in the inventory's order."""

    nodes: tuple[Observation, ...]
    witnesses: tuple[Observation, ...] = ()
    observed_at: float = 0.0  # Unix time of our own clock
    observed_at_s: float = 0.0  # our monotonic clock
    took_s: float = 0.0
    cut_short: frozenset[str] = frozenset()  # nodes that the limit of the whole run left no time for
    marks: Marks | None = None  # of replctl.state; None = no such table, or nobody asked
    voted: frozenset[str] | None = None  # nodes whose vote somebody holds; None = nobody asked

    def __getitem__(self, name: str) -> Observation:
        for observation in self.nodes:
            if observation.node == name:
                return observation
        raise KeyError(name)

    @property
    def facts(self) -> tuple[NodeFacts, ...]:
        """The nodes that answered."""
        return tuple(n for n in self.nodes if isinstance(n, NodeFacts))
