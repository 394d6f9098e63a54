"""The checkout keeps the rules of tidy.py, and every rule catches what it is for."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests import tidy
from tests.support import ROOT
from tests.tidy import RULES, Rule, Source

TEXTS = {".py", ".md", ".toml", ".txt", ".sh", ".yml", ".yaml", ".cfg", ""}
# They spell out what they forbid.
EXEMPT = {"tests/tidy.py", "tests/test_tidy.py"}


def checkout() -> list[Source]:
    """Every text file that git knows or would take, as it is on disk now."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in sorted(listed.stdout.split("\0")) if name and name not in EXEMPT]
    return [
        Source(path=path.relative_to(ROOT).as_posix(), text=path.read_text(encoding="utf-8"))
        for path in paths
        if path.is_file() and path.suffix in TEXTS
    ]


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return checkout()


def test_the_checkout_is_seen(sources):
    paths = {source.path for source in sources}

    assert {
        "replctl/errors.py",
        "replctl/core/model.py",
        "pyproject.toml",
        "Makefile",
        "CHANGELOG.md",
    } <= paths


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_checkout_keeps_the_rule(rule: Rule, sources: list[Source]):
    findings = [str(finding) for source in sources for finding in rule(source)]

    assert not findings, "\n" + "\n".join(findings)


