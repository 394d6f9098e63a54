"""Metrics as text: OpenMetrics, and the older text format of Prometheus, which node_exporter's files have.

https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from replctl.core.metrics.families import Family, Kind, Samples


class Format(StrEnum):
    """How metrics are written."""

    OPENMETRICS = "openmetrics"
    TEXT = "text"


CONTENT_TYPES = {
    Format.OPENMETRICS: "application/openmetrics-text; version=1.0.0; charset=utf-8",
    Format.TEXT: "text/plain; version=0.0.4; charset=utf-8",
}
"""The Content-Type of each format."""

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def render(samples: Iterable[Samples], form: Format) -> str:
    """The text of these families, with the newline at its end. No sample has a timestamp."""
    lines: list[str] = []
    for family, values in samples:
        lines += _heading(family, form)
        name, labels = family.name, family.labels
        if labels:
            heads = [f'{label}="' for label in labels]
            for found, value in values:
                inside = '",'.join([head + _escaped(text) for head, text in zip(heads, found, strict=True)])
                lines.append(f'{name}{{{inside}"}} {_number(value)}')
        else:
            lines += [f"{name} {_number(value)}" for _, value in values]
    if form is Format.OPENMETRICS:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _heading(family: Family, form: Format) -> list[str]:
    if form is Format.OPENMETRICS:
        found = [f"# TYPE {family.base} {family.kind}"]
        if family.unit is not None:
            found.append(f"# UNIT {family.base} {family.unit}")
        return [*found, f"# HELP {family.base} {_escaped(family.help)}"]
    kind = Kind.GAUGE if family.kind is Kind.INFO else family.kind
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    return [f"# HELP {family.name} {text}", f"# TYPE {family.name} {kind}"]


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES) if "\\" in text or '"' in text or "\n" in text else text


def _number(value: float) -> str:
    """Whole numbers without a fraction; nothing is rounded."""
    return str(int(value)) if isinstance(value, int) or value.is_integer() else repr(value)
