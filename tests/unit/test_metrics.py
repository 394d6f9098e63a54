"""Metrics: names by the rules, unknown is absent, states are 0 or 1, and both formats are what they say."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from replctl.core.lag import LagHistory
from replctl.core.metrics import BY_NAME, FAMILIES, Format, Kind, Run, collect, render
from replctl.core.model import Archiver, Cause, Lsn, Observation
from replctl.core.report import report
from replctl.core.settings import ClusterSettings
from tests.promtool import accept_metrics
from tests.unit.builders import (
    END,
    NOW,
    node,
    primary,
    receiver,
    replica,
    settings,
    slot,
    spec,
    state,
    trio,
    unreachable,
    without_receiver,
)

RUN = Run(
    version="1.2", at=NOW, took_s=0.25, success=True, failovers={"orders": 2}, writers={"orders": "pg1"}
)
Found = dict[tuple[str, ...], float]


def text(
    *nodes: Observation, form: Format = Format.TEXT, inventory: ClusterSettings | None = None, **keys: Any
) -> str:
    chosen = inventory or settings(*(n.node for n in nodes))
    return render(collect([report(state(*nodes, **keys), chosen, LagHistory())], RUN), form)


def samples(*nodes: Observation, **keys: Any) -> dict[str, Found]:
    """By name: the values of the labels but the cluster's, and the number; as another program reads them."""
    found: dict[str, Found] = {}
    for family in text_string_to_metric_families(text(*nodes, form=Format.OPENMETRICS, **keys)):
        for sample in family.samples:
            labels = tuple(value for name, value in sample.labels.items() if name != "cluster")
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def holding(found: Found) -> list[tuple[str, ...]]:
    """The labels of the states that hold."""
    assert set(found.values()) <= {0.0, 1.0}
    return [labels for labels, value in found.items() if value == 1.0]


# ---- the registry


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_labels_and_units_follow_the_rules(family: Any) -> None:
    assert re.fullmatch(r"(replctl|db)(_[a-z0-9]+)+", family.name)
    assert not {"pid", "client_port", "lsn"} & set(family.labels)
    assert all(re.fullmatch(r"[a-z_]+", label) for label in family.labels)
    assert family.help.endswith((".", "+)."))
    assert (family.unit is None) or family.base.endswith(f"_{family.unit}")
    for suffix, kind in (("_total", Kind.COUNTER), ("_info", Kind.INFO)):
        assert family.name.endswith(suffix) == (family.kind is kind)


def test_the_names_that_alerts_of_the_common_pattern_use_are_there() -> None:
    assert BY_NAME["db_replication_lag_seconds"].labels == ("cluster", "replica")
    assert BY_NAME["db_failover_total"].labels == ("cluster",)


def test_every_family_has_a_sample_in_some_state_and_prometheus_accepts_all_of_them() -> None:
    archiver = Archiver(
        configured=True,
        archived_count=7,
        failed_count=1,
        last_archived_age_s=10.0,
        last_failed_age_s=20.0,
    )
    keeping = {"max_slot_wal_keep_size": "1GB"}
    first = primary(
        "pg1",
        "pg2",
        "pg3",
        archiver=archiver,
        synchronous_standby_names="ANY 1 (pg2, pg3)",
        slots=(
            slot("pg2"),
            slot("old", active=False, inactive_s=3.0, safe_wal_bytes=5, confirmed_flush_lsn=END),
        ),
    )
    nodes = trio(
        pg1=replace(first, settings={**first.settings, **keeping}),
        pg2=replica("pg2", last_replayed_xact_age_s=4.0),
    )
    whole = text(*nodes, witnesses=(node("w1"),))
    accept_metrics(whole)
    lines = re.findall(r"^# TYPE (\S+)", whole, re.MULTILINE)
    assert lines == [family.name for family in FAMILIES]


# ---- values


def test_a_healthy_cluster_is_told_in_full() -> None:
    found = samples(*trio())
    assert found["replctl_cluster_primaries"] == {(): 1.0}
    assert found["replctl_cluster_nodes_expected"] == {(): 3.0}
    assert found["replctl_node_up"] == {("pg1",): 1.0, ("pg2",): 1.0, ("pg3",): 1.0}
    assert holding(found["replctl_node_role"]) == [("pg1", "primary"), ("pg2", "replica"), ("pg3", "replica")]
    states = [("pg1", "primary"), ("pg2", "streaming"), ("pg3", "streaming")]
    assert sorted(holding(found["replctl_node_state"])) == states
    assert holding(found["replctl_node_scrape_error"]) == []
    assert found["replctl_lag_seconds"] == {("pg2",): 0.0, ("pg3",): 0.0}
    assert found["db_replication_lag_seconds"] == {("pg2",): 0.0, ("pg3",): 0.0}
    assert found["db_failover_total"] == {(): 2.0}
    assert found["replctl_write_target"] == {("pg1",): 1.0, ("pg2",): 0.0, ("pg3",): 0.0}
    assert found["replctl_wal_position_bytes"] == {("pg1",): float(END)}
    assert found["replctl_expected_connected"] == {("pg2",): 1.0, ("pg3",): 1.0}
    assert found["replctl_node_in_pool"] == {("pg2",): 1.0, ("pg3",): 1.0}
    assert holding(found["replctl_cluster_diagnosis"]) == [("HEALTHY",)]
    assert holding(found["replctl_automatic_failover"]) == [("off",)]
    assert found["replctl_build_info"] == {("1.2",): 1.0}
    assert found["replctl_last_run_timestamp_seconds"] == {(): NOW}


