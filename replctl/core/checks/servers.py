"""Each server by itself and against its peers: clock, settings, privileges, release."""

from __future__ import annotations

from collections.abc import Iterator

from replctl.core.checks.registry import Context, check
from replctl.core.results import CheckResult, Status
from replctl.core.status import NodeStatus, Role
from replctl.core.units import format_duration, format_version


@check(
    "clock-skew",
    of="node",
    help="The servers' clocks agree with this machine's.",
    hint="timedatectl status",
    meaning="A server's clock is off, beyond what the network explains. Lag is not measured with it, but "
    "logs, tokens and certificates are: look at its time synchronisation.",
    thresholds=("clock_skew_s",),
)
def _clock_skew(ctx: Context) -> Iterator[CheckResult]:
    for node, facts in ctx.answering():
        if facts.clock_skew_s is None:
            continue
        sure_s = max(0.0, abs(facts.clock_skew_s) - facts.round_trip_s / 2)
        status, metric = ctx.held_against("clock_skew_s", sure_s, node)
        way = "ahead of" if facts.clock_skew_s > 0 else "behind"
        yield ctx.result(
            status, f"{node.name} clock is {format_duration(sure_s)} {way} ours", node, metrics=(metric,)
        )


# https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-ADMIN
_AT_LEAST_PRIMARY = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)
_SAME_AS_PRIMARY = (
    "wal_level",
    "wal_log_hints",
    "full_page_writes",
    "archive_mode",
    "max_replication_slots",
    "max_slot_wal_keep_size",
)
_RELOADED = {"full_page_writes", "max_slot_wal_keep_size", "synchronous_standby_names"}


@check(
    "settings-parity",
    of="replica",
    help="Replicas can take the primary's place: settings that must be as high, or the same.",
    hint="compare postgresql.conf of the nodes",
    meaning="WARNING when a replica could not take the primary's place as it is: with lower max_connections "
    "or its kin it pauses replay, and is not promoted without a restart. Other differences show only "
    "after a failover.",
)
def _settings_parity(ctx: Context) -> Iterator[CheckResult]:
    primary = ctx.status.primary_node
    if primary is None or primary.facts is None or not primary.facts.is_complete:
        return
    theirs = primary.facts.settings
    for node, facts in ctx.answering():
        if node.role is not Role.REPLICA or not facts.is_complete:
            continue
        ours, expected = facts.settings, dict(theirs)
        low = [n for n in _AT_LEAST_PRIMARY if n in ours and n in theirs and int(ours[n]) < int(theirs[n])]
        other = [n for n in _SAME_AS_PRIMARY if n in ours and n in theirs and ours[n] != theirs[n]]
        if (
            facts.synchronous_standby_names != primary.facts.synchronous_standby_names
            and ctx.status.sync.configured
        ):
            other.append("synchronous_standby_names")
            expected["synchronous_standby_names"] = primary.facts.synchronous_standby_names or ""
        if low:
            said = ", ".join(f"{n} {ours[n]} < {theirs[n]}" for n in low)
            yield ctx.result(
                Status.WARNING,
                f"{node.name} has lower {said}",
                node,
                hint=_alter(node, {name: expected[name] for name in low}),
            )
        elif other:
            message = f"{node.name} differs from {primary.name} in {', '.join(other)}"
            hint = _alter(node, {name: expected[name] for name in other})
            yield ctx.result(Status.WARNING, message, node, hint=hint)
        else:
            yield ctx.result(Status.OK, f"{node.name} has the settings of {primary.name}", node)


def _alter(node: NodeStatus, values: dict[str, str]) -> str:
    """The statements that give a node these settings."""
    statements = " ".join(f"ALTER SYSTEM SET {name} = {_literal(value)};" for name, value in values.items())
    then = "SELECT pg_reload_conf();" if _RELOADED.issuperset(values) else "then restart it"
    return f"on {node.name}: {statements} {then}"


def _literal(value: str) -> str:
    return value if value.isdecimal() else "'" + value.replace("'", "''") + "'"


@check(
    "privileges",
    of="node",
    help="The role sees what monitoring needs.",
    hint="replctl grants --role observer",
    meaning="UNKNOWN when the role does not see what pg_monitor shows. What the server hides is shown as "
    "unknown, never as zero, so several other checks cannot tell.",
)
def _privileges(ctx: Context) -> Iterator[CheckResult]:
    for node, facts in ctx.answering():
        if facts.monitor_privilege:
            yield ctx.result(Status.OK, f"{node.name} shows everything", node)
        else:
            hint = f"replctl grants --pg {facts.server_version_num // 10000} --role observer"
            yield ctx.result(
                Status.UNKNOWN,
                f"{node.name} hides replication from this role (no pg_monitor)",
                node,
                hint=hint,
            )


@check(
    "version",
    of="cluster",
    help="All nodes run one release, without a known fault of synchronous replication.",
    hint="SELECT version();",
    meaning="WARNING when releases differ, as during an upgrade, and for releases before May 2025 with "
    "synchronous replication: just after a start they may skip the wait, so that an acknowledged "
    "commit can be lost.",
)
def _version(ctx: Context) -> Iterator[CheckResult]:
    versions = {n.name: format_version(f.server_version_num) for n, f in ctx.answering()}
    if len(set(versions.values())) > 1:
        spelled = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield ctx.result(Status.WARNING, f"releases differ: {spelled}")
    elif versions:
        yield ctx.result(Status.OK, f"all nodes run {next(iter(versions.values()))}")
    for node, facts in ctx.answering():
        if (
            "sync_wait_from_start" not in facts.capabilities
            and ctx.status.sync.configured
            and node.role is Role.PRIMARY
        ):
            yield ctx.result(
                Status.WARNING,
                f"{node.name} may skip the synchronous wait just after a start",
                node,
                hint="update to the current minor release",
            )


@check(
    "rewind-ready",
    of="node",
    help="An old primary can come back by pg_rewind.",
    hint="ALTER SYSTEM SET wal_log_hints = on; then restart",
    meaning="WARNING when pg_rewind would refuse: it needs wal_log_hints or data checksums, and "
    "full_page_writes. Without them an old primary that was ahead comes back only as a complete new "
    "copy.",
)
def _rewind_ready(ctx: Context) -> Iterator[CheckResult]:
    for node, facts in ctx.answering():
        settings = facts.settings
        hints = settings.get("wal_log_hints") == "on" or settings.get("data_checksums") == "on"
        if not settings:
            continue
        if not hints:
            yield ctx.result(
                Status.WARNING,
                f"{node.name}: neither wal_log_hints nor data checksums, pg_rewind will refuse",
                node,
                hint=f"on {node.name}: ALTER SYSTEM SET wal_log_hints = on; then restart it",
            )
        elif settings.get("full_page_writes") != "on":
            yield ctx.result(
                Status.WARNING,
                f"{node.name}: full_page_writes is off, pg_rewind will refuse",
                node,
                hint=f"on {node.name}: ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
            )
        else:
            yield ctx.result(Status.OK, f"{node.name} can be rewound", node)
