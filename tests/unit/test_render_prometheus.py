"""The alert rules: nothing is asked for that nobody exports, thresholds are the checks', all can fire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from replctl.core.lag import LagHistory
from replctl.core.marks import Mark, Marks
from replctl.core.metrics import BY_NAME, Format, Run, collect
from replctl.core.metrics import render as render_metrics
from replctl.core.model import Archiver, Cause, Lsn, Observation
from replctl.core.report import Report, report, with_disbelief
from replctl.core.results import Status
from replctl.core.settings import CheckSettings, ClusterSettings, RoutingSettings, Thresholds
from replctl.core.thresholds import THRESHOLD_KEYS
from replctl.render.alerts import Alert, Record
from replctl.render.prometheus import render
from tests.promql import asked
from tests.promtool import accept_metrics, accept_rules, fire_just, fire_just_by, promtool
from tests.support import ROOT
from tests.unit.builders import (
    END,
    NOW,
    SETTINGS,
    primary,
    replica,
    seen_before,
    settings,
    slot,
    spec,
    state,
    trio,
    unreachable,
    without_receiver,
)

MIB = 1024 * 1024
FAR = Lsn(END - 20 * MIB)


def strange() -> ClusterSettings:
    """Every threshold another, for one node with a dot in its name, of ranges and `never`."""
    own = {key: Thresholds(warning="7", critical="9") for key in THRESHOLD_KEYS}
    own["lag_bytes"] = Thresholds(warning="@1MiB:2MiB", critical="never")
    own["slot_retained_bytes"] = Thresholds(warning="never", critical="~:3GiB")
    own["slots_percent"] = Thresholds(warning="10:20", critical="5:")
    shared = {key: Thresholds(warning="never", critical="1h") for key in ("slot_inactive_s", "lag_s")}
    node = spec("pg.4", checks=CheckSettings(thresholds=own, unreachable="unknown"))
    return settings(
        name="users",
        nodes=(spec("pg1"), node),
        checks=CheckSettings(thresholds=shared),
        routing=RoutingSettings(max_lag_s=0.5, on_all_unfit="error"),
    )


def rules_of(*clusters: ClusterSettings) -> list[Alert | Record]:
    return [rule for _, rules in render(clusters).plan for rule in rules]


# ---- what is asked for


def test_every_expression_asks_for_exported_metrics_by_labels_they_have() -> None:
    rules = rules_of(settings(), strange())
    recorded = {rule.name for rule in rules if isinstance(rule, Record)}
    known = {name: frozenset(family.labels) for name, family in BY_NAME.items()}
    known |= {name: frozenset({"cluster", "node"}) for name in recorded}
    for rule in rules:
        found = asked(rule.expr)
        assert found.metrics, rule.expr
        for name, labels in found.metrics:
            assert name in known, f"{rule.name} asks for {name}"
            assert labels <= known[name], f"{rule.name}: {name} has no {labels - known[name]}"
        every = frozenset[str]().union(*(known[name] for name, _ in found.metrics))
        assert found.grouped <= every | {"replica"}, rule.expr


def test_an_expression_is_taken_apart_as_prometheus_reads_it() -> None:
    expression = 'max by (a) (rate(x_total{b=~"y{z",c!="on"}[5m])) > 2 unless on (d, e) n:z:c{f="1"} or boo'
    found = asked(expression)
    assert found.metrics == (
        ("x_total", frozenset("bc")),
        ("n:z:c", frozenset("f")),
        ("boo", frozenset()),
    )
    assert found.grouped == frozenset("ade")


def test_rules_of_every_kind_of_threshold_are_accepted_by_prometheus(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(render([settings(), strange()]).text)
    accept_rules(file)


def test_the_file_reads_as_the_rules_it_was_made_from(tmp_path: Path) -> None:
    made = render([settings()])
    document = yaml.safe_load(made.text)
    assert [group["name"] for group in document["groups"]] == ["replctl orders", "replctl"]
    read = [rule for group in document["groups"] for rule in group["rules"]]
    assert [rule["expr"] for rule in read] == [rule.expr for _, rules in made.plan for rule in rules]
    assert [rule for rule in read if rule.get("alert") == "ReplctlLagSeconds"] == [
        {
            "alert": "ReplctlLagSeconds",
            "expr": f'node:replctl_lag_seconds:counted{{cluster="orders"}} > {limit}',
            "for": "120s",
            "labels": {"cluster": "orders", "severity": severity},
            "annotations": {
                "summary": "{{ $labels.node }} of orders is {{ $value | humanizeDuration }} behind",
                "description": "`replctl status -o wide` tells transport lag (network, receiver) from apply "
                "lag (a conflicting query, a slow disk).",
            },
        }
        for severity, limit in (("warning", 30), ("critical", 300))
    ]


def test_the_example_of_a_configuration_is_accepted_with_rendered_rules(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text((ROOT / "examples" / "prometheus.yml").read_text())
    (tmp_path / "replctl.rules.yml").write_text(render([settings()]).text)
    done = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


# ---- thresholds


@pytest.mark.parametrize(
    ("key", "name", "warning", "critical"),
    [
        ("lag_bytes", "ReplctlLagBytes", "> 16777216", "> 1073741824"),
        ("lag_s", "ReplctlLagSeconds", "> 30", "> 300"),
        ("slot_inactive_s", "ReplctlSlotInactive", "> 300", "> 1800"),
        ("slot_retained_bytes", "ReplctlSlotRetainedWal", "> 1073741824", "> 10737418240"),
        ("archiver_s", "ReplctlArchiveFailing", "> 0", "> 1800"),
        ("wal_senders_percent", "ReplctlWalSendersNearMax", "> 80", "> 95"),
        ("slots_percent", "ReplctlSlotsNearMax", "> 80", "> 95"),
        ("clock_skew_s", "ReplctlClockSkew", "> 2", "> 10"),
    ],
)
def test_thresholds_are_those_of_the_checks(key: str, name: str, warning: str, critical: str) -> None:
    found = {r.severity: r.expr for r in rules_of(settings()) if isinstance(r, Alert) and r.name == name}
    assert sorted(found) == ["critical", "warning"], key
    assert warning in found["warning"]
    assert critical in found["critical"]


def test_every_threshold_of_the_inventory_has_its_rule() -> None:
    cases = test_thresholds_are_those_of_the_checks.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {case[0] for case in cases} == set(THRESHOLD_KEYS)


def test_a_node_with_its_own_thresholds_is_asked_for_apart() -> None:
    own = spec(
        "pg3", checks=CheckSettings(thresholds={"lag_s": Thresholds(warning="1min", critical="never")})
    )
    found = rules_of(settings(nodes=(spec("pg1"), spec("pg2"), own)))
    counted = "node:replctl_lag_seconds:counted"
    assert [r.expr for r in found if r.name == "ReplctlLagSeconds"] == [
        f'({counted}{{cluster="orders",node!~"pg3"}} > 30) or '
        f'({counted}{{cluster="orders",node=~"pg3"}} > 60)',
        f'{counted}{{cluster="orders",node!~"pg3"}} > 300',
    ]


def test_where_no_node_is_meant_for_reads_there_is_no_rule_about_them() -> None:
    without = rules_of(settings(nodes=(spec("pg1", weight=0), spec("pg2", weight=0))))
    about_reads = {"ReplctlLagOverReadLimit", "ReplctlAllReplicasUnfit"}
    assert {r.name for r in rules_of(settings())} - {r.name for r in without} == about_reads


# ---- what fires


@dataclass(frozen=True, kw_only=True)
class Case:
    """A state of the cluster, and every alert that fires when it lasts."""

    nodes: tuple[Observation, ...]
    fires: tuple[str, ...] = ()
    history: LagHistory = field(default_factory=LagHistory)
    inventory: ClusterSettings = field(default_factory=settings)
    marks: Marks | None = None
    failovers: int = 0
    growing: Mapping[str, float] = field(default_factory=dict)
    success: bool = True
    timelines: Mapping[str, int] = field(default_factory=dict)  # what the server has seen of nodes

    @property
    def report(self) -> Report:
        """What is said of it."""
        seen = report(state(*self.nodes, marks=self.marks), self.inventory, self.history)
        return with_disbelief(seen, self.timelines)


def _archiver(**columns: Any) -> Archiver:
    given = {"configured": True, "archived_count": 1, "failed_count": 3}
    return Archiver(**{**given, "last_archived_age_s": 600.0, "last_failed_age_s": 5.0, **columns})


def _with_slots(*slots: Any, **facts: Any) -> tuple[Observation, ...]:
    return trio(pg1=primary("pg1", "pg2", "pg3", slots=(slot("pg2"), slot("pg3"), *slots), **facts))


def _synchronous(*replicas: str, k: int = 2) -> Observation:
    made = primary("pg1", *replicas, synchronous_standby_names=f"ANY {k} (pg2, pg3)")
    return replace(made, senders=tuple(replace(s, sync_state="quorum") for s in made.senders))


def _many(nodes: tuple[Observation, ...], **more: str) -> tuple[Observation, ...]:
    return tuple(replace(n, settings={**SETTINGS, **more}) if hasattr(n, "settings") else n for n in nodes)


CASES = {
    "all is well": Case(nodes=trio()),
    "a replica is gone": Case(
        nodes=trio(pg2=unreachable("pg2"), pg1=primary("pg1", "pg3")), fires=("ReplctlNodeDown! pg2",)
    ),
    "a replica is gone whose silence is no finding": Case(
        nodes=trio(pg2=unreachable("pg2"), pg1=primary("pg1", "pg3")),
        inventory=settings(
            nodes=(spec("pg1"), spec("pg2", checks=CheckSettings(unreachable="unknown")), spec("pg3"))
        ),
    ),
    "a server of another cluster": Case(
        nodes=trio(pg2=unreachable("pg2", Cause.WRONG_CLUSTER), pg1=primary("pg1", "pg3")),
        fires=("ReplctlSystemIdentifierMismatch! pg2",),
    ),
    "the primary is gone": Case(
        nodes=trio(pg1=unreachable("pg1"), pg2=without_receiver("pg2"), pg3=without_receiver("pg3")),
        fires=(
            "ReplctlNoPrimary!",
            "ReplctlNodeDown! pg1",
            "ReplctlReplicaNotStreaming! pg2",
            "ReplctlReplicaNotStreaming! pg3",
            "ReplctlAllReplicasUnfit",
        ),
    ),
    "two primaries": Case(
        nodes=trio(pg2=primary("pg2", timeline=1)),
        fires=("ReplctlMultiplePrimaries!",),
    ),
    "a stale primary": Case(
        nodes=trio(
            pg1=primary("pg1", timeline=1),
            pg2=primary("pg2", "pg3", timeline=2),
            pg3=replica("pg3", "pg2", timeline=2),
        ),
        fires=("ReplctlMultiplePrimaries!", "ReplctlStalePrimary! pg1"),
    ),
    "the primary is on an older timeline than a replica had before it was copied anew": Case(
        nodes=trio(), timelines={"pg1": 1, "pg3": 2}, fires=("ReplctlPrimaryNotGivenOut!",)
    ),
    "another node has taken over": Case(
        nodes=trio(), failovers=1, growing={"db_failover_total": 0.025}, fires=("ReplctlFailover",)
    ),
    "automatic failover is paused": Case(
        nodes=trio(),
        marks=Marks(pause=Mark(reason="work", since_at=NOW - 60, until_at=None)),
        fires=("ReplctlAutomaticFailoverHeldBack",),
    ),
    "a replica is ahead": Case(
        nodes=trio(pg2=replica("pg2", lsn=Lsn(END + 100), timeline=2)),
        fires=("ReplctlReplicaDiverged! pg2",),
    ),
    "a replica is cut off": Case(
        nodes=trio(pg1=primary("pg1", "pg3"), pg2=without_receiver("pg2")),
        fires=("ReplctlReplicaNotStreaming! pg2",),
    ),
    "replay is paused": Case(
        nodes=trio(pg2=replica("pg2", replay_pause="paused")), fires=("ReplctlReplayPaused pg2",)
    ),
    "a clock is off": Case(
        nodes=trio(pg2=replica("pg2", clock_skew_s=-11.0)),
        fires=("ReplctlClockSkew pg2", "ReplctlClockSkew! pg2"),
    ),
    "a replica is behind": Case(
        nodes=trio(pg2=replica("pg2", lsn=FAR)),
        history=seen_before((40.0, state(*trio(pg1=primary(lsn=Lsn(FAR - MIB)))))),
        fires=("ReplctlLagBytes pg2", "ReplctlLagSeconds pg2", "ReplctlLagOverReadLimit pg2"),
    ),
    "a replica falls further behind": Case(
        nodes=trio(pg2=replica("pg2", lsn=Lsn(1))),
        growing={"replctl_lag_bytes": 1000.0},
        fires=("ReplctlLagBytes pg2", "ReplctlLagIncreasing pg2"),
        inventory=settings(routing=RoutingSettings(max_lag_bytes=1024 * MIB)),
    ),
    "a delayed replica": Case(
        nodes=trio(pg2=replica("pg2", lsn=FAR, received_lsn=END, apply_delay_s=3600.0)),
        history=seen_before((600.0, state(*trio(pg1=primary(lsn=Lsn(FAR - MIB)))))),
    ),
    "a delayed replica while the primary writes much": Case(
        nodes=trio(pg2=replica("pg2", lsn=Lsn(1), received_lsn=END, apply_delay_s=3600.0)),
        growing={"replctl_lag_bytes": 1000.0},
    ),
    "a delayed replica that is fed from the archive": Case(
        nodes=trio(
            pg1=primary("pg1", "pg3"),
            pg2=replica(
                "pg2",
                lsn=FAR,
                received_lsn=None,
                receiver=None,
                upstream_host=None,
                apply_delay_s=3600.0,
                settings={**SETTINGS, "restore_command": "cp /archive/%f %p"},
            ),
        ),
    ),
    "a delayed replica that does not receive as fast as the primary writes": Case(
        nodes=trio(pg2=replica("pg2", lsn=Lsn(1), received_lsn=Lsn(2), apply_delay_s=3600.0)),
        growing={"replctl_transport_lag_bytes": 1000.0},
        fires=("ReplctlLagBytes pg2", "ReplctlLagIncreasing pg2"),
    ),
    "no replica is meant for reads": Case(
        nodes=trio(pg3=replica("pg3", apply_delay_s=3600.0)),
        inventory=settings(nodes=(spec("pg1"), spec("pg2", weight=0), spec("pg3"))),
    ),
    "the only replica that is meant for reads is not fit for them": Case(
        nodes=trio(pg2=replica("pg2", lsn=FAR)),
        history=seen_before((20.0, state(*trio(pg1=primary(lsn=Lsn(FAR - MIB)))))),
        inventory=settings(nodes=(spec("pg1"), spec("pg2"), spec("pg3", weight=0))),
        fires=("ReplctlLagBytes pg2", "ReplctlLagOverReadLimit pg2", "ReplctlAllReplicasUnfit"),
    ),
    "a replica is behind that is not meant for reads": Case(
        nodes=trio(pg2=replica("pg2", lsn=FAR)),
        history=seen_before((20.0, state(*trio(pg1=primary(lsn=Lsn(FAR - MIB)))))),
        inventory=settings(nodes=(spec("pg1"), spec("pg2", weight=0), spec("pg3"))),
        fires=("ReplctlLagBytes pg2",),
    ),
    "a failover could lose something": Case(
        nodes=trio(pg1=_synchronous("pg3", k=1), pg2=unreachable("pg2")),
        inventory=settings(failover={"synchronous": "ANY 1 (pg2, pg3)"}),
        fires=("ReplctlNodeDown! pg2", "ReplctlFailoverCouldLose"),
    ),
    "commits wait": Case(
        nodes=trio(pg1=_synchronous("pg3"), pg2=unreachable("pg2")),
        inventory=settings(failover={"synchronous": "ANY 2 (pg2, pg3)"}),
        fires=("ReplctlNodeDown! pg2", "ReplctlCommitsWait!"),
    ),
    "another synchronous rule than expected": Case(
        nodes=trio(pg1=_synchronous("pg2", "pg3")),
        inventory=settings(failover={"synchronous": "ANY 1 (pg2, pg3)"}),
        fires=("ReplctlSyncMismatch",),
    ),
    "slots without a consumer": Case(
        nodes=_with_slots(
            slot("old", active=False),
            slot("told", active=False, inactive_s=600.0),
            slot("new", active=False, inactive_s=10.0),
            slot("synced", active=False, inactive_s=9999.0, synced=True),
            slot("brief", active=False, temporary=True),
        ),
        fires=(
            "ReplctlSlotInactive pg1 old",
            "ReplctlSlotInactive! pg1 old",
            "ReplctlSlotInactive pg1 told",
        ),
    ),
    "slots that lose WAL": Case(
        nodes=_with_slots(
            slot("late", wal_status="unreserved"),
            slot("lost", wal_status="lost"),
            slot("idle", invalidation_reason="idle_timeout"),
        ),
        fires=(
            "ReplctlSlotUnreserved pg1 late",
            "ReplctlSlotUnusable! pg1 lost",
            "ReplctlSlotUnusable! pg1 idle",
        ),
    ),
    "a slot that keeps much": Case(
        nodes=_with_slots(slot("greedy", retained_bytes=2048 * MIB)),
        fires=("ReplctlSlotRetainedWal pg1 greedy",),
    ),
    "a slot that keeps half of what the server allows": Case(
        nodes=_many(_with_slots(slot("greedy", retained_bytes=60 * MIB)), max_slot_wal_keep_size="100MB"),
        fires=("ReplctlSlotRetainedWal pg1 greedy", "ReplctlSlotRetainedWal! pg1 greedy"),
    ),
    "places run out": Case(
        nodes=_many(trio(), max_wal_senders="2", max_replication_slots="2"),
        fires=(
            "ReplctlWalSendersNearMax pg1",
            "ReplctlWalSendersNearMax! pg1",
            "ReplctlSlotsNearMax pg1",
            "ReplctlSlotsNearMax! pg1",
        ),
    ),
    "archiving fails": Case(
        nodes=trio(pg1=primary("pg1", "pg2", "pg3", archiver=_archiver())),
        fires=("ReplctlArchiveFailing pg1",),
    ),
    "archiving has never worked": Case(
        nodes=trio(pg1=primary("pg1", "pg2", "pg3", archiver=_archiver(last_archived_age_s=None))),
        fires=("ReplctlArchiveFailing pg1", "ReplctlArchiveFailing! pg1"),
    ),
    "archiving failed on a node that is a replica now": Case(
        nodes=trio(pg2=replica("pg2", archiver=_archiver()))
    ),
    "a run that failed": Case(nodes=trio(), success=False, fires=("ReplctlRunFailed",)),
}


def _scrape(case: Case) -> str:
    run = Run(
        version="1",
        at=NOW,
        took_s=0.1,
        success=case.success,
        failovers={"orders": case.failovers},
        writers={"orders": None if case.timelines else case.report.status.primary},
    )
    return render_metrics(collect([case.report], run), Format.TEXT)


@pytest.mark.parametrize("name", CASES)
def test_just_the_alerts_that_should_fire_do(name: str, tmp_path: Path) -> None:
    case, file = CASES[name], tmp_path / "rules.yml"
    file.write_text(render([case.inventory]).text)
    metrics = _scrape(case)
    accept_metrics(metrics)
    fire_just(file, metrics, *case.fires, now=NOW, growing=case.growing)


def test_nobody_looking_is_an_alert_too(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(render([settings()]).text)
    fire_just(file, "", "ReplctlNotObserved!", now=NOW)
    old = _scrape(CASES["all is well"])
    fire_just(file, old, "ReplctlNotObserved!", now=NOW + 400)


# Prometheus looks at each of these for 40 minutes, once a minute.
OBSERVED = {"series": 'replctl_cluster_observed_timestamp_seconds{cluster="orders"}', "values": "0+60x40"}


@pytest.mark.parametrize(
    ("delay", "fires"),
    [
        ("3600x20 stale", ()),
        ("0x20 stale", ("ReplctlAllReplicasUnfit",)),
        ("3600x20 0x19", ("ReplctlAllReplicasUnfit",)),
    ],
)
def test_a_delayed_replica_that_falls_silent_was_not_meant_for_reads(
    delay: str, fires: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(render([settings()]).text)
    of = '{cluster="orders",node="pg2"}'
    told = {"replctl_node_in_pool": "0x40", "replctl_apply_delay_seconds": delay}
    series = [{"series": f"{name}{of}", "values": values} for name, values in told.items()]
    fire_just_by(file, [OBSERVED, *series], *fires)


def test_lag_that_grows_is_told_of_after_a_quarter_of_an_hour_and_not_before(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(render([settings()]).text)
    seen = {
        "for-20-min": "_x20 100000000+1000000x19",
        "for-12-min": "_x28 100000000+1000000x11",
        "shrinks": "200000000-1000000x40",
        "little": "0+1000x40",
    }
    lag = [
        {"series": f'replctl_lag_bytes{{cluster="orders",node="{name}"}}', "values": values}
        for name, values in seen.items()
    ]
    behind = [f"ReplctlLagBytes {name}" for name in ("for-20-min", "for-12-min", "shrinks")]
    fire_just_by(file, [OBSERVED, *lag], *behind, "ReplctlLagIncreasing for-20-min")


def test_a_slot_is_without_a_consumer_for_as_long_as_it_was_seen_so_and_no_longer(tmp_path: Path) -> None:
    """On a server before 17, which does not tell since when; a new primary's slots have just begun."""
    file = tmp_path / "rules.yml"
    file.write_text(render([settings()]).text)
    seen = {
        "always": "0x40",
        "begun-2-min-ago": "_x37 0x2",
        "begun-8-min-ago": "_x31 0x8",
        "left-2-min-ago": "1x37 0x2",
        "left-8-min-ago": "1x31 0x8",
        "used-before-a-gap": "1x9 _x26 0x3",
        "unused-before-a-gap": "0x9 _x26 0x3",
        "dropped": "0x36 stale",
        "used": "1x40",
    }
    slots = [
        {
            "series": f'replctl_slot_active{{cluster="orders",node="pg1",slot_name="{name}"}}',
            "values": values,
        }
        for name, values in seen.items()
    ]
    fire_just_by(
        file,
        [OBSERVED, *slots],
        "ReplctlSlotInactive pg1 always",
        "ReplctlSlotInactive! pg1 always",
        "ReplctlSlotInactive pg1 begun-8-min-ago",
        "ReplctlSlotInactive pg1 left-8-min-ago",
        "ReplctlSlotInactive! pg1 unused-before-a-gap",
    )


def test_every_alert_is_seen_to_fire() -> None:
    fired = {one.split()[0].rstrip("!") for case in CASES.values() for one in case.fires}
    fired.add("ReplctlNotObserved")  # in the test above
    assert {rule.name for rule in rules_of(settings()) if isinstance(rule, Alert)} == fired


def test_an_alert_of_a_check_means_that_the_check_is_bad() -> None:
    for name, case in CASES.items():
        if not case.fires or case.failovers or not case.success:
            continue
        assert case.report.verdict in (Status.WARNING, Status.CRITICAL), name
