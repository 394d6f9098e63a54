"""What the dashboard remembers between looks, and in which order it shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replctl.core.changes import Noticed
from replctl.display.screen import CHANGES_MAX, Screen, Seen, Sort
from replctl.display.sparkline import CELLS
from replctl.display.style import ASCII, Medium
from tests.unit.builders import NOW, primary, replica, trio, unreachable
from tests.unit.builders import settings as inventory_of
from tests.unit.builders import state as state_of
from tests.unit.golden import INVENTORY, healthy_report, troubled_report


def screen(*reports, **keys) -> Screen:
    """A dashboard after these looks at one cluster."""
    found = Screen(
        clusters=(Seen(settings=INVENTORY),),
        **{"medium": Medium(width=110, glyphs=ASCII), "height": 30, "now": NOW} | keys,
    )
    for report in reports:
        found = found.with_look(0, report)
    return found


def looks(*observations) -> Seen:
    """A cluster of three after these looks, two seconds apart."""
    from replctl.core.lag import LagHistory
    from replctl.core.report import report

    settings = inventory_of()
    seen, history = Seen(settings=settings), LagHistory()
    for i, nodes in enumerate(observations):
        found = report(state_of(*nodes, observed_at=NOW + 2 * i, observed_at_s=2.0 * i), settings, history)
        seen, history = seen.and_now(found), found.status.history
    return seen


def names(found: Screen) -> list[str]:
    return [row.node.name for row in found.rows()]


def test_before_the_first_look_there_are_no_rows():
    assert screen().rows() == []
    assert screen().selected_row() is None


def test_problems_stand_first_and_equals_keep_the_order_of_the_inventory():
    assert names(screen(troubled_report())) == ["pg3", "pg4", "pg5", "pg1", "pg2"]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (Sort.PROBLEMS, ["pg3", "pg4", "pg5", "pg1", "pg2"]),
        (Sort.INVENTORY, ["pg1", "pg2", "pg3", "pg4", "pg5"]),
        (Sort.NAME, ["pg1", "pg2", "pg3", "pg4", "pg5"]),
        (Sort.LAG, ["pg3", "pg4", "pg2", "pg1", "pg5"]),
        (Sort.STATE, ["pg3", "pg1", "pg2", "pg4", "pg5"]),
    ],
)
def test_rows_are_sorted_and_reversed(sort, expected):
    found = screen(troubled_report(), sort=sort)

    assert names(found) == expected
    assert names(replace(found, reverse=True)) == expected[::-1]


def test_a_filter_keeps_rows_that_contain_the_text_in_any_word():
    found = screen(troubled_report(), sort=Sort.INVENTORY)

    assert [
        names(replace(found, filter=text)) for text in ("EU-1", "paused", "timeout", "10.0.0.4", "x")
    ] == [
        ["pg1", "pg2", "pg3"],
        ["pg3"],
        ["pg5"],
        ["pg4"],
        [],
    ]


def test_only_problems_leaves_the_others_out():
    assert names(screen(troubled_report(), problems_only=True)) == ["pg3", "pg4", "pg5"]
    assert names(screen(healthy_report(), problems_only=True)) == []


def test_the_selection_stays_with_its_node_when_the_order_changes():
    found = screen(healthy_report(), selected="pg2")

    assert found.selected_row().node.name == "pg2"
    assert found.with_look(0, troubled_report()).selected_row().node.name == "pg2"
    assert replace(found, filter="pg4").selected_row().node.name == "pg4"


def test_a_node_that_falls_silent_keeps_its_last_facts_with_their_age_and_its_place_in_the_tree():
    found = screen(healthy_report(NOW), troubled_report(NOW + 10), now=NOW + 12.5, as_tree=True)
    row = next(row for row in found.rows() if row.node.name == "pg5")

    assert (row.last.upstream, row.last.role, row.silent_s) == ("pg3", "replica", 12.5)
    assert [r.stem + r.node.name for r in found.rows()] == [
        "pg1",
        "|- pg2",
        "`- pg3",
        "   |- pg4",
        "   `- pg5",
    ]


def test_a_node_that_never_answered_has_no_last_facts():
    row = next(row for row in screen(troubled_report()).rows() if row.node.name == "pg5")

    assert (row.last, row.silent_s) == (None, None)


def test_each_look_adds_one_value_to_the_lag_of_each_node_and_the_oldest_go():
    seen = Seen(settings=INVENTORY)
    for i in range(CELLS + 5):
        seen = seen.and_now(healthy_report(NOW + i))
    seen = seen.and_now(troubled_report(NOW + 99))

    assert seen.lags["pg2"] == (0,) * CELLS
    assert seen.lags["pg3"] == (*(0,) * (CELLS - 1), 1 << 30)
    assert seen.lags["pg5"] == (*(0,) * (CELLS - 1), None)
    assert seen.lags["pg1"] == (None,) * CELLS


def test_the_first_look_is_no_change():
    assert looks(trio()).changes == ()
    assert looks(trio(), trio()).changes == ()


def test_a_failover_is_told_as_it_was_seen():
    gone = trio(pg1=unreachable("pg1"), pg2=replica("pg2", receiver=None), pg3=replica("pg3", receiver=None))
    promoted = trio(
        pg1=unreachable("pg1"),
        pg2=primary("pg2", "pg3", timeline=2),
        pg3=replica("pg3", "pg2", timeline=2),
    )
    first = looks(trio(), gone).changes
    second = looks(trio(), gone, promoted).changes[-CHANGES_MAX:]

    assert first[0] == Noticed(at=NOW + 2, fact="state", node="pg1", before="primary", after="unreachable")
    assert {(c.node, c.fact, c.before, c.after) for c in second} >= {
        ("pg2", "role", "replica", "primary"),
        ("pg2", "timeline", "1", "2"),
        ("pg3", "upstream", "pg1", "pg2"),
    }


def test_what_is_unknown_for_a_while_has_not_changed():
    back = looks(trio(), trio(pg3=unreachable("pg3")), trio())
    new_timeline = looks(trio(), trio(pg3=unreachable("pg3")), trio(pg3=replica("pg3", timeline=2)))

    assert [(c.node, c.fact, c.before, c.after) for c in back.changes] == [
        ("pg3", "state", "streaming", "unreachable"),
        ("pg3", "state", "unreachable", "streaming"),
    ]
    assert ("pg3", "timeline", "1", "2") in [
        (c.node, c.fact, c.before, c.after) for c in new_timeline.changes
    ]


def test_changes_are_told_again_after_the_clock_was_set_back():
    def look(seen: Seen, at: float, **spoilt) -> Seen:
        from replctl.core.lag import LagHistory
        from replctl.core.report import report

        state = state_of(*trio(**spoilt), observed_at=at)
        return seen.and_now(report(state, seen.settings, LagHistory()))

    seen = look(Seen(settings=inventory_of()), NOW)
    seen = look(seen, NOW - 3600)
    seen = look(seen, NOW - 3598, pg3=unreachable("pg3"))

    assert [(c.at, c.node, c.after) for c in seen.changes] == [(NOW - 3598, "pg3", "unreachable")]


def test_only_the_last_changes_are_kept():
    flapping = [trio() if i % 2 else trio(pg3=unreachable("pg3")) for i in range(9)]

    found = looks(*flapping).changes

    assert [c.at for c in found] == [NOW + 2 * i for i in range(9 - CHANGES_MAX, 9)]
