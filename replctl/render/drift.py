"""How a file differs from what would be rendered now."""

from __future__ import annotations

import difflib
import re

_SECRET = re.compile(r"(\bpassword *= *)(?:'(?:[^']|'')*'|[^ ]+)", re.IGNORECASE)


def difference(present: str | None, wanted: str, name: str) -> str:
    """A unified diff from the file to what is wanted; empty where they are the same. No times in it."""
    if present == wanted:
        return ""
    before, after = (present or "").splitlines(), wanted.splitlines()
    lines = difflib.unified_diff(before, after, name, f"{name} (rendered)", lineterm="")
    # The file may be anybody's, and hold what must not reach a screen: secrets, and what steers a terminal.
    shown = _SECRET.sub(r"\1(not shown)", "\n".join(_visible(line) for line in lines))
    # Files that differ in their line ends only have no line that differs.
    return shown or f"{name}: only the line ends differ"


def _visible(line: str) -> str:
    """Control characters, and others that are not seen, as Python writes them; but for TAB."""
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)
