"""Every check: when it is content, and every way in which it is not, with what it says and advises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from replctl.core.checks import CHECKS, evaluate
from replctl.core.model import FENCE_NAME, Archiver, Cause, ClusterState, Lsn, Observation
from replctl.core.results import Metric, Status
from replctl.core.settings import CheckSettings, Thresholds
from replctl.core.thresholds import THRESHOLD_KEYS, Range, Unit
from tests.unit.builders import (
    END,
    NOW,
    SETTINGS,
    SYSTEM_IDENTIFIER,
    address,
    assessed,
    primary,
    receiver,
    replica,
    seen_before,
    sender,
    settings,
    slot,
    spec,
    state,
    trio,
    unreachable,
    without_receiver,
)

OK, WARNING, CRITICAL, UNKNOWN = Status.OK, Status.WARNING, Status.CRITICAL, Status.UNKNOWN
MIB, GIB = 1024**2, 1024**3
HIDDEN = receiver(status=None, sender_host=None, sender_port=None, received_timeline=None)
CORE_ONLY: dict[str, Any] = {
    "settings": {},
    "monitor_privilege": False,
    "upstream_known": False,
    "synchronous_standby_names": None,
    "senders": (),
    "slots": (),
    "receiver": None,
    "archiver": None,
    "conflicts": {},
}
Said = tuple[Status, str | None, str, str | None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A check, a cluster, and all that the check says of it but for what is fine elsewhere."""

    check: str
    nodes: tuple[Observation, ...]
    said: tuple[Said, ...]
    inventory: dict[str, Any]
    look: dict[str, Any]

    def __str__(self) -> str:
        worst = max(self.said, key=lambda said: said[0].rank, default=(OK, None, "nothing", None))
        return f"{self.check}: {worst[2]}"


def case(
    check: str,
    nodes: tuple[Observation, ...],
    *said: Said,
    inventory: dict[str, Any] | None = None,
    **look: Any,
) -> Case:
    return Case(check=check, nodes=nodes, said=said, inventory=inventory or {}, look=look)


def ok(node: str | None, message: str) -> Said:
    return (OK, node, message, None)


def run(check: str, nodes: tuple[Observation, ...], inventory: dict[str, Any] | None = None, **look: Any):
    chosen = settings(*(n.node for n in nodes), **inventory or {})
    return evaluate(assessed(*nodes, inventory=chosen, **look), only=frozenset({check}))


def of_pg1(**facts: Any) -> tuple[Observation, ...]:
    return trio(pg1=primary("pg1", "pg2", "pg3", **facts))


def of_pg2(**facts: Any) -> tuple[Observation, ...]:
    return trio(pg2=replica("pg2", **facts))


def per_node(of: CheckSettings) -> dict[str, Any]:
    return {"nodes": (spec("pg1"), spec("pg2"), spec("pg3", checks=of))}


DOWN = unreachable("pg3", Cause.REFUSED, "connection refused")
STRANGER = unreachable("pg3", Cause.WRONG_CLUSTER, "its system identifier is 9, this cluster's is 7")
ONLY_UNKNOWN = {"checks": CheckSettings(unreachable="unknown")}

REACHABLE = [
    case("reachable", trio(), *(ok(n, f"{n} answers") for n in ("pg1", "pg2", "pg3"))),
    *(
        case(
            "reachable",
            trio(pg3=unreachable("pg3", cause, "what was said")),
            ok("pg1", "pg1 answers"),
            ok("pg2", "pg2 answers"),
            (CRITICAL, "pg3", f"pg3 unreachable, {cause}: what was said", hint),
        )
        for cause, hint in {
            Cause.REFUSED: "start PostgreSQL on 10.0.0.3, or correct the port; its log says why it stopped",
            Cause.TIMEOUT: "is 10.0.0.3 up, and port 5432 open from here?",
            Cause.DNS: "correct the host of pg3 in the inventory, or DNS",
            Cause.TLS: "compare sslmode and certificates in [connection] with what 10.0.0.3:5432 offers",
            Cause.AUTH: "psql 'host=10.0.0.3 port=5432': role, password and pg_hba.conf",
            Cause.STARTING_UP: "wait; the log of pg3 shows how far it is",
            Cause.TOO_MANY_CONNECTIONS: "raise max_connections on pg3, or use fewer",
            Cause.NOT_POSTGRES: "something else listens on 10.0.0.3:5432: correct the port",
            Cause.PRIVILEGE: "replctl grants --role observer",
            Cause.OTHER: "psql 'host=10.0.0.3 port=5432' shows the same error",
        }.items()
    ),
    case("reachable", trio(pg3=STRANGER), ok("pg1", "pg1 answers"), ok("pg2", "pg2 answers")),
    case(
        "reachable",
        trio(pg3=unreachable("pg3", Cause.TIMEOUT, "the time was over while connecting")),
        ok("pg1", "pg1 answers"),
        ok("pg2", "pg2 answers"),
        (UNKNOWN, "pg3", "pg3: the time was over while connecting", "a longer --timeout shows why"),
        cut_short=frozenset({"pg3"}),
    ),
]

