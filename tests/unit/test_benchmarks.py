"""The benchmarks' tables and the sections they are written to."""

from __future__ import annotations

import sys

import pytest

from benchmarks.timing import Program, in_turn, ratio_table, with_section, write_section

PAGE = "# Page\n<!-- begin a -->\nold\n<!-- end a -->\nbetween\n<!-- begin b -->\n<!-- end b -->\n"


def test_a_section_is_replaced_and_the_rest_is_left():
    replaced = with_section(with_section(PAGE, "b", "new b\n"), "a", "new\na")

    expected = (
        "# Page\n<!-- begin a -->\nnew\na\n<!-- end a -->\nbetween\n<!-- begin b -->\nnew b\n<!-- end b -->\n"
    )
    assert replaced == expected


def test_writing_the_same_section_twice_changes_nothing(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)

    write_section("a", "table", page)
    once = page.read_text()
    write_section("a", "table", page)

    assert page.read_text() == once == PAGE.replace("old", "table")


@pytest.mark.parametrize("text", ["", "<!-- begin a -->", "<!-- end a --><!-- begin a -->", PAGE + PAGE])
def test_a_page_without_the_markers_once_and_in_order_is_refused(text):
    with pytest.raises(ValueError, match="'<!-- begin a -->' and '<!-- end a -->'"):
        with_section(text, "a", "new")


def test_the_table_gives_each_program_as_a_multiple_of_the_baseline():
    table = ratio_table({"base": 0.1, "other": 0.153}, "base")

    assert table.splitlines() == [
        "| program | median | ratio |",
        "|---|---:|---:|",
        "| base | 100 ms | 1.00 |",
        "| other | 153 ms | 1.53 |",
    ]


def test_programs_are_run_in_turn_and_one_round_more_than_is_counted(tmp_path):
    log = tmp_path / "log"
    write = "import os, sys; open(sys.argv[1], 'a').write(os.environ['WHO'])"
    programs = [
        Program(title=who, command=[sys.executable, "-c", write, str(log)], env={"WHO": who}) for who in "ab"
    ]

    medians_s = in_turn(programs, rounds=2)

    assert log.read_text() == "ababab"
    assert list(medians_s) == ["a", "b"]
    assert all(0 < median_s < 10 for median_s in medians_s.values())


def test_a_program_that_fails_is_not_timed():
    failing = Program(title="it", command=[sys.executable, "-c", "raise SystemExit('no lab')"])

    with pytest.raises(RuntimeError, match="it ended with 1: no lab"):
        in_turn([failing], rounds=1)
