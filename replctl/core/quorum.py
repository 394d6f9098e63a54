"""The arithmetic of synchronous replication: who confirms a commit, and how many may be lost.

With `ANY k` over n replicas an acknowledged commit is on at least k of them, so every acknowledged
commit is on some member of any n-k+1. Writes survive n-k replica losses; a failover that can prove that
nothing is lost survives k-1. `FIRST k` is the same in the worst case.
https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_SPACE = r"[ \t\n\r\f\v]"
# syncrep_scanner.l: a name with any other character needs double quotes; a number may be a name too.
# The classes are [A-Za-z_\x80-\U0010ffff] and the same with [0-9$], said by what they leave out: a range
# that far up takes milliseconds to compile, at every start.
_FIRST, _NEXT = r"[^\x00-@\[-^`{-\x7f]", r"[^\x00-#%-/:-@\[-^`{-\x7f]"
_NAME = rf'(?:"(?:[^"]|"")*"|{_FIRST}{_NEXT}*|[0-9]+|\*)'
_COUNTED = re.compile(
    f"{_SPACE}*(?:(ANY|FIRST){_SPACE}+)?([0-9]+){_SPACE}*\\((.*)\\){_SPACE}*", re.IGNORECASE | re.DOTALL
)
_NAMES = re.compile(f"{_SPACE}*{_NAME}(?:{_SPACE}*,{_SPACE}*{_NAME})*{_SPACE}*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRule:
    """A parsed synchronous_standby_names. `members` may hold `*`."""

    method: Literal["ANY", "FIRST"]
    confirmations: int
    members: tuple[str, ...]


def parse_sync_rule(text: str) -> SyncRule | None:
    """Read the setting's value as PostgreSQL does; None when it is empty (asynchronous).

    Raises ValueError for what a server would refuse.
    """
    if not text:
        return None
    method: Literal["ANY", "FIRST"] = "FIRST"
    confirmations, names = 1, text
    if counted := _COUNTED.fullmatch(text):
        method = "ANY" if (counted[1] or "").upper() == "ANY" else "FIRST"
        confirmations, names = int(counted[2]), counted[3]
    outside = re.sub(r'"(?:[^"]|"")*"', '""', names)
    parts = [part.strip(" \t") for part in outside.split(",")]
    if bare := next((part for part in parts if re.fullmatch(r'[^\s,()"]+', part) and _is_odd(part)), None):
        raise ValueError(f'PostgreSQL wants {bare} in double quotes: "{bare}"')
    if _NAMES.fullmatch(names) is None:
        raise ValueError(f"expected names separated by commas in {text!r}, or ANY or FIRST n (names)")
    if confirmations < 1:
        raise ValueError(f"expected a number of at least 1 before ( in {text!r}")
    members = tuple(_unquoted(name) for name in re.findall(_NAME, names))
    return SyncRule(method=method, confirmations=confirmations, members=members)


def _is_odd(name: str) -> bool:
    """Whether it is no name unless it is quoted."""
    return not re.fullmatch(_NAME, name) or name.lower() in ("any", "first")


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def sync_name(name: str) -> str:
    """A node's application_name as it stands in the setting: in double quotes where it needs them."""
    quoted = '"' + name.replace('"', '""') + '"'
    return quoted if _is_odd(name) or name == "*" or name.startswith('"') else name


def same_rule(one: str | None, other: str | None) -> bool | None:
    """Whether two settings mean the same (order counts for FIRST only). None when one is not known."""
    if one is None or other is None:
        return None
    try:
        a, b = parse_sync_rule(one), parse_sync_rule(other)
    except ValueError:
        return one.strip() == other.strip()
    if a is None or b is None:
        return a is b

    def shape(rule: SyncRule) -> tuple[object, ...]:
        names = [m.lower() for m in rule.members]
        # FIRST k over k names, in any order, waits for all of them, and so does ANY k over k.
        everyone = rule.confirmations >= len(names) and "*" not in names
        method = "ANY" if everyone else rule.method
        return (method, rule.confirmations, tuple(sorted(names)) if method == "ANY" else tuple(names))

    return shape(a) == shape(b)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How many of the members that confirm now may still be lost. Negative: already that many too few."""

    for_writes: int
    for_failover: int


def tolerance(rule: SyncRule, members: int, confirming: int) -> Tolerance:
    """`members` = n, those the rule can ever match; `confirming` = those that are connected and in step."""
    must_cut = members - rule.confirmations + 1
    return Tolerance(for_writes=confirming - rule.confirmations, for_failover=confirming - must_cut)
