"""`replctl events`: what happened, as it was written down on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from replctl.cli.options import (
    ClusterOption,
    InventoryOption,
    JsonOption,
    Output,
    OutputOption,
    chosen,
    screen_cells,
)
from replctl.errors import ReplctlError, UsageError

STEPS = ("step", "step_failed", "found")
COLUMNS = ("at", "id", "event", "node", "took_s", "message")
LONGEST_S = 1e9


def events(
    run: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One failover, step by step; `last` is the newest.")
    ] = None,
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    last: Annotated[int, typer.Option("--last", min=1, help="So many events at most.")] = 50,
    output: OutputOption = Output.TABLE,
    json: JsonOption = False,
    lines: Annotated[bool, typer.Option("--lines", help="One JSON document for each event.")] = False,
) -> int:
    """Show what happened, the newest last: changes of role, timeline, upstream and state, and failovers.

    Changes are what a controller saw, and what status, check, metrics and serve found to be another than an
    earlier run had. Each machine keeps what ran on it, up to 2 MiB. Nothing is decided from it.

    Example: replctl events last
    """
    from replctl.journal import read_events

    form = chosen(output, json)
    if lines and form is not Output.TABLE:
        raise UsageError(f"--lines does not go with -o {form}")
    rows = {name: [_row(event) for event in read_events(name)] for name in _names(inventory, cluster)}
    several = len(rows) > 1
    if run is not None:
        rows = _of_run(rows, run)
    else:
        rows = {
            name: [row for row in all_of if row["event"] not in STEPS][-last:]
            for name, all_of in rows.items()
        }
    documents: list[dict[str, Any]]
    documents = [{"schema_version": 1, "cluster": name, "events": found} for name, found in rows.items()]
    if lines:
        _print_lines(documents)
    elif form in (Output.TABLE, Output.WIDE):
        # The ID is the same everywhere in a table of one failover.
        columns = [c for c in COLUMNS if run is None or form is Output.WIDE or c != "id"]
        _print_tables(documents, columns, several=several)
    else:
        _print_whole(documents, form, several=several)
    return 0


def _print_tables(documents: list[dict[str, Any]], columns: list[str], *, several: bool) -> None:
    """A table for each cluster, under its name where the inventory has several."""
    from replctl.display.rows import plain_table
    from replctl.journal import events_path

    for document in documents:
        if several:
            typer.echo(f"{document['cluster']}:")
        if document["events"]:
            typer.echo(plain_table(document["events"], columns, screen_cells()))
        else:
            where = events_path(document["cluster"])
            typer.echo(f"replctl: nothing has been written down on this machine, in {where}", err=True)


def _print_whole(documents: list[dict[str, Any]], form: Output, *, several: bool) -> None:
    """One document or one list for all clusters, for programs."""
    from replctl.display.rows import rows_text
    from replctl.display.serialize import to_json, to_yaml

    if form in (Output.JSON, Output.YAML):
        whole = documents[0] if len(documents) == 1 else {"schema_version": 1, "clusters": documents}
        typer.echo(to_json(whole) if form is Output.JSON else to_yaml(whole))
        return
    rows = [{"cluster": d["cluster"], **row} for d in documents for row in d["events"]]
    columns = ["cluster", *COLUMNS] if several else COLUMNS
    text = rows_text({"events": rows}, "events", form.value, columns, name="id")
    typer.echo(text, nl=bool(text))


def _names(inventory: Path | None, cluster: str | None) -> list[str]:
    from replctl.inventory import load_all

    return [one.settings.name for one in load_all(inventory, cluster=cluster)]


def _print_lines(documents: list[dict[str, Any]]) -> None:
    """Every event of every cluster as one line, each by itself."""
    from replctl.display.serialize import to_json

    for document in documents:
        for row in document["events"]:
            whole = {"schema_version": 1, "cluster": document["cluster"], **row}
            typer.echo(to_json(whole, one_line=True))


def _row(event: dict[str, Any]) -> dict[str, Any]:
    from replctl.display.document import iso_time

    return {
        "at": iso_time(float(event["at"])),
        "id": _text(event.get("id")),
        "event": _text(event.get("event")) or "unknown",
        "node": _text(event.get("node")),
        "took_s": _seconds(event.get("took_s")),
        "message": _text(event.get("message")) or "",
        "by": _text(event.get("by")),
        "before": _text(event.get("before")),
        "after": _text(event.get("after")),
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _seconds(value: object) -> float | None:
    """None for what is no duration, as in a line that was damaged."""
    return float(value) if isinstance(value, int | float) and 0 <= value < LONGEST_S else None


def _of_run(rows: dict[str, list[dict[str, Any]]], wanted: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of one failover, by its cluster; its ID may be shortened as long as it is unique.

    Raises ReplctlError where no failover of any cluster was written down, and UsageError where none or
    several of those match.
    """
    from replctl.journal import events_path, state_directory

    every = sorted((row for found in rows.values() for row in found), key=lambda row: str(row["at"]))
    ids = list(dict.fromkeys(row["id"] for row in every if row["id"]))
    if not ids:
        where = events_path(next(iter(rows))) if len(rows) == 1 else state_directory()
        raise ReplctlError("no failover has been written down on this machine", why=f"in {where}")
    matching = [ids[-1]] if wanted == "last" else [i for i in ids if i.startswith(wanted)]
    if wanted in matching:
        matching = [wanted]
    if len(matching) != 1:
        what = "no event" if not matching else f"{len(matching)} failovers"
        raise UsageError(f"{what} with ID {wanted!r}", hint=f"the last ones: {', '.join(ids[-5:])}")
    steps = {name: [row for row in found if row["id"] == matching[0]] for name, found in rows.items()}
    return {name: found for name, found in steps.items() if found}
