"""Alerts about single nodes: silent, on another history, without WAL, behind, with a wrong clock."""

from __future__ import annotations

from collections.abc import Iterator

from replctl.core.metrics import families as f
from replctl.core.thresholds import Range
from replctl.render.alerts import CRITICAL, NODE, WARNING, Alert, Group, Record, Scope, by_severity
from replctl.render.promql import among, number, outside, quoted

LAG_SETTLES_S = 120.0
GROWING_BYTES = 64 * 1024 * 1024
LAG_BYTES_COUNTED = "node:replctl_lag_bytes:counted"
LAG_SECONDS_COUNTED = "node:replctl_lag_seconds:counted"


def recorded_lag(scope: Scope) -> Iterator[Record]:
    """Lag as the checks count it: of a replica that is delayed on purpose, what that does not explain."""
    delayed = f"{scope.of(f.APPLY_DELAY)} > 0"
    yield Record(
        name=LAG_BYTES_COUNTED,
        expr=f"({scope.of(f.TRANSPORT_LAG)} and ({delayed})) or ({scope.of(f.LAG_BYTES)} unless ({delayed}))",
    )
    diverged = f"{scope.of(f.STATE, state='diverged')} == 1"
    beyond = f"clamp_min({scope.of(f.LAG_SECONDS)} - {scope.of(f.APPLY_DELAY)}, 0)"
    yield Record(
        name=LAG_SECONDS_COUNTED,
        expr=f"({beyond} or {scope.of(f.LAG_SECONDS)}) unless ignoring (state) ({diverged})",
    )


def reach_alerts(scope: Scope) -> Iterator[Alert]:
    """Nodes that do not answer, or are not of this cluster."""
    quiet = [n.name for n in scope.settings.nodes if scope.settings.unreachable(n.name) == "unknown"]
    strange = f"{scope.of(f.SCRAPE_ERROR, reason='wrong_cluster')} == 1"
    down = scope.of(f.UP, among(quiet, is_in=False) if quiet else None)
    yield Alert(
        name="ReplctlNodeDown",
        expr=f"{down} == 0 unless ignoring (reason) ({strange})",
        for_s=60,
        severity=CRITICAL,
        summary=f"{NODE} of {scope.cluster} does not answer",
        description=f"replctl reaches no PostgreSQL on {NODE}. `replctl status -o wide` has the cause: "
        "refused = it does not run, timeout = the host or the network.",
    )
    yield Alert(
        name="ReplctlSystemIdentifierMismatch",
        expr=strange,
        severity=CRITICAL,
        summary=f"{NODE} is of another cluster than {scope.cluster}",
        description="Its system identifier is another: the address leads to the wrong server, or it was "
        "initialised anew.",
    )


def state_alerts(scope: Scope) -> Iterator[Alert]:
    """Nodes in a state that does not mend itself."""
    yield Alert(
        name="ReplctlStalePrimary",
        expr=f"{scope.of(f.STATE, state='stale_primary')} == 1",
        severity=CRITICAL,
        summary=f"{NODE} of {scope.cluster} takes writes on an older timeline",
        description=f"What is written there will be lost. `replctl fence {NODE}`, then bring it back "
        "as a replica.",
    )
    yield Alert(
        name="ReplctlReplicaDiverged",
        expr=f"{scope.of(f.STATE, state='diverged')} == 1",
        for_s=120,
        severity=CRITICAL,
        summary=f"{NODE} is not on the history of {scope.cluster}'s primary",
        description="It will never follow by itself: it needs pg_rewind or a new copy.",
    )
    yield Alert(
        name="ReplctlReplicaNotStreaming",
        expr=f"{scope.of(f.CHECK_STATUS, check='streaming')} == 2",
        for_s=120,
        severity=CRITICAL,
        summary=f"{NODE} of {scope.cluster} receives no WAL",
        description="It has no walreceiver and replays nothing new. Its server log says why it cannot "
        "connect.",
    )
    yield Alert(
        name="ReplctlReplayPaused",
        expr=f"{scope.of(f.REPLAY_PAUSED)} == 1",
        for_s=900,
        severity=WARNING,
        summary=f"replay on {NODE} of {scope.cluster} is paused",
        description=f"It shows older and older data. On {NODE}: SELECT pg_wal_replay_resume();",
    )