PRIMARY = [
    case("primary", trio(), ok(None, "pg1 is the primary")),
    case(
        "primary",
        (primary("pg1"), primary("pg2", timeline=2)),
        (CRITICAL, None, "2 primaries: pg1, pg2", "replctl status"),
    ),
    case(
        "primary",
        (unreachable("pg1"), replica("pg2")),
        (CRITICAL, None, "no primary answers", "replctl failover --dry-run"),
    ),
    case(
        "primary",
        (primary("pg1", synchronous_standby_names=FENCE_NAME), replica("pg2")),
        (CRITICAL, None, "no primary answers", "replctl failover --dry-run"),
    ),
    case(
        "primary",
        (unreachable("pg1"), replica("pg2")),
        (UNKNOWN, None, "not known which node is the primary: nothing heard from pg1", "replctl status"),
        inventory=ONLY_UNKNOWN,
    ),
]

AUTOMATIC_FAILOVER = [
    case("automatic-failover", trio(), ok(None, "automatic failover is off: no controller runs")),
    case(
        "automatic-failover",
        trio(),
        ok(None, "automatic failover is left to patroni"),
        inventory={"manager": "patroni"},
    ),
]

SPLIT_BRAIN = [
    case("split-brain", trio(), ok(None, "no second node accepts writes")),
    case("split-brain", trio(pg3=DOWN), ok(None, "no second node that answers accepts writes")),
    case(
        "split-brain",
        (primary("pg1"), primary("pg2", timeline=2)),
        (CRITICAL, None, "2 nodes accept writes: pg1 (timeline 1), pg2 (timeline 2)", "replctl fence pg1"),
    ),
    case(
        "split-brain",
        (primary("pg1"), primary("pg2")),
        (CRITICAL, None, "2 nodes accept writes: pg1 (timeline 1), pg2 (timeline 1)", "replctl fence NODE"),
    ),
]

SYSTEM_ID = [
    case("system-id", trio(), ok(None, f"system identifier {SYSTEM_IDENTIFIER}")),
    case(
        "system-id",
        trio(pg3=STRANGER),
        (
            CRITICAL,
            "pg3",
            "pg3 is of another cluster: its system identifier is 9, this cluster's is 7",
            "replctl config show",
        ),
    ),
    case("system-id", (unreachable("pg1"),)),
]

TIMELINE = [
    case("timeline", trio(), ok("pg2", "pg2 on timeline 1"), ok("pg3", "pg3 on timeline 1")),
    case(
        "timeline",
        of_pg2(lsn=END + 3 * MIB),
        (CRITICAL, "pg2", "pg2 (timeline 1) is 3.0 MiB ahead of pg1", "replctl rejoin pg2"),
        ok("pg3", "pg3 on timeline 1"),
    ),
    case(
        "timeline",
        of_pg2(timeline=2),
        (CRITICAL, "pg2", "pg2 (timeline 2) is on another history than pg1", "replctl rejoin pg2"),
        ok("pg3", "pg3 on timeline 1"),
    ),
]

