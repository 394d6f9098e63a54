"""The cut, and who is chosen after it: replay that is held up, restarts, positions, histories."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from replctl.core.outcome import Ending, StepResult
from replctl.core.steps import Cut, TakeVotes
from replctl.inventory import load_one
from replctl.lab import Lab, Load
from replctl.pg.act import Hands
from replctl.pg.locks import Ballot
from replctl.pg.queries import CUT_STATE
from tests.live.failover_runs import attempt
from tests.live.failover_support import (
    GRACES,
    Auto,
    ask,
    configure,
    environment,
    fail_over,
    picture,
    streaming,
    value,
    wait_streaming,
    writable,
    write_inventory,
)
from tests.support import replctl, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]

CUTS = int(os.environ.get("REPLCTL_TEST_CUTS", "20"))
DELAY = "10min"
READER = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM held"


def succeed(inventory: Path, *options: str) -> str:
    """Fail over; what that printed."""
    done = fail_over(inventory, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refuse(lab: Lab, inventory: Path, *options: str) -> str:
    """Try to; why that was refused. Nothing is changed."""
    before = picture(lab)
    refused = fail_over(inventory, *options)
    assert [refused.returncode, picture(lab)] == [3, before], refused.stdout + refused.stderr
    return refused.stderr


# ---- replay that does not let go


@contextlib.contextmanager
def held_up(lab: Lab, node: str, how: str) -> Iterator[None]:
    """While this replica's replay stands still in that way, and its receiver goes on confirming."""
    if how == "paused":
        ask(lab, node, "SELECT pg_wal_replay_pause()")
        wait_until(
            lambda: value(lab, node, "SELECT pg_get_wal_replay_pause_state()") == "paused", "it is paused"
        )
        yield
    elif how == "delayed":
        configure(lab, node, recovery_min_apply_delay=DELAY)
        yield
    else:
        with conflict(lab, node):
            yield


@contextlib.contextmanager
def conflict(lab: Lab, node: str) -> Iterator[None]:
    """A query on the replica reads what the primary has vacuumed away."""
    configure(lab, node, max_standby_streaming_delay="-1", hot_standby_feedback="off")
    ask(
        lab, "pg1", "CREATE TABLE held AS SELECT generate_series(1, 1000) AS n", "GRANT SELECT ON held TO app"
    )
    wait_until(lambda: value(lab, node, "SELECT to_regclass('held') IS NOT NULL"), "the table is there")
    reader = psycopg.connect(lab.dsn(node, "app"), connect_timeout=5, autocommit=True)
    try:
        for statement in READER.split("; "):
            reader.execute(statement.encode())
        ask(lab, "pg1", "DELETE FROM held")
        wait_until(lambda: _is_blocked(lab, node), "replay is blocked")
        yield
    finally:
        reader.close()


def _is_blocked(lab: Lab, node: str) -> bool:
    """Whether this replica waits for its reader. Else what is dead is vacuumed once more.

    Once is not always enough: VACUUM keeps what any transaction of that moment may still see.
    """
    ask(lab, "pg1", "VACUUM held")
    query = "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'"
    return str(value(lab, node, query)).startswith("RecoveryConflict")


def freeze_level(lab: Lab) -> None:
    """Freeze the primary amid its load where all replicas have the same of it: the order decides then."""

    def is_level() -> bool:
        lab.freeze("pg1")
        time.sleep(0.05)  # what was sent before arrives
        received = {value(lab, n, "SELECT pg_last_wal_receive_lsn()") for n in lab.nodes if n != "pg1"}
        if len(received) > 1:
            lab.thaw("pg1")
        return len(received) == 1

    wait_until(is_level, "all replicas have received the same")


@pytest.mark.pg(">= 16")
@pytest.mark.lab(replicas=3, sync="ANY 1")
@pytest.mark.parametrize("how", ["paused", "delayed", "conflicting"])
def test_a_replica_whose_replay_is_held_up_is_cut_without_touching_its_replay(lab: Lab, how: str) -> None:
    inventory = write_inventory(lab)
    with Load(lab, pinned=["pg1"]) as load, held_up(lab, "pg3", how):
        load.wait_for_rows(20)
        before = picture(lab)["pg3"]
        freeze_level(lab)

        said = succeed(inventory)
        load.wait_for_rows(20)
        after = picture(lab)["pg3"]
        lab.thaw("pg1")
        wait_until(lambda: {"pg1", "pg2"} <= writable(lab), "the old primary answers again")
        fenced = replctl("fence", "pg1", "--yes", env=environment(inventory))
        load.wait_for_rows(20)
        report = load.stop()

    assert [fenced.returncode, lab.primary()] == [0, "pg2"], fenced.stderr
    assert "by wal_receiver_timeout" in said
    assert [report.rows_lost, report.rows_late] == [0, 0]
    # All but the upstream is as it was: pause, delay, wal_receiver_timeout. So pg3 confirms nothing for now.
    assert after[2:] == before[2:]
    assert f"port={lab.nodes['pg2'].port}" in after[1]


