"""The rules of docs/design.md that can be read off the source, each a function from a file to findings.

test_tidy.py runs them over the checkout, and over planted violations, since a check that cannot fail is
worth nothing. A finding says what to do. A rule that stands in the way is changed here, with its
reason, not worked around.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

N = TypeVar("N", bound=ast.AST)
MODULE_LINES_MAX = 600
TEST_MODULE_LINES_MAX = 1000  # cases are data
FUNCTION_LINES_MAX = 70


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of the checkout; `path` is relative to its root, with slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def is_python(self) -> bool:
        return self.path.endswith(".py")

    @property
    def module(self) -> str:
        """Its dotted name: replctl/core/model.py is replctl.core.model."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def within(self, *places: str) -> bool:
        """Whether it is one of these files, or in one of these folders."""
        return any(self.path == place or self.path.startswith(f"{place}/") for place in places)

    def nodes(self, *kinds: type[N]) -> Iterator[N]:
        """Every node of these kinds, anywhere in the file."""
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong in which line, and what to do about it."""

    source: Source
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.source.path}:{self.line}: {self.what}"


Rule = Callable[[Source], Iterator[Finding]]


# ---- who imports whom


@dataclass(frozen=True)
class Layer:
    """What one layer may import besides itself and the standard library."""

    layers: frozenset[str]
    packages: frozenset[str] = frozenset()


BELOW_CLI = (
    "adapters cluster controller core display errors files inventory journal lab noticed pg proxies render"
    " server"
)
EVERY_LAYER = f"{BELOW_CLI} cli"


def _layer(layers: str, packages: str = "") -> Layer:
    return Layer(frozenset(layers.split()), frozenset(packages.split()))


# The table of docs/design.md. `pg.monitor` admits that module of pg alone; a module may have its own row.
LAYERS = {
    "errors": _layer(""),
    "core": _layer(""),
    "inventory": _layer("core errors", "tomli_w"),
    "journal": _layer("core errors"),
    "noticed": _layer("core journal"),
    "webhook": _layer(""),  # a program of its own, run as a hook
    "pg": _layer("core errors inventory", "psycopg"),
    "controller": _layer("core errors inventory journal pg proxies render"),
    "controller.run": _layer("core errors"),  # the same loop runs on servers and on a simulated cluster
    "display": _layer("core errors", "rich"),
    "render": _layer("core errors", "rich"),
    "files": _layer("errors"),
    "proxies": _layer("core errors files inventory pg.connect render", "psycopg"),
    "cluster": _layer("core errors inventory pg"),
    "adapters": _layer(
        "cluster core errors inventory pg.monitor pg.position",
        "sqlalchemy django asgiref psycopg psycopg_pool starlette prometheus_client "
        "celery dramatiq rq pytest",
    ),
    "server": _layer(BELOW_CLI, "aiohttp psycopg"),
    "lab": _layer(BELOW_CLI, "psycopg rich tomli_w"),
    "cli": _layer(EVERY_LAYER, "typer rich psycopg"),
    "": _layer(BELOW_CLI),  # replctl/__init__.py: the public names
    "__main__": _layer("cli"),
}
# Clocks, randomness, I/O and threads: what decides gets them as values.
NOT_IN_CORE = {
    *("asyncio", "concurrent", "ctypes", "http", "io", "multiprocessing", "os", "pathlib", "random"),
    *("secrets", "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "sys"),
    *("tempfile", "threading", "time", "urllib"),
}
CLOCKS = {"now", "utcnow", "today"}


def _layer_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _imports(source: Source) -> Iterator[tuple[int, str]]:
    """Every module imported anywhere in the file, with its line; `from a import b` gives a.b."""
    for node in source.nodes(ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        else:
            base = node.module or ""
            if node.level:
                package = source.module.split(".")
                up = node.level - source.path.endswith("/__init__.py")
                base = ".".join([*package[: len(package) - up], *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _own_import_allowed(layer: Layer, own: str, target: str) -> bool:
    wanted = _layer_of(target)
    if target == "replctl.__version__" or wanted == own or wanted in layer.layers:
        return True
    return any(target == f"replctl.{name}" or target.startswith(f"replctl.{name}.") for name in layer.layers)


def imports_follow_the_table(source: Source) -> Iterator[Finding]:
    if not (source.is_python and source.within("replctl")):
        return
    own = _layer_of(source.module)
    if own not in LAYERS:
        what = f"'{own}' has no row in the import table: add one in tests/tidy.py and docs/design.md"
        yield Finding(source=source, line=1, what=what)
        return
    layer = LAYERS.get(source.module.removeprefix("replctl."), LAYERS[own])
    for line, target in _imports(source):
        package = target.split(".")[0]
        if package == "replctl":
            if not _own_import_allowed(layer, own, target):
                may = ", ".join(sorted(layer.layers)) or "nothing else of replctl"
                what = f"{own or 'replctl'} imports {target}, but may import {may}: pass it in as a value"
                yield Finding(source=source, line=line, what=what)
        elif package not in sys.stdlib_module_names and package not in layer.packages:
            what = f"{own or 'replctl'} may not import {package}: move this to a layer that may"
            yield Finding(source=source, line=line, what=what)


def core_is_pure(source: Source) -> Iterator[Finding]:
    if not (source.is_python and source.within("replctl/core")):
        return
    for line, target in _imports(source):
        if target.split(".")[0] in NOT_IN_CORE:
            what = (
                f"core imports {target}: no I/O, clock, randomness or threads; take what it gives as a value"
            )
            yield Finding(source=source, line=line, what=what)
    for node in source.nodes(ast.Call):
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr in CLOCKS:
            yield Finding(
                source=source, line=called.lineno, what="core reads a clock: take the time as a value"
            )
        if isinstance(called, ast.Name) and called.id in {"open", "print", "input", "__import__"}:
            yield Finding(source=source, line=called.lineno, what=f"core calls {called.id}(): it has no I/O")


# ---- SQL and versions

_VERSION_NAME = re.compile(r"server_version|version_num|pg_version")


def versions_are_compared_in_queries_only(source: Source) -> Iterator[Finding]:
    if not (source.is_python and source.within("replctl")) or source.within("replctl/pg/queries.py"):
        return
    for node in source.nodes(ast.Compare):
        sides = [node.left, *node.comparators]
        numbers = any(isinstance(side, ast.Constant) and isinstance(side.value, int) for side in sides)
        if numbers and any(_VERSION_NAME.search(ast.unparse(side)) for side in sides):
            what = (
                "compares a server version: give the difference a name in replctl/pg/queries.py, and use that"
            )
            yield Finding(source=source, line=node.lineno, what=what)


# ---- sizes, names, docstrings

_FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "base"}
NAMED_BY_OTHERS = {"replctl/adapters/django/backend/base.py"}  # Django looks for a backend's `base`


def modules_have_a_docstring(source: Source) -> Iterator[Finding]:
    if source.is_python and source.text.strip() and not ast.get_docstring(source.tree):
        yield Finding(source=source, line=1, what="no docstring: say in a sentence what the module is for")


def modules_have_a_telling_name(source: Source) -> Iterator[Finding]:
    vague = VAGUE_NAMES & set(source.module.split("."))
    if source.is_python and source.within("replctl") and vague and source.path not in NAMED_BY_OTHERS:
        yield Finding(
            source=source, line=1, what="the name says nothing: name the module after what it holds"
        )


def modules_are_short(source: Source) -> Iterator[Finding]:
    count = len(source.text.splitlines())
    most = TEST_MODULE_LINES_MAX if source.within("tests") else MODULE_LINES_MAX
    if source.is_python and count > most:
        what = f"{count} lines, at most {most}: split it by what its parts are about"
        yield Finding(source=source, line=count, what=what)


def _code_lines(source: Source, function: _FunctionNode) -> int:
    """Lines of a function's body without its docstring, comments, blank lines, nested functions, and the
    inner lines of long texts such as SQL, which are data. So is a signature: a command's are its options.
    """
    skipped: set[int] = set()
    if ast.get_docstring(function):
        skipped.update(_span(function.body[0]))
    for child in ast.walk(function):
        if isinstance(child, _FunctionNode) and child is not function:
            skipped.update(_span(child))
        elif isinstance(child, ast.Constant | ast.JoinedStr):
            skipped.update(_span(child)[1:])
    text = source.text.splitlines()
    lines = {n: text[n - 1].strip() for n in range(function.body[0].lineno, _span(function)[-1] + 1)}
    return sum(1 for n, line in lines.items() if n not in skipped and line and not line.startswith("#"))


def _span(node: ast.stmt | ast.expr) -> range:
    """The numbers of its lines."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def functions_are_short(source: Source) -> Iterator[Finding]:
    if not source.is_python:
        return
    for node in source.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        count = _code_lines(source, node)
        if count > FUNCTION_LINES_MAX:
            what = (
                f"{node.name}() has {count} lines of code, at most {FUNCTION_LINES_MAX}: give its parts names"
            )
            yield Finding(source=source, line=node.lineno, what=what)