LOG_HINT = "look at the replica's server log for walreceiver messages"
RESUME = "on pg2: SELECT pg_wal_replay_resume();"
STREAMING = [
    case("streaming", trio(), ok("pg2", "pg2 streaming"), ok("pg3", "pg3 streaming")),
    case(
        "streaming",
        trio(pg2=without_receiver("pg2", lsn=END - 20 * MIB)),
        (CRITICAL, "pg2", "pg2 stalled: no WAL from pg1, 20.0 MiB behind", LOG_HINT),
        ok("pg3", "pg3 streaming"),
    ),
    case(
        "streaming",
        trio(pg2=without_receiver("pg2", upstream_host=None)),
        (CRITICAL, "pg2", "pg2 stalled: no WAL from anywhere", LOG_HINT),
        ok("pg3", "pg3 streaming"),
    ),
    *(
        case(
            "streaming",
            of_pg2(**facts),
            (UNKNOWN, "pg2", "pg2 hides its walreceiver from this role", "replctl grants --role observer"),
            ok("pg3", "pg3 streaming"),
        )
        for facts in ({"receiver": HIDDEN}, CORE_ONLY, {"receiver": HIDDEN, "replay_pause": "paused"})
    ),
    case(
        "streaming",
        of_pg2(replay_pause="paused"),
        ok("pg2", "pg2 receives WAL while replay is paused"),
        ok("pg3", "pg3 streaming"),
    ),
    case(
        "streaming",
        of_pg2(replay_pause="paused", receiver=None),
        (CRITICAL, "pg2", "pg2 is paused and receives no WAL", RESUME),
        ok("pg3", "pg3 streaming"),
    ),
    case("streaming", of_pg2(lsn=END + 1), ok("pg3", "pg3 streaming")),  # timeline says it
]

EXPECTED_NODES = [
    case("expected-nodes", trio(), ok(None, "all 3 nodes are there")),
    case(
        "expected-nodes",
        trio(pg3=DOWN, pg1=primary("pg1", "pg2")),
        (CRITICAL, "pg3", "pg3 streams from no node", "replctl status --tree"),
    ),
    case(
        "expected-nodes",
        trio(pg3=unreachable("pg3", Cause.AUTH, "no")),
        ok("pg3", "pg3 does not answer but streams from pg1"),
    ),
    case("expected-nodes", trio(pg3=STRANGER)),  # system-id says it
    case("expected-nodes", trio(pg3=DOWN), cut_short=frozenset({"pg3"})),
    case("expected-nodes", trio(pg1=primary("pg1", **CORE_ONLY), pg2=unreachable("pg2"), pg3=DOWN)),
]

ADD = "add the node to the inventory, or stop it"
FOREIGN_REPLICAS = [
    case("foreign-replicas", trio(), ok(None, "nobody streams who is not in the inventory")),
    case(
        "foreign-replicas",
        of_pg1(senders=(sender("pg2"), sender("pg3"), sender("pg9", client_addr=None, slot_name=None))),
        (WARNING, "pg1", "'pg9' streams from pg1", ADD),
    ),
    case(
        "foreign-replicas",
        of_pg1(senders=(sender("pg2"), sender("pg3"), sender("pg9", sync_state="quorum"))),
        (WARNING, "pg1", "'pg9' from 10.0.0.9 streams from pg1 and confirms commits", ADD),
    ),
    case(
        "foreign-replicas",
        of_pg1(
            senders=(
                sender("pg2"),
                sender("pg3"),
                sender("clone", state="backup"),
                sender("pg_basebackup"),
                sender("subscriber", pid=77, slot_name="sub"),
            ),
            slots=(slot("pg2"), slot("pg3"), slot("sub", kind="logical", active_pid=77)),
        ),
        ok(None, "nobody streams who is not in the inventory"),
    ),
    case(
        "foreign-replicas",
        trio(pg3=unreachable("pg3", Cause.TIMEOUT, "no answer")),
        ok(None, "nobody streams who is not in the inventory"),
    ),
    case(
        "foreign-replicas",  # packages give all clusters one name, and nobody uses slots
        (
            primary(
                "pg1",
                senders=tuple(
                    sender("18/main", pid=n, client_addr=address(f"pg{n}"), slot_name=None) for n in (2, 3, 9)
                ),
                slots=(),
            ),
            replica("pg2", own_application_name="18/main", primary_slot_name=None),
            replica("pg3", own_application_name="18/main", primary_slot_name=None),
        ),
        (WARNING, "pg1", "'18/main' from 10.0.0.9 streams from pg1", ADD),
    ),
]

