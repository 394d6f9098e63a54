"""Routing as Prometheus metrics of the application's own process, where it has prometheus_client.

    metrics = metrics_of(monitor)     # None where there is no prometheus_client
    if metrics is not None:
        metrics.count(decision)       # for each read

| metric | labels | what |
|---|---|---|
| `db_read_route_total` | cluster, target, reason | reads by node (`none` = nowhere) and reason |
| `db_failover_total` | cluster | how often this process saw another node take over the writes |
| `db_replication_lag_seconds` | cluster, replica | lag at the last look; absent where it is not known |
| `replctl_route_in_pool` | cluster, node | 1 = it serves reads |
| `replctl_route_snapshot_age_seconds` | cluster | since the last look at which anybody answered |

Gauges are read from the newest snapshot when they are asked for; nothing is done for them in between.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from replctl.core.routing import Decision, Snapshot
from replctl.pg.monitor import Monitor

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric


def metrics_of(monitor: Monitor, registry: CollectorRegistry | None = None) -> RouteMetrics | None:
    """The metrics of a monitor, registered; None without prometheus_client.

    Raises ValueError where the registry has those of another monitor: give each its own registry.
    """
    try:
        import prometheus_client
    except ImportError:
        return None
    return RouteMetrics(monitor, prometheus_client.REGISTRY if registry is None else registry)


class RouteMetrics:
    """Counts decisions, and answers for the newest snapshot."""

    def __init__(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter

        self._monitor = monitor
        self._registry = registry
        reads, failovers = "reads by node and reason", "times that another node took over the writes"
        labels = ["cluster", "target", "reason"]
        self._reads = Counter("db_read_route", reads, labels, registry=registry)
        self._failovers = Counter("db_failover", failovers, ["cluster"], registry=registry)
        self._writer: str | None = None
        self._children: dict[tuple[str | None, str], Any] = {}
        self._failovers.labels(monitor.cluster)  # 0 rather than absent
        registry.register(self)
        monitor.listeners.append(self._heard)

    def count(self, decision: Decision) -> None:
        """One read that was routed so."""
        key = (decision.node, decision.reason)
        child = self._children.get(key)
        if child is None:
            child = self._reads.labels(self._monitor.cluster, decision.node or "none", str(decision.reason))
            self._children[key] = child
        child.inc()

    def close(self) -> None:
        """Take them out of the registry."""
        if self._heard in self._monitor.listeners:
            self._monitor.listeners.remove(self._heard)
        for collector in (self, self._reads, self._failovers):
            self._registry.unregister(collector)

    def _heard(self, before: Snapshot | None, after: Snapshot) -> None:
        if before is not None and before.writer is not None:
            self._writer = before.writer
        if after.writer is not None and self._writer not in (None, after.writer):
            self._failovers.labels(self._monitor.cluster).inc()
        self._writer = after.writer or self._writer

    def collect(self) -> Iterable[Metric]:
        """For prometheus_client: the gauges, as of the newest snapshot."""
        from prometheus_client.core import GaugeMetricFamily as Gauge

        of = ["cluster"]
        lag = Gauge("db_replication_lag_seconds", "lag at the last look", labels=[*of, "replica"])
        pool = Gauge("replctl_route_in_pool", "whether a node serves reads", labels=[*of, "node"])
        age = Gauge("replctl_route_snapshot_age_seconds", "since the last look", labels=of)
        snapshot, cluster = self._monitor.snapshot, self._monitor.cluster
        if snapshot is not None:
            for view in snapshot.nodes:
                pool.add_metric([cluster, view.name], float(view.fit))
                if view.lag_s is not None:
                    lag.add_metric([cluster, view.name], view.lag_s)
            age.add_metric([cluster], time.monotonic() - snapshot.taken_s)
        return (lag, pool, age)
