"""A row of glyphs that shows how a number went."""

from __future__ import annotations

from collections.abc import Sequence

from replctl.display.style import Glyphs

CELLS = 20


def sparkline(values: Sequence[int | None], glyphs: Glyphs) -> str:
    """The last 20 values, oldest first, on a scale from 0 to their own maximum; 20 cells in any case.

    Zero has the lowest glyph; a value that is not known has one of its own.
    """
    shown = list(values)[-CELLS:]
    top = max((v for v in shown if v is not None), default=0)
    steps = len(glyphs.sparks) - 1
    cells = ""
    for value in shown:
        if value is None:
            cells += glyphs.no_spark
        elif value <= 0:
            cells += glyphs.sparks[0]
        else:  # anything above zero is told from zero
            cells += glyphs.sparks[max(1, round(value / top * steps))]
    return cells.rjust(CELLS)
