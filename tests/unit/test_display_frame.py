"""Frames of the dashboard: as they should look, and within their bounds whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.lag import LagHistory
from replctl.core.report import report
from replctl.display.columns import WIDE
from replctl.display.frame import frame, needed_size, settled
from replctl.display.keys import BINDINGS, pressed
from replctl.display.screen import Overlay, Screen, Seen
from replctl.display.style import ASCII, UNICODE, Medium, line_width, render
from tests.unit.builders import NOW, primary, replica
from tests.unit.builders import settings as inventory_of
from tests.unit.builders import state as state_of
from tests.unit.golden import INVENTORY, healthy_report, matches, troubled_report


def watched(width: int, height: int = 30, **keys) -> Screen:
    """Ten looks at a healthy cluster, then four at one in trouble; the last is two seconds old."""
    screen = Screen(
        clusters=(Seen(settings=INVENTORY),), medium=Medium(width=width, glyphs=UNICODE), height=height
    )
    history = None
    for i in range(14):
        made = (healthy_report if i < 10 else troubled_report)(NOW + 2 * i, history)
        history = made.status.history
        screen = screen.with_look(0, made)
    return replace(screen, now=NOW + 2 * 13 + 2, **keys)


def text_of(screen: Screen) -> str:
    return "".join(f"{render(line, screen.medium.color)}\n" for line in frame(screen))


def many(count: int, width: int = 110, height: int = 20, **keys) -> Screen:
    """A primary with so many replicas."""
    names = [f"pg{i}" for i in range(2, count + 2)]
    inventory = inventory_of("pg1", *names)
    nodes = state_of(primary("pg1", *names), *(replica(name) for name in names))
    seen = Seen(settings=inventory).and_now(report(nodes, inventory, LagHistory()))
    return Screen(clusters=(seen,), medium=Medium(width=width, glyphs=ASCII), height=height, now=NOW, **keys)


@pytest.mark.parametrize("width", [58, 80, 110, 160])
def test_the_dashboard(width):
    assert matches(f"frame_{width}", text_of(watched(width)))


@pytest.mark.parametrize(("width", "height"), [(58, 12), (40, 8), (80, 16)])
def test_the_dashboard_on_a_small_terminal(width, height):
    assert matches(f"frame_{width}x{height}", text_of(watched(width, height)))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("tree", "t"),
        ("help", "?"),
        ("detail_of_a_replica", ("j", "enter")),
        ("detail_of_a_silent_node", ("j", "j", "enter")),
        ("filter", ("/", "e", "u")),
        ("problems_reversed_paused", ("!", "S", "space")),
        ("wide", ("w", "right", "right")),
    ],
)
def test_the_dashboard_after_keys(name, keys):
    screen = watched(110, 44)
    for key in keys:
        screen = pressed(screen, key)

    assert matches(f"frame_{name}", text_of(screen))


def test_the_dashboard_in_plain_ascii():
    screen = watched(160)
    text = text_of(replace(screen, medium=screen.medium._replace(glyphs=ASCII)))

    assert matches("frame_ascii", text)
    assert text.isascii()


def test_before_the_first_look_it_says_whom_it_asks():
    screen = Screen(clusters=(Seen(settings=INVENTORY),), medium=Medium(width=80), height=10)

    assert text_of(screen).splitlines()[:3] == ["orders", "", "asking 5 nodes ..."]


def test_several_clusters_have_a_line_of_names():
    one = watched(110)
    two = replace(one, clusters=(Seen(settings=INVENTORY).and_now(healthy_report()), one.seen), current=1)

    assert text_of(two).splitlines()[0] == "tab:   orders ✓ OK   [orders] ✗ CRITICAL"


def test_old_data_is_marked_after_three_intervals():
    def footer(age_s: float) -> str:
        screen = watched(110)
        return text_of(replace(screen, now=NOW + 26 + age_s)).splitlines()[-2]

    assert footer(6.0) == "✗ CRITICAL   data 6 s old   every 2 s   sort problems"
    assert footer(6.6) == "✗ CRITICAL   ! data 7 s old   every 2 s   sort problems"
    assert footer(200.0) == "✗ CRITICAL   ! data 3 min 20 s old   every 2 s   sort problems"


def test_a_terminal_that_is_too_small_is_told_what_is_needed():
    screen = watched(20, 5)

    assert needed_size(screen) == (28, 6)
    assert text_of(screen).splitlines() == ["terminal too small", "needs 28x6", "has 20x5", "q quits"]
    assert "too small" not in text_of(watched(28, 6))


def test_a_long_name_needs_a_wider_terminal_and_is_never_cut():
    long = "a" * 63
    inventory = inventory_of(long)
    seen = Seen(settings=inventory).and_now(report(state_of(primary(long)), inventory, LagHistory()))
    screen = Screen(clusters=(seen,), medium=Medium(width=60, glyphs=ASCII), height=20, now=NOW)

    assert needed_size(screen)[0] > 63
    assert f"needs {needed_size(screen)[0]}x6" in text_of(screen)
    assert long in text_of(screen.resized(needed_size(screen)[0], 20))


def test_more_nodes_than_lines_are_counted_and_the_selection_stays_in_sight():
    def shown(**keys) -> list[str]:
        lines = text_of(many(30, height=15, **keys)).splitlines()
        return [line for line in lines if line.lstrip("> ").startswith("pg") or " more" in line]

    first, last = shown(), shown(selected="pg31")

    assert (first[0][:6], first[-1]) == ("> pg1 ", f"  +{31 - len(first) + 1} more")
    assert (last[-2][:7], last[-1]) == ("> pg31 ", f"  +{31 - len(last) + 1} more above")


def test_an_overlay_scrolls_to_its_end_and_no_further():
    screen = watched(110, 12)
    for key in ("?", "G"):
        screen = pressed(screen, key)
    screen = settled(screen)

    assert "No key changes anything on a server." in text_of(screen)
    up = settled(pressed(screen, "k"))
    assert up.scroll == screen.scroll - 1


def test_the_help_names_every_key():
    text = text_of(watched(110, 60, overlay=Overlay.HELP))

    assert all(f"{', '.join(b.keys)} " in text and b.help in text for b in BINDINGS)


def test_the_selected_row_is_marked_by_a_sign_and_with_colour_by_its_ground_too():
    screen = watched(80, selected="pg4")
    colored = replace(screen, medium=screen.medium._replace(color=True))

    assert [line for line in text_of(screen).splitlines() if line.startswith("> pg4 ")]
    assert "\x1b[7m> \x1b[0m" in text_of(colored)


@given(
    st.integers(1, 220),
    st.integers(1, 70),
    st.lists(st.sampled_from([k for b in BINDINGS for k in b.keys] + ["p", "3"]), max_size=8),
    st.integers(0, 40),
)
def test_a_frame_never_leaves_its_bounds(width, height, keys, count):
    for screen in (watched(width, height), many(count, width, height)):
        for key in keys:
            screen = settled(pressed(screen, key))
        lines = frame(screen)
        assert len(lines) <= height
        assert max(map(line_width, lines), default=0) <= width


@given(st.integers(28, 220), st.integers(6, 70))
def test_the_verdict_the_keys_and_a_row_are_there_at_any_size_that_is_enough(width, height):
    lines = text_of(watched(width, height)).splitlines()

    assert len(lines) == height
    assert "CRITICAL" in lines[0]
    assert any(line.startswith("> pg") for line in lines)
    assert lines[-2].startswith("✗ CRITICAL")
    assert lines[-1].startswith("q quit")


def test_every_wide_column_can_be_reached():
    screen = watched(60, wide=True)
    seen: set[str] = set()
    for first in range(len(WIDE)):
        lines = text_of(replace(screen, first_column=first)).splitlines()
        seen |= set(next(line for line in lines if line.startswith("  NODE")).split())

    assert {"NODE", "ROLE", "READS", "HISTORY", "RETAINED", "TRIP"} <= seen
