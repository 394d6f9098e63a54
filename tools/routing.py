"""The generated part of docs/routing.md: every reason, from the two closed sets."""

from __future__ import annotations

from replctl.core.routing import Fitness, Reason

BEGIN = "<!-- reasons: begin, made from replctl/core/routing/reasons.py -->"
END = "<!-- reasons: end -->"


def document(text: str) -> str:
    """The page with the part between its two marks made anew. Raises ValueError without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the marks of the generated part are missing")
    decisions = _table("reason of a decision", [(r.value, r.sentence) for r in Reason])
    nodes = _table("reason of a node", [(f.value, f.sentence) for f in Fitness])
    return f"{before}{BEGIN}\n\n{decisions}\n{nodes}\n{END}{after}"


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| `{word}` | {sentence} |\n" for word, sentence in rows]
    return f"| {title} | meaning |\n|---|---|\n{''.join(lines)}"
