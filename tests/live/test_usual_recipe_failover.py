"""The usual recipe when the primary is lost (usual_recipe.py) and its replacement, in the same situations."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import exc, text

from replctl.adapters.pools import Pools
from replctl.adapters.sqlalchemy import Router
from replctl.core.routing import WRITE
from replctl.errors import NotReplicated, TransactionOutcomeUnknown
from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.pg.monitor import Monitor
from tests.live import usual_recipe as usual
from tests.live.django_project.running import REPLICAS, caught_up
from tests.live.failover_support import (
    ask,
    configure,
    environment,
    fail_over,
    value,
    wait_streaming,
    writable,
    write_inventory,
)
from tests.live.pools_support import APP, INTERVAL_S, TABLE, inventory_of, shop, wait_for
from tests.support import replctl, run, wait_until

pytestmark = pytest.mark.live

INSERT = "INSERT INTO notes VALUES (1)"
NOTES = "SELECT n FROM notes"


def insert(connection: Any) -> None:
    connection.execute(text(INSERT))


def dsns(lab: Lab, *names: str) -> list[str]:
    return [lab.dsn(name) for name in names]


def promoted_as_usual(lab: Lab, primary: str) -> str:
    """Which replica is promoted by who watches the primary at this address."""
    addresses = {lab.dsn(name): name for name in REPLICAS}
    return addresses[usual.watch(primary, list(addresses))]


def both(*works: Any) -> None:
    """Run these at once, to their ends."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


# ---- a thread that promotes


@pytest.mark.parametrize("who", ["the usual recipe", "replctl"])
def test_two_processes_that_promote_make_two_primaries_and_replctl_makes_one(lab: Lab, who: str) -> None:
    """Each process lists the replica of its own zone first, and both replicas have replayed as much."""
    ask(lab, "pg1", *TABLE)
    caught_up(lab)
    inventory = write_inventory(lab)
    lab.kill("pg1")
    if who == "the usual recipe":
        programs = [
            f"from tests.live.usual_recipe import watch;watch({lab.dsn('pg1')!r}, {dsns(lab, *names)!r})"
            for names in (("pg2", "pg3"), ("pg3", "pg2"))
        ]
        both(*(lambda p=p: run([sys.executable, "-c", p]) for p in programs))
        for name in REPLICAS:
            ask(lab, name, INSERT)  # both take the next order
        assert writable(lab) == {"pg2", "pg3"}
        return

    done: list[subprocess.CompletedProcess[str]] = []
    command = ("failover", "--yes", "--allow-loss", "unknown")
    environments = [
        {**environment(inventory), "REPLCTL_STATE_DIR": str(inventory.parent / f"state-{n}")}
        for n in range(2)
    ]
    with Monitor(load_one(inventory), interval_s=INTERVAL_S) as monitor:
        both(*(lambda e=e: done.append(replctl(*command, env=e)) for e in environments))
        assert (len(done), len(writable(lab)) <= 1) == (2, True), done
        # Where one stopped the other, since each held a vote that both needed, one is run again.
        replctl(*command, env=environments[0])
        assert (len(writable(lab)), writable(lab)) == (1, {lab.primary()}), done
        wait_for(monitor, lambda s: s.writer == lab.primary(), "the application follows it")


def test_a_primary_that_only_the_application_does_not_reach_is_promoted_over(lab: Lab) -> None:
    ask(lab, "pg1", *TABLE)
    caught_up(lab)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    inventory = inventory_of(lab, nodes={"pg1": {"port": closed}})

    with Monitor(load_one(inventory), interval_s=INTERVAL_S) as monitor:
        monitor.ensure()
        assert monitor.decide(WRITE).node is None
    refused = fail_over(inventory)
    assert (refused.returncode, writable(lab)) == (3, {"pg1"}), refused.stderr

    new = promoted_as_usual(lab, lab.dsn("pg1").replace(f"{lab.nodes['pg1'].port}", f"{closed}"))
    ask(lab, "pg1", INSERT)  # everybody else goes on writing there
    assert (writable(lab), ask(lab, new, NOTES)) == ({"pg1", new}, [])


