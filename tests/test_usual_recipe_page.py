"""docs/from-the-usual-recipe.md shows the recipe that its tests run, and names all of these."""

from __future__ import annotations

import ast
import re

from tests.support import ROOT

PAGE = (ROOT / "docs" / "from-the-usual-recipe.md").read_text(encoding="utf-8")
RECIPE = (ROOT / "tests" / "live" / "usual_recipe.py").read_text(encoding="utf-8")
SECTIONS = PAGE.split("\n## ")[1:]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"^\| what happens \| test \|\n\|[-|]+\n((?:\|[^\n]*\n)+)", re.MULTILINE)
FILES = ("test_usual_recipe.py", "test_usual_recipe_failover.py")


def test_each_test_of_the_recipe_is_named_once_and_no_other() -> None:
    exist = [
        f"tests/live/{file}::{node.name}"
        for file in FILES
        for node in ast.parse((ROOT / "tests" / "live" / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]

    assert sorted(re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE)) == sorted(exist)


def test_each_piece_has_what_was_before_what_happens_with_its_tests_and_what_comes_after() -> None:
    order = re.compile(r"\n\nBefore[,:].*\n\n\| what happens \| test \|\n.*\n\nAfter[,:]", re.DOTALL)
    rows = [row for section in SECTIONS for table in TABLE.findall(section) for row in table.splitlines()]

    assert [section.splitlines()[0] for section in SECTIONS if not order.search(section)] == []
    assert [row for row in rows if not row.endswith("` |")] == []


def test_the_code_before_is_the_code_that_the_tests_run() -> None:
    lines = {line.strip().partition("  #")[0] for line in RECIPE.splitlines()}
    before = [block for section in SECTIONS for block in BLOCK.findall(section.partition("\nAfter")[0])]

    shown = {line.strip() for block in before for line in block.splitlines()}
    assert (len(before), sorted(shown - lines)) == (6, [])


def test_all_code_of_the_page_is_python() -> None:
    blocks = BLOCK.findall(PAGE)

    assert (len(blocks) > 10, [ast.parse(block).type_ignores for block in blocks]) == (
        True,
        [[] for _ in blocks],
    )