# Rule, file, text with a violation in its last line unless a line is given.
LONG_BODY = "\n".join(f"    a = {n}" for n in range(tidy.FUNCTION_LINES_MAX + 1))
BODY = LONG_BODY.rpartition("\n")[0]
MANY_ARGUMENTS = ",\n".join(f"a{n}" for n in range(90))
PLANTED = [
    (tidy.imports_follow_the_table, "replctl/core/a.py", "import rich"),
    (tidy.imports_follow_the_table, "replctl/core/a.py", "from replctl.errors import ReplctlError"),
    (tidy.imports_follow_the_table, "replctl/core/a.py", "def f():\n    from replctl.pg.observe import look"),
    (tidy.imports_follow_the_table, "replctl/core/a.py", "from ..pg import observe"),
    (tidy.imports_follow_the_table, "replctl/core/deep/a.py", "from ...pg import observe"),
    (tidy.imports_follow_the_table, "replctl/core/a.py", "from replctl import pg"),
    (tidy.imports_follow_the_table, "replctl/core/a.py", "if TYPE_CHECKING:\n    import psycopg"),
    (tidy.imports_follow_the_table, "replctl/inventory/a.py", "import psycopg"),
    (tidy.imports_follow_the_table, "replctl/pg/a.py", "import replctl.display.table"),
    (tidy.imports_follow_the_table, "replctl/pg/a.py", "import rich.table"),
    (tidy.imports_follow_the_table, "replctl/display/a.py", "from replctl.inventory import load"),
    (tidy.imports_follow_the_table, "replctl/adapters/a.py", "from replctl.pg.observe import look"),
    (tidy.imports_follow_the_table, "replctl/lab/a.py", "from replctl.cli import run"),
    (tidy.imports_follow_the_table, "replctl/lab/a.py", "import typer"),
    (tidy.imports_follow_the_table, "replctl/__init__.py", "from replctl.cli import app"),
    (tidy.imports_follow_the_table, "replctl/novel/a.py", "import os"),
    (tidy.core_is_pure, "replctl/core/a.py", "import time"),
    (tidy.core_is_pure, "replctl/core/a.py", "def f():\n    from os import path"),
    (tidy.core_is_pure, "replctl/core/a.py", "import asyncio as a"),
    (tidy.core_is_pure, "replctl/core/a.py", "import urllib.request"),
    (tidy.core_is_pure, "replctl/core/a.py", "import datetime\nat = datetime.datetime.now()"),
    (tidy.core_is_pure, "replctl/core/a.py", "def f():\n    return open('a')"),
    (tidy.core_is_pure, "replctl/core/deep/a.py", "def f():\n    print('a')"),
    (
        tidy.versions_are_compared_in_queries_only,
        "replctl/lab/a.py",
        "x = facts.server_version_num >= 160000",
    ),
    (
        tidy.versions_are_compared_in_queries_only,
        "replctl/pg/a.py",
        "if 15 < server_version // 10000 < 18: pass",
    ),
    (tidy.modules_have_a_docstring, "tests/unit/a.py", "import os"),
    (tidy.modules_have_a_telling_name, "replctl/pg/utils.py", ""),
    (tidy.modules_have_a_telling_name, "replctl/common/lsn.py", ""),
    (tidy.modules_are_short, "replctl/a.py", "a = 1\n" * (tidy.MODULE_LINES_MAX + 1)),
    (tidy.modules_are_short, "tests/a.py", "a = 1\n" * (tidy.TEST_MODULE_LINES_MAX + 1)),
    (tidy.functions_are_short, "tests/a.py", f"def f():\n{LONG_BODY}", 1),
    (tidy.functions_are_short, "tests/a.py", f"async def f():\n{LONG_BODY}", 1),
    (tidy.functions_are_short, "tests/a.py", f"class A:\n  def f(self):\n    'Text.'\n{LONG_BODY}", 2),
    (tidy.printing_is_for_the_command_line, "replctl/pg/a.py", "print('a', file=stream)"),
    (tidy.printing_is_for_the_command_line, "replctl/lab/a.py", "print('a')"),
    (tidy.no_shell_is_started, "replctl/lab/a.py", "subprocess.run('ls', shell=True)"),
    (tidy.no_shell_is_started, "tests/a.py", "os.system('ls')"),
    (tidy.errors_are_not_swallowed, "replctl/a.py", "try:\n    f()\nexcept:\n    raise", 3),
    (tidy.errors_are_not_swallowed, "replctl/a.py", "try:\n    f()\nexcept Exception:\n    pass", 3),
    (
        tidy.errors_are_not_swallowed,
        "replctl/a.py",
        "try:\n    f()\nexcept (OSError, Exception):\n    ...",
        3,
    ),
    (
        tidy.errors_are_not_swallowed,
        "replctl/a.py",
        "for a in b:\n  try: f()\n  except BaseException: continue",
    ),
    (tidy.tests_skip_through_need, "tests/live/a.py", "def f():\n    pytest.skip('no server')"),
    (tidy.tests_skip_through_need, "tests/live/a.py", "@pytest.mark.skipif(True)\ndef f(): pass", 1),
    (tidy.tests_skip_through_need, "tests/a.py", "django = pytest.importorskip('django')"),
    (tidy.tests_mock_nothing, "tests/a.py", "from unittest.mock import patch"),
    (tidy.tests_mock_nothing, "tests/a.py", "from unittest import mock"),
    (tidy.nothing_is_left_unfinished, "docs/a.md", "TODO: write this"),
    (tidy.nothing_is_left_unfinished, "Makefile", "# FIXME later"),
    (tidy.words_are_ours, "docs/a.md", "The master is gone"),
    (tidy.words_are_ours, "replctl/core/a.py", "leader_lsn = 1"),
    (tidy.words_are_ours, "replctl/core/a.py", "Slaves = ()"),
    (tidy.words_are_ours, "replctl/core/a.py", "health_score = 1"),
    (tidy.words_are_ours, "replctl/core/a.py", "standby_count = 1"),
    (tidy.words_are_ours, "README.md", "a primary with two standbys"),
    (tidy.words_are_ours, "README.md", "standby.signal makes a standby"),
    (tidy.comments_explain_exemptions, "replctl/a.py", "import os  # noqa"),
    (tidy.comments_explain_exemptions, "tests/a.py", "a: int = 'b'  # type: ignore"),
]
KEPT = [
    (tidy.imports_follow_the_table, "replctl/core/a.py", "import re\nfrom replctl import __version__"),
    (
        tidy.imports_follow_the_table,
        "replctl/core/deep/a.py",
        "from ..model import Lsn\nfrom replctl.core import lag",
    ),
    (
        tidy.imports_follow_the_table,
        "replctl/pg/a.py",
        "import psycopg\nfrom replctl.errors import ObserveError",
    ),
    (tidy.imports_follow_the_table, "replctl/adapters/a.py", "from replctl.pg.monitor import Monitor"),
    (tidy.imports_follow_the_table, "replctl/cli/a.py", "import typer, rich\nfrom replctl.lab import up"),
    (tidy.imports_follow_the_table, "replctl/__main__.py", "from replctl.cli import main"),
    (tidy.imports_follow_the_table, "tests/a.py", "import anything"),
    (tidy.core_is_pure, "replctl/pg/a.py", "import time"),
    (tidy.core_is_pure, "replctl/core/a.py", "from datetime import datetime\nat = datetime.fromtimestamp(0)"),
    (tidy.versions_are_compared_in_queries_only, "replctl/pg/queries.py", "server_version_num >= 160000"),
    (
        tidy.versions_are_compared_in_queries_only,
        "replctl/core/a.py",
        "a.server_version_num == b.server_version_num",
    ),
    (tidy.modules_have_a_docstring, "replctl/a.py", '"""What it is for."""'),
    (tidy.modules_have_a_telling_name, "replctl/pg/baseline.py", ""),
    (tidy.modules_are_short, "replctl/a.py", "a = 1\n" * tidy.MODULE_LINES_MAX),
    (tidy.modules_are_short, "tests/a.py", "a = 1\n" * tidy.TEST_MODULE_LINES_MAX),
    (tidy.modules_are_short, "docs/a.md", "a\n" * 2000),
    (tidy.functions_are_short, "tests/a.py", f"def f():\n  '''{LONG_BODY}'''\n  # why\n\n  return 1"),
    (tidy.functions_are_short, "tests/a.py", f"def f():\n  def g():\n{BODY}\n  return g"),
    (tidy.functions_are_short, "tests/a.py", f"def f(b):\n  return f'''{{b}}\n{LONG_BODY}'''"),
    (tidy.functions_are_short, "tests/a.py", f"def f({MANY_ARGUMENTS}):\n{BODY}"),
    (tidy.printing_is_for_the_command_line, "replctl/cli/a.py", "print('a')"),
    (tidy.printing_is_for_the_command_line, "replctl/lab/a.py", "print('a', file=stream)"),
    (tidy.no_shell_is_started, "replctl/a.py", "subprocess.run(['ls'], shell=False)"),
    (tidy.errors_are_not_swallowed, "replctl/a.py", "try:\n    f()\nexcept FileNotFoundError:\n    pass"),
    (tidy.errors_are_not_swallowed, "replctl/a.py", "try:\n    f()\nexcept Exception as e:\n    log(e)"),
    (tidy.tests_skip_through_need, "tests/support.py", "pytest.skip('a')"),
    (tidy.tests_skip_through_need, "tests/a.py", "need('HAProxy', None, 'apt-get install haproxy')"),
    (tidy.tests_mock_nothing, "tests/a.py", "from unittest import TestCase"),
    (tidy.nothing_is_left_unfinished, "docs/a.md", "a todo list; XXXL"),
    (tidy.words_are_ours, "replctl/lab/a.py", "postmaster, mastered, leading, leadership"),
    (
        tidy.words_are_ours,
        "docs/a.md",
        "synchronous_standby_names, standby.signal, hot standby, in_hot_standby",
    ),
    (tidy.words_are_ours, "replctl/pg/a.py", "the standby, as PostgreSQL calls it"),
    (tidy.comments_explain_exemptions, "replctl/a.py", "import os  # noqa: F401 - it registers\n'noqa'"),
]


