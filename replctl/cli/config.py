"""`replctl config`: which inventory files are used, every value with its origin, all problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from replctl.cli.options import ClusterOption, InventoryOption, JsonOption, Output, OutputOption, chosen

if TYPE_CHECKING:
    from replctl.inventory import Checked, Entry, Inventory, Place

GAP = "  "

app = typer.Typer(
    help="Show and validate the inventory.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog="Example: replctl config path")
def path(
    inventory: InventoryOption = None, output: OutputOption = Output.TABLE, json: JsonOption = False
) -> None:
    """Which files are used, and where they are looked for."""
    from replctl.inventory import find, places

    used = find(inventory)
    rows = [_place(place, used) for place in places(inventory)]
    columns = ("source", "state", "path")
    form = chosen(output, json)
    if form is Output.NAME:
        _lines([str(file) for file in used])
    elif form in (Output.TABLE, Output.WIDE):
        shown = [{**row, "path": file} for row in rows for file in row["files"] or [row["path"]]]
        _table(shown, columns)
    else:
        _document({"schema_version": 1, "places": rows}, rows, columns, form)


@app.command(epilog="Example: replctl config show --json")
def show(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    output: OutputOption = Output.TABLE,
    json: JsonOption = False,
) -> None:
    """Every value that holds, and where it comes from. What may lead to a secret is not shown."""
    from replctl.inventory import load_all

    inventories = load_all(inventory, cluster=cluster)
    form = chosen(output, json)
    if form is Output.NAME:
        _lines([entry.path for one in inventories for entry in one.entries])
    elif form in (Output.TABLE, Output.WIDE):
        for number, one in enumerate(inventories):
            _lines([*([""] if number else []), f"# {one.settings.name}: {one.path}"])
            # The value last: a command is long, and would push the origin off the screen.
            columns = (
                ("key", "origin", "help", "value") if form is Output.WIDE else ("key", "origin", "value")
            )
            _table([_value_row(entry) for entry in one.entries], columns)
    else:
        documents = [_values(one) for one in inventories]
        whole = documents[0] if len(documents) == 1 else {"schema_version": 1, "clusters": documents}
        rows = [{"cluster": one["cluster"], **value} for one in documents for value in one["values"]]
        _document(whole, rows, ("cluster", "key", "value", "origin"), form)


@app.command(epilog="Example: replctl config validate -i /etc/replctl")
def validate(
    inventory: InventoryOption = None, output: OutputOption = Output.TABLE, json: JsonOption = False
) -> None:
    """Say OK, or all problems at once (exit code 2)."""
    from replctl.inventory import find, survey, unusable

    surveyed = survey(find(inventory))
    problems = [line for one in surveyed for line in one.problems]
    form = chosen(output, json)
    if form not in (Output.TABLE, Output.WIDE, Output.NAME):
        rows = [_verdict(one) for one in surveyed]
        columns = ("path", "valid", "cluster", "problems", "warnings")
        _document({"schema_version": 1, "files": rows}, rows, columns, form)
        raise typer.Exit(2 if problems else 0)
    for one in surveyed:
        if one.inventory is not None:
            typer.echo(str(one.path) if form is Output.NAME else f"OK {one.path}: {_contents(one.inventory)}")
            for warning in one.inventory.warnings:
                typer.echo(f"warning: {warning}", err=True)
    if problems:
        raise unusable(problems)


def _place(place: Place, used: Sequence[Any]) -> dict[str, Any]:
    if place.files:
        state = "used" if list(place.files) == list(used) else "not used"
    else:
        state = place.error or "no *.toml"
    return {
        "source": place.source,
        "state": state,
        "path": str(place.path),
        "files": [str(file) for file in place.files],
    }


def _value_row(entry: Entry) -> dict[str, str]:
    """One value for a screen; where there is none, what holds instead, in brackets."""
    from replctl.inventory.schema import key_at
    from replctl.inventory.writer import literal

    key = key_at(entry.table, entry.key)
    if entry.shown is None:
        value = f"({key.absent})" if key.absent else "-"
    else:
        value = entry.shown if entry.secret else literal(entry.shown)
    return {"key": entry.path, "value": value, "origin": entry.origin, "help": key.help}


def _values(inventory: Inventory) -> dict[str, Any]:
    values = [
        {"key": entry.path, "value": _plain(entry), "origin": entry.origin} for entry in inventory.entries
    ]
    return {
        "schema_version": 1,
        "cluster": inventory.settings.name,
        "path": str(inventory.path),
        "values": values,
        "warnings": list(inventory.warnings),
    }


def _plain(entry: Entry) -> Any:
    """The value for programs: sizes in bytes and times in seconds, as numbers."""
    from replctl.inventory.schema import key_at

    kind = key_at(entry.table, entry.key).kind
    numeric = kind.name in ("size", "time") and entry.value is not None
    return kind.read(entry.value) if numeric else entry.shown


def _verdict(one: Checked) -> dict[str, Any]:
    inventory = one.inventory
    return {
        "path": str(one.path),
        "valid": inventory is not None,
        "cluster": inventory.settings.name if inventory is not None else None,
        "problems": one.problems,
        "warnings": list(inventory.warnings) if inventory is not None else [],
    }


def _contents(inventory: Inventory) -> str:
    counts = {"node": len(inventory.settings.nodes), "witness": len(inventory.settings.witnesses)}
    plural = {"node": "nodes", "witness": "witnesses"}
    parts = [f"{count} {word if count == 1 else plural[word]}" for word, count in counts.items() if count]
    return f"cluster {inventory.settings.name}, {', '.join(parts)}"


def _document(whole: Any, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], form: Output) -> None:
    from replctl.display.serialize import to_csv, to_json, to_yaml

    if form is Output.CSV:
        typer.echo(to_csv(rows, columns))
    else:
        typer.echo(to_json(whole) if form is Output.JSON else to_yaml(whole))


def _table(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    """Plain columns, as wide as their contents: nothing is cut."""
    cells = [[column.upper() for column in columns], *([row[column] for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    _lines([GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells])


def _lines(lines: Sequence[str]) -> None:
    typer.echo("\n".join(line.rstrip() for line in lines))
