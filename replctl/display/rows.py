"""Lists of rows, such as votes and events, in every format: a plain table, JSON, YAML, CSV, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from replctl.display.serialize import to_csv, to_json, to_yaml


def rows_text(document: Mapping[str, Any], key: str, form: str, columns: Sequence[str], *, name: str) -> str:
    """A document whose `key` is a list of rows. `form` as in `-o`; `name` is the column of `-o name`."""
    rows: list[Mapping[str, Any]] = document[key]
    if form == "json":
        return to_json(document)
    if form == "yaml":
        return to_yaml(document)
    if form == "csv":
        return to_csv(rows, columns)
    if form == "name":
        return "\n".join(dict.fromkeys(str(row[name]) for row in rows if row[name] is not None))
    return plain_table(rows, columns)


def plain_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Headings and rows in columns as wide as their widest cell; unknown is `-`."""
    cells = [tuple(column.upper() for column in columns)]
    cells += [tuple(_cell(row[column]) for column in columns) for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    """One cell: nothing in it moves a cursor."""
    text = "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)
