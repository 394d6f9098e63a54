"""`replctl events`: what happened, as it was written down on this machine."""

from __future__ import annotations

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
    from replctl.display.rows import rows_text
    from replctl.inventory import load_all
    from replctl.journal import events_path, read_events

    form = chosen(output, json)
    if lines and form is not Output.TABLE:
        raise UsageError(f"--lines does not go with -o {form}")
    documents = []
    for one in load_all(inventory, cluster=cluster):
        name = one.settings.name
        found = [_row(event) for event in read_events(name)]
        if run is not None:
            found = _of_run(found, run, str(events_path(name)))
        else:
            found = [row for row in found if row["event"] not in STEPS][-last:]
        documents.append({"schema_version": 1, "cluster": name, "events": found})
    columns = ["at", "id", "event", "node", "took_s", "message"]
    if run is not None and form is Output.TABLE:
        columns.remove("id")  # it is the same everywhere
    if lines:
        _print_lines(documents)
        return 0
    if len(documents) > 1 and form in (Output.JSON, Output.YAML):
        from replctl.display.serialize import to_json, to_yaml

        whole = {"schema_version": 1, "clusters": documents}
        typer.echo(to_json(whole) if form is Output.JSON else to_yaml(whole))
        return 0
    for document in documents:
        if len(documents) > 1:
            typer.echo(f"{document['cluster']}:")
        if not document["events"] and form in (Output.TABLE, Output.WIDE):
            where = events_path(str(document["cluster"]))
            typer.echo(f"replctl: nothing has been written down on this machine, in {where}", err=True)
            continue
        text = rows_text(document, "events", form.value, columns, name="id", cells=screen_cells())
        typer.echo(text, nl=bool(text))
    return 0


def _print_lines(documents: list[dict[str, Any]]) -> None:
    """Every event of every cluster as one line, each by itself."""
    from replctl.display.serialize import to_json

    for document in documents:
        for row in document["events"]:
            whole = {"schema_version": 1, "cluster": document["cluster"], **row}
            typer.echo(to_json(whole, one_line=True))


def _row(event: dict[str, Any]) -> dict[str, Any]:
    from replctl.display.document import iso_time

    took_s = event.get("took_s")
    return {
        "at": iso_time(float(event["at"])),
        "id": _text(event.get("id")),
        "event": _text(event.get("event")) or "unknown",
        "node": _text(event.get("node")),
        "took_s": float(took_s) if isinstance(took_s, int | float) else None,
        "message": _text(event.get("message")) or "",
        "by": _text(event.get("by")),
        "before": _text(event.get("before")),
        "after": _text(event.get("after")),
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _of_run(rows: list[dict[str, Any]], wanted: str, path: str) -> list[dict[str, Any]]:
    """The rows of one failover; its ID may be shortened as long as it is unique."""
    ids = list(dict.fromkeys(row["id"] for row in rows if row["id"]))
    if not ids:
        raise ReplctlError("no failover has been written down on this machine", why=f"in {path}")
    matching = [ids[-1]] if wanted == "last" else [i for i in ids if i.startswith(wanted)]
    if wanted in matching:
        matching = [wanted]
    if len(matching) != 1:
        what = "no event" if not matching else f"{len(matching)} failovers"
        raise UsageError(f"{what} with ID {wanted!r}", hint=f"the last ones: {', '.join(ids[-5:])}")
    return [row for row in rows if row["id"] == matching[0]]