@pytest.mark.pg("< 16")
@pytest.mark.lab(sync="ANY 1")
@pytest.mark.parametrize("how", ["paused", "delayed", "conflicting"])
def test_before_16_replay_is_changed_only_where_that_is_allowed_by_name(lab: Lab, how: str) -> None:
    inventory = write_inventory(lab)
    with Load(lab, pinned=["pg1"]) as load, held_up(lab, "pg3", how):
        load.wait_for_rows(20)
        freeze_level(lab)
        before = picture(lab)["pg3"]

        why = refuse(lab, inventory)
        succeed(inventory, "--allow-replay", "pg3")
        load.wait_for_rows(20)
        wait_streaming(lab, "pg2", "pg3")
        after = picture(lab)["pg3"]
        report = load.stop()

    assert "TOO_FEW_CUT" in why
    assert "pg3 keeps its receiver" in why
    assert [lab.primary(), report.rows_lost, report.rows_late] == ["pg2", 0, 0]
    # The pause and the delay were put back.
    assert after[2:] == before[2:]


@pytest.mark.lab(sync="ANY 1")
@pytest.mark.parametrize(("how", "promoted"), [("paused", "pg3"), ("delayed", "pg2"), ("conflicting", "pg3")])
def test_what_only_a_held_up_replica_has_is_not_lost(lab: Lab, how: str, promoted: str) -> None:
    inventory = write_inventory(lab)
    with held_up(lab, "pg3", how), Load(lab, ordinary=False) as load:
        with only_confirmed_by("pg3", lab, load):
            lab.kill("pg1")

        succeed(inventory)
        report = load.stop()

    assert lab.primary() == promoted
    assert [report.rows_lost, report.rows_late] == [0, 0]


@contextlib.contextmanager
def only_confirmed_by(node: str, lab: Lab, load: Load) -> Iterator[None]:
    """The other replica is down while more rows are written, and up again at the end."""
    other = next(n for n, found in lab.nodes.items() if found.role == "replica" and n != node)
    lab.stop(other)
    load.wait_for_rows(20)
    yield
    lab.start(other)


@pytest.mark.lab(sync=None)
def test_a_delayed_replica_outside_the_rule_is_left_as_it_is_and_repointed(lab: Lab) -> None:
    rule = "ANY 1 (pg1, pg2)"
    configure(lab, "pg1", synchronous_standby_names=rule)
    configure(lab, "pg2", synchronous_standby_names=rule)
    configure(lab, "pg3", recovery_min_apply_delay=DELAY)
    inventory = write_inventory(lab, failover={"synchronous": rule})
    with Load(lab, ordinary=False) as load:
        load.wait_for_rows(20)
        lab.kill("pg1")

        said = succeed(inventory)

    after = picture(lab)["pg3"]
    assert [lab.primary(), "cut pg3" in said] == ["pg2", False]
    assert [after[3], f"port={lab.nodes['pg2'].port}" in after[1]] == [DELAY, True]


# ---- a cut is final


@pytest.mark.lab(sync="ANY 1")
def test_no_receiver_reappears_after_a_cut_under_load(lab: Lab) -> None:
    """REPLCTL_TEST_CUTS=1000 does it so often; a look every few ms for 50 ms after each."""
    inventory = load_one(write_inventory(lab))
    text = CUT_STATE.for_version(lab.major * 10000)

    async def cut_and_mend() -> int:
        hands, seen = Hands(inventory, Ballot(inventory, ("pg1", "pg2", "pg3"))), 0
        try:
            for _ in range(CUTS):
                await hands.cut("pg3", "plain")
                end = (await hands.ends.positions(["pg3"]))["pg3"]
                for _ in range(10):
                    row = (await hands.run("pg3", text))[0]
                    seen += row["receivers"] + row["receivers_shown"]
                    await asyncio.sleep(0.005)
                seen += (await hands.ends.positions(["pg3"]))["pg3"] != end
                await hands.restore("pg3", "pg1", time.monotonic())
                await hands.until_streaming("pg3", 1)
        finally:
            await hands.close()
        return seen

    with Load(lab, interval_s=0.002, writers=2, ordinary=False) as load:
        load.wait_for_rows(20)
        reappeared = asyncio.run(cut_and_mend())

    assert [reappeared, load.report.rows_lost] == [0, 0]


