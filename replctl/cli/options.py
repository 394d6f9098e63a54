"""Options that many commands share, declared once so that they look the same everywhere."""

from __future__ import annotations

import shutil
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from replctl.errors import ReplctlError, UsageError


class Output(StrEnum):
    """Formats of every read command."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"
    NAME = "name"


class Color(StrEnum):
    """When to colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def complete_nodes(ctx: Any, incomplete: str) -> list[str]:
    """Completion: the names of the nodes in the inventory. Asks no server."""
    from replctl.inventory import names

    return [name for name in names(_given_path(ctx)).nodes if name.startswith(incomplete)]


def complete_clusters(ctx: Any, incomplete: str) -> list[str]:
    """Completion: the names of the clusters in the inventory. Asks no server."""
    from replctl.inventory import names

    return [name for name in names(_given_path(ctx)).clusters if name.startswith(incomplete)]


def _given_path(ctx: Any) -> Path | None:
    given = ctx.params.get("inventory")
    return None if given is None else Path(given)


InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "-i",
        "--inventory",
        metavar="PATH",
        envvar="REPLCTL_INVENTORY",
        readable=False,  # whether it is, the inventory says, with what to do
        help="Inventory file, or a directory of them.",
        show_default="./replctl.toml, then the user's and the system's replctl/*.toml",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME",
        help="Only this cluster, where the inventory is a directory.",
        autocompletion=complete_clusters,
    ),
]
OutputOption = Annotated[
    Output, typer.Option("-o", "--output", help="Format.", show_choices=True, case_sensitive=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
ColorOption = Annotated[Color, typer.Option("--color", help="Colour: auto, always or never.")]
TimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--timeout", metavar="TIME", help="Limit for the whole run, such as 10s.", show_default="10s"
    ),
]
YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]


def confirmed(yes: bool, question: str, what: str) -> None:
    """Ask on a terminal. Raises UsageError elsewhere without --yes, ReplctlError on a no."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(f"{what} needs a confirmation", hint="--yes does it, --dry-run only shows it")
    if not _asked(question):
        raise ReplctlError("not confirmed", why="nothing was done")


def _asked(question: str) -> bool:
    """Ask. Ctrl-C ends it, also where asyncio has taken that signal over."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm(question)
    except typer.Abort:
        typer.echo(err=True)  # ends the line of the question
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def screen_cells() -> int | None:
    """How many columns the terminal has; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def chosen(output: Output, json: bool) -> Output:
    """`--json` is `-o json`."""
    return Output.JSON if json else output