def test_a_promotion_that_proves_nothing_loses_what_was_acknowledged(lab: Lab) -> None:
    ask(lab, "pg1", *TABLE)
    caught_up(lab)
    inventory = write_inventory(lab)
    for name in REPLICAS:
        lab.cut(name)
    wait_streaming(lab, "pg1")  # nobody
    ask(lab, "pg1", INSERT)  # acknowledged
    lab.kill("pg1")

    refused = fail_over(inventory)
    assert (refused.returncode, "LOSS" in refused.stderr, writable(lab)) == (3, True, set()), refused.stderr

    new = promoted_as_usual(lab, lab.dsn("pg1"))
    assert (writable(lab), ask(lab, new, NOTES)) == ({new}, [])


# ---- connecting again


def switch_over(lab: Lab) -> None:
    """pg2 is the primary, and pg1 its replica at the same address as before."""
    ports = {name: node.port for name, node in lab.nodes.items()}
    upstream = value(lab, "pg3", "SHOW primary_conninfo").replace(
        f"port={ports['pg1']}", f"port={ports['pg2']}"
    )
    configure(lab, "pg1", primary_conninfo=upstream.replace("application_name=pg3", "application_name=pg1"))
    caught_up(lab)
    lab.stop("pg1")
    ask(lab, "pg2", "SELECT pg_promote()", "INSERT INTO notes VALUES (0)")
    (lab.nodes["pg1"].data_directory / "standby.signal").touch()
    lab.start("pg1")
    wait_streaming(lab, "pg2", "pg1")


def test_a_ping_is_answered_by_a_primary_that_is_one_no_more(lab: Lab) -> None:
    engine = usual.engine_at(lab.dsn("pg1"))
    with shop(lab) as monitor, Router(monitor, user="postgres") as own:
        with engine.begin() as connection:
            insert(connection)
        with own.write_session() as session:
            insert(session)
        switch_over(lab)

        backends = set()
        for _ in range(3):
            with pytest.raises(exc.InternalError, match="read-only transaction"):
                usual.with_retries(engine, insert)
            with engine.connect() as connection:
                backends.add(connection.scalar(text("SELECT pg_backend_pid()")))
        engine.dispose()
        assert len(backends) == 1  # the pool keeps it: this goes on for ever

        wait_for(monitor, lambda s: s.writer == "pg2", "the new primary is seen")
        with own.write_session() as session:
            insert(session)
        assert ask(lab, "pg2", NOTES) == [(1,), (1,), (0,), (1,)]


# ---- what a commit that does not end means


@contextlib.contextmanager
def interrupted(lab: Lab, how: str) -> Iterator[None]:
    """While the block's commit waits for replicas, its session is ended, or (cancel) its wait."""
    query = f"SELECT count(pg_{how}_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

    def interrupt() -> None:
        wait_until(lambda: value(lab, "pg1", query), "the commit waits")
        if how == "terminate":
            for name in REPLICAS:
                lab.thaw(name)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)


@pytest.mark.lab(sync="ANY 1")
def test_a_commit_that_is_retried_when_its_answer_was_lost_writes_twice(lab: Lab) -> None:
    wait_streaming(lab, "pg1", *REPLICAS)
    engine = usual.engine_at(lab.dsn("pg1"))
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        for name in REPLICAS:
            lab.freeze(name)
        with interrupted(lab, "terminate"):
            usual.with_retries(engine, insert)
        engine.dispose()
        assert ask(lab, "pg1", NOTES) == [(1,), (1,)]

        for name in REPLICAS:
            lab.freeze(name)
        unknown = pytest.raises(TransactionOutcomeUnknown)
        with interrupted(lab, "terminate"), unknown, pools.connection() as connection:
            connection.execute("INSERT INTO notes VALUES (2)")
        # It says that one has to look; so one looks, and it is there.
        assert ask(lab, "pg1", NOTES) == [(1,), (1,), (2,)]


@pytest.mark.lab(sync="ANY 1")
def test_a_wait_for_replicas_that_was_cancelled_passes_for_a_commit_that_is_safe(lab: Lab) -> None:
    wait_streaming(lab, "pg1", *REPLICAS)
    engine = usual.engine_at(lab.dsn("pg1"))
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        for name in REPLICAS:
            lab.cut(name)
        with interrupted(lab, "cancel"), engine.begin() as connection:
            insert(connection)  # success, as it seems
        engine.dispose()

        refused = pytest.raises(NotReplicated)
        with interrupted(lab, "cancel"), refused, pools.connection() as connection:
            connection.execute("INSERT INTO notes VALUES (2)")
        assert ask(lab, "pg1", NOTES) == [(1,), (2,)]

        lab.kill("pg1")
        ask(lab, "pg2", "SELECT pg_promote()")
        assert ask(lab, "pg2", NOTES) == []  # the one as well as the other
