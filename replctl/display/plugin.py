"""The output of `check` as monitoring plugins write it: one line for a pager, the details, the numbers.

https://www.monitoring-plugins.org/doc/guidelines.html#PLUGOUTPUT
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from replctl.core.results import CheckResult, Metric, Status
from replctl.core.thresholds import Unit

FIRST_LINE_CHARACTERS = 79
SERVICE = "REPL"
# The least and the greatest value that a graph of the unit needs to show.
_BOUNDS = {Unit.BYTES: "0;", Unit.SECONDS: "0;", Unit.PERCENT: "0;100"}


def plugin_output(
    status: Status, results: Sequence[CheckResult], *, nodes: int, notes: Sequence[str] = ()
) -> str:
    """The first line with performance data, then a line per problem with its hint, worst first.

    `status` is the one that counts, `nodes` how many were looked at; `notes` come last.
    """
    numbers = " ".join(performance(m for r in results for m in r.metrics))
    lines = [first_line(status, _summary(status, results, nodes), numbers)]
    for problem in _worst_first(results, status):
        lines.append(one_line(f"{problem.status.name} {problem.name}: {problem.message}"))
        if problem.hint:
            lines.append(one_line(f"HINT: {problem.hint}"))
    lines += [one_line(f"NOTE: {note}") for note in notes]
    return "\n".join(lines)


def first_line(status: Status, summary: str, numbers: str = "") -> str:
    """`REPL CRITICAL: … | …`: less than 80 characters before the performance data."""
    head = f"{SERVICE} {status.name}: "
    text = head + _shortened(one_line(summary), FIRST_LINE_CHARACTERS - len(head))
    return f"{text} | {numbers}" if numbers else text


def one_line(text: str) -> str:
    """Printable, and without `|`, which begins performance data and so cannot stand in a text."""
    plain = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    return plain.replace("|", "/").strip()


def _worst_first(results: Iterable[CheckResult], status: Status) -> list[CheckResult]:
    """What is not OK. First what made the status that counts: it is the reason for the exit code."""
    problems = [r for r in results if r.status is not Status.OK]
    return sorted(problems, key=lambda r: (r.status is not status, -r.status.rank))


def _summary(status: Status, results: Sequence[CheckResult], nodes: int) -> str:
    """The worst finding in words and how many more there are; or what is fine."""
    problems = _worst_first(results, status)
    room = FIRST_LINE_CHARACTERS - len(f"{SERVICE} {status.name}: ")
    if status is not Status.OK and problems:
        more = f" (+{len(problems) - 1} more)" if len(problems) > 1 else ""
        return _shortened(one_line(problems[0].message), room - len(more)) + more
    checks = len({r.name for r in results})
    if checks == 1 and not problems:
        return _listed([one_line(r.message) for r in results], room)
    passed = len({r.name for r in results} - {r.name for r in problems})
    counted = f"{passed} of {checks} checks" if problems else f"{checks} checks"
    return f"{counted} of {nodes} node{'' if nodes == 1 else 's'} are fine"


def _listed(messages: Sequence[str], room: int) -> str:
    """As many of the messages as there is room for."""
    for count in range(len(messages), 0, -1):
        rest = len(messages) - count
        text = "; ".join(messages[:count]) + (f" (+{rest} more)" if rest else "")
        if len(text) <= room:
            return text
    return messages[0]


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 3].rstrip() + "..."


def performance(metrics: Iterable[Metric]) -> list[str]:
    """`label=value[UOM];warn;crit;min;max` of each, with U for unknown and no label twice."""
    found: dict[str, str] = {}
    for metric in metrics:
        # Quotes, = and spaces cannot stand in a plain label; other letters trouble some databases.
        plain = label = re.sub(r"[^A-Za-z0-9_./:%-]", "_", metric.label) or "_"
        number = 2
        while label in found:
            label, number = f"{plain}_{number}", number + 1
        known = metric.value is not None and math.isfinite(metric.value)
        value = _number(metric.value or 0.0) + metric.unit.symbol if known else "U"
        ranges = ["" if r is None else str(r) for r in (metric.warning, metric.critical)]
        found[label] = ";".join([value, *ranges, _BOUNDS.get(metric.unit, "")]).rstrip(";")
    return [f"{label}={data}" for label, data in found.items()]


def _number(value: float) -> str:
    """Plain decimal digits: the guidelines allow no exponent."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
