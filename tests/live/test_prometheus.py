"""A real Prometheus watches a real cluster: what fires, with which words, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from replctl.lab import Lab
from tests.live.failover_support import GRACES, ask, environment, fail_over, wait_streaming, write_inventory
from tests.live.prometheus import Prometheus
from tests.live.serve_support import Serve
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live


def rules(inventory: Path) -> str:
    done = replctl("render-prometheus", env=environment(inventory))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_alerts_follow_a_cluster_through_a_failover_and_no_other_fires(lab: Lab, tmp_path: Path) -> None:
    inventory = write_inventory(lab, failover=GRACES)
    wait_streaming(lab, "pg1", "pg2", "pg3")
    with (
        Serve(inventory, "--interval", "0.25") as serve,
        Prometheus(tmp_path / "prometheus", f"127.0.0.1:{serve.port}", rules(inventory)) as prometheus,
    ):
        wait_until(lambda: prometheus.query("count_over_time(replctl_node_up[1m]) > 5"), "it has scraped")
        assert prometheus.firing() == {}

        lab.kill("pg1")
        lost = {"ReplctlNoPrimary!", "ReplctlNodeDown! pg1", "ReplctlAllReplicasUnfit"}
        cut_off = {"ReplctlReplicaNotStreaming! pg2", "ReplctlReplicaNotStreaming! pg3"}
        prometheus.wait_firing(lost | cut_off)
        assert prometheus.firing()["ReplctlNoPrimary!"]["summary"] == "lab has no primary"

        assert fail_over(inventory).returncode == 0
        prometheus.wait_firing({"ReplctlNodeDown! pg1", "ReplctlFailover"})
        assert prometheus.firing() == {
            "ReplctlNodeDown! pg1": {
                "summary": "pg1 of lab does not answer",
                "description": "replctl reaches no PostgreSQL on pg1. `replctl status -o wide` has the "
                "cause: refused = it does not run, timeout = the host or the network.",
            },
            "ReplctlFailover": {
                "summary": "another node of lab has taken over the writes",
                "description": "There was a failover or a switchover within 15 minutes. `replctl events "
                "last` tells it step by step, `replctl ack` allows the next automatic one.",
            },
        }
        (roles,) = prometheus.query('replctl_node_role{role="primary"} == 1')
        assert roles["metric"]["node"] in ("pg2", "pg3")
        assert prometheus.query("db_failover_total")[0]["value"][1] == "1"


def test_a_killed_replica_fires_the_alert_with_its_name_and_ends_it_by_coming_back(
    lab: Lab, tmp_path: Path
) -> None:
    inventory = write_inventory(lab)
    wait_streaming(lab, "pg1", "pg2", "pg3")
    with (
        Serve(inventory, "--interval", "0.25") as serve,
        Prometheus(tmp_path / "prometheus", f"127.0.0.1:{serve.port}", rules(inventory)) as prometheus,
    ):
        lab.kill("pg2")
        prometheus.wait_firing({"ReplctlNodeDown! pg2"})
        assert prometheus.firing()["ReplctlNodeDown! pg2"]["summary"] == "pg2 of lab does not answer"
        lab.start("pg2")
        prometheus.wait_firing(())
        ask(lab, "pg3", "SELECT pg_wal_replay_pause()")
        prometheus.wait_firing({"ReplctlReplayPaused pg3"})
