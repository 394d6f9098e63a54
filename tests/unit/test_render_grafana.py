"""The dashboard: what it asks for exists, thresholds are the checks', Prometheus reads it all."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

from replctl.core.metrics import BY_NAME
from replctl.core.settings import CheckSettings, Thresholds
from replctl.render.grafana import render
from replctl.render.rendered import mark_of
from tests.promql import asked
from tests.promtool import accept_rules
from tests.unit.builders import settings

# What Grafana puts in the place of its own variables, and of ours.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$cluster": "orders", "$node": "pg1|pg2"}


def dashboard(**checks: Thresholds) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render([settings(checks=CheckSettings(thresholds=dict(checks)))]).text)
    return found


def expressions(document: dict[str, Any]) -> list[str]:
    found = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    return found + [one["expr"] for one in document["annotations"]["list"]]


def test_every_expression_asks_for_exported_metrics_by_labels_they_have() -> None:
    for expression in expressions(dashboard()):
        found = asked(expression)
        assert found.metrics, expression
        for name, labels in found.metrics:
            assert name in BY_NAME, expression
            assert labels <= set(BY_NAME[name].labels), expression
            assert "cluster" in labels, f"not of the chosen cluster: {expression}"
        assert found.grouped <= {"cluster", "node"}


def test_every_legend_names_labels_that_its_series_have() -> None:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            found = asked(target["expr"])
            has = found.grouped or {label for name, _ in found.metrics for label in BY_NAME[name].labels}
            assert labels <= has, target


def test_the_variables_are_filled_from_exported_metrics() -> None:
    variables = dashboard()["templating"]["list"]
    assert [(one["name"], one["query"]) for one in variables] == [
        ("datasource", "prometheus"),
        ("cluster", "label_values(replctl_cluster_status, cluster)"),
        ("node", 'label_values(replctl_node_up{cluster=~"$cluster"}, node)'),
    ]


def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    rules = []
    for number, expression in enumerate(expressions(dashboard())):
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        rules.append({"record": f"panel:{number}", "expr": expression})
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    accept_rules(file)


def _steps(document: dict[str, Any], title: str) -> list[tuple[str, float | None]]:
    (panel,) = (panel for panel in document["panels"] if panel["title"] == title)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return [(step["color"], step["value"]) for step in steps]


def test_thresholds_are_those_of_the_checks() -> None:
    document = dashboard(lag_s=Thresholds(warning="10s", critical="never"))
    assert _steps(document, "Lag") == [("green", None), ("orange", 10.0)]
    assert _steps(document, "Lag in WAL") == [("green", None), ("orange", 16 << 20), ("red", 1 << 30)]
    assert _steps(document, "WAL kept by slots") == [("green", None), ("orange", 1 << 30), ("red", 10 << 30)]
    assert _steps(document, "Clock skew") == [("green", None), ("orange", 2.0), ("red", 10.0)]


def test_clusters_with_different_thresholds_share_no_line() -> None:
    other = CheckSettings(thresholds={"lag_s": Thresholds(warning="1s", critical="2s")})
    document = json.loads(render([settings(), settings(name="users", checks=other)]).text)
    assert _steps(document, "Lag") == [("green", None)]
    assert _steps(document, "Lag in WAL") == [("green", None), ("orange", 16 << 20), ("red", 1 << 30)]


def test_no_panel_lies_on_another_and_each_has_its_number() -> None:
    panels = dashboard()["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        across = range(place["x"], place["x"] + place["w"])
        cells = set(itertools.product(across, range(place["y"], place["y"] + place["h"])))
        assert max(across) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_an_unknown_value_is_a_gap() -> None:
    graphs = [panel for panel in dashboard()["panels"] if panel["type"] == "timeseries"]
    assert graphs
    assert {panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] for panel in graphs} == {False}


def test_the_first_line_tells_a_rendered_dashboard_from_another() -> None:
    said = '{ "description": "Written by replctl render-grafana: what is changed here is lost.",'
    assert mark_of(render([settings()]).text) == said
