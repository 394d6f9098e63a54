"""What of HAProxy's file a running one takes only by a reload, and a mark by which to know that it has it.

Checks, listeners and timeouts are shown nowhere, and an old process goes on where a new one does not start.
The mark is `description` in `global`, which `show info` repeats.
"""

from __future__ import annotations

import hashlib
import re

PREFIX = "replctl-"
DIGITS = 12
_MARK = re.compile(rf"^ *description (?P<mark>{PREFIX}[0-9a-f]{{{DIGITS}}})$", re.MULTILINE)


def skeleton(text: str) -> list[str]:
    """A file without comments, states and weights."""
    lines = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "server":
            at = words.index("weight") if "weight" in words else len(words)
            words = [*words[:at], *words[at + 2 :]]
            words = words[:-1] if words[-1] == "disabled" else words
        lines.append(" ".join(words))
    return lines


def mark(lines: list[str]) -> str:
    """The mark of a file of these lines, which are all of it but the mark."""
    text = "\n".join(skeleton("\n".join(lines)))
    return f"{PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"


def mark_of(text: str) -> str | None:
    """The mark that a file has; None where it has none, as without a `global` section."""
    found = _MARK.search(text)
    return None if found is None else found["mark"]
