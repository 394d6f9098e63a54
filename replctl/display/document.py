"""The JSON document of `status`: one report as plain values.

Every key is always there. `null` is unknown or not applicable, never 0; sizes are bytes, times seconds,
positions text as PostgreSQL writes them. docs/dashboard.md describes each key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from replctl.core.automation import Automation, Controller, automation
from replctl.core.model import Lsn, Slot
from replctl.core.report import Report
from replctl.core.results import CheckResult
from replctl.core.status import NodeStatus

SCHEMA_VERSION = 1
Document = dict[str, Any]


def status_document(reports: Sequence[Report]) -> Document:
    """What `status -o json` gives: one cluster by itself, several as `clusters[]`."""
    if len(reports) == 1:
        return {"schema_version": SCHEMA_VERSION, **_cluster(reports[0])}
    return {"schema_version": SCHEMA_VERSION, "clusters": [_cluster(report) for report in reports]}


def _cluster(report: Report) -> Document:
    status, now = report.status, automation(report.status)
    return {
        "cluster": status.settings.name,
        "system_identifier": status.system_identifier,
        "observed_at": iso_time(status.observed_at),
        "took_s": _rounded(status.took_s),
        "verdict": report.verdict.name.lower(),
        "diagnosis": {"code": str(report.diagnosis.code), "evidence": list(report.diagnosis.evidence)},
        "primary": status.primary,
        "automatic_failover": automatic_failover(now),
        "controllers": [_controller(found) for found in now.controllers],
        "witnesses": [{"name": w.name, "reachable": w.reachable} for w in status.witnesses],
        "sync": {
            "configured": status.sync.configured,
            "expected": status.sync.expected,
            "matches": status.sync.matches,
            "tolerated_replica_losses_for_writes": status.sync.tolerated_replica_losses_for_writes,
            "tolerated_replica_losses_for_failover": status.sync.tolerated_replica_losses_for_failover,
        },
        "nodes": [node_document(node) for node in status.nodes],
        "problems": [_problem(result) for result in report.problems],
    }


def automatic_failover(now: Automation) -> Document:
    """What acts by itself on this cluster, and which losses that covers."""
    losses = ("process_death", "host_death", "partition")
    covers = {loss: getattr(now.covers, loss) for loss in losses}
    return {
        "state": str(now.state),
        "until": None if now.until_at is None else iso_time(now.until_at),
        "reason": now.reason,
        "covers": {loss: {"yes": found.yes, "reason": found.reason} for loss, found in covers.items()},
    }


def _controller(found: Controller) -> Document:
    since = None if found.since_at is None else iso_time(found.since_at)
    return {"host": found.host, "pid": found.pid, "node": found.node, "since": since}


def node_document(node: NodeStatus) -> Document:
    """One entry of `nodes[]`."""
    return {
        "name": node.name,
        "host": node.host,
        "port": node.port,
        "zone": node.zone,
        "reachable": node.reachable,
        "error": None if node.cause is None else {"cause": str(node.cause), "message": node.message},
        "role": _text(node.role),
        "state": str(node.state),
        "timeline": node.timeline,
        "upstream": node.upstream,
        "sync_state": node.sync_state,
        "lag_bytes": node.lag.lag_bytes,
        "transport_lag_bytes": node.lag.transport_lag_bytes,
        "apply_lag_bytes": node.lag.apply_lag_bytes,
        "lag_s": _rounded(node.lag_s),
        "lag_source": _text(node.lag_source),
        "lag_bound": _text(node.lag_bound),
        "lag_trend_bytes_per_s": _rounded(node.lag_trend_bytes_per_s),
        "write_lsn": _lsn(node.write_lsn),
        "received_lsn": _lsn(node.received_lsn),
        "replayed_lsn": _lsn(node.replayed_lsn),
        "replay_paused": node.replay_paused,
        "apply_delay_s": _rounded(node.apply_delay_s),
        "slot": _slot(node.slot),
        "routing": {"in_pool": node.in_pool, "reason": node.routing_reason},
        "server_version": node.server_version,
        "clock_skew_s": _rounded(node.clock_skew_s),
        "round_trip_s": _rounded(node.round_trip_s),
    }


def node_rows(reports: Iterable[Report]) -> list[Document]:
    """Every node flat, for CSV: the cluster and the moment first, `slot.name` for what is nested."""
    return [
        {
            "cluster": report.status.settings.name,
            "observed_at": iso_time(report.status.observed_at),
            **flat(node_document(node)),
        }
        for report in reports
        for node in report.status.nodes
    ]


_NESTED = {
    "error": ("cause", "message"),
    "slot": ("name", "active", "retained_bytes", "wal_status"),
    "routing": ("in_pool", "reason"),
}


def flat(document: Document) -> Document:
    """Nested values beside the others. The columns are the same where a value is null."""
    flat: Document = {}
    for key, value in document.items():
        if key in _NESTED:
            flat |= {f"{key}.{inner}": value[inner] if value else None for inner in _NESTED[key]}
        else:
            flat[key] = value
    return flat


def _slot(slot: Slot | None) -> Document | None:
    if slot is None:
        return None
    return {
        "name": slot.name,
        "active": slot.active,
        "retained_bytes": slot.retained_bytes,
        "wal_status": slot.wal_status,
    }


def _problem(result: CheckResult) -> Document:
    return {
        "severity": result.status.name.lower(),
        "code": result.code,
        "node": result.node,
        "message": result.message,
        "hint": result.hint,
    }


def iso_time(unix_s: float) -> str:
    """`2030-01-31T12:00:00.123Z`, always UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rounded(value: float | None) -> float | None:
    """To the microsecond: more digits are the noise of floating point."""
    return None if value is None else round(value, 6)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _lsn(value: Lsn | None) -> str | None:
    return None if value is None else str(value)
