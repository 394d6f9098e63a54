"""Each server by itself and against its peers: clock, settings, privileges, release."""

from __future__ import annotations

from replctl.core.results import Status
from tests.unit.builders import SETTINGS, primary, replica, trio, unreachable
from tests.unit.check_cases import CORE_ONLY, CRITICAL, OK, UNKNOWN, WARNING, Case, case, of_pg1, of_pg2, ok


def clock_case(status: Status, message: str, skew_s: float, round_trip_s: float = 0.0) -> Case:
    return case(
        "clock-skew",
        of_pg1(clock_skew_s=skew_s, round_trip_s=round_trip_s),
        (status, "pg1", f"pg1 clock is {message} ours", None if status is OK else "timedatectl status"),
        ok("pg2", "pg2 clock is 0 s behind ours"),
        ok("pg3", "pg3 clock is 0 s behind ours"),
    )


CLOCK_SKEW = [
    clock_case(OK, "1.5 s ahead of", 1.5),
    clock_case(WARNING, "3.0 s behind", -3.0),
    clock_case(CRITICAL, "1 min ahead of", 60.0),
    clock_case(OK, "1.0 s ahead of", 3.0, round_trip_s=4.0),  # half of it may be the network's
    case("clock-skew", (primary("pg1", clock_skew_s=None),)),
]

PG3_IS_LIKE_PG1 = ok("pg3", "pg3 has the settings of pg1")
SETTINGS_PARITY = [
    case("settings-parity", trio(), ok("pg2", "pg2 has the settings of pg1"), PG3_IS_LIKE_PG1),
    case(
        "settings-parity",
        of_pg2(settings=SETTINGS | {"max_connections": "50", "max_wal_senders": "5", "wal_level": "logical"}),
        (
            WARNING,
            "pg2",
            "pg2 has lower max_connections 50 < 100, max_wal_senders 5 < 10",
            "on pg2: ALTER SYSTEM SET max_connections = 100; ALTER SYSTEM SET max_wal_senders = 10; "
            "then restart it",
        ),
        PG3_IS_LIKE_PG1,
    ),
    case(
        "settings-parity",
        of_pg2(settings=SETTINGS | {"max_connections": "500", "wal_level": "logical", "archive_mode": "on"}),
        (
            WARNING,
            "pg2",
            "pg2 differs from pg1 in wal_level, archive_mode",
            "on pg2: ALTER SYSTEM SET wal_level = 'replica'; ALTER SYSTEM SET archive_mode = 'off'; "
            "then restart it",
        ),
        PG3_IS_LIKE_PG1,
    ),
    case(
        "settings-parity",
        trio(
            pg1=primary("pg1", "pg2", "pg3", synchronous_standby_names="pg3"),
            pg3=replica("pg3", synchronous_standby_names="pg3"),
        ),
        (
            WARNING,
            "pg2",
            "pg2 differs from pg1 in synchronous_standby_names",
            "on pg2: ALTER SYSTEM SET synchronous_standby_names = 'pg3'; SELECT pg_reload_conf();",
        ),
        PG3_IS_LIKE_PG1,
    ),
    case("settings-parity", of_pg2(**CORE_ONLY), PG3_IS_LIKE_PG1),
    case("settings-parity", (primary("pg1", **CORE_ONLY), replica("pg2"))),
    case("settings-parity", (unreachable("pg1"), replica("pg2"))),
]

PG1_SHOWS, PG2_SHOWS, PG3_SHOWS = (ok(name, f"{name} shows everything") for name in ("pg1", "pg2", "pg3"))
PRIVILEGES = [
    case("privileges", trio(), PG1_SHOWS, PG2_SHOWS, PG3_SHOWS),
    case(
        "privileges",
        of_pg2(monitor_privilege=False),
        PG1_SHOWS,
        (
            UNKNOWN,
            "pg2",
            "pg2 hides replication from this role (no pg_monitor)",
            "replctl grants --pg 18 --role observer",
        ),
        PG3_SHOWS,
    ),
]

ALL_RUN = ok(None, "all nodes run 18.3")
VERSION = [
    case("version", trio(), ALL_RUN),
    case(
        "version",
        of_pg2(server_version_num=180001),
        (WARNING, None, "releases differ: pg1 18.3, pg2 18.1, pg3 18.3", "SELECT version();"),
    ),
    case(
        "version",
        of_pg1(capabilities=frozenset(), synchronous_standby_names="pg2"),
        ALL_RUN,
        (
            WARNING,
            "pg1",
            "pg1 may skip the synchronous wait just after a start",
            "update to the current minor release",
        ),
    ),
    case("version", of_pg1(capabilities=frozenset()), ALL_RUN),  # asynchronous: there is no wait
    case("version", (unreachable("pg1"),)),
]

PG1_REWINDS, PG2_REWINDS, PG3_REWINDS = (ok(name, f"{name} can be rewound") for name in ("pg1", "pg2", "pg3"))
REWIND_READY = [
    case("rewind-ready", trio(), PG1_REWINDS, PG2_REWINDS, PG3_REWINDS),
    case(
        "rewind-ready",
        of_pg2(settings=SETTINGS | {"wal_log_hints": "off"}),
        PG1_REWINDS,
        (
            WARNING,
            "pg2",
            "pg2: neither wal_log_hints nor data checksums, pg_rewind will refuse",
            "on pg2: ALTER SYSTEM SET wal_log_hints = on; then restart it",
        ),
        PG3_REWINDS,
    ),
    case(
        "rewind-ready",
        of_pg2(settings=SETTINGS | {"wal_log_hints": "off", "data_checksums": "on"}),
        PG1_REWINDS,
        PG2_REWINDS,
        PG3_REWINDS,
    ),
    case(
        "rewind-ready",
        of_pg2(settings=SETTINGS | {"full_page_writes": "off"}),
        PG1_REWINDS,
        (
            WARNING,
            "pg2",
            "pg2: full_page_writes is off, pg_rewind will refuse",
            "on pg2: ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
        ),
        PG3_REWINDS,
    ),
    case("rewind-ready", of_pg2(**CORE_ONLY), PG1_REWINDS, PG3_REWINDS),
]

CASES = [*CLOCK_SKEW, *SETTINGS_PARITY, *PRIVILEGES, *VERSION, *REWIND_READY]
