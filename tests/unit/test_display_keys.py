"""Keys: what a terminal sends, and what each key does to the screen."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.display.keys import BINDINGS, Decoder, pressed
from replctl.display.screen import Overlay, Screen, Sort
from tests.support import ROOT
from tests.unit.golden import healthy_report, troubled_report
from tests.unit.test_display_screen import names, screen

SENT = {
    b"q": ["q"],
    b"\x1b[A\x1b[B\x1bOC": ["up", "down", "right"],
    b"\x1b[5~\x1b[6~": ["page-up", "page-down"],
    b"\x1b[H\x1b[4~\x1b[Z": ["home", "end", "back-tab"],
    b"\r\n\t \x7f\x08\x15": ["enter", "enter", "tab", "space", "backspace", "backspace", "clear"],
    b"\x1b[1;5A\x1b[200~j": ["j"],
    b"\x1b\x1b[A": ["escape", "up"],
    b"\x1bx": ["escape", "x"],
    "é日".encode(): ["é", "日"],
    b"\xff": ["\ufffd"],
    b"\x00\x01": [],
}


def after(found: Screen, *keys: str) -> Screen:
    for key in keys:
        found = pressed(found, key)
    return found


@pytest.mark.parametrize("data", SENT)
def test_bytes_become_names_of_keys(data):
    assert Decoder().feed(data) == SENT[data]


@pytest.mark.parametrize("data", [d for d in SENT if not d.startswith(b"\x1b\x1b")])
def test_sequences_may_come_in_pieces(data):
    decoder = Decoder()

    assert list(itertools.chain(*(decoder.feed(bytes([b])) for b in data))) == SENT[data]


def test_a_lone_escape_is_a_key_once_nothing_follows():
    decoder = Decoder()

    assert decoder.feed(b"\x1b") == []
    assert decoder.waiting
    assert decoder.flush() == ["escape"]
    assert not decoder.waiting
    assert decoder.flush() == []


@given(st.binary(max_size=200))
def test_no_bytes_stop_the_keyboard(data):
    decoder = Decoder()
    decoder.feed(data)
    decoder.flush()

    assert decoder.feed(b"q") == ["q"]


@given(st.lists(st.sampled_from([k for b in BINDINGS for k in b.keys] + ["x", "backspace"]), max_size=40))
def test_any_keys_in_any_order_leave_a_screen_with_its_clusters(keys):
    before = screen(troubled_report())

    found = after(before, *keys)

    assert found.clusters == before.clusters
    assert found.selected in (None, "pg1", "pg2", "pg3", "pg4", "pg5")


def test_no_key_has_two_meanings_and_every_one_is_explained():
    counted = Counter(key for binding in BINDINGS for key in binding.keys)

    assert [key for key, count in counted.items() if count > 1] == []
    assert all(binding.help for binding in BINDINGS)


def test_every_key_is_in_the_documentation():
    page = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")

    assert [key for binding in BINDINGS for key in binding.keys if f"`{key}`" not in page] == []


def test_a_key_without_a_meaning_changes_nothing():
    before = screen(troubled_report())

    assert after(before, "x", "Q", "\ufffd", "clear") == before


def test_the_selection_moves_within_the_rows():
    start = screen(healthy_report())

    assert [
        after(start, *keys).selected for keys in (["j"], ["j", "down"], ["G"], ["G", "k"], ["end", "home"])
    ] == [
        "pg2",
        "pg3",
        "pg5",
        "pg4",
        "pg1",
    ]
    assert after(start, "k").selected == "pg1"
    assert after(screen(), "j").selected is None


def test_enter_opens_the_selected_node_and_goes_back():
    opened = after(screen(healthy_report()), "j", "enter")

    assert (opened.overlay, opened.selected) == (Overlay.DETAIL, "pg2")
    assert after(opened, "enter").overlay is Overlay.NONE
    assert after(opened, "escape").overlay is Overlay.NONE
    assert after(opened, "j", "j").scroll == 2
    assert after(screen(), "enter").overlay is Overlay.NONE


def test_help_opens_and_closes():
    assert after(screen(), "?").overlay is Overlay.HELP
    assert after(screen(), "?", "?").overlay is Overlay.NONE


def test_the_interval_goes_up_and_down_in_steps_and_has_ends():
    start = screen(interval_s=3.0)

    assert after(start, "+").interval_s == 5.0
    assert after(start, "-").interval_s == 2.0
    assert after(start, *["+"] * 20).interval_s == 60.0
    assert after(start, *["-"] * 20).interval_s == 0.5


def test_toggles_come_back():
    before = screen(troubled_report())

    for key, name in (
        ("space", "paused"),
        ("t", "as_tree"),
        ("w", "wide"),
        ("!", "problems_only"),
        ("S", "reverse"),
    ):
        once = after(before, key)
        assert getattr(once, name) is True, key
        assert getattr(after(once, key), name) is False, key


def test_sorting_goes_round_and_leaves_the_tree():
    start = screen(troubled_report(), as_tree=True)

    assert after(start, "s").as_tree is False
    assert [after(start, *["s"] * n).sort for n in range(len(Sort) + 1)] == [*Sort, Sort.PROBLEMS]


def test_a_filter_works_while_it_is_typed():
    typing = after(screen(healthy_report()), "/", "p", "g", "3")

    assert (typing.filter, typing.typing, names(typing)) == ("pg3", True, ["pg3", "pg4", "pg5"])
    assert after(typing, "backspace").filter == "pg"
    assert after(typing, "clear").filter == ""
    assert after(typing, "space", "q", "!", "é").filter == "pg3 q!é"
    assert after(typing, "up", "tab") == typing
    kept = after(typing, "enter")
    assert (kept.filter, kept.typing) == ("pg3", False)
    assert after(kept, "escape").filter == ""
    cleared = after(typing, "escape")
    assert (cleared.filter, cleared.typing) == ("", False)


def test_columns_move_only_where_all_are_wanted():
    start = screen(healthy_report())

    assert after(start, "right").first_column == 0
    assert after(start, "w", "right", "right", "left").first_column == 1
    assert after(start, "w", "right", "w").first_column == 0


def test_tab_goes_round_the_clusters():
    seen = screen(healthy_report()).clusters[0]
    start = replace(screen(selected="pg2"), clusters=(seen, seen, seen))

    assert [after(start, *["tab"] * n).current for n in range(4)] == [0, 1, 2, 0]
    assert after(start, "back-tab").current == 2
    assert after(start, "tab").selected is None
