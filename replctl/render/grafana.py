"""A dashboard for Grafana, in the classic JSON model that every release since 8 imports.

Panels show the thresholds of the checks where all clusters have the same.
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from replctl.core.metrics import families as f
from replctl.core.settings import ClusterSettings
from replctl.core.thresholds import THRESHOLD_KEYS, parse_range
from replctl.render.panels import Panel, of, panels
from replctl.render.promql import series
from replctl.render.rendered import Rendered

UID = "replctl-clusters"
SCHEMA_VERSION = 36  # Grafana 8.5
WIDTH = 24
GENERATED = "Written by replctl render-grafana: what is changed here is lost."
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def render(clusters: Sequence[ClusterSettings]) -> Rendered[tuple[Panel, ...]]:
    """The dashboard for these clusters."""
    plan = panels()
    document = {
        "uid": UID,
        "title": "PostgreSQL replication",
        "tags": ["postgresql", "replctl"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "templating": {"list": _variables()},
        "annotations": {"list": [_annotation()]},
        "panels": list(_placed(plan, clusters)),
    }
    # The first line says whose file it is, as in every file that is rendered; JSON has no comments.
    body = json.dumps(document, indent=2).removeprefix("{\n")
    return Rendered(text=f'{{ "description": {json.dumps(GENERATED)},\n{body}\n', plan=plan)


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    found = [source]
    for name, label, query in (
        ("cluster", "Cluster", f"label_values({f.CLUSTER_STATUS.name}, cluster)"),
        ("node", "Node", f"label_values({series(f.UP, 'cluster=~' + json.dumps('$cluster'))}, node)"),
    ):
        variable: dict[str, Any] = {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _SOURCE,
            "query": query,
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "current": {"text": "All", "value": "$__all"},
        }
        found.append(variable)
    return found


def _annotation() -> dict[str, Any]:
    """A mark where another node took over."""
    return {
        "name": "Failovers",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f"changes({of(f.FAILOVERS)}[2m]) > 0",
        "step": "60s",
        "titleFormat": "Failover of {{cluster}}",
    }


def _placed(plan: Iterable[Panel], clusters: Sequence[ClusterSettings]) -> Iterable[dict[str, Any]]:
    """The panels from left to right, and down."""
    x = y = below = 0
    for number, panel in enumerate(plan, 1):
        if x + panel.width > WIDTH:
            x, y = 0, below
        place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
        x, below = x + panel.width, max(below, y + panel.height)
        yield {"id": number, "gridPos": place, **_panel(panel, clusters)}


def _panel(panel: Panel, clusters: Sequence[ClusterSettings]) -> dict[str, Any]:
    steps = _steps(panel.threshold, clusters) if panel.threshold else []
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": [{"color": "green", "value": None}, *steps]},
        "mappings": [_mapping(panel)] if panel.words else [],
    }
    if panel.kind == "timeseries":
        style = "line" if steps else "off"
        defaults["custom"] = {"spanNulls": False, "thresholdsStyle": {"mode": style}}  # unknown is a gap
    instant = panel.kind in ("stat", "table")
    form = "table" if panel.kind == "table" else "time_series"
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "instant": instant,
                "range": not instant,
                "format": form,
            }
            for number, query in enumerate(panel.queries)
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        mode = "background" if panel.words else "none"
        return {"colorMode": mode, "reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name"}
    if panel.kind == "timeseries":
        return {"tooltip": {"mode": "multi"}, "legend": {"showLegend": True, "placement": "bottom"}}
    return {}


def _mapping(panel: Panel) -> dict[str, Any]:
    words = {value: {"text": text, "color": color} for value, text, color in panel.words}
    return {"type": "value", "options": words}


def _steps(key: str, clusters: Sequence[ClusterSettings]) -> list[dict[str, Any]]:
    """Where a check warns and is critical; nothing where clusters differ, or there is no upper limit."""
    unit = THRESHOLD_KEYS[key].unit
    given = {(one.thresholds(key).warning, one.thresholds(key).critical) for one in clusters}
    if len(given) != 1:
        return []
    texts = given.pop()
    ranges = [parse_range(text, unit) for text in texts]
    return [
        {"color": color, "value": allowed.high}
        for color, allowed in zip(("orange", "red"), ranges, strict=True)
        if allowed.high != float("inf") and not allowed.inverted
    ]
