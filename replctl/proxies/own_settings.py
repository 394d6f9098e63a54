"""PgBouncer's own settings beside those of the file, where that has a [pgbouncer] section (--full)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from replctl.proxies.console import ask
from replctl.render import ini

SECTION = "pgbouncer"
# Replctl itself sets it for a moment after a failover, and the next RELOAD takes it back.
_PASSING = frozenset({"server_login_retry"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """What differs, as sentences: what a RELOAD mends, and what only a restart does."""

    reload: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)


async def settings_apart(door: str, text: str) -> Apart:
    """How what SHOW CONFIG shows is not the file's [pgbouncer] section. Raises ReplctlError."""
    wanted = {line.key: line.value for line in ini.read(text) if line.section == SECTION}
    apart = Apart()
    if not wanted:
        return apart
    rows = {str(row["key"]): row for row in await ask(door, "SHOW CONFIG")}
    for key, value in wanted.items():
        if key in _PASSING or key not in rows:
            continue
        shown = "" if rows[key]["value"] is None else str(rows[key]["value"])
        if _plain(shown) != _plain(value):
            fixed = str(rows[key].get("changeable")) == "no"
            sentence = f"{key} is {shown or 'not set'}, not {value}"
            (apart.restart if fixed else apart.reload).append(sentence)
    return apart


def _plain(value: str) -> str:
    """A list with or without blanks after its commas is the same."""
    return re.sub(r" *, *", ",", value.strip())
