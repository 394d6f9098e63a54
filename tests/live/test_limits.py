"""What no failover can keep: each hole of docs/failure-model.md, shown on real servers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psycopg
import pytest

from replctl.core.outcome import StepResult
from replctl.core.steps import Cut
from replctl.lab import Lab
from tests.live.failover_runs import KilledError, attempt
from tests.live.failover_support import ask, configure, fail_over, value, write_inventory
from tests.support import wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1")]

ROWS = "SELECT n FROM limits ORDER BY n"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@contextlib.contextmanager
def nobody_to_confirm(lab: Lab) -> Iterator[None]:
    """A table with one confirmed row; then both replicas are down, and up again when the primary is dead."""
    ask(lab, "pg1", "CREATE TABLE limits (n int)", "INSERT INTO limits VALUES (1)")
    for replica in ("pg2", "pg3"):
        lab.stop(replica)
    yield
    lab.kill("pg1")
    for replica in ("pg2", "pg3"):
        lab.start(replica)


def fail_over_proven(lab: Lab) -> list[tuple[int]]:
    """The rows after a failover that loses nothing that was confirmed."""
    done = fail_over(write_inventory(lab))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Loss: none, proven" in done.stdout
    return ask(lab, str(lab.primary()), ROWS)


@pytest.mark.parametrize("setting", ["off", "local"])
def test_a_commit_that_asked_for_no_replica_may_be_lost(lab: Lab, setting: str) -> None:
    with nobody_to_confirm(lab):
        ask(lab, "pg1", f"SET synchronous_commit = {setting}", "INSERT INTO limits VALUES (2)")

    assert fail_over_proven(lab) == [(1,)]


def test_a_commit_whose_wait_was_cancelled_is_warned_of_and_may_be_lost(lab: Lab) -> None:
    warned: list[str | None] = []
    with nobody_to_confirm(lab), psycopg.connect(lab.dsn("pg1"), autocommit=True) as client:
        client.add_notice_handler(lambda notice: warned.append(notice.source_function))
        insert = threading.Thread(target=client.execute, args=(b"INSERT INTO limits VALUES (2)",))
        insert.start()
        wait_until(lambda: value(lab, "pg1", WAITING) == 1, "the commit waits")
        ask(lab, "pg1", f"SELECT pg_cancel_backend({client.info.backend_pid})")
        insert.join(10)
        visible = ask(lab, "pg1", ROWS)

    assert [warned, visible] == [["SyncRepWaitForLSN"], [(1,), (2,)]]
    assert fail_over_proven(lab) == [(1,)]


def test_a_restart_shows_commits_that_no_replica_has(lab: Lab) -> None:
    """Nobody was told that they are committed; but whoever reads the old primary then, sees them."""
    with nobody_to_confirm(lab):
        with psycopg.connect(lab.dsn("pg1"), autocommit=True) as client:
            insert = threading.Thread(target=swallow, args=(client, "INSERT INTO limits VALUES (2)"))
            insert.start()
            wait_until(lambda: value(lab, "pg1", WAITING) == 1, "the commit waits")
            before = ask(lab, "pg1", ROWS)
            lab.kill("pg1")
            insert.join(10)
        lab.start("pg1")
        after = ask(lab, "pg1", ROWS)

    assert [before, after] == [[(1,)], [(1,), (2,)]]
    assert fail_over_proven(lab) == [(1,)]


def swallow(client: psycopg.Connection[object], text: str) -> None:
    with contextlib.suppress(psycopg.Error):
        client.execute(text.encode())


@pytest.mark.pg("< 16")
def test_a_run_that_dies_after_it_changed_replay_leaves_it_changed(lab: Lab) -> None:
    """The delay stood nowhere else. The next run goes on; the operator has to set the delay again."""
    configure(lab, "pg3", recovery_min_apply_delay="10min")
    inventory = write_inventory(lab, failover={"allow_replay_changes": True})
    lab.freeze("pg1")

    def die(result: StepResult) -> None:
        if isinstance(result.step, Cut) and result.step.node == "pg3":
            raise KilledError

    with pytest.raises(KilledError):
        attempt(inventory, die)

    assert value(lab, "pg3", "SHOW recovery_min_apply_delay") == "0"
    assert fail_over(inventory).returncode == 0