WATCH = "replctl status --watch"
FINE_PG3 = ok("pg3", "pg3 0 B behind")
LAG_BYTES = [
    case("lag-bytes", trio(), ok("pg2", "pg2 0 B behind"), FINE_PG3),
    case(
        "lag-bytes",
        of_pg2(lsn=END - 17 * MIB),
        (WARNING, "pg2", "pg2 17.0 MiB behind", WATCH),
        FINE_PG3,
    ),
    case(
        "lag-bytes",
        trio(pg1=primary("pg1", lsn=END + 2 * GIB)),
        *((CRITICAL, name, f"{name} 2.0 GiB behind", WATCH) for name in ("pg2", "pg3")),
    ),
    case("lag-bytes", of_pg2(lsn=END + 1), FINE_PG3),  # ahead: timeline says it
    case("lag-bytes", of_pg2(replayed_lsn=None), FINE_PG3),
    case(
        "lag-bytes",
        of_pg2(replayed_lsn=Lsn(END - 2 * GIB + 0), apply_delay_s=3600.0),
        ok("pg2", "pg2 0 B behind"),
        FINE_PG3,
    ),
    case(
        "lag-bytes",
        trio(pg2=replica("pg2", lsn=END - 50), pg3=replica("pg3", lsn=END - 50)),
        (CRITICAL, "pg2", "pg2 50 B behind", WATCH),
        ok("pg3", "pg3 50 B behind"),
        inventory={
            "checks": CheckSettings(thresholds={"lag_bytes": Thresholds(warning="10", critical="20")}),
            "nodes": (
                spec("pg1"),
                spec("pg2"),
                spec("pg3", checks=CheckSettings(thresholds={"lag_bytes": Thresholds("60", "70")}))
                if False
                else spec(
                    "pg3",
                    checks=CheckSettings(
                        thresholds={"lag_bytes": Thresholds(warning="60", critical="never")}
                    ),
                ),
            ),
        },
    ),
]


def moved(ago_s: float) -> tuple[float, ClusterState]:
    """So long ago, the primary passed the position where pg2 will be found."""
    return ago_s, state(*trio(pg1=primary("pg1", lsn=END - 100)))


BEHIND = of_pg2(lsn=END - 150)
CAUGHT_UP = ok("pg3", "pg3 0 s behind")
LAG_SECONDS = [
    case("lag-seconds", trio(), ok("pg2", "pg2 0 s behind"), CAUGHT_UP),
    case(
        "lag-seconds",
        BEHIND,
        (WARNING, "pg2", "pg2 at least 40 s behind", WATCH),
        CAUGHT_UP,
        history=seen_before(moved(40)),
    ),
    case(
        "lag-seconds",
        BEHIND,
        (CRITICAL, "pg2", "pg2 at least 6 min 40 s behind", WATCH),
        CAUGHT_UP,
        history=seen_before(moved(400)),
    ),
    case(
        "lag-seconds",
        of_pg2(lsn=END - 150, last_replayed_xact_age_s=9000.0),
        ok("pg2", "pg2 behind at most 2 h 30 min (no history yet)"),
        CAUGHT_UP,
    ),
    case("lag-seconds", of_pg2(lsn=END + 1), CAUGHT_UP),
    case(
        "lag-seconds",
        of_pg2(replayed_lsn=None),
        ok("pg2", "pg2 behind for an unknown time (no history yet)"),
        CAUGHT_UP,
    ),
    case(
        "lag-seconds",
        of_pg2(lsn=END - 150, apply_delay_s=380.0),
        ok("pg2", "pg2 at least 6 min 40 s behind (delayed by 6 min 20 s)"),
        CAUGHT_UP,
        history=seen_before(moved(400)),
    ),
]

RULE = "ANY 1 (pg1, pg2, pg3)"


