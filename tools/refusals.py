"""The generated part of docs/failover.md: every reason for which a failover is refused, from the registry."""

from __future__ import annotations

from replctl.core.refusals import REFUSALS

BEGIN = "<!-- refusals: begin, made from replctl/core/refusals.py -->"
END = "<!-- refusals: end -->"


def document(text: str) -> str:
    """The page with the part between its two marks made anew. Raises ValueError without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the marks of the table of refusals are missing")
    return f"{before}{BEGIN}\n\n{_table()}\n{END}{after}"


def _table() -> str:
    rows = (f"| `{code}` | {said.meaning} | {said.remedy} |\n" for code, said in REFUSALS.items())
    return f"| code | what it means | what to do |\n|---|---|---|\n{''.join(rows)}"
