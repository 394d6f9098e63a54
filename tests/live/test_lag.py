"""Lag against the truth, second by second, in every situation that fools the usual formulas.

The truth is known from outside (see truth.py). Seconds must be within one sampling interval of it; what
this machine may be late by beside that is NOISE_S. Each test also shows that it was the situation it is
about: that the usual formula was fooled, or that rows were really missing.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from replctl.core.lag import Lag, LagBound, LagHistory, LagSource
from replctl.core.status import NodeState, Role, assess
from replctl.inventory import Inventory, load_one
from replctl.lab import Lab, remove
from replctl.pg.observe import Observer
from tests.live.places import open_directory
from tests.live.servers import SERVERS
from tests.live.truth import (
    Reading,
    Watch,
    Writer,
    archive_only,
    cut,
    delayed,
    open_transaction,
    paused,
    set_on,
    superuser,
)
from tests.support import need, run, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]

INTERVAL_S = 0.5
NOISE_S = 0.3
WAL_WRITER_S = 0.2 + NOISE_S  # wal_writer_delay
MIB = 1024 * 1024
# Records that cross some page boundaries.
PAGES = "SELECT pg_logical_emit_message(true, 'test', repeat('x', 400)) FROM generate_series(1, 50)"

Looks = list[dict[str, Reading]]


@dataclass
class Scene:
    """A cluster with rows coming in, and whoever watches it: pg1 → pg2, pg1 → pg3 → pg4."""

    lab: Lab
    inventory: Inventory
    writer: Writer
    watch: Watch


class _Labs(dict[int, Lab]):
    """One cluster per server version for all tests of this file that leave it as it was."""

    def __init__(self, base: Path) -> None:
        super().__init__()
        self.base = base

    def __missing__(self, major: int) -> Lab:
        place = self.base / f"pg{major}"
        self[major] = Lab.up(place, replicas=3, cascade=True, fsync=False, pg_bin=SERVERS[major])
        for node in ("pg2", "pg3", "pg4"):
            set_on(self[major], node, wal_retrieve_retry_interval="200ms")
        return self[major]


@pytest.fixture(scope="module")
def _labs() -> Iterator[_Labs]:
    with open_directory(for_labs=True) as place:
        labs = _Labs(place)
        yield labs
        for lab in labs.values():
            remove(lab.directory)


def scene_of(lab: Lab, *, node: str = "pg1") -> Iterator[Scene]:
    inventory = load_one(lab.inventory_path)
    with Writer(lab, node) as writer, Watch(lab, inventory, writer, interval_s=INTERVAL_S) as watch:
        yield Scene(lab, inventory, writer, watch)


@pytest.fixture
def scene(pg_major: int, _labs: _Labs) -> Iterator[Scene]:
    """A shared cluster: leave it as it was."""
    yield from scene_of(_labs[pg_major])


@pytest.fixture
def own_scene(lab: Lab) -> Iterator[Scene]:
    """A cluster of this test's own: pg1 → pg2, pg1 → pg3."""
    yield from scene_of(lab)


def of(looks: Looks, node: str) -> list[Reading]:
    return [look[node] for look in looks if node in look]


def said(readings: Sequence[Reading]) -> str:
    return "\n" + "\n".join(map(str, readings))


def assert_true(readings: Sequence[Reading]) -> None:
    """Bytes between those before and after each look, seconds within one interval of the truth."""
    assert readings
    # A busy machine may be late with a look: the interval is the one that there was.
    interval_s = max([INTERVAL_S, *(b.at_s - a.at_s for a, b in pairwise(readings))])
    for reading in readings:
        shown = reading.shown.lag
        assert shown.lag_bytes is not None, said(readings)
        if reading.least_bytes is not None and reading.most_bytes is not None:
            assert reading.least_bytes <= shown.lag_bytes <= reading.most_bytes, said(readings)
        assert reading.error_s is not None, said(readings)
        assert reading.error_s <= interval_s + NOISE_S, said(readings)