def sync_case(*said: Said, configured: str | None = RULE, expected: str = RULE, **spoilt: Any) -> Case:
    confirming = spoilt.pop("confirming", ("pg2", "pg3"))
    senders = tuple(sender(name, sync_state="quorum") for name in confirming)
    pg1 = primary(
        "pg1", "pg2", "pg3", synchronous_standby_names=configured, **{"senders": senders} | spoilt
    )
    return case("sync", trio(pg1=pg1), *said, inventory={"failover": {"synchronous": expected}})


DOCTOR = "replctl doctor"
SYNC = [
    sync_case(ok("pg1", "writes survive 1 more replica loss(es), a failover 0")),
    sync_case(ok("pg1", "replication is asynchronous"), configured="", expected=""),
    sync_case(
        (WARNING, "pg1", "a failover now could not prove zero loss: 1 replica(s) missing", DOCTOR),
        confirming=("pg3",),
    ),
    sync_case(
        (CRITICAL, "pg1", "commits wait: 1 synchronous replica(s) missing", DOCTOR),
        confirming=(),
    ),
    sync_case(
        (
            WARNING,
            "pg1",
            f"synchronous_standby_names is '{RULE}', expected 'pg2'",
            "replctl config show",
        ),
        ok("pg1", "writes survive 1 more replica loss(es), a failover 0"),
        expected="pg2",
    ),
    sync_case(
        (WARNING, "pg1", "synchronous_standby_names is '', expected 'pg2'", "replctl config show"),
        ok("pg1", "replication is asynchronous"),
        configured="",
        expected="pg2",
    ),
    sync_case(
        (UNKNOWN, "pg1", "who confirms commits is hidden from this role", DOCTOR),
        monitor_privilege=False,
        senders=tuple(sender(name, state=None, sync_state=None) for name in ("pg2", "pg3")),
    ),
    sync_case(configured=None),
    case("sync", (unreachable("pg1"), replica("pg2"))),
]

REPLAYS_PG3 = ok("pg3", "pg3 replay is not paused")
REPLAY_PAUSED = [
    case("replay-paused", trio(), ok("pg2", "pg2 replay is not paused"), REPLAYS_PG3),
    case(
        "replay-paused",
        of_pg2(replay_pause="paused", lsn=END - 2048),
        (WARNING, "pg2", "pg2 replay is paused, 2.0 KiB behind", RESUME),
        REPLAYS_PG3,
    ),
    case(
        "replay-paused",
        of_pg2(replay_pause="pause requested"),
        (WARNING, "pg2", "pg2 replay is paused", RESUME),
        REPLAYS_PG3,
    ),
    case("replay-paused", of_pg2(replay_pause=None), REPLAYS_PG3),
]

CONFLICTS = [
    case(
        "conflicts",
        of_pg2(conflicts={"lock": 2, "snapshot": 3}),
        ok("pg2", "pg2 cancelled 5 queries so far"),
        ok("pg3", "pg3 cancelled 0 queries so far"),
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
        ok("pg3", "pg3 cancelled 0 queries so far"),
    ),
    case("conflicts", of_pg2(conflicts={}), ok("pg3", "pg3 cancelled 0 queries so far")),
]


def drop(name: str, node: str = "pg1") -> str:
    return f"on {node}, if its consumer is gone: SELECT pg_drop_replication_slot('{name}');"


def slot_case(status: Status, message: str, **columns: Any) -> Case:
    """pg1's slot s beside the two that are fine."""
    keep = columns.pop("keep", "-1")
    found = (slot("pg2"), slot("pg3"), slot("s", **columns))
    nodes = of_pg1(slots=found, settings=SETTINGS | {"max_slot_wal_keep_size": keep})
    return case(
        "slots",
        nodes,
        ok("pg1", "slot pg2 on pg1 is active"),
        ok("pg1", "slot pg3 on pg1 is active"),
        (status, "pg1", f"slot s on pg1 {message}", None if status is OK else drop("s")),
        ok("pg2", "pg2 keeps WAL for no slot"),
        ok("pg3", "pg3 keeps WAL for no slot"),
    )


