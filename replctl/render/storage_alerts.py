"""Alerts about what fills up or runs out: slots and the WAL they keep, walsenders, the archive."""

from __future__ import annotations

import math
from collections.abc import Iterator

from replctl.core.metrics import Family
from replctl.core.metrics import families as f
from replctl.core.thresholds import Range
from replctl.render.alerts import CRITICAL, NODE, WARNING, Alert, Group, Scope, by_severity
from replctl.render.promql import number, outside

SLOT = "slot {{ $labels.slot_name }} on {{ $labels.node }}"
DEFAULT_WINDOW_S = 300
SHARES = {WARNING: 0.25, CRITICAL: 0.5}
"""Of max_slot_wal_keep_size, where it is set and the inventory has no threshold, as the check has it."""


def slot_alerts(scope: Scope) -> Iterator[Alert]:
    """Slots without a consumer, and those whose WAL is in danger or lost."""
    for severity, expr in by_severity(scope, "slot_inactive_s", lambda *of: _inactive(scope, *of)):
        yield Alert(
            name="ReplctlSlotInactive",
            expr=expr,
            severity=severity,
            summary=f"{SLOT} has no consumer",
            description="It keeps WAL until the disk is full. Bring its consumer back, or drop it if that is "
            "gone for good.",
        )
    yield Alert(
        name="ReplctlSlotUnreserved",
        expr=f"{scope.of(f.SLOT_WAL_STATUS, wal_status='unreserved')} == 1",
        severity=WARNING,
        summary=f"{SLOT} is about to lose WAL that it needs",
        description="It keeps more than max_slot_wal_keep_size: bring its consumer back at once.",
    )
    yield Alert(
        name="ReplctlSlotUnusable",
        expr=f"{scope.of(f.SLOT_UNUSABLE)} == 1 {_unless_synced(scope)}",
        severity=CRITICAL,
        summary=f"{SLOT} is unusable",
        description="WAL that its consumer needs is gone, so that needs a new copy. Drop the slot.",
    )


def _unless_synced(scope: Scope) -> str:
    """Slots that are kept in step with the primary's have no consumer by design."""
    return f"unless ignoring (slot_type, synced, temporary) {scope.of(f.SLOT_INFO, synced='true')}"


def _inactive(scope: Scope, group: Group, _severity: str, allowed: Range) -> str | None:
    """By the time that the server tells (17 and later), else by how long it was seen so.

    Without one now, when that time began (as far as Prometheus looks back), and whenever it was seen in
    between: a slot that was not seen for so long yet, as on a new primary, is not told of.
    """
    since = scope.of(f.SLOT_INACTIVE_SINCE, group.matcher)
    told = outside(f"time() - {since}", allowed)
    if told is None:
        return None
    window_s = max(1, round(allowed.high)) if allowed.high < math.inf else DEFAULT_WINDOW_S
    active = scope.of(f.SLOT_ACTIVE, group.matcher)
    began, between = (
        f"min_over_time({active}[5m] offset {window_s}s)",
        f"max_over_time({active}[{window_s}s])",
    )
    unused = f"{active} == 0 and {began} == 0 and {between} == 0 unless {since}"
    temporary = f"unless ignoring (slot_type, synced, temporary) {scope.of(f.SLOT_INFO, temporary='true')}"
    return f"({told} or ({unused})) {_unless_synced(scope)} {temporary}"


def retained_alerts(scope: Scope) -> Iterator[Alert]:
    """Slots that keep much WAL: by the inventory, or where that says nothing, by the server's own limit."""
    key, settings = "slot_retained_bytes", scope.settings

    def made(group: Group, severity: str, allowed: Range) -> str | None:
        kept, limit = scope.of(f.SLOT_RETAINED, group.matcher), scope.of(f.SLOT_KEEP_MAX, group.matcher)
        fixed = outside(kept, allowed)
        if fixed is None or key in settings.checks.thresholds or group.is_own:
            return fixed
        share = f"{kept} > ignoring (slot_name) group_left () ({number(SHARES[severity])} * {limit})"
        return f"(({fixed}) unless ignoring (slot_name) {limit}) or {share}"

    for severity, expr in by_severity(scope, key, made):
        yield Alert(
            name="ReplctlSlotRetainedWal",
            expr=f"({expr}) {_unless_synced(scope)}",
            for_s=120,
            severity=severity,
            summary=f"{SLOT} keeps {{{{ $value | humanize1024 }}}}B of WAL",
            description="It fills the disk, or loses its WAL, when its consumer stays behind.",
        )


def headroom_alerts(scope: Scope) -> Iterator[Alert]:
    """Places that run out."""
    for key, used, limit, name, what in (
        ("wal_senders_percent", f.SENDERS, f.SENDERS_MAX, "ReplctlWalSendersNearMax", "walsenders"),
        ("slots_percent", f.SLOTS, f.SLOTS_MAX, "ReplctlSlotsNearMax", "replication slots"),
    ):

        def made(
            group: Group, _severity: str, allowed: Range, used: Family = used, limit: Family = limit
        ) -> str | None:
            share = f"(100 * {scope.of(used, group.matcher)} / {scope.of(limit, group.matcher)})"
            return outside(share, allowed)

        for severity, expr in by_severity(scope, key, made):
            yield Alert(
                name=name,
                expr=expr,
                for_s=300,
                severity=severity,
                summary=f"{NODE} of {scope.cluster} uses {{{{ $value | humanize }}}} % of its {what}",
                description="When all are taken, no further replica can connect. Raising the limit takes a "
                "restart.",
            )


def archive_alerts(scope: Scope) -> Iterator[Alert]:
    """A primary whose last attempt to archive failed, since it last succeeded, or was started."""

    def made(group: Group, _severity: str, allowed: Range) -> str | None:
        success, failure = (
            scope.of(f.ARCHIVED_AT, group.matcher),
            scope.of(f.ARCHIVE_FAILED_AT, group.matcher),
        )
        since = outside(f"time() - {success}", allowed)
        started = outside(f"time() - {scope.of(f.STARTED_AT, group.matcher)}", allowed)
        if since is None or started is None:
            return None
        failing = f"(({since}) and {failure} > {success})"
        return f"{failing} or (({started}) and ({failure} unless {success}))"

    primary = f"and ignoring (role) ({scope.of(f.ROLE, role='primary')} == 1)"
    for severity, expr in by_severity(scope, "archiver_s", made):
        yield Alert(
            name="ReplctlArchiveFailing",
            expr=f"({expr}) {primary}",
            for_s=300,
            severity=severity,
            summary=f"archiving on {NODE} has failed for {{{{ $value | humanizeDuration }}}}",
            description="WAL piles up, and backups lose their end. The server log has what archive_command "
            "or archive_library answered.",
        )