def assert_no_lag(readings: Sequence[Reading]) -> None:
    """Zero at every look, and known to be."""
    assert {(r.least_s, r.most_s) for r in readings} == {(0.0, 0.0)}, said(readings)
    assert {(r.shown.lag_s, r.shown.lag_source, r.shown.lag_bound) for r in readings} == {
        (0.0, LagSource.CAUGHT_UP, LagBound.EXACT)
    }, said(readings)


def caught_up(*nodes: str) -> Callable[[dict[str, Reading]], bool]:
    """Whether a look shows that these have everything, and they have."""
    return lambda look: all(look[n].shown.lag_s == 0 and look[n].most_s == 0 for n in nodes)


# ---- nothing is wrong


def test_an_idle_primary_is_no_lag(scene: Scene) -> None:
    scene.writer.rest()
    scene.watch.follow_until(caught_up("pg2", "pg3", "pg4"), "all replicas have all rows")
    scene.watch.interval_s = 1.0

    looks = scene.watch.follow(20)

    for node in ("pg2", "pg3", "pg4"):
        assert_no_lag(of(looks, node))
        assert (of(looks, node)[-1].naive_s or 0) > 18, "the naive formula was to be fooled"


def assert_no_lag_but_unsent(readings: Sequence[Reading]) -> None:
    """Zero at most looks; in between, what the WAL writer wrote and the walsender has not sent yet."""
    assert {(r.least_s, r.most_s) for r in readings} == {(0.0, 0.0)}, said(readings)
    assert all(r.shown.lag_s is not None and r.shown.lag_s <= WAL_WRITER_S for r in readings), said(readings)
    zero = [r for r in readings if r.shown.lag_source is LagSource.CAUGHT_UP]
    assert len(zero) > len(readings) / 2, said(readings)


def test_a_transaction_left_open_is_no_lag(scene: Scene) -> None:
    scene.writer.rest()
    scene.watch.follow_until(caught_up("pg2", "pg3", "pg4"), "all replicas have all rows")
    looks: Looks = []
    with open_transaction(scene.lab) as execute:
        for _ in range(4):
            execute(PAGES)
            looks += scene.watch.follow(1.5)

    for node in ("pg2", "pg3", "pg4"):
        readings = of(looks, node)
        assert_no_lag_but_unsent(readings)
        assert any(r.shown.lag.lag_bytes for r in readings), "a page was to be left with half a record"
        assert max(r.usual_s or 0 for r in readings) > 2, "the usual formula was to be fooled"


def test_a_half_written_record_of_many_pages_is_no_lag(scene: Scene) -> None:
    scene.writer.rest()
    scene.watch.follow_until(caught_up("pg2", "pg3", "pg4"), "all replicas have all rows")
    looks: Looks = []
    with open_transaction(scene.lab) as execute:
        # The server's own records, every 15 s, complete one; the next is half written again.
        for _ in range(3):
            execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 300000))")
            looks += scene.watch.follow(1.5)

    for node in ("pg2", "pg3", "pg4"):
        readings = of(looks, node)
        assert_no_lag_but_unsent(readings)
        residues = [r.shown.lag.lag_bytes or 0 for r in readings if r.shown.lag_source is LagSource.CAUGHT_UP]
        assert max(residues) > 2 * 8192, "half a record was to be out"


# ---- something is wrong


def test_a_replica_that_is_cut_off_falls_behind_and_never_shows_zero(scene: Scene) -> None:
    scene.watch.follow_until(caught_up("pg2"), "pg2 has all rows")
    with cut(scene.lab, "pg2"):
        scene.writer.pad_bytes = 200_000
        # Until it has been seen behind, the first missing row may be of this very moment.
        scene.watch.follow_until(lambda look: look["pg2"].least_s > 0, "a row is missing")
        looks = scene.watch.follow_until(
            lambda look: (look["pg2"].most_bytes or 0) > 20 * MIB, "20 MB are missing", limit_s=30
        )
        scene.writer.rest()
        looks += scene.watch.follow(2)

    readings = of(looks, "pg2")
    assert_true(readings)
    assert {r.shown.state for r in readings} == {NodeState.STALLED}
    assert {r.usual_s for r in readings} == {0.0}, "the usual formula was to be fooled"
    seconds = [r.shown.lag_s or 0.0 for r in readings]
    assert seconds[0] > 0
    assert all(later > earlier for earlier, later in pairwise(seconds)), said(readings)
    scene.watch.follow_until(caught_up("pg2"), "pg2 has caught up again")


