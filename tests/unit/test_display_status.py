"""What `replctl status` prints, at every width and off a terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.report import Report
from replctl.core.results import CheckResult, Status
from replctl.core.status import SyncStatus
from replctl.display.overview import rows_of, severities, status_lines, status_text, sync_sentence
from replctl.display.style import ASCII, UNICODE, WORDS, Medium, line_width, render
from tests.unit.builders import assessed, primary, trio
from tests.unit.golden import healthy_report, matches, troubled_report

REPORTS = {"healthy": healthy_report, "troubled": troubled_report}
GREATEST_TABLE = 40  # cells that the narrowest table of these reports needs


@pytest.mark.parametrize("width", [58, 80, 110, 160])
@pytest.mark.parametrize("name", REPORTS)
def test_a_printed_status_on_a_terminal(name, width):
    text = status_text([REPORTS[name]()], Medium(width=width, glyphs=UNICODE))

    assert matches(f"status_{name}_{width}", text)
    assert max(len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize("name", REPORTS)
def test_a_printed_status_off_a_terminal_is_plain_and_whole(name):
    text = status_text([REPORTS[name]()], Medium())

    assert matches(f"status_{name}_pipe", text)
    assert text.isascii()
    assert "\x1b" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_everything_about_a_cascade_as_a_tree():
    text = status_text([troubled_report()], Medium(glyphs=ASCII), wide=True, as_tree=True)

    assert matches("status_troubled_wide_tree", text)


def test_several_clusters_stand_below_each_other():
    both = status_text([healthy_report(), troubled_report()], Medium())

    assert both == "\n".join(status_text([r], Medium()) for r in (healthy_report(), troubled_report()))


def test_colour_adds_nothing_but_colour():
    plain = status_lines(troubled_report(), Medium(width=110, glyphs=UNICODE))
    colored = status_text([troubled_report()], Medium(width=110, glyphs=UNICODE, color=True))

    assert "".join(strip_colour(colored).split()) == "".join("".join(render(x, False) for x in plain).split())
    assert "\x1b[1;31m✗ CRITICAL\x1b[0m" in colored


def strip_colour(text: str) -> str:
    out, _, rest = text.partition("\x1b[")
    return out + strip_colour(rest.partition("m")[2]) if rest else out


@given(st.integers(GREATEST_TABLE, 200))
def test_nothing_is_wider_than_the_terminal(width):
    for report in (healthy_report(), troubled_report()):
        lines = status_lines(report, Medium(width=width, glyphs=UNICODE))
        assert [line_width(line) for line in lines if line_width(line) > width] == []


def test_a_long_diagnosis_is_counted_beyond_its_first_sentences():
    found = troubled_report()
    found = replace(found, diagnosis=replace(found.diagnosis, evidence=("a", "b", "c", "d", "e")))

    assert "\nREPLICA_DETACHED: a; b; c; and 2 more\n" in status_text([found], Medium())


def test_a_row_is_as_bad_as_its_worst_check_or_its_state():
    assert severities(troubled_report()) == {
        "pg1": Status.OK,
        "pg2": Status.OK,
        "pg3": Status.CRITICAL,
        "pg4": Status.CRITICAL,
        "pg5": Status.CRITICAL,
    }
    unchecked = severities(replace(troubled_report(), results=()))
    assert [unchecked[name] for name in ("pg3", "pg4", "pg5")] == [
        Status.WARNING,
        Status.OK,
        Status.CRITICAL,
    ]
    silence = CheckResult(name="reachable", status=Status.UNKNOWN, message="silent", node="pg5")
    assert severities(replace(troubled_report(), results=(silence,)))["pg5"] is Status.UNKNOWN


def test_two_nodes_that_accept_writes_are_both_marked():
    two = assessed(*trio(pg2=primary("pg2", timeline=2)))
    slots = CheckResult(name="slots", status=Status.WARNING, message="a slot", node="pg1")
    found = Report(status=two, diagnosis=healthy_report().diagnosis, results=(slots,))

    assert [severities(found)[name] for name in ("pg1", "pg2")] == [Status.CRITICAL, Status.CRITICAL]


def test_rows_keep_the_order_of_the_inventory_whatever_is_wrong():
    assert [r.node.name for r in rows_of(troubled_report(), WORDS)] == ["pg1", "pg2", "pg3", "pg4", "pg5"]


@pytest.mark.parametrize(
    ("sync", "sentence"),
    [
        (SyncStatus(), "sync unknown"),
        (SyncStatus(configured=""), "sync off: a failover may lose commits"),
        (SyncStatus(configured="odd ("), "sync odd ("),
        (
            SyncStatus(
                configured="ANY 1 (a, b)",
                tolerated_replica_losses_for_writes=1,
                tolerated_replica_losses_for_failover=0,
            ),
            "sync ANY 1 (a, b): writes tolerate losing 1 replica, a lossless failover none",
        ),
        (
            SyncStatus(
                configured="ANY 2 (a, b, c)",
                tolerated_replica_losses_for_writes=0,
                tolerated_replica_losses_for_failover=-1,
            ),
            "sync ANY 2 (a, b, c): writes tolerate losing none; a lossless failover needs 1 replica more",
        ),
        (
            SyncStatus(
                configured="a",
                tolerated_replica_losses_for_writes=-1,
                tolerated_replica_losses_for_failover=-1,
            ),
            "sync a: writes wait for 1 replica more",
        ),
    ],
)
def test_synchronous_replication_is_said_in_a_sentence(sync, sentence):
    assert sync_sentence(sync) == sentence
