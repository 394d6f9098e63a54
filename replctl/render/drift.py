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
    # Files that differ in their line ends only have no line that differs.
    # The file may be anybody's, and hold what must not reach a screen.
    return _SECRET.sub(r"\1(not shown)", "\n".join(lines)) or f"{name}: only the line ends differ"
