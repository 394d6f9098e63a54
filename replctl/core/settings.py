"""What the inventory says, in the form the core needs it: plain values, no secrets, no files.

`replctl.inventory` builds these; the defaults here are the product's defaults. Sizes are bytes and
times are seconds, with the unit last in the name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from replctl.core.thresholds import THRESHOLD_KEYS

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From where a check warns and from where it is critical, as texts that `core.thresholds` reads.

    Either may be `never`. Units are the check's own.
    """

    warning: str
    critical: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """`[checks]`, or `[nodes.checks]`: only what the file gives; what is None or missing has its default."""

    thresholds: dict[str, Thresholds] = field(default_factory=dict)  # by key, such as lag_bytes
    unreachable: Literal["critical", "unknown"] | None = None
    heartbeat_s: float | None = None  # None = no heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One `[[nodes]]` table without anything secret: it may reach a screen, JSON, a journal."""

    name: str
    host: str
    port: int = 5432
    application_name: str
    zone: str | None = None
    promote: Literal["prefer", "neutral", "avoid", "never"] = "neutral"
    weight: int = 100
    client_host: str | None = None
    client_port: int | None = None
    data_directory: str | None = None
    checks: CheckSettings = field(default_factory=CheckSettings)  # overrides of the cluster's


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessSpec:
    """One `[[witnesses]]` table: a PostgreSQL server that only votes."""

    name: str
    host: str
    port: int = 5432


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationSettings:
    """`[replication]`: what a written primary_conninfo consists of. Its files are on the nodes."""

    user: str
    passfile: str | None = None
    sslmode: str | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    dbname: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingSettings:
    """`[routing]`: which replicas may serve reads."""

    policy: Literal["round-robin", "least-lag", "weighted", "zone"] = "round-robin"
    max_lag_bytes: int = 16 * MIB
    max_lag_s: float = 5.0
    readmit_lag_bytes: int = 4 * MIB
    readmit_lag_s: float = 1.0
    eject_after: int = 2
    readmit_after: int = 3
    hold_s: float = 5.0
    on_all_unfit: Literal["primary", "least-lag", "error"] = "primary"
    sticky_s: float = 5.0
    on_behind: Literal["primary", "wait", "stale", "error"] = "primary"
    wait_s: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """`[failover.hooks]`: argv lists."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    on_failure: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverSettings:
    """`[failover]`. The timings come from the profile unless the file gives them (see PROFILES)."""

    profile: Literal["fast", "normal", "safe"] = "normal"
    interval_s: float = 1.0
    probe_timeout_s: float = 2.0
    burst_interval_s: float = 0.2
    failures: int = 3
    restart_grace_s: float = 15.0
    stop_grace_s: float = 15.0
    max_loss_bytes: int = 16 * MIB
    synchronous: str | None = None  # None = absent from the inventory; "" = stated to be asynchronous
    on_sync_short: Literal["block", "degrade"] = "block"
    votes: Literal["majority", "replicas"] = "majority"
    fencing: Literal["auto", "required", "none"] = "auto"
    allow_replay_changes: bool = False
    block_s: float = 3600.0
    hook_timeout_s: float = 10.0
    fence_timeout_s: float = 30.0
    hooks: Hooks = field(default_factory=Hooks)


PROFILES: dict[str, dict[str, float]] = {
    "fast": {
        "interval_s": 0.5,
        "probe_timeout_s": 0.5,
        "failures": 3,
        "burst_interval_s": 0.05,
        "restart_grace_s": 2.0,
        "stop_grace_s": 5.0,
    },
    "normal": {
        "interval_s": 1.0,
        "probe_timeout_s": 2.0,
        "failures": 3,
        "burst_interval_s": 0.2,
        "restart_grace_s": 15.0,
        "stop_grace_s": 15.0,
    },
    "safe": {
        "interval_s": 2.0,
        "probe_timeout_s": 3.0,
        "failures": 5,
        "burst_interval_s": 0.5,
        "restart_grace_s": 60.0,
        "stop_grace_s": 60.0,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Everything that the core may know of one inventory."""

    name: str
    manager: Literal["replctl", "patroni"] = "replctl"
    nodes: tuple[NodeSpec, ...]
    witnesses: tuple[WitnessSpec, ...] = ()
    slot: str | None = None  # [replication] slot, with {name}; None = no slots
    routing: RoutingSettings = field(default_factory=RoutingSettings)
    failover: FailoverSettings = field(default_factory=FailoverSettings)
    replication: ReplicationSettings | None = None
    checks: CheckSettings = field(default_factory=CheckSettings)
    fence_commands: frozenset[str] = frozenset()  # nodes that have one

    def node(self, name: str) -> NodeSpec:
        """The node of this name. Raises KeyError when the inventory has none."""
        for spec in self.nodes:
            if spec.name == name:
                return spec
        raise KeyError(name)

    def slot_name(self, name: str) -> str | None:
        """The physical slot that the node of this name streams from; None where slots are not used.

        Slot names know no capitals, dots and hyphens: those become what is nearest.
        """
        if self.slot is None:
            return None
        return self.slot.replace("{name}", name).lower().replace("-", "_").replace(".", "_")

    def thresholds(self, key: str, node: str | None = None) -> Thresholds:
        """The thresholds of one key of `[checks]`: the node's, else the cluster's, else the default."""
        if node is not None and key in self.node(node).checks.thresholds:
            return self.node(node).checks.thresholds[key]
        if key in self.checks.thresholds:
            return self.checks.thresholds[key]
        default = THRESHOLD_KEYS[key]
        return Thresholds(warning=default.warning, critical=default.critical)

    def unreachable(self, node: str) -> Literal["critical", "unknown"]:
        """What a node that gives no facts is to the checks."""
        return self.node(node).checks.unreachable or self.checks.unreachable or "critical"