def test_what_is_not_known_is_absent_and_never_0() -> None:
    found = samples(*trio(pg2=unreachable("pg2", Cause.TIMEOUT), pg1=primary("pg1", "pg3")))
    assert found["replctl_node_up"][("pg2",)] == 0.0
    assert holding(found["replctl_node_scrape_error"]) == [("pg2", "timeout")]
    assert found["replctl_expected_connected"] == {("pg2",): 0.0, ("pg3",): 1.0}
    told = {name for name, values in found.items() if any("pg2" in labels for labels in values)}
    assert told == {
        "replctl_check_status",
        "replctl_expected_connected",
        "replctl_node_in_pool",
        "replctl_node_role",
        "replctl_node_scrape_duration_seconds",
        "replctl_node_scrape_error",
        "replctl_node_state",
        "replctl_node_up",
        "replctl_write_target",
    }


def test_without_the_privilege_nothing_is_made_up() -> None:
    blind = replica("pg2", receiver=receiver(status=None), settings={}, monitor_privilege=False)
    found = samples(*trio(pg2=blind))
    assert "replctl_receiver_connected" in found
    assert ("pg2",) not in found["replctl_receiver_connected"]
    assert ("pg2",) not in found["replctl_wal_senders_max"]
    assert ("pg2", "no_privilege") in holding(found["replctl_node_state"])


def test_the_most_that_a_replica_can_be_behind_is_no_lag() -> None:
    behind = replica("pg2", lsn=Lsn(END - 100_000), last_replayed_xact_age_s=40.0)
    found = samples(*trio(pg2=behind))
    assert found["replctl_lag_seconds"] == {("pg3",): 0.0}
    assert found["replctl_lag_bytes"][("pg2",)] == 100_000.0
    assert ("pg2", "last_xact", "upper") in found["replctl_lag_estimate_info"]


def test_a_replica_that_is_ahead_has_a_negative_lag() -> None:
    found = samples(*trio(pg2=replica("pg2", lsn=Lsn(END + 100), timeline=2)))
    assert found["replctl_lag_bytes"][("pg2",)] == -100.0


def test_primaries_are_not_counted_where_a_silent_node_may_be_one() -> None:
    quiet = settings(nodes=(spec("pg1"), spec("pg2")))
    silent = (unreachable("pg1"), without_receiver("pg2"))
    assert samples(*silent, inventory=quiet)["replctl_cluster_primaries"] == {(): 0.0}
    cut_short = samples(*silent, inventory=quiet, cut_short=frozenset({"pg1"}))
    assert "replctl_cluster_primaries" not in cut_short


def test_times_are_told_by_the_clock_of_the_node() -> None:
    found = samples(*trio(pg2=replica("pg2", clock_at=NOW + 5, receiver=receiver(last_message_age_s=2.0))))
    assert found["replctl_receiver_last_message_timestamp_seconds"][("pg2",)] == NOW + 3


def test_failovers_that_nobody_could_count_are_absent() -> None:
    run = replace(RUN, failovers={})
    found = render(collect([report(state(*trio()), settings(), LagHistory())], run), Format.TEXT)
    assert "db_failover_total" not in found


# ---- formats


def test_hostile_names_stay_inside_their_quotes() -> None:
    evil = 'a"b\\c\nd{}'
    found = samples(*trio(pg1=primary("pg1", "pg2", "pg3", slots=(slot(evil),))))
    assert found["replctl_slot_active"] == {("pg1", evil): 1.0}
    accept_metrics(text(*trio(pg1=primary("pg1", "pg2", "pg3", slots=(slot(evil),)))))


def test_openmetrics_ends_with_its_mark_and_neither_format_has_a_timestamp() -> None:
    for form in Format:
        whole = text(*trio(), form=form)
        assert whole.endswith("# EOF\n") == (form is Format.OPENMETRICS)
        rows = [line for line in whole.splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[a-z_]+(\{.*\})? -?[0-9.e+-]+", row) for row in rows)


def test_numbers_keep_every_digit() -> None:
    far = Lsn(2**52 + 1)
    found = samples(primary("pg1", lsn=far))
    assert found["replctl_wal_position_bytes"] == {("pg1",): float(2**52 + 1)}
    assert math.isclose(found["replctl_node_scrape_duration_seconds"][("pg1",)], 0.001)


def test_every_state_of_a_case_is_accepted_by_both_readers() -> None:
    states = (
        trio(pg1=unreachable("pg1"), pg2=without_receiver("pg2")),
        trio(pg2=replica("pg2", replay_pause="paused", apply_delay_s=None)),
        (unreachable("pg1"), unreachable("pg2")),
        (primary("pg1"), primary("pg2", timeline=2)),
    )
    for nodes in states:
        accept_metrics(text(*nodes))
        assert samples(*nodes)["replctl_node_up"]