# ---- where the WAL of a replica ends


@pytest.mark.lab(sync="ANY 1")
def test_a_replica_that_forgot_what_it_received_by_a_restart_is_chosen_by_what_it_has(lab: Lab) -> None:
    inventory = write_inventory(lab)
    with Load(lab, ordinary=False) as load:
        load.wait_for_rows(20)
        with only_confirmed_by("pg3", lab, load):
            lab.kill("pg1")
            lab.stop("pg3")
            lab.start("pg3")
        query = """SELECT coalesce(pg_last_wal_receive_lsn(), '0/0') < pg_last_wal_replay_lsn()"""
        wait_until(lambda: value(lab, "pg3", query), "the received position is gone or reset")

        succeed(inventory)
        load.wait_for_rows(20)
        report = load.stop()

    assert lab.primary() == "pg3"
    assert [report.rows_lost, report.rows_late] == [0, 0]


@pytest.mark.lab(sync="ANY 1")
def test_a_delayed_replica_that_was_restarted_proves_nothing_until_it_has_replayed(lab: Lab) -> None:
    inventory = write_inventory(lab)
    configure(lab, "pg3", recovery_min_apply_delay=DELAY)
    with Load(lab, ordinary=False) as load:
        load.wait_for_rows(20)
        with only_confirmed_by("pg3", lab, load):
            lab.kill("pg1")
            lab.stop("pg3")
            lab.start("pg3")

        why = refuse(lab, inventory)
        succeed(inventory, "--allow-replay", "pg3")
        load.wait_for_rows(20)
        report = load.stop()

    assert "TOO_FEW_CUT" in why
    assert "it was restarted and has not replayed its own WAL yet" in why
    assert [report.rows_lost, report.rows_late] == [0, 0]
    assert value(lab, "pg3", "SHOW recovery_min_apply_delay") == DELAY


@pytest.mark.lab(sync="ANY 1")
def test_a_preferred_replica_that_is_behind_catches_up_before_it_is_promoted(lab: Lab) -> None:
    inventory = write_inventory(lab, nodes={"pg2": {"promote": "prefer"}})
    with Load(lab, ordinary=False) as load:
        load.wait_for_rows(20)
        with only_confirmed_by("pg3", lab, load):
            lab.kill("pg1")

        said = succeed(inventory)
        load.wait_for_rows(20)
        wait_streaming(lab, "pg2", "pg3")
        report = load.stop()

    assert lab.primary() == "pg2"
    assert "let pg2 catch up with pg3" in said
    assert [report.rows_lost, report.rows_late] == [0, 0]


# ---- histories


def test_a_replica_that_is_ahead_of_the_new_primary_is_not_repointed(lab: Lab) -> None:
    inventory = write_inventory(lab)
    with Load(lab, ordinary=False) as load:
        load.wait_for_rows(20)
        with only_confirmed_by("pg3", lab, load):
            lab.kill("pg1")
            wait_until(
                lambda: value(lab, "pg3", "SELECT pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()"),
                "pg3 has replayed all it has",
            )
            lab.stop("pg3")
    done = fail_over(
        inventory, "--to", "pg2", "--fenced", "pg1", "--without-votes", "pg3", "--allow-loss", "unknown"
    )
    lab.start("pg3")
    before = picture(lab)["pg3"]

    said = succeed(inventory)

    assert [done.returncode, lab.primary()] == [0, "pg2"], done.stdout + done.stderr
    assert "pg3 is ahead of pg2" in said
    assert [picture(lab)["pg3"], streaming(lab, "pg2")] == [before, set()]


@pytest.mark.lab(replicas=3, sync="ANY 2")
def test_a_second_failover_soon_after_the_first_takes_everybody_along(lab: Lab) -> None:
    """The control file of a replica tells of its new timeline only after a restartpoint."""
    inventory = write_inventory(lab)
    with Load(lab, ordinary=False) as load:
        load.wait_for_rows(20)
        lab.kill("pg1")
        succeed(inventory)
        first = lab.primary()
        assert first is not None
        others = sorted({"pg2", "pg3", "pg4"} - {first})
        wait_streaming(lab, first, *others)
        load.wait_for_rows(20)
        ask(lab, others[0], "CHECKPOINT")
        lab.kill(first)

        succeed(inventory, "--fenced", "pg1")
        second = lab.primary()
        assert second in others
        wait_streaming(lab, second, *(set(others) - {second}))
        report = load.stop()

    assert [report.rows_lost, report.rows_late] == [0, 0]