def titles(cases) -> list[str]:
    return [f"{case[0].__name__}-{number}" for number, case in enumerate(cases)]


@pytest.mark.parametrize("case", PLANTED, ids=titles(PLANTED))
def test_a_planted_violation_is_found_where_it_is(case):
    rule, path, text, *line = case

    findings = list(rule(Source(path=path, text=text)))

    expected_line = line[0] if line else max(1, len(text.splitlines()))
    assert [finding.line for finding in findings] == [expected_line]
    assert str(findings[0]).startswith(f"{path}:{expected_line}: ")


@pytest.mark.parametrize("case", KEPT, ids=titles(KEPT))
def test_what_is_allowed_is_not_found(case):
    rule, path, text = case

    assert [str(finding) for finding in rule(Source(path=path, text=text))] == []


def test_every_rule_has_a_planted_violation_and_something_it_lets_pass():
    planted, kept = {case[0] for case in PLANTED}, {case[0] for case in KEPT}

    assert set(RULES) == planted == kept


def test_the_import_table_of_the_design_document_is_the_one_that_is_checked():
    every = tidy.EVERY_LAYER.split()
    table = (ROOT / "docs/design.md").read_text(encoding="utf-8").partition("| layer | may import |")[2]

    documented = {}
    for row in table.partition("\n\n")[0].splitlines()[2:]:
        names, may_import = row.split("|")[1:3]
        layers = set(re.findall(r"[\w.]+", may_import.partition(";")[0])) & {
            *every,
            "pg.connect",
            "pg.monitor",
            "pg.position",
        }
        if "every layer" in may_import:
            layers = set(every) - ({"cli"} if "but cli" in may_import else set())
        documented.update({name.strip("` "): layers for name in names.split(",")})

    assert documented == {name or "replctl": set(layer.layers) for name, layer in tidy.LAYERS.items()}
