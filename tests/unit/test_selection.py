"""A run of `check` is never fine by having looked at nothing."""

from __future__ import annotations

import pytest

from replctl.core.checks import CHECKS
from replctl.core.model import Cause
from replctl.core.report import Report, reported
from replctl.core.results import Status
from replctl.core.selection import Selection, select, status_of
from replctl.core.settings import CheckSettings
from tests.unit.builders import END, assessed, primary, replica, settings, trio, unreachable, without_receiver

OK, WARNING, CRITICAL, UNKNOWN = Status.OK, Status.WARNING, Status.CRITICAL, Status.UNKNOWN
SILENT = unreachable("pg2", Cause.TIMEOUT, "the run's time was over while connecting")


def report(*nodes, **keys) -> Report:
    return reported(assessed(*(nodes or trio()), **keys))


def shown(seen: Report, *names: str, nodes=(), skip=()):
    """What is shown for `check NAMES --node … --skip …`: check, node and status of each result."""
    selection = Selection(names=names, skipped=frozenset(skip), nodes=tuple(nodes))
    return [(r.name, r.node, r.status) for r in select(seen, selection)]


def messages(seen: Report, *names: str, nodes=()):
    return [r.message for r in select(seen, Selection(names=names, nodes=tuple(nodes)))]


def code(seen: Report, *names: str, nodes=(), skip=(), ignore_warnings=False) -> Status:
    selection = Selection(names=names, skipped=frozenset(skip), nodes=tuple(nodes))
    return status_of(select(seen, selection), seen, ignore_warnings=ignore_warnings)


def test_without_a_name_everything_is_shown():
    seen = report()

    assert select(seen, Selection()) == seen.results
    assert {r.name for r in seen.results} == set(CHECKS)


def test_a_named_check_is_shown_alone():
    assert shown(report(), "lag-bytes") == [("lag-bytes", "pg2", OK), ("lag-bytes", "pg3", OK)]


def test_results_are_in_the_order_of_the_registry():
    assert [name for name, *_ in shown(report(), "version", "primary")] == ["primary", "version"]


def test_a_node_shows_what_is_about_it_alone():
    found = shown(report(), nodes=["pg2"])

    assert {node for _, node, _ in found} == {"pg2"}
    assert "primary" not in {name for name, *_ in found}


def test_a_check_of_replicas_is_fine_on_the_primary_and_says_so():
    assert shown(report(), "lag-bytes", nodes=["pg1"]) == [("lag-bytes", "pg1", OK)]
    assert messages(report(), "lag-bytes", nodes=["pg1"]) == [
        "pg1 is the primary: lag-bytes is about replicas"
    ]


def test_a_check_of_the_primary_is_fine_on_a_replica_and_says_so():
    assert messages(report(), "archiver", nodes=["pg2"]) == [
        "pg2 is a replica: archiver is about the primary"
    ]


def test_a_check_of_the_cluster_has_nothing_to_say_about_a_node():
    assert shown(report(), "split-brain", nodes=["pg1"]) == [("split-brain", None, UNKNOWN)]
    assert messages(report(), "split-brain", nodes=["pg1"]) == [
        "nothing to check: split-brain is about the cluster as a whole"
    ]


def test_when_everything_is_left_out_nothing_was_checked():
    assert shown(report(), skip=CHECKS) == [("reachable", None, UNKNOWN)]


def test_replicas_are_missed_where_there_are_none():
    assert messages(report(primary("pg1")), "lag-bytes") == ["nothing to check: lag-bytes is about replicas"]


@pytest.mark.parametrize("name", ["lag-bytes", "streaming", "clock-skew"])
def test_a_named_check_is_not_fine_while_a_node_does_not_answer(name):
    seen = report(*trio(pg2=unreachable("pg2")))

    assert ("reachable", "pg2", UNKNOWN) in shown(seen, name)
    assert code(seen, name) is UNKNOWN
    assert code(seen, name, nodes=["pg3"]) is OK


