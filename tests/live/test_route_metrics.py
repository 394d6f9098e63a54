"""Routing as metrics of the application: what was counted, and what the newest snapshot says."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from replctl.adapters.metrics import metrics_of
from replctl.core.routing import READ
from replctl.lab import Lab
from tests.live.failover_support import ask
from tests.live.test_monitor import wait_for, watching
from tests.support import need, wait_until

pytestmark = pytest.mark.live


def registry() -> Any:
    found = importlib.util.find_spec("prometheus_client")
    need("prometheus_client", found, "pip install 'replctl[test]'")
    import prometheus_client

    return prometheus_client.CollectorRegistry()


def samples(of: Any) -> dict[tuple[str, ...], float]:
    """Every value by its name and labels."""
    return {
        (sample.name, *(v for k, v in sorted(sample.labels.items()) if k != "cluster")): sample.value
        for metric in of.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


def test_reads_are_counted_by_node_and_reason_and_gauges_are_of_the_newest_look(lab: Lab) -> None:
    of = registry()
    with watching(lab) as monitor:
        metrics = metrics_of(monitor, of)
        assert metrics is not None
        assert samples(of) == {("db_failover_total",): 0.0}
        wait_for(monitor, lambda s: [v.lag_s for v in s.nodes] == [None, 0, 0], "the replicas have caught up")
        for _ in range(6):
            metrics.count(monitor.route(READ))
        found = samples(of)
        age_s = found.pop(("replctl_route_snapshot_age_seconds",))
        assert 0 <= age_s < 10
        assert found == {
            ("db_failover_total",): 0.0,
            ("db_read_route_total", "round_robin", "pg2"): 3.0,
            ("db_read_route_total", "round_robin", "pg3"): 3.0,
            ("db_replication_lag_seconds", "pg2"): 0.0,
            ("db_replication_lag_seconds", "pg3"): 0.0,
            ("replctl_route_in_pool", "pg1"): 0.0,
            ("replctl_route_in_pool", "pg2"): 1.0,
            ("replctl_route_in_pool", "pg3"): 1.0,
        }

        lab.kill("pg1")
        wait_for(monitor, lambda s: s.writer is None, "nobody takes writes")
        ask(lab, "pg2", "SELECT pg_promote()")
        wait_for(monitor, lambda s: s.writer == "pg2", "pg2 takes writes")
        wait_until(lambda: samples(of)["db_failover_total",] == 1.0, "the failover is counted")
        assert ("db_replication_lag_seconds", "pg1") not in samples(of)
        metrics.close()
        assert samples(of) == {}
