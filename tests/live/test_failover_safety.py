"""Holes in the safety of a failover, each opened on real servers: votes, proofs, restoring, hooks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from replctl.core.lag import LagHistory
from replctl.core.situation import Request, Vote
from replctl.errors import ReplctlError
from replctl.inventory import Inventory, load
from replctl.lab import Lab
from replctl.pg.act import Hands
from replctl.pg.change import StepError
from replctl.pg.locks import Ballot
from replctl.pg.observe import Observer
from replctl.pg.world import Servers
from tests.live.failover_support import (
    GRACES,
    Auto,
    ask,
    configure,
    environment,
    fail_over,
    streaming,
    value,
    wait_streaming,
    write_inventory,
)
from tests.live.relay import Relay
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live
RULE = "ANY 1 (pg1, pg2, pg3)"


def wait_until_counted(lab: Lab, node: str, what: str) -> None:
    """Wait until there is one row of this on the node."""
    wait_until(lambda: value(lab, node, f"SELECT count(*) FROM {what}") == 1, f"{node} has one of {what}")


@contextlib.asynccontextmanager
async def hands_on(inventory: Inventory) -> AsyncIterator[Hands]:
    """Hands with all the votes there are."""
    hands = Hands(inventory, Ballot(inventory, tuple(inventory.connections)))
    await hands.ballot.take(needed=len(hands.ballot.voters))
    try:
        yield hands
    finally:
        await hands.close()


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_two_controllers_that_log_in_to_different_databases_share_the_votes(lab: Lab):
    ask(lab, "pg1", "CREATE DATABASE elsewhere")
    one = load(write_inventory(lab))
    other = replace(one, connections={n: replace(c, dbname="elsewhere") for n, c in one.connections.items()})
    for name in ("pg2", "pg3"):
        wait_until_counted(lab, name, "pg_database WHERE datname = 'elsewhere'")

    async def run() -> tuple[dict[str, Vote], dict[str, Vote], dict[str, Vote]]:
        first, second = Ballot(one, tuple(one.connections)), Ballot(other, tuple(other.connections))
        try:
            mine = await first.take(needed=3)
            theirs = await second.take()
            return mine, theirs, await first.verify()
        finally:
            await first.release()
            await second.release()

    mine, theirs, still = asyncio.run(run())
    assert set(mine.values()) == {Vote.HELD}
    assert set(theirs.values()) == {Vote.TAKEN}
    assert still == mine


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_a_controller_that_did_not_get_the_votes_has_them_once_they_are_free(lab: Lab):
    inventory = write_inventory(lab, failover=GRACES)

    async def hold_until_refused(auto: Auto) -> None:
        async with hands_on(load(inventory)):
            lab.kill("pg1")
            await asyncio.to_thread(auto.wait_for, "ended", "VOTES_TAKEN")

    with Auto(inventory) as auto:
        auto.wait_for("verdict", "the primary answers")
        asyncio.run(hold_until_refused(auto))
        auto.wait_for("done", "pg2 is the primary")


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_a_promotion_is_not_asked_for_on_a_connection_that_was_opened_after_the_proof(lab: Lab):
    inventory = load(write_inventory(lab))

    async def run() -> None:
        async with hands_on(inventory) as hands:
            await hands.cut("pg2", "plain")
            await hands.until_cut("pg2", time.monotonic())
            backend = hands.ballot.connections["pg2"].info.backend_pid
            ask(lab, "pg2", f"SELECT pg_terminate_backend({backend})")
            with pytest.raises(Exception, match="terminating connection"):
                await hands.run("pg2", "SELECT 1")
            await hands.run("pg2", "SELECT 1")  # a new one, which has no vote
            with pytest.raises(Exception, match=r"closed|too long ago"):
                await hands.promote("pg2")
            assert value(lab, "pg2", "SELECT pg_is_in_recovery()") is True

    asyncio.run(run())


@pytest.mark.pg(">= 17")
@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_a_replica_that_refuses_its_upstream_does_not_keep_the_others_from_getting_theirs(lab: Lab):
    inventory = load(write_inventory(lab))

    async def run() -> tuple[str, ...]:
        async with Observer(inventory) as observer:
            world = Servers(inventory, observer, Request(lost="pg1"), LagHistory())
            try:
                await world.hands.ballot.take(needed=3)
                for name in ("pg2", "pg3"):
                    await world.hands.cut(name, "plain")
                with (lab.nodes["pg2"].data_directory / "postgresql.conf").open("a") as file:
                    file.write("\nallow_alter_system = off\n")
                ask(lab, "pg2", "SELECT pg_reload_conf()")
                wait_until(lambda: value(lab, "pg2", "SHOW allow_alter_system") == "off", "it is off")
                return await world.restore(("pg2", "pg3"))
            finally:
                await world.close()

    assert asyncio.run(run()) == ("pg2",)
    wait_streaming(lab, "pg1", "pg3")


@pytest.mark.lab(replicas=2)
def test_a_fence_command_that_cannot_be_started_stops_the_run_and_not_the_controller(lab: Lab):
    fence = {"commands": {"fence": ["/nowhere/fence_it"]}}
    inventory = write_inventory(lab, failover={"synchronous": "", **GRACES}, nodes={"pg1": fence})
    with Auto(inventory) as auto:
        lab.freeze("pg1")
        try:
            auto.wait_for("step_failed", "cannot be started")
            auto.wait_for("ended")
            assert auto.process.poll() is None
            assert streaming(lab, "pg2") == set()
            assert value(lab, "pg2", "SELECT pg_is_in_recovery()") is True
        finally:
            lab.thaw("pg1")
        auto.wait_for("verdict", "the primary answers")


class SlowWay(Relay):
    """A way to a server on which every byte comes late, as over an ocean."""

    def __init__(self, to: int, late_s: float) -> None:
        super().__init__()
        self.to, self.late_s, self.port = to, late_s, 0

    async def start(self) -> None:
        self.port = await self.listen(self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self.to)
        try:
            await asyncio.gather(self._copy(reader, downstream), self._copy(upstream, writer))
        finally:
            downstream.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def hand_on(data: bytes) -> None:
            if not writer.is_closing():
                writer.write(data)

        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.loop.call_later(self.late_s, hand_on, data)
        self.loop.call_later(self.late_s, writer.close)


@pytest.mark.lab(replicas=1)
def test_a_living_primary_far_away_is_not_taken_for_silent(lab: Lab):
    inventory = load(write_inventory(lab, failover={"profile": "normal", "synchronous": ""}))

    near = value(lab, "pg2", "SHOW primary_conninfo")

    async def prove() -> None:
        async with hands_on(inventory) as hands:
            with pytest.raises(ReplctlError, match="the primary lives"):
                await hands.prove_silence("pg2")

    with SlowWay(lab.nodes["pg1"].port, 0.4) as way:
        far = near.replace(f"port={lab.nodes['pg1'].port}", f"port={way.port}")
        configure(lab, "pg2", primary_conninfo=far)
        receiver = f"pg_stat_wal_receiver WHERE sender_port = {way.port} AND status = 'streaming'"
        wait_until_counted(lab, "pg2", receiver)
        asyncio.run(prove())
        assert value(lab, "pg2", "SHOW primary_conninfo") == far


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_a_rule_that_was_lowered_on_the_primary_is_known_to_whoever_comes_later(lab: Lab):
    """He has not seen the lost primary; that fewer confirmed is written where its replicas have it."""
    inventory = write_inventory(lab, failover={"synchronous": RULE})
    mark = """INSERT INTO replctl.state (key, value, updated_at) VALUES ('sync',
      '{"reason": "0 of 1 replicas stream", "since_at": 0, "until_at": null}', now())"""
    ask(lab, "pg1", mark)
    for name in ("pg2", "pg3"):
        wait_until_counted(lab, name, "replctl.state WHERE key = 'sync'")
    lab.kill("pg1")

    refused = fail_over(inventory)
    assert refused.returncode == 3
    assert "fewer replicas had to confirm" in refused.stderr
    done = fail_over(inventory, "--allow-loss", "unknown")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_a_rule_that_somebody_changed_is_remembered_by_a_controller_that_comes_too_late(lab: Lab):
    """One run in a minute, as from cron: the last one that saw the primary saw another rule on it."""
    inventory = write_inventory(lab, failover={"synchronous": RULE, **GRACES})
    configure(lab, "pg1", synchronous_standby_names="")
    assert fail_over(inventory, "--auto", "--once").returncode == 0
    lab.kill("pg1")

    refused = fail_over(inventory, "--auto", "--once")
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "synchronous_standby_names" in refused.stdout
    assert value(lab, "pg2", "SELECT pg_is_in_recovery()") is True


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(RULE, marks=pytest.mark.lab(sync="ANY 1"), id="quorum"),
        pytest.param(None, marks=pytest.mark.lab(sync=None), id="asynchronous"),
    ],
)
def test_a_living_primary_is_not_fenced_when_somebody_promotes_a_replica(lab: Lab, rule: str | None):
    settings = GRACES if rule is None else {"synchronous": rule, **GRACES}
    inventory = write_inventory(lab, failover=settings)
    with Auto(inventory) as auto:
        auto.wait_for("verdict", "the primary answers")
        ask(lab, "pg3", "SELECT pg_promote()")
        auto.wait_for("diagnosis", "STALE_PRIMARY")
        wait_until(lambda: value(lab, "pg3", "SELECT pg_is_in_recovery()") is False, "pg3 writes")
        ask(lab, "pg1", "CREATE TABLE confirmed_after ()")
        auto.wait_for("disputed", "pg1 and pg3 accept writes")
        ask(lab, "pg1", "CREATE TABLE confirmed_later ()")
        assert "replctl_fenced" not in value(lab, "pg1", "SHOW synchronous_standby_names")
        assert [streaming(lab, "pg1"), auto.events("fenced")] == [{"pg2"}, []]


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_a_session_that_holds_a_vote_does_not_end_for_being_idle(lab: Lab):
    inventory = load(write_inventory(lab))
    configure(lab, "pg2", idle_session_timeout="100ms")
    idle = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idler'"

    async def run() -> None:
        async with hands_on(inventory) as hands:
            with psycopg.connect(lab.dsn("pg2", "app"), application_name="idler"):
                wait_until(lambda: value(lab, "pg2", idle) == 0, "another idle session has ended")
            assert await hands.ballot.verify() == dict.fromkeys(("pg1", "pg2", "pg3"), Vote.HELD)

    asyncio.run(run())


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_a_replica_is_not_given_back_long_after_the_votes_were_shown(lab: Lab):
    inventory = load(write_inventory(lab))

    async def run() -> None:
        async with hands_on(inventory) as hands:
            await hands.cut("pg2", "plain")
            with pytest.raises(StepError, match="too long ago"):
                await hands.restore("pg2", "pg1", time.monotonic() - 2)
            assert value(lab, "pg2", "SHOW primary_conninfo") == ""

    asyncio.run(run())


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_what_a_cut_erases_is_noted_before_without_secrets(lab: Lab):
    inventory = write_inventory(lab)
    upstream = value(lab, "pg2", "SHOW primary_conninfo")
    configure(lab, "pg2", primary_conninfo=f"{upstream} password=hunter2 connect_timeout=7")
    wait_streaming(lab, "pg1", "pg2", "pg3")
    lab.kill("pg1")

    assert fail_over(inventory).returncode == 0

    shown = replctl("events", "last", "-o", "json", env=environment(inventory)).stdout
    noted = [e["message"] for e in json.loads(shown)["events"] if e["event"] == "found"]
    assert [m.partition(" was ")[0] for m in sorted(noted)] == [
        "primary_conninfo of pg2",
        "primary_conninfo of pg3",
    ]
    assert "connect_timeout=7" in "".join(noted)
    assert "hunter2" not in shown


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_a_replica_without_the_rule_has_it_before_it_takes_its_first_commit(lab: Lab):
    for name in ("pg2", "pg3"):
        configure(lab, name, synchronous_standby_names="")
    lab.kill("pg1")

    answer = fail_over(write_inventory(lab))

    assert answer.returncode == 0, answer.stderr
    assert f"set synchronous_standby_names of pg2 to '{RULE}'" in answer.stdout
    assert value(lab, "pg2", "SHOW synchronous_standby_names") == RULE
    assert value(lab, "pg2", "SELECT timeline_id FROM pg_control_checkpoint()") == 2