def test_a_paused_replica_is_late_under_load_and_on_an_idle_primary(scene: Scene) -> None:
    scene.watch.follow(1)
    with paused(scene.lab, "pg3"):
        looks = scene.watch.follow(4)
        scene.writer.rest()
        looks += scene.watch.follow(4)
        last = scene.watch.look()["pg3"]

    readings = of(looks, "pg3")
    assert_true(readings)
    assert {r.shown.state for r in readings} == {NodeState.PAUSED}
    assert last.least_s > 7
    assert (last.off(last.replay_lag_s) or 0) > 2, "replay_lag was to be fooled by the idle primary"
    # The WAL passes through a paused replica to the one below it.
    assert_true(of(looks, "pg4"))
    assert {r.shown.state for r in of(looks, "pg4")} == {NodeState.STREAMING}
    after = scene.watch.follow_until(caught_up("pg3"), "pg3 has caught up again")
    assert of(after, "pg3")[-1].shown.lag_source is LagSource.CAUGHT_UP


def test_a_paused_replica_with_an_open_transaction_on_the_primary_is_late(scene: Scene) -> None:
    scene.watch.follow_until(caught_up("pg2"), "pg2 has all rows")
    with paused(scene.lab, "pg2"):
        scene.watch.follow_until(lambda look: look["pg2"].least_s > 0, "a row is missing")
        scene.writer.rest()
        with open_transaction(scene.lab) as execute:
            execute(PAGES)
            looks = scene.watch.follow(4)

    assert_true(of(looks, "pg2"))
    scene.watch.follow_until(caught_up("pg2"), "pg2 has caught up again")


def test_a_replica_below_one_that_is_cut_off_is_behind_the_primary(scene: Scene) -> None:
    scene.watch.follow_until(caught_up("pg3", "pg4"), "pg3 and pg4 have all rows")
    with cut(scene.lab, "pg3"):
        looks = scene.watch.follow(5)

    readings = of(looks, "pg4")
    assert_true(readings)
    assert (readings[-1].shown.upstream, readings[-1].shown.state) == ("pg3", NodeState.STREAMING)
    assert readings[-1].least_s > 4
    assert readings[-1].usual_s == 0, "the usual formula was to be fooled"
    scene.watch.follow_until(caught_up("pg3", "pg4"), "both have caught up again")


def test_a_replica_below_a_healthy_one_may_be_late_itself(scene: Scene) -> None:
    scene.watch.follow(1)
    with paused(scene.lab, "pg4"):
        looks = scene.watch.follow(3)

    assert_true(of(looks, "pg4"))
    assert_true(of(looks, "pg3"))
    assert of(looks, "pg4")[-1].least_s > 2
    scene.watch.follow_until(caught_up("pg4"), "pg4 has caught up again")


def test_a_delayed_replica_is_as_late_as_its_delay(scene: Scene) -> None:
    scene.watch.follow(1)
    with delayed(scene.lab, "pg2", "3s"):
        looks = scene.watch.follow(6)
        scene.writer.rest()
        looks += scene.watch.follow_until(caught_up("pg2"), "pg2 has replayed all rows")

    readings = of(looks, "pg2")
    assert_true(readings)
    assert {r.shown.apply_delay_s for r in readings} == {3.0}
    late = [r.shown.lag_s or 0.0 for r in readings if r.least_s > 2.5]
    assert late
    assert all(2.5 - INTERVAL_S <= s <= 3.0 + INTERVAL_S + NOISE_S for s in late), said(readings)


