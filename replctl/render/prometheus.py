"""Rules for Prometheus: recording and alert rules of every cluster, from the inventory's thresholds.

https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from replctl.core.metrics import families as f
from replctl.core.settings import ClusterSettings
from replctl.render.alerts import WARNING, Alert, Record, Scope
from replctl.render.cluster_alerts import primary_alerts, sync_alerts, watching_alerts
from replctl.render.node_alerts import (
    clock_alerts,
    lag_alerts,
    reach_alerts,
    read_alerts,
    recorded_lag,
    state_alerts,
)
from replctl.render.promql import quoted, series
from replctl.render.rendered import Rendered
from replctl.render.storage_alerts import archive_alerts, headroom_alerts, retained_alerts, slot_alerts

Rule = Alert | Record
Plan = tuple[tuple[str | None, tuple[Rule, ...]], ...]
"""Group by group: its cluster, None = of all, and its rules."""

_MAKERS = (
    primary_alerts,
    watching_alerts,
    sync_alerts,
    reach_alerts,
    state_alerts,
    lag_alerts,
    read_alerts,
    slot_alerts,
    retained_alerts,
    headroom_alerts,
    archive_alerts,
    clock_alerts,
)
HEAD = """\
# Written by replctl render-prometheus from the inventory's thresholds: what is changed here is lost.
# rule_files: of prometheus.yml has to name this file.
"""


def render(clusters: Iterable[ClusterSettings]) -> Rendered[Plan]:
    """The rule file of these clusters."""
    plan = (*((settings.name, _rules(settings)) for settings in clusters), (None, tuple(_own())))
    lines = ["groups:"]
    for cluster, rules in plan:
        lines += [f"  - name: {quoted(f'replctl {cluster}' if cluster else 'replctl')}", "    rules:"]
        for rule in rules:
            lines += _lines(rule, cluster)
    return Rendered(text=HEAD + "\n".join(lines) + "\n", plan=plan)


def _rules(settings: ClusterSettings) -> tuple[Rule, ...]:
    scope = Scope(settings)
    alerts = (alert for make in _MAKERS for alert in make(scope))
    return (*recorded_lag(scope), *alerts)


def _own() -> Iterator[Rule]:
    yield Alert(
        name="ReplctlRunFailed",
        expr=f"{series(f.LAST_RUN_SUCCESS)} == 0",
        for_s=900,
        severity=WARNING,
        summary="replctl cannot tell about every cluster",
        description="An inventory cannot be used, or a cluster has no node that answers. `replctl config "
        "validate` and `replctl status` say which.",
    )


def _lines(rule: Rule, cluster: str | None) -> list[str]:
    """A rule as YAML. Its texts are strings of JSON, which YAML reads as they are."""
    # Also of an expression whose result has none, and so that no two rules are the same but for that.
    of = [f"          cluster: {quoted(cluster)}"] if cluster is not None else []
    if isinstance(rule, Record):
        return [f"      - record: {rule.name}", f"        expr: {quoted(rule.expr)}", "        labels:", *of]
    held = [f"        for: {_duration(rule.for_s)}"] if rule.for_s else []
    return [
        f"      - alert: {rule.name}",
        f"        expr: {quoted(rule.expr)}",
        *held,
        "        labels:",
        *of,
        f"          severity: {rule.severity}",
        "        annotations:",
        f"          summary: {quoted(rule.summary)}",
        f"          description: {quoted(rule.description)}",
    ]


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms" if seconds != int(seconds) else f"{int(seconds)}s"