def promote_apart(lab: Lab, *nodes: str) -> None:
    """Each of these becomes a primary by itself: one timeline number, several histories."""
    for node in nodes:
        ask(lab, node, "SELECT pg_promote()")
        ask(lab, node, f"CREATE TABLE of_{node} (n int)", "CHECKPOINT")


def test_two_primaries_on_one_timeline_are_left_to_people(lab: Lab) -> None:
    inventory = write_inventory(lab)
    lab.kill("pg1")
    promote_apart(lab, "pg2", "pg3")

    assert "SPLIT_BRAIN" in refuse(lab, inventory)


@pytest.mark.lab(replicas=3)
def test_twin_timelines_are_told_from_one_history(lab: Lab) -> None:
    """pg3 came to timeline 2 by itself; pg4 follows pg2, which came to timeline 2 too and is lost."""
    inventory = write_inventory(lab)
    with Load(lab, ordinary=False) as load:
        load.wait_for_rows(20)
        lab.stop("pg3")
        load.wait_for_rows(20)
        lab.kill("pg1")
    ask(lab, "pg2", "SELECT pg_promote()", "SELECT pg_create_physical_replication_slot('pg4', true)")
    for node in ("pg3", "pg4"):
        lab.start(node)
        old = value(lab, node, "SHOW primary_conninfo")
        new = old.replace(f"port={lab.nodes['pg1'].port}", f"port={lab.nodes['pg2'].port}")
        if node == "pg3":
            promote_apart(lab, node)
            lab.stop(node)
            (lab.nodes[node].data_directory / "standby.signal").touch()
            lab.start(node)
        configure(lab, node, primary_conninfo=new)
    wait_streaming(lab, "pg2", "pg4")
    lab.kill("pg2")

    assert "TWO_HISTORIES" in refuse(lab, inventory, "--fenced", "pg1", "--allow-loss", "unknown")


# ---- votes


@pytest.mark.lab(sync="ANY 1")
def test_a_vote_that_a_restart_has_dropped_stops_the_promotion(lab: Lab) -> None:
    """The replica is restarted after the cuts and just before the promotion."""
    inventory = write_inventory(lab)
    lab.kill("pg1")
    seen: list[str] = []

    def restart_after_the_last_cut(result: StepResult) -> None:
        seen.append(result.error or type(result.step).__name__)
        if isinstance(result.step, Cut) and seen.count("Cut") == 2:
            lab.stop("pg2")
            lab.start("pg2")

    outcome = attempt(inventory, restart_after_the_last_cut)

    assert [outcome.promoted, writable(lab), outcome.ending] == [None, set(), Ending.NOT_RESTORED]
    assert "votes" in str(outcome.problem)
    succeed(inventory)
    assert [writable(lab), lab.primary() in ("pg2", "pg3")] == [{lab.primary()}, True]


@pytest.mark.lab(sync="ANY 1")
def test_a_server_that_has_just_started_votes_only_after_a_promotion_could_rely_on_it(lab: Lab) -> None:
    inventory = write_inventory(lab)
    lab.kill("pg1")
    lab.stop("pg3")
    lab.start("pg3")
    took_s: list[float] = []

    outcome = attempt(
        inventory, lambda result: took_s.append(result.took_s) if isinstance(result.step, TakeVotes) else None
    )

    assert [outcome.ending, len(took_s), took_s[0] > 0.5] == [Ending.DONE, 1, True]


# ---- an old primary that returns


@pytest.mark.lab(sync="ANY 1")
def test_a_fence_of_a_role_that_may_write_files_outlives_a_restart(lab: Lab) -> None:
    ask(lab, "pg1", "GRANT pg_write_server_files TO replctl")
    with Auto(write_inventory(lab, failover=GRACES)) as auto:
        lab.kill("pg1")
        auto.wait_for("done")
        lab.start("pg1")
        auto.wait_for("fenced", "pg1")
        lab.stop("pg1")
        lab.start("pg1")

        assert [value(lab, "pg1", "SELECT pg_is_in_recovery()"), writable(lab)] == [True, {"pg2"}]
