"""The generated part of docs/checks.md: every check, from the registry."""

from __future__ import annotations

from replctl.core.checks import CHECKS, Check
from replctl.core.thresholds import THRESHOLD_KEYS

BEGIN = "<!-- checks: begin, made from replctl/core/checks -->"
END = "<!-- checks: end -->"
# A hint that begins with one of these is to be typed as it stands.
_PROGRAMS = {"replctl", "SELECT", "ALTER", "timedatectl"}
_OF = {
    "cluster": "the cluster as a whole",
    "node": "each node",
    "replica": "each replica",
    "primary": "the primary",
}


def document(text: str) -> str:
    """The page with the part between its two marks made anew. Raises ValueError without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the marks of the generated part are missing")
    return f"{before}{BEGIN}\n\n{_table()}\n{''.join(map(_section, CHECKS.values()))}{END}{after}"


def _table() -> str:
    rows = (f"| [`{c.name}`](#{c.name}) | {_OF[c.of]} | {_escaped(c.help)} |\n" for c in CHECKS.values())
    return f"| check | about | fine when |\n|---|---|---|\n{''.join(rows)}"


def _section(check: Check) -> str:
    hint = f"`{check.hint}`" if check.hint.split()[0] in _PROGRAMS else check.hint
    lines = [f"### {check.name}", "", check.meaning, "", f"Next: {hint}", ""]
    for key in check.thresholds:
        declared = THRESHOLD_KEYS[key]
        values = f'`["{declared.warning}", "{declared.critical}"]`'
        lines += [f"- `{key}`, default {values}: {declared.help}"]
    return "\n".join([*lines, *([""] if check.thresholds else []), ""])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
