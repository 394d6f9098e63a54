"""From reports to samples. What is not known has no sample, and is never 0.

States are one sample for each state there is, 0 or 1, so that a series does not end when a state does.
No process number, LSN or changing text is the label of a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from replctl.core.automation import State, automation
from replctl.core.diagnose import Code
from replctl.core.metrics import families as f
from replctl.core.metrics.families import FAMILIES, Family, Found, Samples, Value
from replctl.core.metrics.nodes import node_samples
from replctl.core.metrics.storage import storage_samples
from replctl.core.report import Report
from replctl.core.results import Status, worst
from replctl.core.status import ClusterStatus, NodeState, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is to be said of the run that looked, besides what it saw."""

    version: str
    at: float  # Unix time
    took_s: float
    success: bool
    failovers: Mapping[str, int] = field(default_factory=dict)  # by cluster; absent where not known
    writers: Mapping[str, str | None] = field(default_factory=dict)  # the same; None = there is none


def collect(reports: Iterable[Report], run: Run) -> list[Samples]:
    """Every family that has a sample, in the order of the registry."""
    values: dict[Family, list[Value]] = {family: [] for family in FAMILIES}
    sources: list[Found] = []
    for report in reports:
        cluster = report.status.settings.name
        sources += [_cluster(report), _checks(report), _failovers(cluster, run), _writes(report, run)]
        sources += [node_samples(report.status), storage_samples(report.status)]
    for source in (*sources, _run(run)):
        for family, labels, value in source:
            if value is not None:
                values[family].append((labels, value))
    return [(family, found) for family, found in values.items() if found]


def _run(run: Run) -> Found:
    yield f.BUILD_INFO, (run.version,), 1
    yield f.LAST_RUN_AT, (), run.at
    yield f.LAST_RUN_DURATION, (), run.took_s
    yield f.LAST_RUN_SUCCESS, (), run.success


def _failovers(cluster: str, run: Run) -> Found:
    yield f.FAILOVERS, (cluster,), run.failovers.get(cluster)


def _writes(report: Report, run: Run) -> Found:
    cluster = report.status.settings.name
    for node in report.status.nodes if cluster in run.writers else ():
        yield f.WRITE_TARGET, (cluster, node.name), node.name == run.writers[cluster]


def _cluster(report: Report) -> Found:
    status, of = report.status, (report.status.settings.name,)
    yield f.PRIMARIES, of, _primaries(report)
    yield f.NODES_EXPECTED, of, len(status.nodes)
    yield f.CLUSTER_STATUS, of, report.verdict
    for code in Code:
        yield f.DIAGNOSIS, (*of, code), code is report.diagnosis.code
    yield f.OBSERVED_AT, of, status.observed_at
    yield f.OBSERVATION, of, status.took_s
    yield from _sync(status, of)
    now = automation(status)
    for state in State:
        yield f.AUTOMATIC, (*of, state), state is now.state
    yield f.CONTROLLERS, of, len(now.controllers) if status.state.facts else None
    for witness in status.witnesses:
        yield f.WITNESS_UP, (*of, witness.name), witness.reachable


def _primaries(report: Report) -> int | None:
    """None where the check cannot tell whether a silent node is one."""
    nodes = report.status.nodes
    found = sum(n.role is Role.PRIMARY and n.state is not NodeState.FENCED for n in nodes)
    unclear = any(r.name == "primary" and r.status is Status.UNKNOWN for r in report.results)
    return None if unclear else found


def _sync(status: ClusterStatus, of: tuple[str, ...]) -> Found:
    sync = status.sync
    yield f.SYNC_MATCHES, of, sync.matches
    if sync.configured:  # of asynchronous replication nothing is tolerated or not
        yield f.SYNC_TOLERATED, (*of, "writes"), sync.tolerated_replica_losses_for_writes
        yield f.SYNC_TOLERATED, (*of, "failover"), sync.tolerated_replica_losses_for_failover


def _checks(report: Report) -> Found:
    cluster = report.status.settings.name
    found: dict[tuple[str, str], Status] = {}
    for result in report.results:
        key = (result.node or "", result.name)
        found[key] = worst((found.get(key, Status.OK), result.status))
    for (node, name), status in found.items():
        yield f.CHECK_STATUS, (cluster, node, name), status
