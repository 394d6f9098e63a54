"""What fills up or runs out: slots, walsenders, the archive."""

from __future__ import annotations

from typing import Any

from replctl.core.model import Archiver
from replctl.core.results import Status
from replctl.core.settings import CheckSettings, Thresholds
from tests.unit.builders import NOW, SETTINGS, primary, sender, slot, trio, without_receiver
from tests.unit.check_cases import CORE_ONLY, CRITICAL, GIB, MIB, OK, WARNING, Case, case, of_pg1, ok

IDLE: dict[str, Any] = {"active": False, "active_pid": None}
PG1_FEEDS_PG2, PG1_FEEDS_PG3 = (ok("pg1", f"slot {name} on pg1 is active") for name in ("pg2", "pg3"))
NO_OTHERS = (ok("pg2", "pg2 keeps WAL for no slot"), ok("pg3", "pg3 keeps WAL for no slot"))


def slot_case(
    status: Status,
    message: str,
    *,
    limit: str = "-1",
    inventory: dict[str, Any] | None = None,
    **columns: Any,
) -> Case:
    """pg1's slot s beside the two that are fine, with this max_slot_wal_keep_size."""
    hint = "on pg1, if its consumer is gone: SELECT pg_drop_replication_slot('s');"
    return case(
        "slots",
        of_pg1(
            slots=(slot("pg2"), slot("pg3"), slot("s", **columns)),
            settings=SETTINGS | {"max_slot_wal_keep_size": limit},
        ),
        PG1_FEEDS_PG2,
        PG1_FEEDS_PG3,
        (status, "pg1", f"slot s on pg1 {message}", None if status is OK else hint),
        *NO_OTHERS,
        inventory=inventory,
    )


OWN_LIMIT = {
    "checks": CheckSettings(thresholds={"slot_retained_bytes": Thresholds(warning="1GiB", critical="2GiB")})
}
SLOTS = [
    slot_case(OK, "is active"),
    slot_case(OK, "is inactive", **IDLE, temporary=True),
    slot_case(OK, "is inactive", **IDLE, inactive_s=10.0),
    slot_case(WARNING, "has no consumer", **IDLE),
    slot_case(WARNING, "has had no consumer for 6 min 40 s", **IDLE, inactive_s=400.0),
    slot_case(CRITICAL, "has had no consumer for 1 h", **IDLE, inactive_s=3600.0),
    slot_case(WARNING, "keeps 2.0 GiB of WAL", retained_bytes=2 * GIB),
    slot_case(CRITICAL, "keeps 11.0 GiB of WAL", retained_bytes=11 * GIB),
    # By default shares of the server's own limit, unless the inventory says otherwise.
    slot_case(WARNING, "keeps 300.0 MiB of WAL", retained_bytes=300 * MIB, limit="1GB"),
    slot_case(CRITICAL, "keeps 600.0 MiB of WAL", retained_bytes=600 * MIB, limit="1GB"),
    slot_case(OK, "is active", retained_bytes=600 * MIB, limit="1GB", inventory=OWN_LIMIT),
    slot_case(WARNING, "is about to lose WAL that it needs (unreserved)", wal_status="unreserved"),
    slot_case(CRITICAL, "is unusable: its WAL is lost", **IDLE, wal_status="lost", retained_bytes=None),
    slot_case(CRITICAL, "is unusable: idle_timeout", **IDLE, invalidation_reason="idle_timeout"),
    case(
        "slots",
        of_pg1(slots=(slot("pg2"), slot("pg3"), slot("kept_in_step", **IDLE, synced=True))),
        PG1_FEEDS_PG2,
        PG1_FEEDS_PG3,
        *NO_OTHERS,
    ),
    case(
        "slots",
        trio(pg1=primary("pg1", "pg3"), pg2=without_receiver("pg2")),
        PG1_FEEDS_PG3,
        *NO_OTHERS,
        (
            CRITICAL,
            "pg1",
            "pg1 lacks slot pg2 that pg2 asks for",
            "on pg1: SELECT pg_create_physical_replication_slot('pg2', true);",
        ),
    ),
    case("slots", trio(pg1=primary("pg1", **CORE_ONLY)), *NO_OTHERS),
    case(
        "slots",  # its replica will need what it keeps
        of_pg1(slots=(slot("pg2", **IDLE), slot("pg3", **IDLE, wal_status="lost", retained_bytes=None))),
        (
            WARNING,
            "pg1",
            "slot pg2 on pg1 has no consumer",
            "bring pg2 back; only if it never will be: SELECT pg_drop_replication_slot('pg2');",
        ),
        (
            CRITICAL,
            "pg1",
            "slot pg3 on pg1 is unusable: its WAL is lost",
            "pg3 needs a new copy: pg_basebackup",
        ),
        *NO_OTHERS,
    ),
]


def archiver(configured: bool | None = True, **columns: Any) -> Archiver:
    given: dict[str, Any] = {
        "archived_count": 7,
        "failed_count": 0,
        "last_archived_age_s": 5.0,
        "last_failed_age_s": None,
    }
    return Archiver(configured=configured, **given | columns)


ARCHIVE_HINT = "SELECT * FROM pg_stat_archiver;"
ARCHIVER = [
    case("archiver", trio(), ok("pg1", "pg1 does not archive")),
    case("archiver", of_pg1(archiver=archiver()), ok("pg1", "pg1 archived 7 files")),
    case(
        "archiver",  # it has failed before, and works again
        of_pg1(archiver=archiver(last_failed_age_s=60.0, failed_count=3)),
        ok("pg1", "pg1 archived 7 files"),
    ),
    case(
        "archiver",
        of_pg1(archiver=archiver(last_archived_age_s=90.0, last_failed_age_s=60.0, failed_count=3)),
        (WARNING, "pg1", "pg1 archiving fails, no success for 1 min 30 s", ARCHIVE_HINT),
    ),
    case(
        "archiver",  # it has never worked since the server started
        of_pg1(
            started_at=NOW - 7200,
            archiver=archiver(last_archived_age_s=None, last_failed_age_s=1.0, failed_count=30),
        ),
        (CRITICAL, "pg1", "pg1 archiving fails, no success for 2 h", ARCHIVE_HINT),
    ),
    case("archiver", of_pg1(archiver=archiver(configured=None))),
    case("archiver", of_pg1(archiver=None)),
]


def headroom_case(check: str, setting: str, what: str, rows: str, used: int, status: Status) -> Case:
    made = tuple(sender(f"x{n}") if rows == "senders" else slot(f"x{n}") for n in range(used))
    hint = f"on pg1: ALTER SYSTEM SET {setting} = 20; then restart it"
    return case(
        check,
        of_pg1(**{rows: made}),
        (status, "pg1", f"pg1 uses {used} of 10 {what}", None if status is OK else hint),
        ok("pg2", f"pg2 uses 0 of 10 {what}"),
        ok("pg3", f"pg3 uses 0 of 10 {what}"),
    )


HEADROOM = [
    headroom_case(*check, used, status)
    for check in (
        ("wal-senders", "max_wal_senders", "walsenders", "senders"),
        ("slot-headroom", "max_replication_slots", "replication slots", "slots"),
    )
    for used, status in ((8, OK), (9, WARNING), (10, CRITICAL))
]

CASES = [*SLOTS, *ARCHIVER, *HEADROOM]