def clock_alerts(scope: Scope) -> Iterator[Alert]:
    """Clocks that are off, beyond what the network explains."""

    def made(group: Group, _severity: str, allowed: Range) -> str | None:
        skew, took = scope.of(f.CLOCK_SKEW, group.matcher), scope.of(f.SCRAPE_DURATION, group.matcher)
        return outside(f"(abs({skew}) - {took} / 2)", allowed)

    for severity, expr in by_severity(scope, "clock_skew_s", made):
        yield Alert(
            name="ReplctlClockSkew",
            expr=expr,
            for_s=300,
            severity=severity,
            summary=f"the clock of {NODE} is off by {{{{ $value | humanizeDuration }}}}",
            description="Lag is not measured with it, but logs, tokens and certificates are: look at its "
            "time synchronisation.",
        )


def lag_alerts(scope: Scope) -> Iterator[Alert]:
    """Replicas that are behind by more than the thresholds, or more and more."""
    for key, recorded, name, shown in (
        ("lag_bytes", LAG_BYTES_COUNTED, "ReplctlLagBytes", "{{ $value | humanize1024 }}B"),
        ("lag_s", LAG_SECONDS_COUNTED, "ReplctlLagSeconds", "{{ $value | humanizeDuration }}"),
    ):

        def made(group: Group, _severity: str, allowed: Range, recorded: str = recorded) -> str | None:
            matchers = [f"cluster={quoted(scope.cluster)}", *filter(None, [group.matcher])]
            return outside(f"{recorded}{{{','.join(matchers)}}}", allowed)

        for severity, expr in by_severity(scope, key, made):
            yield Alert(
                name=name,
                expr=expr,
                for_s=LAG_SETTLES_S,
                severity=severity,
                summary=f"{NODE} of {scope.cluster} is {shown} behind",
                description="`replctl status -o wide` tells transport lag (network, receiver) from apply "
                "lag (a conflicting query, a slow disk).",
            )
    lag = f"{LAG_BYTES_COUNTED}{{cluster={quoted(scope.cluster)}}}"
    yield Alert(
        name="ReplctlLagIncreasing",
        expr=f"deriv({lag}[15m]) > 0 and {lag} > {GROWING_BYTES}",
        for_s=900,
        severity=WARNING,
        summary=f"{NODE} of {scope.cluster} falls further and further behind",
        description="For a quarter of an hour it has fallen behind what the primary writes, and goes on so.",
    )


def read_alerts(scope: Scope) -> Iterator[Alert]:
    """Replicas that no read may go to, of those that are meant for reads: with a weight, and not delayed."""
    idle = [n.name for n in scope.settings.nodes if n.weight == 0]
    if len(idle) == len(scope.settings.nodes):
        return
    meant = {label: among(idle, is_in=False, label=label) if idle else None for label in ("node", "replica")}
    limit_s = scope.settings.routing.max_lag_s
    # By its last word: one that is silent meanwhile was not meant for reads either.
    delayed = f"last_over_time({scope.of(f.APPLY_DELAY)}[1d]) > 0"
    of_delay = f'label_replace({delayed}, "replica", "$1", "node", "(.+)")'
    lag = scope.of(f.REPLICATION_LAG, meant["replica"])
    yield Alert(
        name="ReplctlLagOverReadLimit",
        expr=f"{lag} > {number(limit_s)} unless on (cluster, replica) {of_delay}",
        for_s=30,
        severity=WARNING,
        summary=f"{{{{ $labels.replica }}}} of {scope.cluster} is too far behind to be read from",
        description=f"Its data is older than {number(limit_s)} s, the limit of [routing].",
    )
    instead = {
        "primary": "Reads go to the primary.",
        "least-lag": "Reads go to the replica that is behind the least.",
        "error": "Reads fail.",
    }[scope.settings.routing.on_all_unfit]
    yield Alert(
        name="ReplctlAllReplicasUnfit",
        expr=f"max by (cluster) ({scope.of(f.IN_POOL, meant['node'])} unless ({delayed})) == 0",
        for_s=30,
        severity=CRITICAL if scope.settings.routing.on_all_unfit == "error" else WARNING,
        summary=f"no replica of {scope.cluster} is fit to serve reads",
        description=f"{instead} `replctl route --explain` has the reason of each.",
    )
