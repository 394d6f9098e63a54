"""How far replicas are behind, what holds them, and what their loss would mean."""

from __future__ import annotations

from typing import Any

from replctl.core.model import ClusterState, Lsn
from replctl.core.settings import CheckSettings, Thresholds
from tests.unit.builders import END, primary, replica, seen_before, sender, spec, state, trio, unreachable
from tests.unit.check_cases import CRITICAL, GIB, MIB, UNKNOWN, WARNING, Case, Said, case, of_pg2, ok

WATCH = "replctl status --watch"
RESUME = "on pg2: SELECT pg_wal_replay_resume();"


def thresholds(key: str, warning: str, critical: str) -> CheckSettings:
    return CheckSettings(thresholds={key: Thresholds(warning=warning, critical=critical)})


PG3_HAS_ALL = ok("pg3", "pg3 0 B behind")
LAG_BYTES = [
    case("lag-bytes", trio(), ok("pg2", "pg2 0 B behind"), PG3_HAS_ALL),
    case(
        "lag-bytes",
        of_pg2(lsn=END - 17 * MIB),
        (WARNING, "pg2", "pg2 17.0 MiB behind", WATCH),
        PG3_HAS_ALL,
    ),
    case(
        "lag-bytes",
        trio(pg1=primary("pg1", lsn=END + 2 * GIB)),
        *((CRITICAL, name, f"{name} 2.0 GiB behind", WATCH) for name in ("pg2", "pg3")),
    ),
    case("lag-bytes", of_pg2(lsn=END + 1), PG3_HAS_ALL),  # ahead: timeline says it
    case("lag-bytes", of_pg2(replayed_lsn=None), PG3_HAS_ALL),
    case(
        "lag-bytes",
        of_pg2(replayed_lsn=Lsn(END - 50 * MIB), apply_delay_s=3600.0),
        ok("pg2", "pg2 0 B behind"),
        PG3_HAS_ALL,
    ),
    case(
        "lag-bytes",  # the inventory's thresholds before the defaults, a node's own before the inventory's
        trio(pg2=replica("pg2", lsn=END - 50), pg3=replica("pg3", lsn=END - 50)),
        (CRITICAL, "pg2", "pg2 50 B behind", WATCH),
        ok("pg3", "pg3 50 B behind"),
        inventory={
            "checks": thresholds("lag_bytes", "10", "20"),
            "nodes": (spec("pg1"), spec("pg2"), spec("pg3", checks=thresholds("lag_bytes", "60", "never"))),
        },
    ),
]


def moved(ago_s: float) -> tuple[float, ClusterState]:
    """So long ago, the primary was past the position where pg2 will be found."""
    return ago_s, state(*trio(pg1=primary("pg1", lsn=END - 100)))


BEHIND = of_pg2(lsn=END - 150)
PG3_IS_FRESH = ok("pg3", "pg3 0 s behind")
LAG_SECONDS = [
    case("lag-seconds", trio(), ok("pg2", "pg2 0 s behind"), PG3_IS_FRESH),
    case(
        "lag-seconds",
        BEHIND,
        (WARNING, "pg2", "pg2 at least 40 s behind", WATCH),
        PG3_IS_FRESH,
        history=seen_before(moved(40)),
    ),
    case(
        "lag-seconds",
        BEHIND,
        (CRITICAL, "pg2", "pg2 at least 6 min 40 s behind", WATCH),
        PG3_IS_FRESH,
        history=seen_before(moved(400)),
    ),
    case(
        "lag-seconds",
        of_pg2(lsn=END - 150, last_replayed_xact_age_s=9000.0),
        ok("pg2", "pg2 behind at most 2 h 30 min (no history yet)"),
        PG3_IS_FRESH,
    ),
    case("lag-seconds", of_pg2(lsn=END + 1), PG3_IS_FRESH),  # ahead: timeline says it
    case(
        "lag-seconds",
        of_pg2(replayed_lsn=None),
        ok("pg2", "pg2 behind for an unknown time (no history yet)"),
        PG3_IS_FRESH,
    ),
    case(
        "lag-seconds",
        of_pg2(lsn=END - 150, apply_delay_s=380.0),
        ok("pg2", "pg2 at least 6 min 40 s behind (delayed by 6 min 20 s)"),
        PG3_IS_FRESH,
        history=seen_before(moved(400)),
    ),
]

