"""What fills up or runs out: slots, walsenders, the archive."""

from __future__ import annotations

from collections.abc import Iterator

from replctl.core.checks.registry import Context, check, compare
from replctl.core.model import NodeFacts, Slot
from replctl.core.results import CheckResult, Metric, Status
from replctl.core.status import NodeStatus, Role
from replctl.core.thresholds import Range, Unit
from replctl.core.units import format_bytes, format_duration, server_bytes


@check(
    "slots",
    of="node",
    help="Replication slots are used, complete and not filling the disk.",
    hint="SELECT * FROM pg_replication_slots;",
    meaning="CRITICAL when WAL that a slot's consumer needs is gone, and when a replica asks for a slot that "
    "its upstream lacks; WARNING and CRITICAL for slots that keep WAL without a consumer, until the "
    "disk is full. Bring the consumer back, or drop its slot if it is gone for good. Slots that are "
    "kept in step with the primary (17 and later) are inactive by design.",
    thresholds=(
        "slot_inactive_s",
        "slot_retained_bytes",
    ),
)
def _slots(ctx: Context) -> Iterator[CheckResult]:
    for node, facts in ctx.answering():
        slots = [slot for slot in facts.slots if not slot.synced]
        for slot in slots:
            yield _slot_result(ctx, node, facts, slot)
        if not slots and facts.settings:
            yield ctx.result(Status.OK, f"{node.name} keeps WAL for no slot", node)
    for replica in ctx.status.replicas:
        upstream = next((n for n in ctx.status.nodes if n.name == replica.upstream), None)
        wanted = replica.facts.primary_slot_name if replica.facts else None
        if upstream is None or upstream.facts is None or wanted is None or replica.slot is not None:
            continue
        if not upstream.facts.is_complete:
            continue
        yield ctx.result(
            Status.CRITICAL,
            f"{upstream.name} lacks slot {wanted} that {replica.name} asks for",
            upstream,
            subject=wanted,
            hint=f"on {upstream.name}: SELECT pg_create_physical_replication_slot('{wanted}', true);",
        )


def _slot_result(ctx: Context, node: NodeStatus, facts: NodeFacts, slot: Slot) -> CheckResult:
    """The worst of what there is to say about one slot."""
    name = f"slot {slot.name} on {node.name}"
    label = f"{node.name}_{slot.name}"
    metrics: list[Metric] = []
    found = [(Status.OK, f"{name} is {'active' if slot.active else 'inactive'}")]
    if slot.retained_bytes is not None:
        ranges = _retained_ranges(ctx, node, facts)
        status, metric = compare(slot.retained_bytes, ranges, f"{label}_retained", Unit.BYTES)
        metrics.append(metric)
        found.append((status, f"{name} keeps {format_bytes(slot.retained_bytes)} of WAL"))
    if not slot.active and not slot.temporary:
        if slot.inactive_s is None:
            found.append((Status.WARNING, f"{name} has no consumer"))
        else:
            status, metric = ctx.held_against("slot_inactive_s", slot.inactive_s, node, f"{label}_inactive")
            metrics.append(metric)
            found.append((status, f"{name} has had no consumer for {format_duration(slot.inactive_s)}"))
    if slot.wal_status == "unreserved":
        found.append((Status.WARNING, f"{name} is about to lose WAL that it needs (unreserved)"))
    if slot.wal_status == "lost" or slot.invalidation_reason:
        found.append(
            (Status.CRITICAL, f"{name} is unusable: {slot.invalidation_reason or 'its WAL is lost'}")
        )
    status, message = max(found, key=lambda item: item[0].rank)
    hint = _slot_hint(ctx, node, slot)
    return ctx.result(status, message, node, subject=slot.name, hint=hint, metrics=tuple(metrics))


def _slot_hint(ctx: Context, node: NodeStatus, slot: Slot) -> str:
    """To drop the slot of a replica that will be back costs it the WAL that it still needs."""
    drop = f"SELECT pg_drop_replication_slot('{slot.name}');"
    usable = slot.wal_status != "lost" and not slot.invalidation_reason
    for other in ctx.status.nodes:
        uses = other.facts is not None and other.facts.primary_slot_name == slot.name
        if other.name != node.name and (uses or ctx.status.settings.slot_name(other.name) == slot.name):
            if usable:
                return f"bring {other.name} back; only if it never will be: {drop}"
            return f"{other.name} needs a new copy: pg_basebackup"
    return f"on {node.name}, if its consumer is gone: {drop}"


