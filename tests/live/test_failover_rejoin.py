"""Bringing the old primary back by hand, as docs/failover.md says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from replctl.inventory import load
from replctl.lab import Lab
from replctl.pg.grants import statements
from tests.live.failover_support import ask, environment, fail_over, value, wait_streaming
from tests.support import replctl

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1"), pytest.mark.every_pg]


def on_its_machine(lab: Lab, node: str, *command: str) -> str:
    """Run a program as the owner of the data directory."""
    prefix = load(lab.inventory_path).commands[node].run or ()
    done = subprocess.run([*prefix, *command], cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def fenced_old_primary(lab: Lab) -> Path:
    """pg2 has taken over; pg1 has commits of its own, came back, and was fenced; then stopped."""
    ask(lab, "pg1", "ALTER ROLE postgres SET synchronous_commit = local", "SELECT pg_switch_wal()")
    lab.kill("pg1")
    assert fail_over(lab.inventory_path).returncode == 0
    lab.start("pg1")
    ask(lab, "pg1", "CREATE TABLE never_replicated ()")
    done = replctl("fence", "pg1", "--yes", env=environment(lab.inventory_path))
    assert done.returncode == 0, done.stderr
    lab.stop("pg1")
    ask(lab, "pg2", "SELECT pg_create_physical_replication_slot('pg1', true)")
    return lab.directory / "pg1" / "data"


def proves_to_be_a_replica(lab: Lab) -> None:
    lab.start("pg1")
    wait_streaming(lab, "pg2", "pg1", "pg3")
    done = replctl("unfence", "pg1", "--yes", env=environment(lab.inventory_path))
    assert (done.returncode, done.stdout) == (0, "pg1: nothing to do, it is not fenced.\n")
    assert value(lab, "pg1", "SELECT to_regclass('never_replicated') IS NULL")
    shown = json.loads(replctl("status", "--json", env=environment(lab.inventory_path)).stdout)
    assert {n["name"]: n["state"] for n in shown["nodes"]} == {
        "pg1": "streaming",
        "pg2": "primary",
        "pg3": "streaming",
    }
    assert shown["sync"]["tolerated_replica_losses_for_writes"] == 1


def test_pg_rewind_brings_it_back(lab: Lab) -> None:
    data = fenced_old_primary(lab)
    for statement in statements(lab.major, "rewind"):
        ask(lab, "pg2", statement)
    port = lab.nodes["pg2"].port

    said = on_its_machine(
        lab,
        "pg1",
        "pg_rewind",
        f"--target-pgdata={data}",
        f"--source-server=host=127.0.0.1 port={port} user=replctl dbname=postgres",
    )
    with (data / "postgresql.auto.conf").open("a") as file:
        file.write(
            f"primary_conninfo = 'host=127.0.0.1 port={port} user=replicator application_name=pg1'\n"
            "primary_slot_name = 'pg1'\n"
        )
    on_its_machine(lab, "pg1", "touch", str(data / "standby.signal"))

    assert "Done!" in said
    proves_to_be_a_replica(lab)


def test_pg_basebackup_brings_it_back(lab: Lab) -> None:
    data = fenced_old_primary(lab)
    shutil.rmtree(data)

    on_its_machine(
        lab,
        "pg1",
        "pg_basebackup",
        f"--pgdata={data}",
        "--checkpoint=fast",
        "--slot=pg1",
        "--write-recovery-conf",
        f"--dbname=host=127.0.0.1 port={lab.nodes['pg2'].port} user=replicator application_name=pg1",
    )

    proves_to_be_a_replica(lab)
