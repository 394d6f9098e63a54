"""Nodes that show a newer timeline, and how `replctl serve` finds back to a primary of the older one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from replctl.lab import Lab
from tests.live.failover_support import ask, wait_streaming, write_inventory
from tests.live.serve_support import Serve
from tests.live.test_failover_rejoin import on_its_machine
from tests.support import wait_until

pytestmark = pytest.mark.live

QUICK = {"hold_s": 0, "readmit_after": 1, "eject_after": 1, "max_lag_s": 60, "readmit_lag_s": 30}
OPTIONS = ("--interval", "0.3", "--agent-listen", "127.0.0.1:0")
PRIMARY = ["primary", "read-only", "health", "readiness"]
ASYNC = ["replica", "read-only", "async", "health", "readiness"]
NOT_GIVEN_OUT = {"pg1": ["health"], "pg2": ["health", "readiness"]}


def copy_anew(lab: Lab, name: str, source: str) -> None:
    """Throw the node's data away and make it a replica of another one."""
    lab.stop(name)
    data = lab.nodes[name].data_directory
    shutil.rmtree(data)
    from_source = f"host=127.0.0.1 port={lab.nodes[source].port} user=replicator application_name={name}"
    options = (f"--pgdata={data}", "--checkpoint=fast", "--write-recovery-conf", f"--dbname={from_source}")
    on_its_machine(lab, name, "pg_basebackup", *options, f"--slot={name}")
    lab.start(name)


def targets(server: Serve) -> dict[str, str]:
    """What `replctl_write_target` says of each node."""
    lines = server.ask("/metrics?max_age=0").text.splitlines()
    found = [
        line.split('node="')[1].split('"} ') for line in lines if line.startswith("replctl_write_target{")
    ]
    return dict(found)


def problems(server: Serve) -> list[str]:
    return [
        p["message"] for p in server.ask("/status.json?max_age=0").json["problems"] if p["code"] == "primary"
    ]


def test_a_replica_that_was_promoted_by_mistake_locks_nothing_once_it_follows_again(
    lab: Lab, tmp_path: Path
) -> None:
    inventory = write_inventory(lab, routing=QUICK)
    wait_streaming(lab, "pg1", "pg2", "pg3")
    with Serve(inventory, *OPTIONS) as server:
        assert targets(server) == {"pg1": "1", "pg2": "0", "pg3": "0"}
        ask(lab, "pg3", "SELECT pg_promote()")
        server.wait_code("/pg3/primary", 200)  # it has written, and is the newer one
        assert server.code("/pg1/primary") == 503
        lab.stop("pg3")
        wait_until(lambda: server.codes("pg1", "pg2") == NOT_GIVEN_OUT, "pg1 is not believed")
        assert targets(server) == {"pg1": "0", "pg2": "0", "pg3": "0"}
        assert server.agent("pg2") == "down #older_history\n"
        told = "pg1 is on timeline 1, and pg3 was seen on 2: it is not given out for writes, nor its replicas"
        assert problems(server) == [f"{told} for reads"]
        assert "pg3 was seen on 2" in server.ask("/", Accept="text/html").text
    with Serve(inventory, *OPTIONS) as later:
        assert later.codes("pg1", "pg2") == NOT_GIVEN_OUT
        copy_anew(lab, "pg3", "pg1")
        later.wait_code("/pg1/primary", 200)
        wait_until(
            lambda: later.codes("pg1", "pg2", "pg3") == {"pg1": PRIMARY, "pg2": ASYNC, "pg3": ASYNC},
            "all are given out",
        )
        assert (targets(later), problems(later)) == ({"pg1": "1", "pg2": "0", "pg3": "0"}, [])
    lab.stop("pg3")
    with Serve(inventory, *OPTIONS) as last:
        assert last.codes("pg1") == {"pg1": PRIMARY}


def test_an_old_primary_stays_none_whatever_follows_it_while_its_successor_is_silent(lab: Lab) -> None:
    inventory = write_inventory(lab, routing=QUICK)
    wait_streaming(lab, "pg1", "pg2", "pg3")
    with Serve(inventory, *OPTIONS) as server:
        lab.kill("pg1")
        ask(lab, "pg2", "SELECT pg_promote()")
        server.wait_code("/pg2/primary", 200)
        lab.freeze("pg2")
        lab.start("pg1")
        copy_anew(lab, "pg3", "pg1")
        wait_streaming(lab, "pg1", "pg3")
        wait_until(lambda: server.ask("/pg3/replica").json["state"] == "streaming", "pg3 follows the old one")
        older = "the only primary that answers is on an older timeline than the newest one seen"
        wait_until(lambda: server.ask("/pg1/primary").json["reason"] == older, "pg2 is not waited for")
        assert server.codes("pg1") == {"pg1": ["health"]}
        lab.thaw("pg2")
        server.wait_code("/pg2/primary", 200)