def test_that_a_node_does_not_answer_is_left_to_reachable_where_that_was_asked_for():
    seen = report(*trio(pg2=unreachable("pg2")))

    assert shown(seen, "reachable", "lag-bytes") == [
        ("reachable", "pg1", OK),
        ("reachable", "pg2", CRITICAL),
        ("reachable", "pg3", OK),
        ("lag-bytes", "pg3", OK),
    ]
    assert shown(seen, "lag-bytes", skip=["reachable"]) == [("lag-bytes", "pg3", OK)]


@pytest.mark.parametrize("name", ["primary", "sync", "split-brain", "archiver"])
def test_a_check_of_the_cluster_needs_not_every_node(name):
    assert code(report(*trio(pg2=unreachable("pg2"))), name) is OK


def test_a_server_of_another_cluster_is_no_answer():
    seen = report(*trio(pg2=unreachable("pg2", Cause.WRONG_CLUSTER, "its system identifier is 7")))

    assert shown(seen, "lag-bytes") == [("system-id", "pg2", UNKNOWN), ("lag-bytes", "pg3", OK)]
    assert code(seen) is CRITICAL


def test_a_replica_whose_lag_means_nothing_is_not_fine():
    seen = report(*trio(pg2=replica("pg2", lsn=END + 100)))

    assert messages(seen, "lag-bytes") == [
        "pg3 0 B behind",
        "pg2: lag-bytes cannot be told, it is diverged",
    ]
    assert code(seen, "lag-bytes") is UNKNOWN


def test_without_any_primary_a_named_check_of_it_cannot_be_told():
    seen = report(*trio(pg1=unreachable("pg1")))

    assert code(seen, "archiver") is UNKNOWN
    assert code(seen, "sync") is UNKNOWN


def test_a_named_check_that_a_role_may_not_see_cannot_be_told():
    seen = report(*trio(pg1=primary("pg1", "pg2", "pg3", archiver=None)))

    assert messages(seen, "archiver") == ["pg1: archiver cannot be told"]


# ---- runs that were cut short


def cut_short(**spoilt) -> Report:
    return report(*trio(pg2=SILENT, **spoilt), cut_short=frozenset({"pg2"}))


@pytest.mark.parametrize("names", [(), ("reachable",), ("lag-bytes",), ("primary",)])
@pytest.mark.parametrize("skip", [(), ("reachable",)])
def test_a_run_that_was_cut_short_is_unknown_whatever_was_asked(names, skip):
    assert code(cut_short(), *names, skip=skip) is UNKNOWN
    assert code(cut_short(), *names, skip=skip, nodes=["pg3"]) is UNKNOWN


def test_what_is_known_to_be_critical_by_then_stays_critical():
    seen = cut_short(pg3=without_receiver("pg3", lsn=END - 2**30))

    assert code(seen) is CRITICAL


def test_a_warning_of_a_run_that_was_cut_short_is_unknown():
    seen = cut_short(pg3=replica("pg3", replay_pause="paused"))

    assert code(seen) is UNKNOWN


def test_no_primary_is_not_concluded_from_a_run_that_was_cut_short():
    silent = unreachable("pg1", Cause.TIMEOUT, "the run's time was over while asking")
    seen = report(*trio(pg1=silent), cut_short=frozenset({"pg1"}))

    assert [r.message for r in seen.results if r.name == "primary"] == [
        "not known which node is the primary: nothing heard from pg1"
    ]
    assert code(seen) is UNKNOWN


# ---- what counts


def test_warnings_can_be_ignored_but_not_what_is_unknown():
    seen = report(
        *trio(pg2=replica("pg2", replay_pause="paused"), pg3=replica("pg3", monitor_privilege=False))
    )

    assert code(seen) is WARNING
    assert code(seen, ignore_warnings=True) is UNKNOWN
    assert code(seen, "replay-paused", ignore_warnings=True) is OK


def test_an_unreachable_node_is_critical_unless_the_inventory_says_otherwise():
    nodes = trio(pg1=unreachable("pg1"), pg2=unreachable("pg2"), pg3=unreachable("pg3"))
    lenient = settings(checks=CheckSettings(unreachable="unknown"))

    assert code(report(*nodes)) is CRITICAL
    assert code(report(*nodes, inventory=lenient)) is UNKNOWN
