"""What the dashboard shows in the place of its table: the keys, and everything about one node."""

from __future__ import annotations

from typing import Any

from replctl.core.report import Report
from replctl.core.units import format_bytes, format_duration
from replctl.display.columns import Row, format_age
from replctl.display.document import flat, node_document
from replctl.display.keys import BINDINGS
from replctl.display.overview import problem_lines
from replctl.display.style import BOLD, DIM, Line, Medium, Span, wrapped


def help_lines(medium: Medium) -> list[Line]:
    """Every key, and how to read the table."""
    lines: list[Line] = []
    names = [", ".join(binding.keys) for binding in BINDINGS]
    indent = max(len(name) for name in names) + 2
    for name, binding in zip(names, BINDINGS, strict=True):
        lines.append((Span(f"{name:<{indent}}", BOLD), Span(binding.help)))
    lines.append(())
    glyphs = medium.glyphs
    legend = (
        f"{glyphs.ok} OK  {glyphs.warning} WARNING  {glyphs.critical} CRITICAL  {glyphs.unknown} UNKNOWN",
        "-  nothing to know      ?  not known      (x)  last known, the node does not answer",
        f"{glyphs.at_least} at least  {glyphs.at_most} at most: what the servers told allows no exact number",
        f"{glyphs.rising} the lag grows  {glyphs.falling} it shrinks  {glyphs.steady} neither",
        "ETA: when the lag will be gone if it goes on shrinking like this",
        "LAG HISTORY: the last 20 looks, and their maximum, which is the top of the scale",
        "No key changes anything on a server.",
    )
    for text in legend:
        lines += wrapped(text, medium.width)
    return lines


def detail_lines(row: Row, report: Report, medium: Medium) -> list[Line]:
    """All that is known of one node: its problems, then each fact under its name in the JSON document."""
    own = [p for p in report.problems if p.node == row.node.name]
    lines: list[Line] = [(Span(row.node.name, BOLD),)]
    lines += [*problem_lines(own, medium), ()] if own else [()]
    shown, note = row.node, ""
    if row.last is not None and row.silent_s is not None:
        shown, note = row.last, f"last known, {format_age(row.silent_s)} ago"
        lines += [(Span(f"state {row.node.state}: {row.node.message}"),), (Span(note, BOLD),)]
    facts = flat(node_document(shown))
    if shown.sender is not None:
        facts["sender.application_name"] = shown.sender.application_name
        facts["sender.state"] = shown.sender.state
        facts["sender.reply_age_s"] = shown.sender.reply_age_s
    if shown.facts is not None and shown.facts.receiver is not None:
        facts["receiver.status"] = shown.facts.receiver.status
        facts["receiver.last_message_age_s"] = shown.facts.receiver.last_message_age_s
    indent = max(len(key) for key in facts) + 2
    for key, value in facts.items():
        if value is None:
            lines.append((Span(f"{key:<{indent}}null", DIM),))
            continue
        first, *more = wrapped(
            _shown(key, value), None if medium.width is None else max(8, medium.width - indent)
        )
        lines.append((Span(f"{key:<{indent}}", DIM), *first))
        lines += [(Span(" " * indent), *line) for line in more]
    return lines


def _shown(key: str, value: Any) -> str:
    """A value for people: with its unit, and the plain number beside it where that was rounded."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("bytes_per_s"):
        return f"{format_bytes(round(value))}/s"
    if key.endswith("_bytes"):
        return f"{format_bytes(value)} ({value})" if abs(value) >= 1024 else format_bytes(value)
    if key.endswith("_s"):
        return format_duration(value)
    return str(value)