def _retained_ranges(ctx: Context, node: NodeStatus, facts: NodeFacts) -> tuple[Range, Range]:
    """The inventory's thresholds, else a quarter and a half of the server's own limit, else the defaults."""
    settings = ctx.status.settings
    key = "slot_retained_bytes"
    given = key in settings.checks.thresholds or key in node.spec.checks.thresholds
    limit_bytes = server_bytes(facts.settings.get("max_slot_wal_keep_size"))
    if given or limit_bytes is None or limit_bytes <= 0:
        return ctx.ranges(key, node)
    return Range(0, limit_bytes / 4), Range(0, limit_bytes / 2)


@check(
    "archiver",
    of="primary",
    help="WAL archiving works where it is configured.",
    hint="SELECT * FROM pg_stat_archiver;",
    meaning="The last attempt to archive failed, and the last success is so long ago. WAL piles up on the "
    "primary, and backups lose their end: the server's log says what archive_command or "
    "archive_library answered.",
    thresholds=("archiver_s",),
)
def _archiver(ctx: Context) -> Iterator[CheckResult]:
    for node, facts in ctx.answering():
        archiver = facts.archiver
        if archiver is None or archiver.configured is None or node.role is not Role.PRIMARY:
            continue
        if not archiver.configured:
            yield ctx.result(Status.OK, f"{node.name} does not archive", node)
            continue
        failed_s, archived_s = archiver.last_failed_age_s, archiver.last_archived_age_s
        failing = failed_s is not None and (archived_s is None or failed_s < archived_s)
        failures = archiver.failed_count
        metrics = (Metric(label=f"{node.name}_archive_failed", value=failures, unit=Unit.COUNTER),)
        if not failing:
            yield ctx.result(
                Status.OK, f"{node.name} archived {archiver.archived_count} files", node, metrics=metrics
            )
            continue
        since_s = (
            archived_s if archived_s is not None else (facts.clock_at or 0.0) - (facts.started_at or 0.0)
        )
        status, metric = ctx.held_against("archiver_s", since_s, node)
        yield ctx.result(
            status,
            f"{node.name} archiving fails, no success for {format_duration(since_s)}",
            node,
            metrics=(*metrics, metric),
        )


def _headroom(ctx: Context, key: str, used_of: str, setting: str, count: str) -> Iterator[CheckResult]:
    """Used share of a fixed number of places on every node: any of them may get a downstream."""
    for node, facts in ctx.answering():
        limit = int(facts.settings.get(setting, "0") or 0)
        if limit == 0:
            continue
        used = len(facts.senders) if count == "senders" else len(facts.slots)
        status, metric = ctx.held_against(key, 100.0 * used / limit, node)
        yield ctx.result(
            status,
            f"{node.name} uses {used} of {limit} {used_of}",
            node,
            hint=f"on {node.name}: ALTER SYSTEM SET {setting} = {2 * limit}; then restart it",
            metrics=(metric,),
        )


@check(
    "wal-senders",
    of="node",
    help="Headroom of max_wal_senders.",
    hint="ALTER SYSTEM SET max_wal_senders",
    meaning="When all walsenders are taken, no further replica, backup or rejoin can connect. Raising "
    "max_wal_senders takes a restart.",
    thresholds=("wal_senders_percent",),
)
def _wal_senders(ctx: Context) -> Iterator[CheckResult]:
    return _headroom(ctx, "wal_senders_percent", "walsenders", "max_wal_senders", "senders")


@check(
    "slot-headroom",
    of="node",
    help="Headroom of max_replication_slots.",
    hint="ALTER SYSTEM SET max_replication_slots",
    meaning="When all slots are taken, a replica that needs its own can be neither added nor repointed here. "
    "Drop what nobody uses; raising max_replication_slots takes a restart.",
    thresholds=("slots_percent",),
)
def _slot_headroom(ctx: Context) -> Iterator[CheckResult]:
    return _headroom(ctx, "slots_percent", "replication slots", "max_replication_slots", "slots")
