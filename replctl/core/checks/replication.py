"""How far replicas are behind, what holds them, and what their loss would mean."""

from __future__ import annotations

from collections.abc import Iterator

from replctl.core.checks.registry import Context, behind, check
from replctl.core.lag import LagBound
from replctl.core.results import CheckResult, Metric, Status
from replctl.core.status import NodeState, Role
from replctl.core.thresholds import Unit
from replctl.core.units import format_bytes, format_duration


@check(
    "lag-bytes",
    of="replica",
    help="WAL that a replica has not replayed yet.",
    hint="replctl status --watch",
    meaning="The replica is behind by more than the threshold. `replctl status -o wide` tells the two halves "
    "apart: transport lag points at the network or the receiver, apply lag at replay (a conflicting "
    "query, a slow disk). Of a delayed replica the received WAL counts.",
    thresholds=("lag_bytes",),
)
def _lag_bytes(ctx: Context) -> Iterator[CheckResult]:
    for node in ctx.status.replicas:
        lag = node.lag.transport_lag_bytes if node.apply_delay_s else node.lag.lag_bytes
        if lag is None or lag < 0:
            continue  # unknown, or ahead: `timeline` says that
        status, metric = ctx.held_against("lag_bytes", lag, node)
        yield ctx.result(status, f"{node.name} {format_bytes(lag)} behind", node, metrics=(metric,))


@check(
    "lag-seconds",
    of="replica",
    help="How long ago the primary was where the replica is.",
    hint="replctl status --watch",
    meaning="The replica shows data this old. It is measured against recorded positions of the primary, so "
    "that neither an idle primary nor a disconnected replica deceives it; before there is such a "
    "record it says so and is OK. A delayed replica's own delay is not counted.",
    thresholds=("lag_s",),
)
def _lag_seconds(ctx: Context) -> Iterator[CheckResult]:
    for node in ctx.status.replicas:
        if node.state is NodeState.DIVERGED:
            continue
        value_s, delay_s = node.lag_s, node.apply_delay_s or 0.0
        if value_s is None or node.lag_bound is LagBound.UPPER:
            most = f"at most {format_duration(value_s)}" if value_s is not None else "for an unknown time"
            metric = Metric(label=f"{node.name}_lag_s", value=None, unit=Unit.SECONDS)
            yield ctx.result(
                Status.OK, f"{node.name} behind {most} (no history yet)", node, metrics=(metric,)
            )
            continue
        status, metric = ctx.held_against("lag_s", max(0.0, value_s - delay_s), node)
        least = "at least " if node.lag_bound is LagBound.LOWER else ""
        delayed = f" (delayed by {format_duration(delay_s)})" if delay_s else ""
        message = f"{node.name} {least}{format_duration(value_s)} behind{delayed}"
        yield ctx.result(status, message, node, metrics=(metric,))


@check(
    "sync",
    of="cluster",
    help="How many replica losses writes and a failover survive.",
    hint="replctl doctor",
    meaning="CRITICAL when commits wait for more replicas than are left: bring one back, or lower the number "
    "in synchronous_standby_names knowing what that gives up. WARNING when a failover could no longer "
    "prove that nothing is lost, or when the setting is not what the inventory expects.",
)
def _sync(ctx: Context) -> Iterator[CheckResult]:
    sync = ctx.status.sync
    writes, failover = sync.tolerated_replica_losses_for_writes, sync.tolerated_replica_losses_for_failover
    if sync.configured is None:
        return
    if sync.matches is False:
        yield ctx.result(
            Status.WARNING,
            f"synchronous_standby_names is {sync.configured!r}, expected {sync.expected!r}",
            ctx.status.primary,
            hint="replctl config show",
        )
    if not sync.configured:
        yield ctx.result(Status.OK, "replication is asynchronous", ctx.status.primary)
        return
    if writes is None or failover is None:
        yield ctx.result(Status.UNKNOWN, "who confirms commits is hidden from this role", ctx.status.primary)
        return
    metrics = (
        Metric(label="sync_writes_tolerate", value=writes, unit=Unit.COUNT),
        Metric(label="sync_failover_tolerates", value=failover, unit=Unit.COUNT),
    )
    if writes < 0:
        yield ctx.result(
            Status.CRITICAL,
            f"commits wait: {-writes} synchronous replica(s) missing",
            ctx.status.primary,
            metrics=metrics,
        )
    elif failover < 0:
        yield ctx.result(
            Status.WARNING,
            f"a failover now could not prove zero loss: {-failover} replica(s) missing",
            ctx.status.primary,
            metrics=metrics,
        )
    else:
        yield ctx.result(
            Status.OK,
            f"writes survive {writes} more replica loss(es), a failover {failover}",
            ctx.status.primary,
            metrics=metrics,
        )


@check(
    "replay-paused",
    of="replica",
    help="Replay is not paused.",
    hint="SELECT pg_wal_replay_resume();",
    meaning="WARNING when replay is paused: by somebody, or by the server because max_connections or its kin "
    "are lower than the primary's. The replica receives WAL, but shows older and older data, and "
    "delays a failover.",
)
def _replay_paused(ctx: Context) -> Iterator[CheckResult]:
    for node in ctx.status.replicas:
        if node.replay_paused:
            yield ctx.result(
                Status.WARNING,
                f"{node.name} replay is paused{behind(node)}",
                node,
                hint=f"on {node.name}: SELECT pg_wal_replay_resume();",
            )
        elif node.replay_paused is not None:
            yield ctx.result(Status.OK, f"{node.name} replay is not paused", node)


@check(
    "conflicts",
    of="replica",
    help="Replay does not wait for a query on the replica.",
    hint="SELECT pid, query FROM pg_stat_activity WHERE backend_xmin IS NOT NULL;",
    meaning="WARNING while replay waits for a query on the replica (max_standby_streaming_delay). End the "
    "query, or send long ones elsewhere. The counters of cancelled queries are in the performance "
    "data.",
)
def _conflicts(ctx: Context) -> Iterator[CheckResult]:
    for node, facts in ctx.answering():
        if node.role is not Role.REPLICA:
            continue
        total = sum(facts.conflicts.values()) if facts.conflicts else None
        metrics = (Metric(label=f"{node.name}_conflicts", value=total, unit=Unit.COUNTER),)
        waits = (facts.startup_wait_event or "").startswith("RecoveryConflict")
        if waits:
            yield ctx.result(
                Status.WARNING,
                f"{node.name} replay waits for a query ({facts.startup_wait_event})",
                node,
                metrics=metrics,
            )
        elif total is not None:
            yield ctx.result(
                Status.OK, f"{node.name} cancelled {total} queries so far", node, metrics=metrics
            )
