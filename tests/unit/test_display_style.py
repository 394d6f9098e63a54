"""Text on its way to a terminal: no escapes but ours, the right width, nothing lost."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.results import Status
from replctl.display.style import (
    ASCII,
    UNICODE,
    WORDS,
    Medium,
    Span,
    clipped,
    flowed,
    knows_unicode,
    line_width,
    medium,
    render,
    visible,
    width,
    wrapped,
)

UTF8 = {"LANG": "en_GB.UTF-8", "TERM": "xterm"}


class Screen(io.TextIOWrapper):
    """A stream that says it is a terminal, but has none below it."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = True) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        raise OSError("no descriptor")


def text_of(line) -> str:
    return "".join(span.text for span in line)


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("right\u202eleft", "right\\u202eleft"),
        ("a\u00a0b", "a b"),
        ("ünïcödé 日本", "ünïcödé 日本"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_is_no_glyph_is_made_visible(given_text, shown):
    assert visible(given_text) == shown


@given(st.text(), st.sampled_from(["", "1", "1;31"]))
def test_only_render_writes_escapes(text, style):
    plain = render((Span(text, style),), color=False)
    colored = render((Span(text, style),), color=True)

    assert plain.isprintable()
    assert colored.replace("\x1b[", "").isprintable()
    assert colored.count("\x1b[") == (2 if style and text else 0)


@pytest.mark.parametrize(("text", "cells"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("│█", 2), ("", 0)])
def test_width_is_counted_in_cells(text, cells):
    assert width(text) == cells


@given(st.text(alphabet="ab 日é\u0301", max_size=80), st.integers(4, 40))
def test_wrapping_loses_no_word_and_keeps_the_width(text, cells):
    lines = wrapped(text, cells)

    assert all(line_width(line) <= cells for line in lines)
    assert "".join("".join(map(text_of, lines)).split()) == "".join(text.split())


@given(st.text(alphabet="ab 日é\u0301", max_size=40), st.integers(0, 30))
def test_clipping_keeps_the_beginning(text, cells):
    line = clipped((Span(text[:10], "1"), Span(text[10:])), cells)

    assert line_width(line) <= cells
    assert text.startswith(text_of(line))


def test_parts_flow_onto_as_few_lines_as_hold_them():
    parts = [(Span("one"),), (Span("two"),), (Span("three"),)]

    assert [text_of(line) for line in flowed(parts, None)] == ["one   two   three"]
    assert [text_of(line) for line in flowed(parts, 10)] == ["one   two", "three"]
    assert [text_of(line) for line in flowed(parts, 4)] == ["one", "two", "thre", "e"]


def test_a_severity_is_a_word_with_a_sign_and_off_a_terminal_the_word_alone():
    assert [UNICODE.signed(s, s.name) for s in Status] == ["✓ OK", "! WARNING", "✗ CRITICAL", "? UNKNOWN"]
    assert [ASCII.signed(s, s.name) for s in Status] == ["+ OK", "! WARNING", "x CRITICAL", "? UNKNOWN"]
    assert [WORDS.signed(s, s.name) for s in Status] == ["OK", "WARNING", "CRITICAL", "UNKNOWN"]


@pytest.mark.parametrize(
    ("environ", "wish", "expected"),
    [
        (UTF8, "auto", True),
        (UTF8, "never", False),
        (UTF8 | {"NO_COLOR": "1"}, "auto", False),
        (UTF8 | {"NO_COLOR": ""}, "auto", True),
        (UTF8 | {"REPLCTL_NO_COLOR": "1"}, "auto", False),
        (UTF8 | {"NO_COLOR": "1"}, "always", True),
        (UTF8 | {"NO_COLOR": "1", "FORCE_COLOR": "1"}, "auto", False),
        (UTF8 | {"TERM": "dumb"}, "auto", False),
        (UTF8 | {"TERM": "dumb", "FORCE_COLOR": "1"}, "auto", True),
        ({}, "auto", False),
    ],
)
def test_colour_on_a_terminal_follows_the_wish_then_the_environment(environ, wish, expected):
    assert medium(Screen(), wish, environ).color is expected


@pytest.mark.parametrize(
    ("environ", "wish", "expected"),
    [
        (UTF8, "auto", False),
        (UTF8, "always", True),
        (UTF8 | {"FORCE_COLOR": "1"}, "auto", True),
        (UTF8 | {"FORCE_COLOR": "0"}, "auto", False),
    ],
)
def test_colour_off_a_terminal_only_when_asked_for(environ, wish, expected):
    found = medium(Screen(terminal=False), wish, environ)

    assert found == Medium(width=None, color=expected, glyphs=WORDS)


@pytest.mark.parametrize(
    ("environ", "encoding", "expected"),
    [
        (UTF8, "utf-8", True),
        ({"LC_ALL": "C", "LANG": "en_GB.UTF-8", "TERM": "xterm"}, "utf-8", False),
        ({"LC_CTYPE": "de_DE.utf8@euro", "TERM": "xterm"}, "utf-8", True),
        ({"TERM": "xterm"}, "utf-8", False),
        (UTF8, "iso8859-1", False),
        (UTF8 | {"TERM": "linux"}, "utf-8", False),
    ],
)
def test_arrows_and_blocks_need_a_locale_and_a_terminal_that_have_them(environ, encoding, expected):
    assert knows_unicode(Screen(encoding), environ) is expected
