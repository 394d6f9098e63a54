"""The tables about what to do: routing, checks, failover."""

from __future__ import annotations

from replctl.core.settings import FailoverSettings, RoutingSettings
from replctl.core.units import exact_bytes
from replctl.inventory import kinds
from replctl.inventory.keys import Key, Table
from replctl.inventory.servers import UNREACHABLE, UNREACHABLE_HELP, threshold_keys

_hook = kinds.argv(empty=True)
_routing = RoutingSettings()
_failover = FailoverSettings()

ROUTING = Table(
    ("routing",),
    "Which replicas may serve reads. Leaving the pool and returning to it have their own limits.",
    (
        Key(
            "policy",
            kinds.choice("round-robin", "least-lag", "weighted", "zone"),
            "how reads are spread over the fit replicas",
            _routing.policy,
        ),
        Key(
            "max_lag_bytes", kinds.size(), "leave the pool above this …", exact_bytes(_routing.max_lag_bytes)
        ),
        Key("max_lag_s", kinds.duration(), "… or above this", 5),
        Key(
            "readmit_lag_bytes",
            kinds.size(),
            "return only below this …",
            exact_bytes(_routing.readmit_lag_bytes),
            absent="a quarter of max_lag_bytes",
        ),
        Key("readmit_lag_s", kinds.duration(), "… and below this", 1),
        Key("eject_after", kinds.integer(1, 1000), "consecutive bad samples before leaving", 2),
        Key("readmit_after", kinds.integer(1, 1000), "consecutive good samples before returning", 3),
        Key("hold_s", kinds.duration(), "minimum time out of the pool", 5),
        Key(
            "on_all_unfit",
            kinds.choice("primary", "least-lag", "error"),
            "where reads go when no replica is fit",
            _routing.on_all_unfit,
        ),
        Key("sticky_s", kinds.duration(), "how long after a write reads go to the primary", 5),
        Key(
            "on_behind",
            kinds.choice("primary", "wait", "stale", "error"),
            "what to do with a token that no replica has reached",
            _routing.on_behind,
        ),
        Key("wait_s", kinds.duration(0, 60), "how long `wait` waits", _routing.wait_s),
    ),
)

CHECKS = Table(
    ("checks",),
    "Thresholds of the checks: warning, critical. Each may be a range as Nagios plugins take it, or never.",
    (
        *threshold_keys(node=False),
        Key("unreachable", UNREACHABLE, UNREACHABLE_HELP, "critical"),
        Key(
            "heartbeat_s",
            kinds.duration(0.1, 3600),
            "write a message of a few bytes into the WAL this often, for exact seconds on an idle primary",
            example=5,
            absent="no heartbeat",
        ),
    ),
)

_PROFILE = "profile"
FAILOVER = Table(
    ("failover",),
    "When and how the primary is replaced. The timings come from the profile; a key given here overrides it.",
    (
        Key(
            "profile",
            kinds.choice("fast", "normal", "safe"),
            "named set of the six timings below",
            _failover.profile,
        ),
        Key("interval_s", kinds.duration(0.05, 3600), "between two looks at the primary", 1, absent=_PROFILE),
        Key("probe_timeout_s", kinds.duration(0.05, 3600), "limit for one probe", 2, absent=_PROFILE),
        Key(
            "burst_interval_s",
            kinds.duration(0.01, 3600),
            "between two probes once one has failed",
            _failover.burst_interval_s,
            absent=_PROFILE,
        ),
        Key(
            "failures",
            kinds.integer(1, 1000),
            "failed probes in a row before it counts as lost",
            3,
            absent=_PROFILE,
        ),
        Key(
            "restart_grace_s",
            kinds.duration(),
            "patience while it answers 'starting up'",
            15,
            absent=_PROFILE,
        ),
        Key("stop_grace_s", kinds.duration(), "patience after an orderly stop", 15, absent=_PROFILE),
        Key(
            "max_loss_bytes",
            kinds.size(),
            "asynchronous replication only: known loss that --auto may accept",
            exact_bytes(_failover.max_loss_bytes),
        ),
        Key(
            "synchronous",
            kinds.synchronous(),
            "what synchronous_standby_names must be on every primary",
            example="ANY 1 (pg1, pg2, pg3)",
            absent="not stated: no automatic failover",
        ),
        Key(
            "on_sync_short",
            kinds.choice("block", "degrade"),
            "too few replicas left to confirm: let writes wait, or lower the number and restore it later",
            _failover.on_sync_short,
        ),
        Key(
            "votes",
            kinds.choice("majority", "replicas"),
            "majority of all nodes and witnesses, or without the lost primary (two nodes, one controller)",
            _failover.votes,
        ),
        Key(
            "fencing",
            kinds.choice("auto", "required", "none"),
            "what is asked before a promotion about the old primary",
            _failover.fencing,
        ),
        Key(
            "allow_replay_changes",
            kinds.flag(),
            "may --auto resume a paused or delayed replica to cut it",
            _failover.allow_replay_changes,
        ),
        Key("block_s", kinds.duration(0, 30 * 86400), "no second automatic failover within this time", 3600),
        Key("hook_timeout_s", kinds.duration(0.1, 3600), "limit for one hook", 10),
        Key("fence_timeout_s", kinds.duration(0.1, 3600), "limit for one fence command", 30),
    ),
)

FAILOVER_HOOKS = Table(
    ("failover", "hooks"),
    "Programs run around a failover: lists of arguments, JSON on stdin, REPLCTL_* in the environment.",
    (
        Key("before", _hook, "before the promotion; a failure aborts it", [], ["/etc/replctl/before"]),
        Key("after", _hook, "after it succeeded", [], ["/etc/replctl/after"]),
        Key("on_failure", _hook, "after it failed", [], ["/etc/replctl/on-failure"]),
    ),
)