def test_a_replica_fed_from_the_archive_is_as_late_as_its_last_segment(scene: Scene) -> None:
    scene.watch.follow(1)
    scene.writer.rest()
    with archive_only(scene.lab, "pg2"):
        before = [scene.watch.look()]  # nobody looked while it restarted
        scene.writer.resume()
        scene.writer.pad_bytes = 200_000
        before += scene.watch.follow_until(lambda look: look["pg2"].least_s > 0, "a row is missing")
        looks = scene.watch.follow(9)
        scene.writer.rest()
        with superuser(scene.lab, "pg1") as connection:
            connection.execute("SELECT pg_switch_wal()")
        looks += scene.watch.follow_until(caught_up("pg2"), "pg2 has the last segment", limit_s=20)

    assert_true(of([*before, *looks], "pg2"))
    readings = of(looks, "pg2")
    assert {r.shown.state for r in readings} == {NodeState.ARCHIVE}
    assert max(r.least_s for r in readings) > 2
    replayed = {r.shown.replayed_lsn for r in readings}
    assert len(replayed) > 2, "segments were to come in"


def test_a_replica_that_restarts_is_measured_right_as_soon_as_it_answers(scene: Scene) -> None:
    scene.watch.follow_until(caught_up("pg2"), "pg2 has all rows")
    scene.lab.stop("pg2")
    away = scene.watch.follow(2)
    scene.lab.start("pg2")
    looks = scene.watch.follow_until(caught_up("pg2"), "pg2 has caught up again")
    scene.writer.rest()
    scene.lab.stop("pg2")
    scene.lab.start("pg2")
    idle = scene.watch.follow(2)

    assert of(away, "pg2") == []
    assert_true(of(looks, "pg2"))
    # Nothing was written while it was away: its receiver is at a segment's start, its replay beyond.
    assert_no_lag(of(idle, "pg2"))
    assert (of(idle, "pg2")[-1].usual_s or 0) > 1, "the usual formula was to be fooled"


# ---- the primary changes or is gone


def test_values_from_before_a_promotion_are_not_believed(own_scene: Scene) -> None:
    own_scene.watch.follow_until(caught_up("pg2", "pg3"), "both replicas have all rows")
    own_scene.writer.rest()
    own_scene.lab.kill("pg1")
    with superuser(own_scene.lab, "pg2") as connection:
        connection.execute("SELECT pg_promote()")
        connection.execute("SELECT pg_create_physical_replication_slot('pg3', true)")
        survived = connection.execute("SELECT pg_last_wal_replay_lsn(), pg_last_xact_replay_timestamp()")
        assert None not in (survived.fetchone() or (None,)), "the old values were to survive the promotion"
        conninfo = (
            f"host=127.0.0.1 port={own_scene.lab.nodes['pg2'].port} user=replicator application_name=pg3"
        )
    set_on(own_scene.lab, "pg3", primary_conninfo=conninfo)
    own_scene.watch.primary = "pg2"

    look = own_scene.watch.look()
    report = own_scene.watch.last
    assert report is not None
    promoted = report.status["pg2"]

    assert "pg2" not in look
    assert (promoted.role, promoted.state, report.status.primary) == (Role.PRIMARY, NodeState.PRIMARY, "pg2")
    assert promoted.lag == Lag()
    assert (promoted.received_lsn, promoted.replayed_lsn) == (None, None)
    own_scene.watch.follow_until(
        lambda seen: seen["pg3"].shown.lag_s == 0 and seen["pg3"].shown.upstream == "pg2", "pg3 follows pg2"
    )
    assert own_scene.watch.history.origin is not None
    assert own_scene.watch.history.origin[1:] == ("pg2", 2)


@contextmanager
def gone(scene: Scene, way: str) -> Iterator[None]:
    """Without the primary, which rests; it is back, and all replicas with it, in the end."""
    scene.watch.silent.add("pg1")
    getattr(scene.lab, way)("pg1")
    try:
        yield
    finally:
        scene.lab.thaw("pg1")
        scene.lab.start("pg1")
        scene.watch.silent.clear()


