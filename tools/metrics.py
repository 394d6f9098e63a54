"""The generated parts of docs/metrics.md: every metric from the registry, every alert from the rules."""

from __future__ import annotations

from replctl.core.metrics import FAMILIES
from replctl.core.settings import ClusterSettings, NodeSpec
from replctl.render.alerts import Alert
from replctl.render.prometheus import render

METRICS = ("<!-- metrics: begin, made from replctl/core/metrics/families.py -->", "<!-- metrics: end -->")
ALERTS = ("<!-- alerts: begin, made from replctl/render/prometheus.py -->", "<!-- alerts: end -->")


def document(text: str) -> str:
    """The page with its two generated tables made anew. Raises ValueError without marks."""
    return _between(_between(text, METRICS, _metrics()), ALERTS, _alerts())


def _between(text: str, marks: tuple[str, str], content: str) -> str:
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError("the marks of a generated part are missing")
    return f"{before}{begin}\n\n{content}\n{end}{after}"


def _metrics() -> str:
    rows = [(f"`{one.name}`", ", ".join(one.labels) or "–", one.help) for one in FAMILIES]
    return _table(("metric", "labels", "what"), rows)


def _alerts() -> str:
    """With the thresholds that an inventory has by default."""
    settings = ClusterSettings(
        name="orders", nodes=(NodeSpec(name="pg1", host="pg1", application_name="pg1"),)
    )
    found: dict[str, list[Alert]] = {}
    for _, rules in render([settings]).plan:
        for rule in rules:
            if isinstance(rule, Alert):
                found.setdefault(rule.name, []).append(rule)
    rows = []
    for name, alerts in found.items():
        held = f"{alerts[0].for_s:g} s" if alerts[0].for_s else "at once"
        summary = alerts[0].summary.replace("{{ $labels.node }}", "NODE").replace("orders", "CLUSTER")
        summary = summary.replace("{{ $labels.slot_name }}", "SLOT").replace("{{ $labels.replica }}", "NODE")
        summary = summary.split("{{")[0].strip() + (" …" if "{{" in summary else "")
        rows.append((f"`{name}`", ", ".join(alert.severity for alert in alerts), held, summary))
    return _table(("alert", "severity", "after", "says"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