IDLE: dict[str, Any] = {"active": False, "active_pid": None}
SLOTS = [
    slot_case(OK, "is active"),
    slot_case(OK, "is inactive", **IDLE, temporary=True),
    slot_case(OK, "is inactive", **IDLE, inactive_s=10.0),
    slot_case(WARNING, "has no consumer", **IDLE),
    slot_case(WARNING, "has had no consumer for 6 min 40 s", **IDLE, inactive_s=400.0),
    slot_case(CRITICAL, "has had no consumer for 1 h", **IDLE, inactive_s=3600.0),
    slot_case(WARNING, "keeps 2.0 GiB of WAL", retained_bytes=2 * GIB),
    slot_case(CRITICAL, "keeps 11.0 GiB of WAL", retained_bytes=11 * GIB),
    slot_case(WARNING, "keeps 300.0 MiB of WAL", retained_bytes=300 * MIB, keep="1GB"),
    slot_case(CRITICAL, "keeps 600.0 MiB of WAL", retained_bytes=600 * MIB, keep="1GB"),
    slot_case(
        WARNING, "is about to lose WAL that it needs (unreserved)", wal_status="unreserved", restart_lsn=None
    ),
    slot_case(CRITICAL, "is unusable: its WAL is lost", **IDLE, wal_status="lost", retained_bytes=None),
    slot_case(CRITICAL, "is unusable: idle_timeout", **IDLE, invalidation_reason="idle_timeout"),
    case(
        "slots",
        of_pg2(slots=(slot("kept", **IDLE, synced=True),)),
        ok("pg1", "slot pg2 on pg1 is active"),
        ok("pg1", "slot pg3 on pg1 is active"),
        ok("pg2", "pg2 keeps WAL for no slot"),
        ok("pg3", "pg3 keeps WAL for no slot"),
    ),
    case(
        "slots",
        trio(pg1=primary("pg1", "pg3"), pg2=without_receiver("pg2")),
        ok("pg1", "slot pg3 on pg1 is active"),
        ok("pg2", "pg2 keeps WAL for no slot"),
        ok("pg3", "pg3 keeps WAL for no slot"),
        (
            CRITICAL,
            "pg1",
            "pg1 lacks slot pg2 that pg2 asks for",
            "on pg1: SELECT pg_create_physical_replication_slot('pg2', true);",
        ),
    ),
    case(
        "slots",
        trio(pg1=primary("pg1", **CORE_ONLY)),
        ok("pg2", "pg2 keeps WAL for no slot"),
        ok("pg3", "pg3 keeps WAL for no slot"),
    ),
]


def archiver(configured: bool | None = True, **columns: Any) -> Archiver:
    given = {
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
        "archiver",
        of_pg1(archiver=archiver(last_failed_age_s=60.0, failed_count=3)),
        ok("pg1", "pg1 archived 7 files"),
    ),
    case(
        "archiver",
        of_pg1(archiver=archiver(last_archived_age_s=90.0, last_failed_age_s=60.0, failed_count=3)),
        (WARNING, "pg1", "pg1 archiving fails, no success for 1 min 30 s", ARCHIVE_HINT),
    ),
    case(
        "archiver",
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


def clock_case(skew_s: float | None, *said: Said, round_trip_s: float = 0.0) -> Case:
    fine = (ok("pg2", "pg2 clock is 0 s behind ours"), ok("pg3", "pg3 clock is 0 s behind ours"))
    return case("clock-skew", of_pg1(clock_skew_s=skew_s, round_trip_s=round_trip_s), *said, *fine)


CLOCK_SKEW = [
    clock_case(1.5, ok("pg1", "pg1 clock is 1.5 s ahead of ours")),
    clock_case(-3.0, (WARNING, "pg1", "pg1 clock is 3.0 s behind ours", "timedatectl status")),
    clock_case(60.0, (CRITICAL, "pg1", "pg1 clock is 1 min ahead of ours", "timedatectl status")),
    clock_case(3.0, ok("pg1", "pg1 clock is 1.0 s ahead of ours"), round_trip_s=4.0),
    clock_case(None),
]

PARITY_PG3 = ok("pg3", "pg3 has the settings of pg1")
SETTINGS_PARITY = [
    case("settings-parity", trio(), ok("pg2", "pg2 has the settings of pg1"), PARITY_PG3),
    case(
        "settings-parity",
        of_pg2(settings=SETTINGS | {"max_connections": "50", "max_wal_senders": "5", "wal_level": "logical"}),
        (
            WARNING,
            "pg2",
            "pg2 has lower max_connections 50 < 100, max_wal_senders 5 < 10",
            "on pg2: ALTER SYSTEM SET max_connections = 100; then restart it",
        ),
        PARITY_PG3,
    ),
    case(
        "settings-parity",
        of_pg2(settings=SETTINGS | {"max_connections": "500", "wal_level": "logical", "archive_mode": "on"}),
        (
            WARNING,
            "pg2",
            "pg2 differs from pg1 in wal_level, archive_mode",
            "compare postgresql.conf of the nodes",
        ),
        PARITY_PG3,
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
            "compare postgresql.conf of the nodes",
        ),
        PARITY_PG3,
    ),
    case("settings-parity", of_pg2(**CORE_ONLY), PARITY_PG3),
    case("settings-parity", (primary("pg1", **CORE_ONLY), replica("pg2"))),
    case("settings-parity", (unreachable("pg1"), replica("pg2"))),
]