# ---- what is not done


def printing_is_for_the_command_line(source: Source) -> Iterator[Finding]:
    if not (source.is_python and source.within("replctl")) or source.within("replctl/cli"):
        return
    gives_a_stream = source.within("replctl/lab", "replctl/display")
    for node in source.nodes(ast.Call):
        to_a_stream = gives_a_stream and any(keyword.arg == "file" for keyword in node.keywords)
        if ast.unparse(node.func) == "print" and not to_a_stream:
            what = "print() outside cli: return the text (lab and display may print to a given file=)"
            yield Finding(source=source, line=node.lineno, what=what)


def no_shell_is_started(source: Source) -> Iterator[Finding]:
    if not source.is_python:
        return
    for node in source.nodes(ast.Call):
        shells = [k for k in node.keywords if k.arg == "shell" and ast.unparse(k.value) != "False"]
        called = ast.unparse(node.func)
        if shells or called in {"os.system", "os.popen", "asyncio.create_subprocess_shell"}:
            yield Finding(
                source=source, line=node.lineno, what="starts a shell: give the program an argv list"
            )


def errors_are_not_swallowed(source: Source) -> Iterator[Finding]:
    if not source.is_python:
        return
    for node in source.nodes(ast.ExceptHandler):
        if node.type is None:
            yield Finding(
                source=source, line=node.lineno, what="bare except: name what is expected to go wrong"
            )
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = {"Exception", "BaseException"} & {ast.unparse(kind) for kind in kinds}
        silent = all(
            isinstance(step, ast.Pass | ast.Continue)
            or (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
            for step in node.body
        )
        if broad and silent:
            what = "catches everything and says nothing: name what is expected, or let it through"
            yield Finding(source=source, line=node.lineno, what=what)


def tests_skip_through_need(source: Source) -> Iterator[Finding]:
    if not (source.is_python and source.within("tests")) or source.within("tests/support.py"):
        return
    for node in source.nodes(ast.Attribute):
        if ast.unparse(node) in {
            "pytest.skip",
            "pytest.importorskip",
            "pytest.mark.skip",
            "pytest.mark.skipif",
        }:
            what = "skips in its own way: tests.support.need() skips with a sentence, and fails in CI"
            yield Finding(source=source, line=node.lineno, what=what)


def tests_mock_nothing(source: Source) -> Iterator[Finding]:
    if not (source.is_python and source.within("tests")):
        return
    for line, target in _imports(source):
        if target.startswith(("unittest.mock", "mock.")) or target in {"mock", "pytest_mock"}:
            what = "a mock drifts from what it stands for: pass values in, or use the real thing"
            yield Finding(source=source, line=line, what=what)


# ---- words

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
# Letters on neither side: "postmaster" and "mastered" are other words; leader_lsn is this one.
BANNED = re.compile(r"(?<![a-z])(masters?|slaves?|leaders?|health[ _-]?scores?)(?![a-z])", re.IGNORECASE)
STANDBY = re.compile(r"(?<![a-z])standbys?(?![a-z])", re.IGNORECASE)
# PostgreSQL's own names; longest first where one contains another.
POSTGRESQL_NAMES = re.compile(
    r"""
      leader_pid
    | standby\.signal
    | synchronous_standby_names | synchronized_standby_slots | standby_slot_names
    | (in_)?hot_standby(_feedback)? | hot[ ]standby
    | max_standby_(streaming|archive)_delay
    | (pg_)?log_standby_snapshot
    | (target_session_attrs=)?prefer-standby | target_session_attrs=standby
    | syncrep_standby\w* | SYNC_STANDBY_DEFINED
    | standby[ ]status[ ]update
    | https?://\S+
    # The paths of Patroni's health checks, which load balancers ask for.
    | (?<=["/])(standby[-_])?leader(?=["`]) | (?<=["/])master(?=["`])
    """,
    re.VERBOSE | re.IGNORECASE,
)


def nothing_is_left_unfinished(source: Source) -> Iterator[Finding]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if UNFINISHED.search(line):
            yield Finding(
                source=source, line=number, what="do it now, or write an issue; no reminders in the source"
            )


def words_are_ours(source: Source) -> Iterator[Finding]:
    for number, line in enumerate(source.text.splitlines(), 1):
        rest = POSTGRESQL_NAMES.sub("", line)
        for word in BANNED.findall(rest):
            what = f"'{word}': the words are primary, replica, controller (docs/design.md, glossary)"
            yield Finding(source=source, line=number, what=what)
        if not source.within("replctl/pg") and STANDBY.search(rest):
            what = (
                "'standby': the word is replica, except in PostgreSQL's own names (tests/tidy.py lists them)"
            )
            yield Finding(source=source, line=number, what=what)


def comments_explain_exemptions(source: Source) -> Iterator[Finding]:
    """`# noqa` and `# type: ignore` name what they silence: a bare one silences the next mistake too."""
    if not source.is_python:
        return
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT and re.search(r"noqa(?!:)|type: ignore(?!\[)", token.string):
            what = "silences everything: name the rule, as in `# noqa: S608` or `# type: ignore[misc]`"
            yield Finding(source=source, line=token.start[0], what=what)


RULES: tuple[Rule, ...] = (
    imports_follow_the_table,
    core_is_pure,
    versions_are_compared_in_queries_only,
    modules_have_a_docstring,
    modules_have_a_telling_name,
    modules_are_short,
    functions_are_short,
    printing_is_for_the_command_line,
    no_shell_is_started,
    errors_are_not_swallowed,
    tests_skip_through_need,
    tests_mock_nothing,
    nothing_is_left_unfinished,
    words_are_ours,
    comments_explain_exemptions,
)