@pytest.mark.parametrize("way", ["kill", "freeze"])
def test_without_a_primary_the_last_word_counts_as_a_lower_bound(scene: Scene, way: str) -> None:
    scene.watch.follow(1)
    with paused(scene.lab, "pg2"):
        scene.watch.follow_until(lambda look: look["pg2"].least_s > 1, "rows are missing")
        scene.writer.rest()
        before = scene.watch.look()
        with gone(scene, way):
            looks = scene.watch.follow(6)

    readings = of(looks, "pg2")
    assert_true(readings)
    assert {r.shown.lag.lag_bytes for r in readings} == {before["pg2"].shown.lag.lag_bytes}
    assert {(r.shown.lag_source, r.shown.lag_bound) for r in readings} == {
        (LagSource.HISTORY, LagBound.LOWER)
    }, said(readings)
    # The other has all that anybody heard of.
    assert {(r.shown.lag_s, r.shown.lag_source, r.shown.lag_bound) for r in of(looks, "pg3")} == {
        (0.0, LagSource.CAUGHT_UP, LagBound.LOWER)
    }
    scene.watch.follow_until(caught_up("pg2", "pg3", "pg4"), "all have caught up again", limit_s=30)


# ---- what may be asked


def test_a_role_without_pg_monitor_gets_right_numbers_and_no_zero_for_what_it_may_not_see(
    scene: Scene,
) -> None:
    with superuser(scene.lab, "pg1") as connection:
        connection.execute("DROP ROLE IF EXISTS nobody")
        connection.execute("CREATE ROLE nobody LOGIN")
    connections = {name: replace(c, user="nobody") for name, c in scene.inventory.connections.items()}
    plain = replace(scene.inventory, connections=connections)
    with Watch(scene.lab, plain, scene.writer, interval_s=INTERVAL_S) as watch:
        wait_until(lambda: {"pg2", "pg3", "pg4"} <= watch.look().keys(), "the role is on all replicas")
        with paused(scene.lab, "pg3"):
            looks = watch.follow(4)

    assert_true(of(looks, "pg3"))
    assert_true(of(looks, "pg2"))
    assert of(looks, "pg3")[-1].least_s > 3
    assert {r.shown.state for r in of(looks, "pg2")} == {NodeState.NO_PRIVILEGE}
    shown = of(looks, "pg2")[-1].shown
    assert (shown.sync_state, shown.sender and shown.sender.replay_lag_s) == (None, None)
    scene.watch.follow_until(caught_up("pg3"), "pg3 has caught up again")


def test_the_first_look_ever_shows_no_seconds_that_it_cannot_know(scene: Scene) -> None:
    scene.watch.follow(1)
    with paused(scene.lab, "pg2"):
        scene.watch.follow_until(lambda look: look["pg2"].least_s > 2, "rows are missing")
        with Watch(scene.lab, scene.inventory, scene.writer) as newcomer:
            reading = newcomer.look()["pg2"]

    shown = reading.shown
    assert shown.lag_source in (LagSource.REPLAY_LAG, LagSource.LAST_XACT)
    assert shown.lag_s is not None
    if shown.lag_bound is LagBound.LOWER:
        assert 0 < shown.lag_s <= reading.most_s + NOISE_S, str(reading)
    else:
        assert shown.lag_bound is LagBound.UPPER
        assert shown.lag_s >= reading.least_s - NOISE_S, str(reading)
    scene.watch.follow_until(caught_up("pg2"), "pg2 has caught up again")


async def byte_lags(inventory: Inventory, count: int) -> list[int | None]:
    """What look after look shows, as fast as can be."""
    samples: list[int | None] = []
    history = LagHistory()
    async with Observer(inventory) as observer:
        while len(samples) < count:
            status = assess(await observer.observe(limit_s=5.0), inventory.settings, history)
            history = status.history
            samples += [node.lag.lag_bytes for node in status.replicas]
    return samples


def test_a_thousand_samples_under_load_are_never_ahead_of_the_primary(scene: Scene) -> None:
    pgbench = scene.lab.bin_directory / "pgbench"
    need("pgbench", pgbench.exists(), "install PostgreSQL's client programs")
    where = ["-h", "127.0.0.1", "-p", str(scene.lab.nodes["pg1"].port), "-U", "postgres", "postgres"]
    run([str(pgbench), "-i", "-q", *where])
    load = subprocess.Popen(
        [str(pgbench), "-n", "-c", "3", "-T", "60", *where],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        samples = asyncio.run(byte_lags(scene.inventory, 1000))
    finally:
        load.terminate()
        load.wait(timeout=10)

    assert len({lag for lag in samples if lag}) > 100, "the load was to move the positions"
    assert [lag for lag in samples if lag is None or lag < 0] == []