SHOWS = {name: ok(name, f"{name} shows everything") for name in ("pg1", "pg2", "pg3")}
PRIVILEGES = [
    case("privileges", trio(), *SHOWS.values()),
    case(
        "privileges",
        of_pg2(monitor_privilege=False),
        SHOWS["pg1"],
        (
            UNKNOWN,
            "pg2",
            "pg2 hides replication from this role (no pg_monitor)",
            "replctl grants --pg 18 --role observer",
        ),
        SHOWS["pg3"],
    ),
]

VERSION = [
    case("version", trio(), ok(None, "all nodes run 18.3")),
    case(
        "version",
        of_pg2(server_version_num=180001),
        (WARNING, None, "releases differ: pg1 18.3, pg2 18.1, pg3 18.3", "SELECT version();"),
    ),
    case(
        "version",
        of_pg1(capabilities=frozenset(), synchronous_standby_names="pg2"),
        ok(None, "all nodes run 18.3"),
        (
            WARNING,
            "pg1",
            "pg1 may skip the synchronous wait just after a start",
            "update to the current minor release",
        ),
    ),
    case("version", of_pg1(capabilities=frozenset()), ok(None, "all nodes run 18.3")),
    case("version", (unreachable("pg1"),)),
]

REWOUND = {name: ok(name, f"{name} can be rewound") for name in ("pg1", "pg2", "pg3")}
REWIND_READY = [
    case("rewind-ready", trio(), *REWOUND.values()),
    case(
        "rewind-ready",
        of_pg2(settings=SETTINGS | {"wal_log_hints": "off"}),
        REWOUND["pg1"],
        (
            WARNING,
            "pg2",
            "pg2: neither wal_log_hints nor data checksums, pg_rewind will refuse",
            "on pg2: ALTER SYSTEM SET wal_log_hints = on; then restart it",
        ),
        REWOUND["pg3"],
    ),
    case(
        "rewind-ready",
        of_pg2(settings=SETTINGS | {"wal_log_hints": "off", "data_checksums": "on"}),
        *REWOUND.values(),
    ),
    case(
        "rewind-ready",
        of_pg2(settings=SETTINGS | {"full_page_writes": "off"}),
        REWOUND["pg1"],
        (
            WARNING,
            "pg2",
            "pg2: full_page_writes is off, pg_rewind will refuse",
            "on pg2: ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
        ),
        REWOUND["pg3"],
    ),
    case("rewind-ready", of_pg2(**CORE_ONLY), REWOUND["pg1"], REWOUND["pg3"]),
]

CASES = [
    *REACHABLE,
    *PRIMARY,
    *AUTOMATIC_FAILOVER,
    *SPLIT_BRAIN,
    *SYSTEM_ID,
    *TIMELINE,
    *STREAMING,
    *EXPECTED_NODES,
    *FOREIGN_REPLICAS,
    *LAG_BYTES,
    *LAG_SECONDS,
    *SYNC,
    *REPLAY_PAUSED,
    *CONFLICTS,
    *SLOTS,
    *ARCHIVER,
    *HEADROOM,
    *CLOCK_SKEW,
    *SETTINGS_PARITY,
    *PRIVILEGES,
    *VERSION,
    *REWIND_READY,
]
