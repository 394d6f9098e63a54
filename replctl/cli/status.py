"""`replctl status`: one look, or a dashboard. What it prints is made in `display`."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from replctl.cli.options import (
    ClusterOption,
    Color,
    ColorOption,
    InventoryOption,
    JsonOption,
    Output,
    OutputOption,
    TimeoutOption,
    chosen,
)

if TYPE_CHECKING:
    from replctl.core.report import Report
    from replctl.core.settings import ClusterSettings
    from replctl.display.dashboard import Look
    from replctl.display.style import Medium
    from replctl.inventory import Inventory

WATCH_DEFAULT = "2s"
WATCH_MIN_S = 0.5
_WATCH = ("-w", "--watch")
_TABLES = (Output.TABLE, Output.WIDE)


class WatchCommand(TyperCommand):
    """A command whose `--watch` may stand alone: Typer knows no option with an optional value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a lone `--watch` its value, then parse as ever."""
        return super().parse_args(ctx, _with_watch_value(args))


def _with_watch_value(args: Sequence[str]) -> list[str]:
    """`--watch` and `-w` get the default unless a number follows."""
    out: list[str] = []
    for i, word in enumerate(args):
        if word == "--":
            return out + list(args[i:])
        out.append(word)
        following = args[i + 1] if i + 1 < len(args) else ""
        if word in _WATCH and not re.match(r"[0-9.]", following):
            out.append(WATCH_DEFAULT)
    return out


app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(cls=WatchCommand, epilog="Example: replctl status --watch 5")
def status(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    output: OutputOption = Output.TABLE,
    json: JsonOption = False,
    tree: Annotated[bool, typer.Option("--tree", help="Replicas below their upstreams.")] = False,
    watch: Annotated[
        str | None,
        typer.Option(
            "-w",
            "--watch",
            metavar="[SECONDS]",
            help="Look again every 2 s, or as often as said. On a terminal: a dashboard; ? lists its keys.",
        ),
    ] = None,
    color: ColorOption = Color.AUTO,
    timeout: TimeoutOption = None,
) -> int:
    """Show every node: role, state, lag, problems.

    Exit code 0 whatever the verdict (see `replctl check`), 1 when no node of a cluster answered.
    """
    import asyncio
    import os

    from replctl.cli.look import limit_of
    from replctl.display.style import medium
    from replctl.errors import UsageError
    from replctl.inventory import load_all

    form = chosen(output, json)
    if tree and form not in _TABLES:
        raise UsageError(f"--tree does not go with -o {form}", hint="every other format gives each upstream")
    limit_s = limit_of(timeout)
    interval_s = limit_of(watch, "--watch")
    if watch is not None and interval_s < WATCH_MIN_S:
        raise UsageError(f"--watch {watch}", why=f"expected at least {WATCH_MIN_S:g} s", hint="--watch 0.5")
    inventories = load_all(inventory, cluster=cluster)
    if hasattr(sys.stdout, "reconfigure"):  # a message may hold what the locale cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    shown = medium(sys.stdout, color.value, os.environ)
    if watch is None:
        return asyncio.run(_once(inventories, limit_s, _form(form, shown, as_tree=tree)))
    dumb = os.environ.get("TERM", "") in ("", "dumb")
    try:
        if form in _TABLES and shown.is_terminal and sys.stdin.isatty() and not dumb:
            view = {"interval_s": interval_s, "as_tree": tree, "wide": form is Output.WIDE}
            return asyncio.run(_dashboard(inventories, limit_s, shown, view))
        return asyncio.run(_stream(inventories, limit_s, interval_s, _frames(form, shown, as_tree=tree)))
    except KeyboardInterrupt:
        return 0  # the way to end it


async def _once(inventories: list[Inventory], limit_s: float, form: Callable[[Sequence[Report]], str]) -> int:
    """One look at every cluster, all at once."""
    import asyncio

    from replctl.cli.look import look

    reports = await asyncio.gather(*(look(i, limit_s=limit_s) for i in inventories))
    sys.stdout.write(form(reports))
    return 0 if all(any(n.reachable for n in r.status.nodes) for r in reports) else 1


async def _dashboard(
    inventories: list[Inventory], limit_s: float, shown: Medium, view: dict[str, Any]
) -> int:
    """The dashboard, until the user ends it."""
    from replctl.display.dashboard import Dashboard
    from replctl.display.screen import Screen, Seen
    from replctl.display.terminal import Terminal

    clusters = tuple(Seen(settings=i.settings) for i in inventories)
    screen = Screen(clusters=clusters, medium=shown, height=24, **view)
    async with _watching(inventories, limit_s) as looks:
        return await Dashboard(screen, looks, Terminal(sys.stdin.fileno(), sys.stdout.fileno())).run()


async def _stream(
    inventories: list[Inventory], limit_s: float, interval_s: float, form: Callable[[Sequence[Report]], str]
) -> int:
    """One text per interval, until interrupted."""
    from replctl.display.stream import stream

    async with _watching(inventories, limit_s) as looks:
        await stream(looks, interval_s, form, sys.stdout)
    return 0


@contextlib.asynccontextmanager
async def _watching(inventories: list[Inventory], limit_s: float) -> AsyncIterator[list[Look]]:
    """A look per cluster on connections that stay open, each with the history of those before it."""
    import asyncio

    from replctl.core.report import report
    from replctl.journal import load_history, save_history
    from replctl.noticed import leave_changes
    from replctl.pg.observe import Observer

    histories = {i.settings.name: load_history(i.settings.name) for i in inventories}
    looks: list[Look] = []
    async with contextlib.AsyncExitStack() as stack:
        for inventory in inventories:
            observer = await stack.enter_async_context(Observer(inventory))

            async def look(
                observer: Observer = observer, settings: ClusterSettings = inventory.settings
            ) -> Report:
                state = await observer.observe(limit_s=limit_s)
                seen = report(state, settings, histories[settings.name])
                histories[settings.name] = seen.status.history
                await asyncio.to_thread(leave_changes, seen.status)
                return seen

            looks.append(look)
        try:
            yield looks
        finally:
            for name, history in histories.items():
                save_history(name, history)


def _form(
    form: Output, shown: Medium, *, as_tree: bool, one_line: bool = False
) -> Callable[[Sequence[Report]], str]:
    """What makes the text of one look, with the newline at its end."""

    def text(reports: Sequence[Report]) -> str:
        if form in _TABLES:
            from replctl.display.overview import status_text

            return status_text(reports, shown, wide=form is Output.WIDE, as_tree=as_tree)
        if form is Output.NAME:
            return "".join(f"{node.name}\n" for r in reports for node in r.status.nodes)
        from replctl.display import document, serialize

        if form is Output.CSV:
            rows = document.node_rows(reports)
            return serialize.to_csv(rows, list(rows[0])) + "\n"
        found = document.status_document(reports)
        made = (
            serialize.to_yaml(found) if form is Output.YAML else serialize.to_json(found, one_line=one_line)
        )
        return made + "\n"

    return text


def _frames(form: Output, shown: Medium, *, as_tree: bool) -> Callable[[Sequence[Report]], str]:
    """What makes the text of one look among many."""
    from replctl.display.document import iso_time

    one = _form(form, shown, as_tree=as_tree, one_line=True)
    count = 0

    def text(reports: Sequence[Report]) -> str:
        nonlocal count
        count += 1
        if form in _TABLES:
            return f"{iso_time(reports[0].status.observed_at)}\n{one(reports)}\n"
        if form is Output.YAML:
            return f"---\n{one(reports)}"
        if form is Output.CSV and count > 1:
            return one(reports).partition("\n")[2]  # the header stands above the first
        return one(reports)

    return text
