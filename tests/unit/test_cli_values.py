"""Values that pass without Typer's conversion are what the conversion would have made of them."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from replctl.cli.values import settle_plainly

USAGE_ERROR = typer.BadParameter.__mro__[1]


class Shape(StrEnum):
    ROUND = "round"
    SQUARE = "square"


def command(settled: bool):
    """A command with a parameter of every kind, which returns what it was given."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False)

    @app.command()
    def all_kinds(
        names: Annotated[list[str] | None, typer.Argument()] = None,
        text: Annotated[str | None, typer.Option("--text")] = None,
        word: Annotated[str, typer.Option("--word")] = "default",
        count: Annotated[int, typer.Option("--count", min=0)] = 3,
        share: Annotated[float | None, typer.Option("--share")] = None,
        flag: Annotated[bool, typer.Option("--flag/--no-flag")] = False,
        maybe: Annotated[bool | None, typer.Option("--maybe/--no-maybe")] = None,
        shape: Annotated[Shape, typer.Option("--shape", case_sensitive=False)] = Shape.ROUND,
        exact: Annotated[Shape | None, typer.Option("--exact")] = None,
        path: Annotated[Path | None, typer.Option("--path")] = None,
        there: Annotated[Path | None, typer.Option("--there", exists=True)] = None,
        folder: Annotated[Path | None, typer.Option("--folder", file_okay=False)] = None,
        many: Annotated[list[str] | None, typer.Option("--many")] = None,
        numbers: Annotated[list[int] | None, typer.Option("--numbers")] = None,
        upper: Annotated[str, typer.Option("--upper", parser=str.upper)] = "a",
    ):
        return dict(locals())

    built = get_command(app)
    if settled:
        settle_plainly(built)
    return built


PLAIN, CONVERTED = command(settled=True), command(settled=False)


def outcome(built, arguments):
    """What the command got, each value with its type; or that it was refused."""
    try:
        values = built.main(list(arguments), standalone_mode=False)
    except USAGE_ERROR as error:
        return type(error), getattr(error, "param", None) and error.param.name
    return {name: (type(value), value) for name, value in values.items()}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "a b c",
        "--text x --word y",
        "--text= --word=",
        "--count 5",
        "--count -1",
        "--count many",
        "--share 0.5",
        "--share half",
        "--flag",
        "--no-flag --maybe",
        "--no-maybe",
        "--shape SQUARE",
        "--shape round",
        "--shape oval",
        "--exact square",
        "--exact SQUARE",
        "--path /nowhere/at/all",
        "--path /etc/passwd",
        "--path /etc",
        "--there /nowhere/at/all",
        "--there /etc",
        "--folder /etc/passwd",
        "--many a --many b x y",
        "--numbers 1 --numbers 2",
        "--numbers one",
        "--upper abc",
        "--text",
        "--nonsense",
    ],
)
def test_every_command_line_gives_the_same_with_and_without(line):
    assert outcome(PLAIN, line.split(" ") if line else []) == outcome(
        CONVERTED, line.split(" ") if line else []
    )


@given(st.text(), st.lists(st.text()))
def test_any_text_passes_unchanged(text, names):
    arguments = [f"--word={text}", "--", *names]

    assert outcome(PLAIN, arguments) == outcome(CONVERTED, arguments)


def test_an_unreadable_file_is_refused_as_ever(tmp_path):
    secret = tmp_path / "secret"
    secret.touch(mode=0o000)

    assert outcome(PLAIN, ["--path", str(secret)]) == outcome(CONVERTED, ["--path", str(secret)])


def test_a_choice_that_there_is_not_is_told_with_those_there_are():
    with pytest.raises(typer.BadParameter) as refused:
        PLAIN.main(["--exact", "oval"], standalone_mode=False)

    assert refused.value.message == "'oval' is not one of round, square."


def test_values_from_the_environment_are_values_too(monkeypatch):
    app = typer.Typer(rich_markup_mode=None, add_completion=False)

    @app.command()
    def one(path: Annotated[Path | None, typer.Option("--path", envvar="SETTLED_PATH")] = None):
        return path

    built = get_command(app)
    settle_plainly(built)
    monkeypatch.setenv("SETTLED_PATH", f"/a{os.sep}b")

    assert built.main([], standalone_mode=False) == Path("/a/b")
