"""Which nodes are there, what they are, and whether they are of one cluster and one history."""

from __future__ import annotations

from replctl.core.model import FENCE_NAME, Cause
from replctl.core.settings import CheckSettings
from tests.unit.builders import (
    END,
    SYSTEM_IDENTIFIER,
    address,
    primary,
    replica,
    sender,
    slot,
    trio,
    unreachable,
    without_receiver,
)
from tests.unit.check_cases import (
    CORE_ONLY,
    CRITICAL,
    HIDDEN,
    MIB,
    UNKNOWN,
    WARNING,
    case,
    of_pg1,
    of_pg2,
    ok,
)

DOWN = unreachable("pg3", Cause.REFUSED, "connection refused")
STRANGER = unreachable("pg3", Cause.WRONG_CLUSTER, "its system identifier is 9, this cluster's is 7")
SILENCE_IS_UNKNOWN = {"checks": CheckSettings(unreachable="unknown")}

PG1_ANSWERS, PG2_ANSWERS = ok("pg1", "pg1 answers"), ok("pg2", "pg2 answers")
REACHABLE = [
    case("reachable", trio(), PG1_ANSWERS, PG2_ANSWERS, ok("pg3", "pg3 answers")),
    *(
        case(
            "reachable",
            trio(pg3=unreachable("pg3", cause, "what was said")),
            PG1_ANSWERS,
            PG2_ANSWERS,
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
    case("reachable", trio(pg3=STRANGER), PG1_ANSWERS, PG2_ANSWERS),  # system-id says it
    case(
        "reachable",
        trio(pg3=unreachable("pg3", Cause.TIMEOUT, "the time was over while connecting")),
        PG1_ANSWERS,
        PG2_ANSWERS,
        (UNKNOWN, "pg3", "pg3: the time was over while connecting", "a longer --timeout shows why"),
        cut_short=frozenset({"pg3"}),
    ),
]

NO_PRIMARY = (CRITICAL, None, "no primary answers", "replctl failover --dry-run")
PRIMARY = [
    case("primary", trio(), ok(None, "pg1 is the primary")),
    case(
        "primary",
        (primary("pg1"), primary("pg2", timeline=2)),
        (CRITICAL, None, "2 primaries: pg1, pg2", "replctl status"),
    ),
    case("primary", (unreachable("pg1"), replica("pg2")), NO_PRIMARY),
    case("primary", (primary("pg1", synchronous_standby_names=FENCE_NAME), replica("pg2")), NO_PRIMARY),
    case(
        "primary",
        (unreachable("pg1"), replica("pg2")),
        (UNKNOWN, None, "not known which node is the primary: nothing heard from pg1", "replctl status"),
        inventory=SILENCE_IS_UNKNOWN,
    ),
]

AUTOMATIC_FAILOVER = [
    case("automatic-failover", trio(), ok(None, "automatic failover is off: no controller is running")),
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
        (
            CRITICAL,
            None,
            "2 nodes accept writes: pg1 (timeline 1), pg2 (timeline 2)",
            "replctl fence pg1",
        ),
    ),
    case(
        "split-brain",
        (primary("pg1"), primary("pg2")),
        (
            CRITICAL,
            None,
            "2 nodes accept writes: pg1 (timeline 1), pg2 (timeline 1)",
            "decide which one is right, and replctl fence the other",
        ),
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

PG3_ON_1 = ok("pg3", "pg3 on timeline 1")
TIMELINE = [
    case("timeline", trio(), ok("pg2", "pg2 on timeline 1"), PG3_ON_1),
    case(
        "timeline",
        of_pg2(lsn=END + 3 * MIB),
        (
            CRITICAL,
            "pg2",
            "pg2 (timeline 1) is 3.0 MiB ahead of pg1",
            "stop pg2, then pg_rewind from pg1, or pg_basebackup anew",
        ),
        PG3_ON_1,
    ),
    case(
        "timeline",
        of_pg2(timeline=2),
        (
            CRITICAL,
            "pg2",
            "pg2 (timeline 2) is on another history than pg1",
            "stop pg2, then pg_rewind from pg1, or pg_basebackup anew",
        ),
        PG3_ON_1,
    ),
]

LOG_HINT = "look at the replica's server log for walreceiver messages"
PG3_STREAMS = ok("pg3", "pg3 streaming")
STREAMING = [
    case("streaming", trio(), ok("pg2", "pg2 streaming"), PG3_STREAMS),
    case(
        "streaming",
        trio(pg2=without_receiver("pg2", lsn=END - 20 * MIB)),
        (CRITICAL, "pg2", "pg2 stalled: no WAL from pg1, 20.0 MiB behind", LOG_HINT),
        PG3_STREAMS,
    ),
    case(
        "streaming",
        trio(pg2=without_receiver("pg2", upstream_host=None)),
        (CRITICAL, "pg2", "pg2 stalled: no WAL from anywhere", LOG_HINT),
        PG3_STREAMS,
    ),
    *(
        case(
            "streaming",
            of_pg2(**facts),
            (UNKNOWN, "pg2", "pg2 hides its walreceiver from this role", "replctl grants --role observer"),
            PG3_STREAMS,
        )
        for facts in ({"receiver": HIDDEN}, CORE_ONLY, {"receiver": HIDDEN, "replay_pause": "paused"})
    ),
    case(
        "streaming",
        of_pg2(replay_pause="paused"),
        ok("pg2", "pg2 receives WAL while replay is paused"),
        PG3_STREAMS,
    ),
    case(
        "streaming",
        of_pg2(replay_pause="paused", receiver=None),
        (
            CRITICAL,
            "pg2",
            "pg2 is paused and receives no WAL",
            "on pg2: SELECT pg_wal_replay_resume();",
        ),
        PG3_STREAMS,
    ),
    case("streaming", of_pg2(lsn=END + 1), PG3_STREAMS),  # timeline says it
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
    case("expected-nodes", (primary("pg1", **CORE_ONLY), DOWN)),
]

NOBODY = ok(None, "nobody streams who is not in the inventory")
ADD = "add the node to the inventory, or stop it"
FOREIGN_REPLICAS = [
    case("foreign-replicas", trio(), NOBODY),
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
        NOBODY,
    ),
    case("foreign-replicas", trio(pg3=unreachable("pg3", Cause.TIMEOUT, "no answer")), NOBODY),
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
]
