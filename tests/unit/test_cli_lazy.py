"""The root group imports a command when the command line has come to it, and only that one."""

from __future__ import annotations

import sys

import pytest
import typer
from typer.main import get_command

from replctl.cli.lazy import Entry, group_of

ONE = '''
"""A command."""

from typing import Annotated
import typer

def one(name: Annotated[str, typer.Option("--name", help="Whom.")] = "you"):
    """Greet someone.

    Example: tool one --name Ann
    """
    print(f"hello {name}")
    return 7
'''
MANY = '''
"""A command with two subcommands."""

import typer

app = typer.Typer(help="Do things.")

@app.command()
def up():
    """Go up."""
    print("up")

@app.command()
def down():
    """Go down."""
    print("down")
'''


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """An application of two lazy commands, as a function from arguments to what it returns."""
    (tmp_path / "lazy_one.py").write_text(ONE)
    (tmp_path / "lazy_many.py").write_text(MANY)
    monkeypatch.syspath_prepend(tmp_path)
    entries = (
        Entry(name="one", section="First", target="lazy_one:one", help="Greet someone."),
        Entry(name="many", section="Second", target="lazy_many:app", help="Do things."),
    )
    app = typer.Typer(cls=group_of(entries), rich_markup_mode=None)

    @app.callback()
    def root() -> None:
        pass

    yield lambda *arguments: get_command(app).main(list(arguments), prog_name="tool", standalone_mode=False)
    for module in ("lazy_one", "lazy_many"):
        sys.modules.pop(module, None)


def loaded() -> set[str]:
    return {"lazy_one", "lazy_many"} & set(sys.modules)


def test_help_names_every_command_by_section_and_imports_none(tool, capsys):
    tool("--help")

    commands = capsys.readouterr().out.partition("First:")[2]
    assert commands == "\n  one  Greet someone.\n\nSecond:\n  many  Do things.\n"
    assert loaded() == set()


def test_running_a_command_imports_it_alone(tool, capsys):
    returned = tool("one", "--name", "Ann")

    assert (returned, capsys.readouterr().out) == (7, "hello Ann\n")
    assert loaded() == {"lazy_one"}


def test_a_group_runs_its_subcommands(tool, capsys):
    tool("many", "down")

    assert capsys.readouterr().out == "down\n"
    assert loaded() == {"lazy_many"}


def test_help_of_a_command_is_the_real_one(tool, capsys):
    tool("one", "--help")

    out = capsys.readouterr().out
    assert "Example: tool one --name Ann" in out
    assert "Whom." in out
    assert "completion" not in out


def test_an_unknown_command_is_refused_with_the_nearest_name(tool):
    with pytest.raises(typer.BadParameter.__mro__[1], match=r"'man'\. Did you mean 'many'\?"):
        tool("man")

    assert loaded() == set()


@pytest.mark.parametrize(
    ("words", "offered", "imported"),
    [
        ("tool o", ["one"], set()),
        ("tool ", ["one", "many"], set()),
        ("tool one --n", ["--name"], {"lazy_one"}),
        ("tool many d", ["down"], {"lazy_many"}),
    ],
)
def test_completion_imports_only_what_it_looks_into(tool, capsys, monkeypatch, words, offered, imported):
    monkeypatch.setenv("_TOOL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))

    with pytest.raises(SystemExit) as stop:
        tool()

    assert (stop.value.code, capsys.readouterr().out.split()) == (0, offered)
    assert loaded() == imported
