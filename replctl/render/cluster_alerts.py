"""Alerts about a cluster as a whole: its primary, its synchronous replication, whether anybody looks."""

from __future__ import annotations

from collections.abc import Iterator

from replctl.core.metrics import families as f
from replctl.render.alerts import CRITICAL, WARNING, Alert, Scope

STALE_S = 300


def primary_alerts(scope: Scope) -> Iterator[Alert]:
    """No primary, more than one, another one."""
    yield Alert(
        name="ReplctlNoPrimary",
        expr=f"{scope.of(f.PRIMARIES)} == 0",
        for_s=30,
        severity=CRITICAL,
        summary=f"{scope.cluster} has no primary",
        description="No node takes writes. `replctl status` says why, `replctl failover --dry-run` what "
        "a failover would do.",
    )
    yield Alert(
        name="ReplctlMultiplePrimaries",
        expr=f"{scope.of(f.PRIMARIES)} > 1",
        severity=CRITICAL,
        summary=f"{scope.cluster} has {{{{ $value }}}} primaries",
        description="More than one node takes writes. `replctl status` names the one on the older "
        "timeline: keep applications away from it, then `replctl fence` it.",
    )
    yield Alert(
        name="ReplctlPrimaryNotGivenOut",
        # Of each server by itself: what one has seen, another may not have.
        expr=f"max without (node) ({scope.of(f.WRITE_TARGET)}) == 0 and on (cluster) "
        f"{scope.of(f.PRIMARIES)} == 1",
        for_s=60,
        severity=CRITICAL,
        summary=f"{scope.cluster} has a primary, and `replctl serve` sends no writes to it",
        description="It is on an older timeline than another node was seen on, so it may be the one that was "
        "replaced. The problems on the page of the server name both and what to do.",
    )
    yield Alert(
        name="ReplctlFailover",
        expr=f"max by (cluster) (increase({scope.of(f.FAILOVERS)}[15m])) > 0",
        severity=WARNING,
        summary=f"another node of {scope.cluster} has taken over the writes",
        description="There was a failover or a switchover within 15 minutes. `replctl events last` "
        "tells it step by step, `replctl ack` allows the next automatic one.",
    )


def watching_alerts(scope: Scope) -> Iterator[Alert]:
    """Who would act, and whether all the other rules can fire at all."""
    yield Alert(
        name="ReplctlAutomaticFailoverHeldBack",
        expr=f"{scope.of(f.CHECK_STATUS, check='automatic-failover')} == 1",
        for_s=900,
        severity=WARNING,
        summary=f"automatic failover of {scope.cluster} is held back",
        description="It is paused, blocked after a failover, or impossible: `replctl status` says which.",
    )
    yield Alert(
        name="ReplctlNotObserved",
        expr=f"time() - {scope.of(f.OBSERVED_AT)} > 300 or absent({scope.of(f.OBSERVED_AT)})",
        for_s=300,
        severity=CRITICAL,
        summary=f"nobody looks at {scope.cluster}",
        description="`replctl serve` does not answer, or `replctl metrics` does not run any more. No other "
        "rule of this cluster can fire.",
    )


def sync_alerts(scope: Scope) -> Iterator[Alert]:
    """Commits that wait, and what a failover could prove."""
    yield Alert(
        name="ReplctlCommitsWait",
        expr=f"{scope.of(f.SYNC_TOLERATED, purpose='writes')} < 0",
        for_s=30,
        severity=CRITICAL,
        summary=f"commits on {scope.cluster} wait for replicas that are not there",
        description="synchronous_standby_names asks for more replicas than are left: bring one back.",
    )
    yield Alert(
        name="ReplctlFailoverCouldLose",
        expr=f"{scope.of(f.SYNC_TOLERATED, purpose='failover')} < 0",
        for_s=300,
        severity=WARNING,
        summary=f"a failover of {scope.cluster} could not prove that nothing is lost",
        description="Too few synchronous replicas are connected.",
    )
    yield Alert(
        name="ReplctlSyncMismatch",
        expr=f"{scope.of(f.SYNC_MATCHES)} == 0",
        for_s=300,
        severity=WARNING,
        summary=f"synchronous_standby_names on {scope.cluster} is not what the inventory expects",
        description="Automatic failover is refused until they agree: `replctl doctor`.",
    )
