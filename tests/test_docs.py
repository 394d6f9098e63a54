"""The documents say what the program does, and the program is documented."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import replctl.errors
from replctl import __version__
from replctl.cli import COMMANDS, INTERRUPTED
from tests.support import ROOT
from tools import docs

PAGES = docs.documents()
ALL = list(docs.commands())
RUNNABLE = [command for command in ALL if not command.is_group]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else getattr(value, "title", str(value))


# ---- commands


def test_the_tree_of_commands_is_seen():
    assert {command.path[:1] for command in ALL} == {(), *((entry.name,) for entry in COMMANDS)}


@pytest.mark.parametrize("command", ALL, ids=name_of)
def test_every_command_says_what_it_does(command):
    assert command.click.help, f"{command.title} needs a docstring (a group: help=)"


@pytest.mark.parametrize("command", RUNNABLE, ids=name_of)
def test_the_help_of_every_command_shows_an_example_of_it(command):
    shown = " ".join(command.help.partition("\n")[2].split())  # without the usage line, lines joined

    assert f"{command.title}" in shown, f"give {command.title} an example: epilog= or end of its docstring"


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_the_root_help_has_one_line_per_command(entry):
    assert len(entry.help) <= 66, "the line of a command in `replctl --help` holds 66 letters"


@pytest.mark.parametrize("command", RUNNABLE, ids=name_of)
def test_every_option_says_what_it_does(command):
    silent = [parameter.name for parameter in command.click.params if not getattr(parameter, "help", None)]

    assert silent == []


@pytest.mark.parametrize("command", RUNNABLE, ids=name_of)
def test_every_command_is_in_a_document_that_a_person_wrote(command):
    *before, name = command.title.split()
    mentioned = re.compile(
        rf"{' '.join(before)} (?:[\w-]+\|)*{name}\b"
    )  # also as in `replctl lab stop|start`

    pages = [text_of(page) for page in PAGES if page not in (docs.REFERENCE, ROOT / "CHANGELOG.md")]
    assert any(map(mentioned.search, pages)), f"mention `{command.title}` in README.md or docs/"


def console_lines() -> list[tuple[Path, str]]:
    """Every command line that a page tells the user to type: `replctl ...` or `$ replctl ...` in a fence."""
    found = []
    for page in PAGES:
        for fence in re.findall(
            r"^```(?:console|sh|shell|bash)?\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL
        ):
            found += [(page, line) for line in re.findall(r"^(?:\$ )?(replctl .*)$", fence, re.MULTILINE)]
    return found


@pytest.mark.parametrize(("page", "line"), console_lines(), ids=name_of)
def test_a_shown_command_line_names_a_command_and_options_that_exist(page, line):
    words = shlex.split(re.split(r" [|>&]|;|  #", line)[0])[1:]
    command = ALL[0]
    while words and command.is_group and not words[0].startswith("-"):
        deeper = [c for c in ALL if c.path == (*command.path, words[0])]
        assert deeper, f"{name_of(page)}: there is no `{command.title} {words[0]}`"
        command = deeper[0]
        words = words[1:]
    options = {option for p in command.click.params for option in (*p.opts, *p.secondary_opts)}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
    assert given <= options | {"--help", "-h"}, f"{name_of(page)}: {line}"


# ---- exit codes


def exit_code_rows() -> dict[int, str]:
    """The first table of exit-codes.md."""
    first = text_of(ROOT / "docs" / "exit-codes.md").partition("`replctl check`")[0]
    return {int(code): rest for code, rest in re.findall(r"^\| (\d+) \|(.*)$", first, re.MULTILINE)}


def error_classes() -> list[type[replctl.errors.ReplctlError]]:
    classes = inspect.getmembers(replctl.errors, inspect.isclass)
    return [kind for _, kind in classes if issubclass(kind, replctl.errors.ReplctlError)]


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_every_error_is_documented_under_its_exit_code(kind):
    assert f"`{kind.__name__}`" in exit_code_rows()[kind.exit_code]


def test_every_exit_code_is_documented_and_no_other():
    assert set(exit_code_rows()) == {0, 141, INTERRUPTED, *(kind.exit_code for kind in error_classes())}


# ---- pages


@pytest.mark.parametrize("page", docs.generated(), ids=name_of)
def test_generated_parts_are_in_step(page):
    assert text_of(page) == docs.generated()[page], "run `make docs` and read the difference"


def anchors(page: Path) -> set[str]:
    """The fragments that a page can be linked at: its headings, as GitHub and others write them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(page):
    broken = []
    for link in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    ):
        target, _, fragment = link.partition("#")
        if re.match(r"https?://|mailto:", link):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (fragment and fragment not in anchors(path)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=name_of)
def test_every_page_is_in_the_index(page):
    index = ROOT / "docs" / "README.md"

    assert page == index or f"({page.relative_to(index.parent).as_posix()})" in text_of(index)


def test_the_readme_names_the_two_commands_to_begin_with():
    assert {"make demo", "make test"} <= set(
        re.findall(r"^(?:\$ )?(make \w+)", text_of(ROOT / "README.md"), re.MULTILINE)
    )


def test_the_readme_runs_the_examples_with_the_commands_that_their_own_tests_run():
    section = text_of(ROOT / "README.md").partition("## Routing reads in Python\n")[2].partition("\n## ")[0]
    shown = [
        line for fence in re.findall(r"^```\n(.*?)^```", section, re.M | re.S) for line in fence.splitlines()
    ]
    examples = sorted((ROOT / "examples").glob("*.py"))
    told = {
        path.name: [line.strip() for line in text_of(path).split('"""')[1].splitlines()] for path in examples
    }

    assert [line for line in shown if not any(line in lines for lines in told.values())] == []
    for lines in told.values():
        starts = {line for line in lines if re.match(r"(uvicorn|flask|python) ", line)}
        assert starts and starts <= set(shown)


def test_the_changelog_has_a_section_for_this_version():
    assert re.search(rf"^## \[{re.escape(__version__)}\] - ", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)


def test_the_targets_that_documents_name_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {
        word for page in PAGES for word in re.findall(r"(?:`|^)make ([a-z]+)", text_of(page), re.MULTILINE)
    }

    assert named <= targets


def test_make_without_a_target_lists_them():
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert [line.split()[1] for line in listed.stdout.splitlines()] == [
        "demo",
        "test",
        "live",
        "campaign",
        "lint",
        "bench",
        "docs",
        "clean",
    ]
