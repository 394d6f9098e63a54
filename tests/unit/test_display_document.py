"""The JSON document of `status`: every key, always."""

from __future__ import annotations

import re

from replctl.display.document import iso_time, node_rows, status_document
from tests.support import ROOT
from tests.unit.builders import NOW, SYSTEM_IDENTIFIER, assessed, settings, trio
from tests.unit.golden import healthy_report, troubled_report

NODE_KEYS = [
    "name",
    "host",
    "port",
    "zone",
    "reachable",
    "error",
    "role",
    "state",
    "timeline",
    "upstream",
    "sync_state",
    "lag_bytes",
    "transport_lag_bytes",
    "apply_lag_bytes",
    "lag_s",
    "lag_source",
    "lag_bound",
    "lag_trend_bytes_per_s",
    "write_lsn",
    "received_lsn",
    "replayed_lsn",
    "replay_paused",
    "apply_delay_s",
    "slot",
    "routing",
    "server_version",
    "clock_skew_s",
    "round_trip_s",
]
CLUSTER_KEYS = [
    "cluster",
    "system_identifier",
    "observed_at",
    "took_s",
    "verdict",
    "diagnosis",
    "primary",
    "automatic_failover",
    "controllers",
    "witnesses",
    "sync",
    "nodes",
    "problems",
]
OFF = {"yes": False, "reason": "no controller is running"}


def test_the_document_has_every_key_and_no_other():
    found = status_document([troubled_report()])

    assert list(found) == ["schema_version", *CLUSTER_KEYS]
    assert [list(node) for node in found["nodes"]] == [NODE_KEYS] * 5
    assert [list(problem) for problem in found["problems"]] == [
        ["severity", "code", "node", "message", "hint"]
    ] * 4
    assert list(found["diagnosis"]) == ["code", "evidence"]
    assert list(found["sync"]) == [
        "configured",
        "expected",
        "matches",
        "tolerated_replica_losses_for_writes",
        "tolerated_replica_losses_for_failover",
    ]


def test_every_key_is_in_the_documentation():
    page = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8").partition("## The JSON document")[2]

    assert [key for key in (*CLUSTER_KEYS, *NODE_KEYS) if not re.search(f"`{key}[`\\[]", page)] == []


def test_what_is_not_known_is_null_and_never_absent_or_zero():
    silent = status_document([troubled_report()])["nodes"][4]

    assert silent == {
        **dict.fromkeys(NODE_KEYS),
        "name": "pg5",
        "host": "10.0.0.5",
        "port": 5432,
        "reachable": False,
        "error": {"cause": "timeout", "message": "no answer within 2 s\x1b[31m\r\nred"},
        "state": "unreachable",
        "routing": {"in_pool": False, "reason": "unreachable"},
    }


def test_a_replica_is_told_in_bytes_seconds_and_positions():
    paused = status_document([troubled_report()])["nodes"][2]

    assert paused == {
        "name": "pg3",
        "host": "10.0.0.3",
        "port": 5432,
        "zone": "eu-1c",
        "reachable": True,
        "error": None,
        "role": "replica",
        "state": "paused",
        "timeline": 1,
        "upstream": "pg1",
        "sync_state": "quorum",
        "lag_bytes": 1 << 30,
        "transport_lag_bytes": 0,
        "apply_lag_bytes": 1 << 30,
        "lag_s": 4.2,
        "lag_source": "replay_lag",
        "lag_bound": "lower",
        "lag_trend_bytes_per_s": None,
        "write_lsn": None,
        "received_lsn": "0/85000000",
        "replayed_lsn": "0/45000000",
        "replay_paused": True,
        "apply_delay_s": 0.0,
        "slot": {"name": "pg3", "active": True, "retained_bytes": 1 << 30, "wal_status": "extended"},
        "routing": {"in_pool": False, "reason": "paused"},
        "server_version": "18.3",
        "clock_skew_s": 0.0,
        "round_trip_s": 0.001,
    }


def test_the_cluster_is_told_around_its_nodes():
    found = status_document([healthy_report()])

    assert {key: value for key, value in found.items() if key != "nodes"} == {
        "schema_version": 1,
        "cluster": "orders",
        "system_identifier": SYSTEM_IDENTIFIER,
        "observed_at": "2023-11-14T22:13:20.000Z",
        "took_s": 0.012,
        "verdict": "ok",
        "diagnosis": {"code": "HEALTHY", "evidence": ["pg1 is the primary", "4 replica(s) follow"]},
        "primary": "pg1",
        "automatic_failover": {
            "state": "off",
            "until": None,
            "reason": "no controller is running",
            "covers": {"process_death": OFF, "host_death": OFF, "partition": OFF},
        },
        "controllers": [],
        "witnesses": [{"name": "w1", "reachable": True}],
        "sync": {
            "configured": "ANY 1 (pg2, pg3)",
            "expected": "ANY 1 (pg2, pg3)",
            "matches": True,
            "tolerated_replica_losses_for_writes": 1,
            "tolerated_replica_losses_for_failover": 0,
        },
        "problems": [],
    }


def test_problems_come_worst_first_with_their_hints():
    problems = status_document([troubled_report()])["problems"]

    assert [(p["severity"], p["code"], p["node"], p["hint"]) for p in problems] == [
        ("critical", "reachable", "pg5", "replctl status -o wide"),
        ("critical", "lag_bytes", "pg3", "replctl status --watch"),
        ("critical", "lag_bytes", "pg4", "replctl status --watch"),
        ("warning", "replay_paused", "pg3", None),
    ]


def test_automatic_failover_is_impossible_where_patroni_manages():
    from replctl.core.automation import automation
    from replctl.display.document import automatic_failover

    found = automatic_failover(automation(assessed(*trio(), inventory=settings(manager="patroni"))))

    assert (found["state"], found["reason"]) == ("impossible", "patroni manages this cluster")


def test_several_clusters_stand_in_a_list_without_versions_of_their_own():
    found = status_document([healthy_report(), troubled_report()])

    assert list(found) == ["schema_version", "clusters"]
    assert [list(cluster) for cluster in found["clusters"]] == [CLUSTER_KEYS] * 2


def test_rows_for_csv_have_the_same_columns_for_every_node():
    rows = node_rows([troubled_report()])

    nested = {
        "error": ["error.cause", "error.message"],
        "slot": ["slot.name", "slot.active", "slot.retained_bytes", "slot.wal_status"],
        "routing": ["routing.in_pool", "routing.reason"],
    }
    expected = ["cluster", "observed_at", *(c for key in NODE_KEYS for c in nested.get(key, [key]))]
    assert [list(row) for row in rows] == [expected] * 5


def test_times_are_utc_to_the_millisecond():
    assert iso_time(NOW + 0.0625) == "2023-11-14T22:13:20.062Z"
