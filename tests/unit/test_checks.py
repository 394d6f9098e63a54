"""Every check: when it is content, and every way in which it is not, with what it says and advises.

The cases are tables in tests/unit/check_cases; here they are run, and held against the registry.
"""

from __future__ import annotations

import re

import pytest

from replctl.core.checks import CHECKS, evaluate
from replctl.core.lag import LagHistory
from replctl.core.report import report
from replctl.core.results import CheckResult, Metric, Status
from replctl.core.thresholds import THRESHOLD_KEYS, Range, Unit
from tests.unit.builders import END, assessed, primary, replica, settings, slot, state, trio, unreachable
from tests.unit.check_cases import CORE_ONLY, Case, membership, replication, resources, servers

CASES = [*membership.CASES, *replication.CASES, *resources.CASES, *servers.CASES]
MIB = 1024**2


def results(check: str, *nodes, **keys) -> tuple[CheckResult, ...]:
    return evaluate(assessed(*nodes, **keys), only=frozenset({check}))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_check_says_this_and_nothing_else(case: Case):
    inventory = settings(*(n.node for n in case.nodes), **case.inventory)

    found = results(case.check, *case.nodes, inventory=inventory, **case.look)

    assert [(r.status, r.node, r.message, r.hint) for r in found] == list(case.said)


# ---- the tables leave nothing out


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_has_cases(name: str):
    said = {status for case in CASES if case.check == name for status, *_ in case.said}

    assert Status.OK in said
    # It only tells; that a failover is impossible is for `doctor`.
    assert said - {Status.OK} or name == "automatic-failover"


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_is_spelt_and_described(name: str):
    check = CHECKS[name]

    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
    assert check.name == name
    assert check.help.endswith(".")
    assert check.meaning.endswith(".")
    assert check.hint
    assert set(check.thresholds) <= set(THRESHOLD_KEYS)


def test_every_threshold_belongs_to_one_check():
    used = [key for check in CHECKS.values() for key in check.thresholds]

    assert sorted(used) == sorted(THRESHOLD_KEYS)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_of_nodes_names_them_and_one_of_the_cluster_may_not(name: str):
    of_whom = {
        "node": {"pg1", "pg2", "pg3"},
        "replica": {"pg2", "pg3"},
        "primary": {"pg1"},
        "cluster": {None, "pg1"},
    }

    assert {r.node for r in results(name, *trio())} <= of_whom[CHECKS[name].of]


# ---- running them


def test_a_healthy_cluster_is_fine_in_every_check():
    found = evaluate(assessed(*trio()))

    assert {r.status for r in found} == {Status.OK}
    assert list(dict.fromkeys(r.name for r in found)) == list(CHECKS)


def test_checks_are_chosen_and_left_out_by_name():
    status = assessed(*trio())

    chosen = evaluate(status, only=frozenset({"primary", "version"}))
    left = evaluate(status, skip=frozenset({"primary"}))

    assert [r.name for r in chosen] == ["primary", "version"]
    assert {r.name for r in left} == set(CHECKS) - {"primary"}


@pytest.mark.parametrize(
    "nodes",
    [
        (unreachable("pg1"), unreachable("pg2")),
        (unreachable("pg1"), replica("pg2")),
        (primary("pg1"), primary("pg2")),
        (primary("pg1", **CORE_ONLY), replica("pg2", **CORE_ONLY)),
        (primary("pg1"),),
        (replica("pg1", "pg2"), replica("pg2", "pg1")),
    ],
    ids=["none answers", "no primary", "two primaries", "positions only", "single", "a circle"],
)
def test_no_check_fails_on_a_cluster_that_tells_little(nodes):
    found = evaluate(assessed(*nodes))

    assert {r.name for r in found} <= set(CHECKS)
    assert all(r.hint for r in found if r.status is not Status.OK)


def test_where_only_positions_are_told_nothing_is_called_critical():
    found = evaluate(assessed(primary("pg1", **CORE_ONLY), replica("pg2", **CORE_ONLY)))

    assert {r.status for r in found} == {Status.OK, Status.UNKNOWN}


def test_the_verdict_is_the_worst_result_and_problems_come_worst_first():
    seen = report(
        state(*trio(pg2=replica("pg2", lsn=END - 17 * MIB), pg3=unreachable("pg3"))),
        settings(),
        LagHistory(),
    )

    assert seen.verdict is Status.CRITICAL
    assert [(r.status.name, r.name) for r in seen.problems] == [
        ("CRITICAL", "reachable"),
        ("WARNING", "lag-bytes"),
    ]


# ---- the numbers behind the words


def test_a_metric_is_in_its_base_unit_with_the_thresholds_it_was_held_against():
    [found, _] = results("lag-bytes", *trio(pg2=replica("pg2", lsn=END - 17 * MIB)))

    assert found.metrics == (
        Metric(
            label="pg2_lag_bytes",
            value=17 * MIB,
            unit=Unit.BYTES,
            warning=Range(0, 16 * MIB),
            critical=Range(0, 1024 * MIB),
        ),
    )


def test_an_unknown_number_is_a_metric_without_a_value():
    [found, _] = results("lag-seconds", *trio(pg2=replica("pg2", replayed_lsn=None)))

    assert found.metrics == (Metric(label="pg2_lag_s", value=None, unit=Unit.SECONDS),)


def test_a_slot_has_its_own_metrics_and_thresholds():
    idle = slot("s", active=False, inactive_s=400.0, retained_bytes=5)
    [found, *_] = results("slots", *trio(pg1=primary("pg1", slots=(idle,))))

    assert found.subject == "s"
    assert [(m.label, m.value, m.unit, str(m.warning)) for m in found.metrics] == [
        ("pg1_s_retained", 5, Unit.BYTES, str(1024 * MIB)),
        ("pg1_s_inactive", 400.0, Unit.SECONDS, "300"),
    ]


def test_the_code_of_a_check_is_its_name_with_underscores():
    [first, *_] = results("lag-seconds", *trio())

    assert first.code == "lag_seconds"
