"""The load: its ledger, its outages, and what it says of lost and late rows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replctl.errors import UsageError
from replctl.lab import Lab, Load
from replctl.lab.ledger import Outage, Row, late_and_lost, longest_gap, outages
from tests.support import replctl, wait_until

live = pytest.mark.live


def ask(lab: Lab, node: str, *queries: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(lab.dsn(node), autocommit=True, connect_timeout=5) as connection:
        for query in queries:
            cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def promote(lab: Lab, node: str) -> None:
    """Promote as the controller does: without the pause of 5 s that a promotion may meet (see docs)."""
    ask(lab, node, "SELECT pg_promote(false)")
    wait_until(
        lambda: ask(lab, node, "SELECT pg_reload_conf(), pg_is_in_recovery()")[0][1] is False,
        f"{node} is promoted",
    )


def follow(lab: Lab, node: str, upstream: str) -> None:
    port = lab.nodes[upstream].port
    ask(lab, upstream, f"SELECT pg_create_physical_replication_slot('{node}')")
    conninfo = f"host=127.0.0.1 port={port} user=replicator application_name={node} sslmode=disable"
    ask(lab, node, f"ALTER SYSTEM SET primary_conninfo = '{conninfo}'", "SELECT pg_reload_conf()")


# ---- the arithmetic


def test_an_outage_is_the_time_between_two_acknowledged_rows() -> None:
    at = [100.02, 100.04, 101.04, 101.06]

    found = outages(at, started_at=100.0, ended_at=101.1, interval_s=0.02)

    assert found == (Outage(started_at=100.04, length_s=101.04 - 100.04, over=True),)
    assert longest_gap(at) == 101.04 - 100.04


def test_an_outage_at_either_end_counts() -> None:
    assert outages([102.0], started_at=100.0, ended_at=105.0, interval_s=0.0) == (
        Outage(started_at=100.0, length_s=2.0, over=True),
        Outage(started_at=102.0, length_s=3.0, over=False),
    )
    assert outages([], started_at=100.0, ended_at=102.0, interval_s=0.0) == (
        Outage(started_at=100.0, length_s=2.0, over=False),
    )


def test_connecting_at_the_start_is_no_outage() -> None:
    assert outages([100.5], started_at=100.0, ended_at=100.6, interval_s=0.02) == ()


def test_a_pause_as_long_as_the_interval_is_no_outage() -> None:
    at = [100.0, 101.0, 102.0]
    assert outages(at, started_at=100.0, ended_at=102.5, interval_s=1.0) == ()


def test_a_row_that_is_there_is_neither_lost_nor_late() -> None:
    rows = [Row(1, 1, "pg1", 1, 100.0)]
    assert late_and_lost(rows, {(1, 1)}, {2: 50.0}) == (0, 0)


def test_a_missing_row_is_late_if_a_higher_timeline_had_begun_before() -> None:
    rows = [Row(1, 1, "pg1", 1, 100.0), Row(1, 2, "pg1", 1, 100.2)]
    assert late_and_lost(rows, set(), {2: 100.1}) == (1, 1)


def test_a_missing_row_is_late_if_a_higher_timeline_had_acknowledged_a_row_before() -> None:
    rows = [Row(1, 1, "pg1", 1, 100.0), Row(2, 1, "pg2", 2, 100.1), Row(1, 2, "pg1", 1, 100.2)]
    assert late_and_lost(rows, {(2, 1)}, {}) == (1, 1)


def test_a_row_that_the_newest_timeline_lost_again_is_lost() -> None:
    rows = [Row(1, 1, "pg1", 1, 100.0), Row(1, 2, "pg2", 2, 100.2)]
    assert late_and_lost(rows, {(1, 1)}, {2: 100.1}) == (0, 1)


# ---- on real servers


@live
@pytest.mark.lab(replicas=1)
def test_an_undisturbed_load_loses_nothing(lab: Lab) -> None:
    load = Load(lab, writers=2).start()
    load.wait_for_rows(100)
    report = load.stop()

    assert (report.rows_lost, report.rows_late, report.rows_unconfirmed) == (0, 0, 0)
    assert report.acknowledged_by == {"pg1": report.rows_acknowledged}
    assert report.compared_with == "pg1"
    # One header; two rows may have been under way when it ended.
    assert len(load.ledger_file.read_text().splitlines()) == report.rows_acknowledged + 1
    stored = ask(
        lab, "pg1", f"SELECT count(*) FROM replctl_lab_ledger WHERE run = '{load.run}' AND writer > 0"
    )[0][0]
    assert 0 <= stored - report.rows_acknowledged <= 2


@live
@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_the_outage_of_a_failover_is_measured_and_nothing_is_lost(lab: Lab) -> None:
    with Load(lab) as load:
        load.wait_for_rows(20)
        killed_at = time.time()
        lab.kill("pg1")
        # A promotion without a detection before it may take less than what counts as an outage.
        wait_until(lambda: any(not outage.over for outage in load.outages_so_far()), "writes are out")
        promote(lab, "pg2")
        follow(lab, "pg3", "pg2")
        load.wait_for_rows(20)
        back_at = time.time()
        report = load.stop()

    assert (report.rows_lost, report.rows_late, report.compared_with) == (0, 0, "pg2")
    assert list(report.acknowledged_by) == ["pg1", "pg2"]
    outage = max(report.outages, key=lambda outage: outage.length_s)
    assert abs(outage.started_at - killed_at) < 0.5
    assert outage.over and outage.started_at + outage.length_s < back_at
    assert report.ordinary_rows is not None and report.ordinary_rows > 0


@live
@pytest.mark.lab(replicas=1)
def test_rows_of_a_primary_that_was_replaced_behind_its_back_are_late(lab: Lab) -> None:
    with Load(lab, writers=0, pinned=["pg1"], ordinary=False) as load:
        load.wait_for_rows(20)
        promote(lab, "pg2")  # asynchronous, and nobody fences pg1
        load.wait_for_rows(20)
        report = load.stop()

    assert report.compared_with == "pg2"
    assert report.rows_late is not None and report.rows_late >= 20
    # What had not arrived at the moment of the promotion is lost, a few rows at most.
    assert report.rows_lost is not None and report.rows_lost <= 5


@live
@pytest.mark.lab(replicas=1)
def test_a_frozen_primary_holds_an_ordinary_client_and_not_ours(lab: Lab) -> None:
    with Load(lab) as load:
        load.wait_for_rows(20)
        lab.freeze("pg1")
        promote(lab, "pg2")
        load.wait_for_rows(50)
        report = load.stop()

    assert list(report.acknowledged_by) == ["pg1", "pg2"]
    assert 0.5 < report.longest_outage_s < 5
    assert report.ordinary_outages is not None
    assert not report.ordinary_outages[-1].over


@live
@pytest.mark.lab(replicas=1, sync="ANY 1")
def test_a_commit_whose_wait_was_cancelled_is_not_counted(lab: Lab) -> None:
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'app'"
    with Load(lab, deadline_s=20, ordinary=False) as load:
        load.wait_for_rows(5)
        lab.freeze("pg2")
        wait_until(lambda: ask(lab, "pg1", waiting), "a commit waits for the replica")
        ask(lab, "pg1", f"SELECT pg_cancel_backend(pid) FROM ({waiting}) waiting")
        wait_until(lambda: ask(lab, "pg1", waiting), "the next commit waits")
        lab.thaw("pg2")
        load.wait_for_rows(5)
        report = load.stop()

    assert report.rows_unconfirmed == 1
    assert (report.rows_lost, report.rows_late) == (0, 0)


@live
@pytest.mark.lab(replicas=0)
def test_what_cannot_be_compared_is_unknown(lab: Lab) -> None:
    load = Load(lab, ordinary=False).start()
    load.wait_for_rows(5)
    lab.kill("pg1")
    report = load.stop()

    assert (report.compared_with, report.rows_lost, report.rows_late) == (None, None, None)
    assert report.rows_acknowledged >= 5


@live
def test_a_load_needs_writers_and_nodes_that_exist(shared_lab: Lab) -> None:
    with pytest.raises(UsageError, match="between 1 and 50 writers, not 0"):
        Load(shared_lab, writers=0)
    with pytest.raises(UsageError, match="no node 'pg9'"):
        Load(shared_lab, pinned=["pg9"])


@live
@pytest.mark.lab(replicas=1)
def test_the_command_reports_when_it_is_told_to_end(lab: Lab) -> None:
    argv = [sys.executable, "-m", "replctl", "lab", "load", "--dir", str(lab.directory), "-o", "json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        table = "SELECT count(*) FROM replctl_lab_ledger"
        wait_until(lambda: ask(lab, "pg1", table)[0][0] > 20, "it writes", limit_s=20)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=20)

    report = json.loads(stdout)
    assert process.returncode == 0
    assert stderr.startswith(f"Writing a row every 20 ms to the lab in {lab.directory}, until Ctrl-C.\n")
    assert (report["schema_version"], report["rows_lost"], report["rows_late"]) == (1, 0, 0)
    assert report["acknowledged_by"] == {"pg1": report["rows_acknowledged"]}
    assert Path(report["ledger_file"]).is_file()


@live
@pytest.mark.lab(replicas=0)
def test_the_command_ends_by_itself_after_its_duration(lab: Lab) -> None:
    answer = replctl("lab", "load", "--dir", str(lab.directory), "--duration", "500ms", "--interval", "0")

    assert answer.returncode == 0
    said = f"Writing rows as fast as it goes to the lab in {lab.directory}, for 500 ms.\n"
    assert answer.stderr.startswith(said)
    lines = answer.stdout.splitlines()
    assert lines[0].startswith("Rows acknowledged: ")
    assert lines[-3:-1] == [
        "Acknowledged rows lost: 0 (compared with pg1)",
        "Acknowledged late, by a node that was no longer the primary: 0",
    ]
    assert lines[-1].startswith(f"Ledger: {lab.directory}/ledger-")
