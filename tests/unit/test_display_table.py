"""The table: columns by need, values whole at any width, cascades drawn."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.lag import Lag, LagBound, LagSource, Seconds
from replctl.core.model import Cause
from replctl.core.results import Status
from replctl.core.status import NodeState, NodeStatus
from replctl.display.columns import COLUMNS, POLICIES, WIDE, Row
from replctl.display.sparkline import sparkline
from replctl.display.style import ASCII, UNICODE, render
from replctl.display.table import narrowest, table, tree_order, wide_table
from tests.unit.builders import settings
from tests.unit.golden import healthy_report, troubled_report

CELLS = {column.key: column.cell for column in COLUMNS}


def rows_of(report=None, **changes) -> list[Row]:
    found = report or healthy_report()
    return [
        replace(Row(node=node, severity=Status.OK, glyphs=ASCII), **changes) for node in found.status.nodes
    ]


def headings(rows, cells) -> list[str]:
    return render(table(rows, cells).heading, False).split()


def cell(row: Row, key: str) -> str:
    return "".join(span.text for span in CELLS[key](row))


def with_lag(node: NodeStatus, size: int | None, seconds: Seconds | None = None, trend=None) -> NodeStatus:
    lag = Lag(lag_bytes=size, seconds=seconds or Seconds())
    return replace(node, lag=lag, lag_trend_bytes_per_s=trend)


@pytest.fixture
def streaming() -> Row:
    return rows_of()[1]


def test_columns_come_with_width():
    rows = rows_of()

    assert [(cells, headings(rows, cells)) for cells in (30, 50, 70, 80)] == [
        (30, ["NODE", "STATE", "LAG"]),
        (50, ["NODE", "ROLE", "STATE", "LAG", "TIME"]),
        (70, ["NODE", "ROLE", "STATE", "TL", "UPSTREAM", "SYNC", "LAG", "TIME"]),
        (80, ["NODE", "ROLE", "STATE", "TL", "UPSTREAM", "SYNC", "LAG", "TIME", "READS"]),
    ]


def test_a_state_says_less_where_that_makes_room_for_more_columns():
    rows = rows_of(troubled_report())
    rows[4] = replace(rows[4], silent_s=28.0)

    shown = [render(table(rows, cells).rows[4], False).split("?")[1].strip() for cells in (124, 110, 100)]

    assert shown == ["+ unreachable (timeout) for 28 s", "+ unreachable (timeout)", "+ timeout"]


def test_off_a_terminal_the_columns_do_not_depend_on_a_width():
    expected = ["NODE", "ROLE", "STATE", "TL", "UPSTREAM", "SYNC", "LAG", "TIME", "READS"]

    assert headings(rows_of(), None) == expected
    assert headings(rows_of(troubled_report()), None) == expected


def test_each_policy_has_all_columns_of_the_narrower_ones():
    assert all(narrow <= wide for narrow, wide in pairwise(POLICIES))
    assert all(policy <= {c.key for c in COLUMNS} for policy in POLICIES)


@given(st.integers(1, 250), st.from_regex(r"[A-Za-z0-9_.-]{1,63}", fullmatch=True))
def test_no_value_is_ever_cut(cells, name):
    row = rows_of(troubled_report())[4]
    rows = [*rows_of(troubled_report()), replace(row, node=replace(row.node, name=name))]
    found = table(rows, cells)

    assert found.width <= cells or found.width == narrowest(rows).width
    for row, line in zip(rows, found.rows, strict=True):
        shown = render(line, False)
        assert shown.startswith(row.node.name)
        assert f" {row.node.state}" in shown or f" {row.node.cause}" in shown


def test_a_wide_table_shows_every_column_part_by_part():
    rows = rows_of(troubled_report())
    whole, hidden = wide_table(rows, 10_000, 0)
    assert hidden == ""
    seen: list[str] = []
    first = 0
    while True:
        part, note = wide_table(rows, 60, first)
        assert note.startswith(f"columns {first + 1}-")
        shown = [h for h in render(part.heading, False).split("  ") if h]
        assert shown[0].strip() == "NODE"
        seen += [h.strip() for h in shown[1:]]
        last, count = map(int, note.removeprefix(f"columns {first + 1}-").split(" of "))
        if last == count:
            break
        first = last

    assert seen == [h.strip() for h in render(whole.heading, False).split("  ") if h][1:]


def test_a_column_without_a_value_is_left_out_where_it_may_be():
    bare = [replace(row, node=replace(row.node, zone=None)) for row in rows_of()]

    assert "ZONE" in render(wide_table(rows_of(), 10_000, 0)[0].heading, False)
    assert "ZONE" not in render(wide_table(bare, 10_000, 0)[0].heading, False)
    assert {c.key for c in COLUMNS} - WIDE == {"state_cause", "state_word"}


@pytest.mark.parametrize(
    ("bound", "shown"), [(LagBound.EXACT, "1.5 s"), (LagBound.LOWER, ">=1.5 s"), (LagBound.UPPER, "<=1.5 s")]
)
def test_seconds_show_what_they_are(streaming, bound, shown):
    node = with_lag(streaming.node, 100, Seconds(1.5, LagSource.HISTORY, bound))

    assert cell(replace(streaming, node=node), "lag_s") == shown


def test_bytes_are_a_lower_bound_without_a_primary(streaming):
    node = with_lag(streaming.node, 2048)

    assert cell(replace(streaming, node=node), "lag_bytes") == "2.0 KiB"
    assert cell(replace(streaming, node=node, bytes_at_least=True), "lag_bytes") == ">=2.0 KiB"


def test_unknown_lag_is_not_zero_and_a_primary_has_none(streaming):
    unknown = replace(streaming, node=with_lag(streaming.node, None))
    zero = replace(streaming, node=with_lag(streaming.node, 0, Seconds(0.0)))
    primary = rows_of()[0]

    assert [(cell(row, "lag_bytes"), cell(row, "lag_s")) for row in (unknown, zero, primary)] == [
        ("?", "?"),
        ("0 B", "0 s"),
        ("-", "-"),
    ]


def test_a_replica_that_is_ahead_shows_it(streaming):
    assert cell(replace(streaming, node=with_lag(streaming.node, -4096)), "lag_bytes") == "-4.0 KiB"


@pytest.mark.parametrize(
    ("size", "trend", "shown", "eta"),
    [
        (10 << 20, 2 << 20, "/ 2.0 MiB/s", "never"),
        (10 << 20, -(1 << 20), "\\ 1.0 MiB/s", "10 s"),
        (10 << 20, 100.0, "= steady", "never"),
        (10 << 20, None, "?", "?"),
        (0, 3 << 20, "= steady", "-"),
        (0, None, "?", "-"),
    ],
)
def test_trend_and_eta_tell_behind_from_falling_behind(streaming, size, trend, shown, eta):
    row = replace(streaming, node=with_lag(streaming.node, size, trend=trend))

    assert (cell(row, "trend"), cell(row, "eta")) == (shown, eta)


def test_a_silent_node_says_why_for_how_long_and_what_it_last_was(streaming):
    silent = rows_of(troubled_report())[4]
    row = replace(silent, severity=Status.CRITICAL, last=streaming.node, silent_s=75.2)

    assert [cell(row, key) for key in ("state", "role", "timeline", "upstream", "lag_bytes", "reads")] == [
        "x unreachable (timeout) for 1 min 15 s",
        "(replica)",
        "(1)",
        "(pg1)",
        "?",
        "no (unreachable)",
    ]
    assert cell(silent, "role") == "?"


def test_an_archive_fed_replica_has_no_upstream_and_a_blind_role_does_not_know(streaming):
    facts = replace(streaming.node.facts, upstream_host=None)
    fed = replace(streaming.node, upstream=None, facts=facts, state=NodeState.ARCHIVE, sender=None)
    blind = replace(fed, facts=replace(facts, upstream_known=False))

    assert [cell(replace(streaming, node=n), "upstream") for n in (fed, blind)] == ["-", "?"]
    assert cell(replace(streaming, node=fed), "sync") == "-"


def test_a_slot_that_is_not_well_says_so():
    rows = rows_of(troubled_report())

    assert [cell(row, "slot") for row in rows] == ["-", "pg2", "pg3 (extended)", "pg4", "?"]


def test_an_ipv6_address_is_told_from_its_port(streaming):
    row = replace(streaming, node=replace(streaming.node, host="fe80::1"))

    assert cell(row, "address") == "[fe80::1]:5432"


def test_every_column_can_show_every_node(streaming):
    causes = [replace(streaming.node, reachable=False, role=None, cause=c, facts=None) for c in Cause]
    rows = [*rows_of(), *rows_of(troubled_report()), *(replace(streaming, node=n) for n in causes)]

    assert all(cell(row, key) for row in rows for key in CELLS if key != "node")


def test_a_tree_draws_who_streams_from_whom():
    upstreams = {"pg1": None, "pg2": "pg1", "pg3": "pg2", "pg4": "pg3", "pg5": "pg2", "pg6": "pg1"}
    inventory = settings(*upstreams, "pg7", "pg8")

    drawn = tree_order(inventory, upstreams | {"pg8": "10.9.9.9:5432"}, UNICODE)

    assert [stem + name for name, stem in drawn] == [
        "pg1",
        "├─ pg2",
        "│  ├─ pg3",
        "│  │  └─ pg4",
        "│  └─ pg5",
        "└─ pg6",
        "pg7",
        "pg8",
    ]


def test_a_circle_of_upstreams_is_drawn_and_ends():
    inventory = settings("pg1", "pg2")

    assert tree_order(inventory, {"pg1": "pg2", "pg2": "pg1"}, ASCII) == [("pg1", ""), ("pg2", "`- ")]


def test_a_sparkline_has_its_own_scale_and_tells_zero_from_unknown():
    assert sparkline([0, None, 50, 100], UNICODE) == " " * 16 + "▁ ▅█"
    assert sparkline([0, None, 50, 100], ASCII) == " " * 16 + " ?=#"
    assert sparkline([0, 1, 1_000_000], UNICODE)[-3:] == "▁▂█"
    assert sparkline([0, 0], UNICODE) == " " * 18 + "▁▁"
    assert sparkline([], UNICODE) == " " * 20


@given(st.lists(st.none() | st.integers(-(2**40), 2**60), max_size=50))
def test_a_sparkline_always_has_twenty_cells(values):
    assert len(sparkline(values, UNICODE)) == len(sparkline(values, ASCII)) == 20
