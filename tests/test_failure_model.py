"""docs/failure-model.md names the test behind every claim, and each of them exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support import ROOT

PAGE = (ROOT / "docs" / "failure-model.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
WITH_TESTS = re.compile(r"^\|[^\n]*\| test \|\n\|[-|]+\n((?:\|[^\n]*\n)+)", re.MULTILINE)


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: part)
def test_a_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))

    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_claim_in_a_table_names_its_test() -> None:
    rows = [row for table in WITH_TESTS.findall(PAGE) for row in table.splitlines()]
    without = [row for row in rows if "`tests/" not in row and not row.endswith("| the same |")]

    assert [len(rows) >= 40, without] == [True, []]


def test_every_test_of_these_files_stands_behind_a_claim() -> None:
    files = ("cut", "partitions", "controllers", "living_primary", "limits")
    found = {
        node.name
        for file in files
        for node in ast.parse((ROOT / "tests" / "live" / f"test_{file}.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }

    assert sorted(found - {name for _, name in NAMED}) == []
