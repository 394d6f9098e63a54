"""Lists of rows, such as votes and events, in every format: a plain table, JSON, YAML, CSV, names."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from replctl.display.serialize import to_csv, to_json, to_yaml

LAST_COLUMN_MIN = 24  # where less is left for it, the last column gets lines of its own


def rows_text(
    document: Mapping[str, Any],
    key: str,
    form: str,
    columns: Sequence[str],
    *,
    name: str,
    cells: int | None = None,
) -> str:
    """A document whose `key` is a list of rows. `form` as in `-o`; `name` is the column of `-o name`.

    `cells` = how wide the terminal is; None = no limit.
    """
    rows: list[Mapping[str, Any]] = document[key]
    if form == "json":
        return to_json(document)
    if form == "yaml":
        return to_yaml(document)
    if form == "csv":
        return to_csv(rows, columns)
    if form == "name":
        return "\n".join(dict.fromkeys(str(row[name]) for row in rows if row[name] is not None))
    return plain_table(rows, columns, cells)


def plain_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], cells: int | None = None) -> str:
    """Headings and rows in columns as wide as their widest cell; unknown is `-`. The last one is wrapped."""
    table = [tuple(column.upper() for column in columns)]
    table += [tuple(_cell(row[column]) for column in columns) for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns) - 1)]
    lines: list[str] = []
    for line in table:
        before = "".join(f"{cell.ljust(width)}  " for cell, width in zip(line, widths, strict=False))
        lines += _with_last(before, line[-1], cells)
    return "\n".join(line.rstrip() for line in lines)


def _with_last(before: str, last: str, cells: int | None) -> list[str]:
    """The last cell behind the others, or below them where there is no room."""
    if cells is None or len(before) + len(last) <= cells:
        return [before + last]
    indent = len(before) if cells - len(before) >= LAST_COLUMN_MIN else 2
    wrapped = textwrap.wrap(last, max(1, cells - indent)) or [""]
    below = [" " * indent + part for part in wrapped]
    return [before + wrapped[0], *below[1:]] if indent == len(before) else [before, *below]


def _cell(value: object) -> str:
    """One cell: nothing in it moves a cursor."""
    text = "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)