RULE = "ANY 1 (pg1, pg2, pg3)"
DOCTOR = "replctl doctor"
TOLERATES = ok("pg1", "writes survive 1 more replica loss(es), a failover 0")
ASYNCHRONOUS = ok("pg1", "replication is asynchronous")


def sync_case(*said: Said, configured: str | None = RULE, expected: str = RULE, **facts: Any) -> Case:
    senders = tuple(sender(name, sync_state="quorum") for name in ("pg2", "pg3"))
    pg1 = primary(
        "pg1", "pg2", "pg3", **{"synchronous_standby_names": configured, "senders": senders} | facts
    )
    return case("sync", trio(pg1=pg1), *said, inventory={"failover": {"synchronous": expected}})


def differs(configured: str) -> Said:
    message = f"synchronous_standby_names is {configured!r}, expected 'pg2'"
    return (WARNING, "pg1", message, "replctl config show")


SYNC = [
    sync_case(TOLERATES),
    sync_case(ASYNCHRONOUS, configured="", expected=""),
    sync_case(
        (WARNING, "pg1", "a failover now could not prove zero loss: 1 replica(s) missing", DOCTOR),
        senders=(sender("pg3", sync_state="quorum"),),
    ),
    sync_case(
        (CRITICAL, "pg1", "commits wait: 1 synchronous replica(s) missing", DOCTOR),
        senders=(),
    ),
    sync_case(differs(RULE), TOLERATES, expected="pg2"),
    sync_case(differs(""), ASYNCHRONOUS, configured="", expected="pg2"),
    sync_case(
        (UNKNOWN, "pg1", "who confirms commits is hidden from this role", DOCTOR),
        monitor_privilege=False,
        senders=tuple(sender(name, state=None, sync_state=None) for name in ("pg2", "pg3")),
    ),
    sync_case(configured=None),
    case("sync", (unreachable("pg1"), replica("pg2"))),
]

PG3_REPLAYS = ok("pg3", "pg3 replay is not paused")
REPLAY_PAUSED = [
    case("replay-paused", trio(), ok("pg2", "pg2 replay is not paused"), PG3_REPLAYS),
    case(
        "replay-paused",
        of_pg2(replay_pause="paused", lsn=END - 2048),
        (WARNING, "pg2", "pg2 replay is paused, 2.0 KiB behind", RESUME),
        PG3_REPLAYS,
    ),
    case(
        "replay-paused",
        of_pg2(replay_pause="pause requested"),
        (WARNING, "pg2", "pg2 replay is paused", RESUME),
        PG3_REPLAYS,
    ),
    case("replay-paused", of_pg2(replay_pause=None), PG3_REPLAYS),
]

PG3_CANCELLED_NONE = ok("pg3", "pg3 cancelled 0 queries so far")
CONFLICTS = [
    case(
        "conflicts",
        of_pg2(conflicts={"lock": 2, "snapshot": 3}),
        ok("pg2", "pg2 cancelled 5 queries so far"),
        PG3_CANCELLED_NONE,
    ),
    case(
        "conflicts",
        of_pg2(startup_wait_event="RecoveryConflictSnapshot"),
        (
            WARNING,
            "pg2",
            "pg2 replay waits for a query (RecoveryConflictSnapshot)",
            "SELECT pid, query FROM pg_stat_activity WHERE backend_xmin IS NOT NULL;",
        ),
        PG3_CANCELLED_NONE,
    ),
    case("conflicts", of_pg2(conflicts={}), PG3_CANCELLED_NONE),
]

CASES = [*LAG_BYTES, *LAG_SECONDS, *SYNC, *REPLAY_PAUSED, *CONFLICTS]
