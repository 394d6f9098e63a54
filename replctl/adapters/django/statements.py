"""What a statement does to the database, as far as its text tells.

This never chooses a node. It tells a request that only reads on the primary from one that writes, and a
lost read from one that may have been committed. A function that writes, called by SELECT, cannot be seen.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache


class Effect(Enum):
    """What a statement does."""

    READ = auto()
    CALL = auto()  # reads by its form, but may call what writes
    WRITE = auto()


_WRITING = re.compile(
    r"\b(?:INSERT|DELETE|MERGE|TRUNCATE|INTO|CREATE|ALTER|DROP|(?<!\bFOR )(?<!\bKEY )UPDATE)\b", re.IGNORECASE
)
_LEADING = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*([a-z]+)", re.IGNORECASE | re.DOTALL)
# The ORM quotes every name; what people write by hand seldom begins so.
_OF_THE_ORM = re.compile(r'SELECT (?:DISTINCT )?(?:"|1 AS "a"|COUNT\()')
_CALLS = frozenset({"SELECT", "WITH", "EXPLAIN", "DECLARE", "VALUES", "TABLE"})
_READS = frozenset(
    {
        *("SHOW", "SET", "RESET", "FETCH", "MOVE", "CLOSE", "BEGIN", "START", "SAVEPOINT", "RELEASE"),
        *("ROLLBACK", "LISTEN", "UNLISTEN", "DISCARD", "DEALLOCATE"),
    }
)


@lru_cache(maxsize=1024)
def effect_of(text: str) -> Effect:
    """What this statement does. One whose form is not known writes."""
    if _WRITING.search(text):
        return Effect.WRITE
    if _OF_THE_ORM.match(text):
        return Effect.READ
    found = _LEADING.match(text)
    word = found.group(1).upper() if found else ""
    if word == "COPY":
        return Effect.CALL if re.search(r"\bTO\s+STDOUT\b", text, re.IGNORECASE) else Effect.WRITE
    if word in _READS:
        return Effect.READ
    return Effect.CALL if word in _CALLS else Effect.WRITE
