"""The samples of what nodes keep: slots with their WAL, and the archive."""

from __future__ import annotations

from replctl.core.metrics import families as f
from replctl.core.metrics.families import Found
from replctl.core.metrics.nodes import moment
from replctl.core.model import NodeFacts, Slot
from replctl.core.status import ClusterStatus
from replctl.core.units import server_bytes

WAL_STATUSES = ("reserved", "extended", "unreserved", "lost")


def storage_samples(status: ClusterStatus) -> Found:
    """Slots and archive of every node that answered."""
    for facts in status.state.facts:
        of = (status.settings.name, facts.node)
        for slot in facts.slots:
            yield from _slot(facts, slot, (*of, slot.name))
        limit_bytes = server_bytes(facts.settings.get("max_slot_wal_keep_size"))
        yield f.SLOT_KEEP_MAX, of, limit_bytes if limit_bytes is not None and limit_bytes > 0 else None
        yield from _archive(facts, of)


def _slot(facts: NodeFacts, slot: Slot, of: tuple[str, str, str]) -> Found:
    yield f.SLOT_INFO, (*of, slot.kind, _word(slot.synced), _word(slot.temporary)), 1
    yield f.SLOT_ACTIVE, of, slot.active
    yield f.SLOT_RETAINED, of, slot.retained_bytes
    yield f.SLOT_SAFE, of, slot.safe_wal_bytes
    yield f.SLOT_CONFIRMED, of, slot.confirmed_flush_lsn
    yield f.SLOT_INACTIVE_SINCE, of, moment(facts, slot.inactive_s)
    if slot.wal_status is not None:
        for wal_status in WAL_STATUSES:
            yield f.SLOT_WAL_STATUS, (*of, wal_status), wal_status == slot.wal_status
    yield f.SLOT_UNUSABLE, of, slot.wal_status == "lost" or bool(slot.invalidation_reason)


def _word(yes: bool) -> str:
    return "true" if yes else "false"


def _archive(facts: NodeFacts, of: tuple[str, str]) -> Found:
    archiver = facts.archiver
    if archiver is None or not archiver.configured:
        return
    yield f.ARCHIVED, of, archiver.archived_count
    yield f.ARCHIVE_FAILED, of, archiver.failed_count
    yield f.ARCHIVED_AT, of, moment(facts, archiver.last_archived_age_s)
    yield f.ARCHIVE_FAILED_AT, of, moment(facts, archiver.last_failed_age_s)
