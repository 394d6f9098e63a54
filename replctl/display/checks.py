"""What `check` prints: plugin output by default, a table for people, documents for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from replctl.core.checks import CHECKS
from replctl.core.results import CheckResult, Metric, Status, worst
from replctl.core.thresholds import THRESHOLD_KEYS
from replctl.display.plugin import one_line, performance, plugin_output
from replctl.display.serialize import to_csv, to_json, to_yaml

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One cluster: the results that were asked for, and the status that counts."""

    cluster: str
    nodes: int  # how many were looked at
    results: tuple[CheckResult, ...]
    status: Status


def render_outcomes(outcomes: Sequence[Outcome], form: str, notes: Sequence[str] = ()) -> str:
    """The whole output in one of the formats of `check`. `notes` are for plugin output and the table."""
    if form == "nagios":
        return _plugin(outcomes, notes)
    if form in ("json", "yaml"):
        documents = [_document(o) for o in outcomes]
        whole: Any = (
            documents[0] if len(documents) == 1 else {"schema_version": SCHEMA_VERSION, "clusters": documents}
        )
        return to_json(whole) if form == "json" else to_yaml(whole)
    rows = [_row(o, r) for o in outcomes for r in o.results]
    if form == "csv":
        return to_csv(rows, ["cluster", "name", "node", "status", "message", "hint"])
    if form == "name":
        return "\n".join(dict.fromkeys(r["name"] for r in rows if r["status"] != Status.OK.name))
    table = _table(rows, several=len(outcomes) > 1, wide=form == "wide")
    return "\n".join([table, *(f"note: {note}" for note in notes)])


def render_list(form: str, names: Iterable[str] = ()) -> str:
    """Every check, or the named ones, with the defaults of its thresholds."""
    wanted = set(names) or set(CHECKS)
    rows: list[dict[str, Any]] = [
        {
            "name": check.name,
            "of": check.of,
            "help": check.help,
            "thresholds": [
                {"key": key, "warning": THRESHOLD_KEYS[key].warning, "critical": THRESHOLD_KEYS[key].critical}
                for key in check.thresholds
            ],
        }
        for check in CHECKS.values()
        if check.name in wanted
    ]
    if form in ("json", "yaml"):
        document = {"schema_version": SCHEMA_VERSION, "checks": rows}
        return to_json(document) if form == "json" else to_yaml(document)
    if form == "csv":
        return to_csv(rows, ["name", "of", "help", "thresholds"])
    if form == "name":
        return "\n".join(row["name"] for row in rows)
    cells = [["CHECK", "OF", "THRESHOLDS (WARNING, CRITICAL)", "WHAT IS FINE"]]
    for row in rows:
        limits = "; ".join(f"{t['key']} {t['warning']}, {t['critical']}" for t in row["thresholds"])
        cells.append([row["name"], row["of"], limits or "-", row["help"]])
    return _aligned(cells)


def _plugin(outcomes: Sequence[Outcome], notes: Sequence[str]) -> str:
    """One plugin result; with several clusters each name stands before its messages and labels."""
    several = len(outcomes) > 1
    results = [_named(o.cluster, r) if several else r for o in outcomes for r in o.results]
    status = worst(o.status for o in outcomes)
    return plugin_output(status, results, nodes=sum(o.nodes for o in outcomes), notes=notes)


def _named(cluster: str, result: CheckResult) -> CheckResult:
    metrics = tuple(replace(m, label=f"{cluster}/{m.label}") for m in result.metrics)
    return replace(result, message=f"{cluster}: {result.message}", metrics=metrics)


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "cluster": outcome.cluster,
        "status": outcome.status.name,
        "code": int(outcome.status),
        "checks": [
            {
                "name": r.name,
                "node": r.node,
                "status": r.status.name,
                "message": r.message,
                "hint": r.hint,
                "metrics": [_metric(m) for m in r.metrics],
            }
            for r in outcome.results
        ],
    }


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        "label": metric.label,
        "value": metric.value,
        "unit": metric.unit.symbol,
        "warn": None if metric.warning is None else str(metric.warning) or None,
        "crit": None if metric.critical is None else str(metric.critical) or None,
    }


def _row(outcome: Outcome, result: CheckResult) -> dict[str, Any]:
    return {
        "cluster": outcome.cluster,
        "name": result.name,
        "node": result.node,
        "status": result.status.name,
        "message": result.message,
        "hint": result.hint,
        "perfdata": " ".join(performance(result.metrics)),
    }


def _table(rows: Sequence[dict[str, Any]], *, several: bool, wide: bool) -> str:
    """One line per result, worst first, hints below what is not fine; wide, also with the numbers."""
    columns = ["status", *(["cluster"] if several else []), "name", "node", "message"]
    columns += ["perfdata"] if wide else []
    heads = {"name": "CHECK"}
    ordered = sorted(rows, key=lambda r: -Status[r["status"]].rank)
    cells = [[heads.get(column, column.upper()) for column in columns]]
    cells += [[one_line(row[column] or "-") for column in columns] for row in ordered]
    lines = _aligned(cells).split("\n")
    out = lines[:1]
    for row, line in zip(ordered, lines[1:], strict=True):
        out.append(line)
        if row["hint"]:
            out.append(f"          hint: {one_line(row['hint'])}")
    return "\n".join(out)


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the last one is as it is."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in cells
    )
