"""A table whose columns are chosen so that no value is ever cut.

Which columns are shown follows from the width that the values really need, not from the terminal's
alone: one long node name costs a column at the right, never the end of a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from replctl.core.settings import ClusterSettings
from replctl.core.topology import tree
from replctl.display.columns import COLUMNS, POLICIES, STANDARD, STATE_VARIANTS, WIDE, Column, Row
from replctl.display.style import DIM, Glyphs, Line, Span, line_width

GAP = 2
Filled = tuple[Column, list[Line]]
"""A column and its cells, one per row."""


class Table(NamedTuple):
    """The heading and one line per row, all padded to the same width."""

    heading: Line
    rows: tuple[Line, ...]
    width: int


def table(rows: Sequence[Row], cells: int | None, *, wide: bool = False) -> Table:
    """The table with as many columns as fit into `cells`; all columns with `wide`, whatever it takes.

    `cells` None = no limit: the standard columns, so that what is read by programs does not depend on
    a width. A table that is wider than `cells` even with the fewest columns comes back as it is.
    """
    cache: dict[str, list[Line]] = {}
    if wide:
        return _with_columns(WIDE, rows, cache)
    if cells is None:
        return _with_columns(STANDARD, rows, cache)
    for policy in reversed(POLICIES):
        for state in STATE_VARIANTS:
            found = _with_columns(policy - {"state"} | {state}, rows, cache)
            if found.width <= cells:
                return found
    return narrowest(rows)


def wide_table(rows: Sequence[Row], cells: int, first: int) -> tuple[Table, str]:
    """Every column there is, as many at a time as fit: those from number `first`, after the node's name.

    With it, which of how many those are; empty when all are shown.
    """
    cache: dict[str, list[Line]] = {}
    kept = _kept(WIDE, rows, cache)
    whole = _laid_out(kept, len(rows))
    if whole.width <= cells:
        return whole, ""
    name, rest = kept[0], kept[1:]
    first = max(0, min(first, len(rest) - 1))
    count = 1
    found = _laid_out([name, *rest[first : first + 1]], len(rows))
    while first + count < len(rest):
        wider = _laid_out([name, *rest[first : first + count + 1]], len(rows))
        if wider.width > cells:
            break
        found, count = wider, count + 1
    return found, f"columns {first + 1}-{first + count} of {len(rest)}"


def narrowest(rows: Sequence[Row]) -> Table:
    """The table with the fewest columns that make sense: its width is what a screen needs at least."""
    return _with_columns(POLICIES[0] - {"state"} | {STATE_VARIANTS[-1]}, rows, {})


def _with_columns(keys: frozenset[str], rows: Sequence[Row], cache: dict[str, list[Line]]) -> Table:
    return _laid_out(_kept(keys, rows, cache), len(rows))


def _kept(keys: frozenset[str], rows: Sequence[Row], cache: dict[str, list[Line]]) -> list[Filled]:
    """The columns of these keys with a cell per row, without optional ones that are empty."""
    kept: list[Filled] = []
    for column in COLUMNS:
        if column.key not in keys:
            continue
        if column.key not in cache:
            cache[column.key] = [column.cell(row) for row in rows]
        cells = cache[column.key]
        if not column.optional or any(_has_value(cell) for cell in cells):
            kept.append((column, cells))
    return kept


def _laid_out(kept: Sequence[Filled], count: int) -> Table:
    widths = [max([len(column.heading), *(line_width(cell) for cell in cells)]) for column, cells in kept]
    heading = _joined([(Span(column.heading, DIM),) for column, _ in kept], kept, widths)
    lines = tuple(_joined([cells[i] for _, cells in kept], kept, widths) for i in range(count))
    return Table(heading=heading, rows=lines, width=sum(widths) + GAP * (len(widths) - 1))


def _has_value(cell: Line) -> bool:
    return any(span.text not in ("-", "?", "") for span in cell)


def _joined(cells: list[Line], kept: Sequence[Filled], widths: list[int]) -> Line:
    spans: list[Span] = []
    for (column, _), cell, cell_width in zip(kept, cells, widths, strict=True):
        padding = Span(" " * (cell_width - line_width(cell)))
        spans += [Span(" " * GAP)] if spans else []
        spans += [padding, *cell] if column.right else [*cell, padding]
    return tuple(s for s in spans if s.text)


def tree_order(
    settings: ClusterSettings, upstreams: dict[str, str | None], glyphs: Glyphs
) -> list[tuple[str, str]]:
    """The nodes below their upstreams: (name, the drawing that stands before it)."""
    nodes = tree(settings, upstreams)
    ordered: list[tuple[str, str]] = []
    for i, (depth, name) in enumerate(nodes):
        stem = ""
        for level in range(1, depth + 1):
            more = _goes_on(nodes[i + 1 :], level)
            if level == depth:
                stem += glyphs.branch if more else glyphs.last_branch
            else:
                stem += glyphs.trunk if more else " " * len(glyphs.trunk)
        ordered.append((name, stem))
    return ordered


def _goes_on(following: list[tuple[int, str]], level: int) -> bool:
    """Whether another node of this level comes before the branch ends."""
    for depth, _ in following:
        if depth <= level:
            return depth == level
    return False
