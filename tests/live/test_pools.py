"""Pools on a real cluster: who gets which node, what is read after a write, and what an error means."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from replctl.adapters.pools import Pools
from replctl.core.model import Lsn
from replctl.core.routing import READ, Position, entered
from replctl.errors import (
    NodeSwitched,
    NoReplica,
    NotReplicated,
    PoolsClosed,
    TransactionOutcomeUnknown,
)
from replctl.lab import Lab
from tests.live.failover_support import ask, configure, value, wait_streaming
from tests.live.pooler import pooled
from tests.live.pools_support import APP, KEYS, inventory_of, name_of, pause, resume, shop, wait_for
from tests.support import ROOT, need, wait_until

pytestmark = pytest.mark.live

INSERT = "INSERT INTO notes VALUES (%s)"
NEWEST = "SELECT max(n) FROM notes"


def newest(pools: Pools, **options: Any) -> Any:
    with pools.connection(read=True, **options) as connection:
        row = connection.execute(NEWEST).fetchone()
        assert row is not None
        return row[0]


# ---- reading what was written


def test_every_read_of_a_unit_of_work_sees_its_writes_wherever_it_is_served(lab: Lab) -> None:
    """pg2 stands still and goes on again and again; pg3 follows."""
    served = set()
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        with entered(monitor.cluster, monitor.new_scope(keys=KEYS)) as scope:
            for n in range(40):
                if n % 20 in (5, 15):
                    (pause if n % 20 == 5 else resume)(lab, "pg2")
                with pools.connection() as connection:
                    connection.execute(INSERT, (n,))
                if n % 2:
                    monitor.wait(monitor.snapshot, 2)
                with pools.connection(read=True) as connection:
                    served.add(name_of(lab, connection))
                    assert connection.execute(NEWEST).fetchone() == (n,)
        assert not scope.is_dirty
    assert served == {"pg1", "pg2", "pg3"}


def test_one_replica_that_is_up_to_date_makes_no_other_one_so(lab: Lab) -> None:
    """The trap of asking whether any replica has caught up, and then reading from all of them."""
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        pause(lab, "pg2")
        scope = monitor.new_scope(keys=KEYS)
        with pools.connection(scope=scope) as connection:
            connection.execute(INSERT, (1,))
        wait_until(lambda: value(lab, "pg3", NEWEST) == 1, "pg3 has it")
        wait_for(monitor, lambda s: scope.after is not None and s.reached(scope.after.lsn), "that was seen")
        served = set()
        for _ in range(20):
            with pools.connection(read=True, scope=scope) as connection:
                served.add(name_of(lab, connection))
                assert connection.execute(NEWEST).fetchone() == (1,)
    assert served == {"pg3"}


def test_another_process_with_the_token_sees_the_write(lab: Lab) -> None:
    program = """
        import sys
        from pathlib import Path
        from replctl.adapters.pools import Pools
        from replctl.core.routing import KeyRing
        from replctl.inventory import load_one
        from replctl.pg.monitor import Monitor
        keys = KeyRing((b"0123456789abcdef",))
        with Monitor(load_one(Path(sys.argv[1]))) as monitor:
            with Pools(monitor, {"user": "app"}, keys=keys) as pools:
                for _ in range(6):
                    with pools.connection(read=True, after=sys.argv[2]) as connection:
                        print(connection.execute("SELECT max(n) FROM notes").fetchone())
    """
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        pause(lab, "pg2", "pg3")
        scope = monitor.new_scope(keys=KEYS)
        with pools.connection(scope=scope) as connection:
            connection.execute(INSERT, (7,))
        arguments = [str(inventory_of(lab)), scope.token or ""]
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (done.stdout, done.stderr) == ("(7,)\n" * 6, "")


def test_a_read_that_may_wait_does_so_and_goes_to_the_primary_where_that_is_in_vain(lab: Lab) -> None:
    with shop(lab, on_behind="wait", wait_s=10) as monitor, Pools(monitor, APP) as pools:
        newest(pools)
        pause(lab, "pg2", "pg3")
        scope = monitor.new_scope(keys=KEYS)
        with pools.connection(scope=scope) as connection:
            connection.execute(INSERT, (1,))
        assert monitor.decide(READ, scope).wait_lsn == (scope.after and scope.after.lsn)
        resumed = threading.Timer(0.3, resume, (lab, "pg2", "pg3"))
        resumed.start()
        with pools.connection(read=True, scope=scope) as connection:
            assert connection.execute(NEWEST).fetchone() == (1,)
            assert name_of(lab, connection) != "pg1"
        resumed.join()


def test_a_wait_in_vain_ends_at_the_primary(lab: Lab) -> None:
    with shop(lab, on_behind="wait", wait_s=0.2) as monitor, Pools(monitor, APP) as pools:
        pause(lab, "pg2", "pg3")
        scope = monitor.new_scope(keys=KEYS)
        with pools.connection(scope=scope) as connection:
            connection.execute(INSERT, (1,))
        with pools.connection(read=True, scope=scope) as connection:
            assert (connection.execute(NEWEST).fetchone(), name_of(lab, connection)) == ((1,), "pg1")


def test_a_replica_that_freezes_is_not_waited_for(lab: Lab) -> None:
    no_look = {"interval_s": 3600.0}
    with shop(lab, **no_look, on_behind="wait", wait_s=0.2) as monitor, Pools(monitor, APP) as pools:
        for _ in range(4):
            newest(pools)
        pause(lab, "pg2", "pg3")
        scope = monitor.new_scope(keys=KEYS)
        with pools.connection(scope=scope) as connection:
            connection.execute(INSERT, (1,))
        for name in ("pg2", "pg3"):
            lab.freeze(name)
        began_s = time.monotonic()
        assert newest(pools, scope=scope) == 1
        assert time.monotonic() - began_s < 10


def test_a_position_that_no_replica_has_may_be_an_error(lab: Lab) -> None:
    with shop(lab, on_behind="error") as monitor, Pools(monitor, APP) as pools:
        snapshot = monitor.ensure()
        with pytest.raises(NoReplica):
            newest(pools, after=Position(snapshot.system, 1, Lsn(1 << 60)))


def test_threads_have_scopes_of_their_own(lab: Lab) -> None:
    found: dict[int, bool] = {}
    meet = threading.Barrier(4)
    with shop(lab) as monitor, Pools(monitor, APP) as pools:

        def work(n: int) -> None:
            with entered(monitor.cluster, monitor.new_scope(keys=KEYS)) as scope:
                meet.wait(20)
                if n % 2:
                    with pools.connection() as connection:
                        connection.execute(INSERT, (n,))
                meet.wait(20)
                found[n] = scope.has_changed

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == {0: False, 1: True, 2: False, 3: True}


def test_a_position_that_was_asked_for_during_a_write_does_not_pass_for_its_own(lab: Lab) -> None:
    with shop(lab) as monitor, Pools(monitor, {**APP, "autocommit": True}) as pools:
        scope = monitor.new_scope(keys=KEYS)
        with pools.connection(scope=scope) as slow:
            thread = threading.Thread(target=slow.execute, args=("SELECT pg_sleep(1)",))
            thread.start()
            wait_until(lambda: scope.is_dirty, "it is under way")
            with pools.connection(scope=scope) as connection:
                connection.execute(INSERT, (1,))
            noted = scope.is_dirty
            thread.join()
            assert (noted, scope.is_dirty) == (False, True)
        assert not scope.is_dirty


# ---- which connection


def test_what_was_declared_as_reading_writes_nowhere(lab: Lab) -> None:
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        for after in (None, Position("0" * 10, 1, Lsn(1))):  # of another cluster: the primary
            refused = pytest.raises(psycopg.errors.ReadOnlySqlTransaction)
            with refused, pools.connection(read=True, after=after) as connection:
                assert (name_of(lab, connection) == "pg1") is (after is not None)
                connection.execute(INSERT, (1,))
        with pools.connection() as connection:
            connection.execute(INSERT, (2,))
        assert value(lab, "pg1", NEWEST) == 2


def test_a_write_with_a_scope_costs_one_query_and_anything_else_none(lab: Lab) -> None:
    for name in lab.nodes:
        configure(lab, name, log_statement="all", log_line_prefix="%a ")
    with shop(lab) as monitor, Pools(monitor, APP, max_size=1) as pools:
        scope = monitor.new_scope(keys=KEYS)
        with pools.connection(scope=scope) as connection:
            connection.execute(INSERT, (1,))
        for read in (False, True):
            with pools.connection(read=read) as connection:
                connection.execute(NEWEST)
        with pools.connection(scope=scope):
            pass
    said = [
        line.partition(": ")[2].split()[0]
        for name in ("pg1", "pg2", "pg3")
        for line in (lab.directory / name / "postgresql.log").read_text().splitlines()
        if line.startswith("shop ") and ("statement:" in line or "execute " in line)
    ]
    begun = [word for word in said if word]
    assert len(begun) == 4 + 3 + 3, begun


def test_a_replica_that_gives_no_connection_is_passed_over(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    nowhere = {"client_port": closed}
    with shop(lab, nodes={"pg2": nowhere}) as monitor, Pools(monitor, APP, pooler=False) as pools:
        served = set()
        for _ in range(6):
            with pools.connection(read=True) as connection:
                served.add(name_of(lab, connection))
    assert served == {"pg3"}


@pytest.mark.parametrize("policy", ["primary", "error"])
def test_when_no_replica_gives_one_the_policy_decides(lab: Lab, policy: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nodes = {name: {"client_port": server.getsockname()[1]} for name in ("pg2", "pg3")}
    with shop(lab, nodes=nodes, on_all_unfit=policy) as monitor, Pools(monitor, APP, pooler=False) as pools:
        if policy == "primary":
            with pools.connection(read=True) as connection:
                assert name_of(lab, connection) == "pg1"
        else:
            with pytest.raises(NoReplica, match="not connected to: pg2, pg3"):
                newest(pools)


def test_connections_that_the_server_has_ended_are_not_given_out(lab: Lab) -> None:
    with shop(lab) as monitor, Pools(monitor, APP, min_size=3) as pools:
        newest(pools)
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop' AND state = 'idle'"
        with pools.connection() as connection:
            connection.execute("SELECT 1")
        wait_until(lambda: value(lab, "pg1", query) >= 3, "they are idle")
        end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'shop'"
        ask(lab, "pg1", end)
        wait_until(lambda: value(lab, "pg1", query) == 0, "they have ended")
        for n in range(6):
            with pools.connection() as connection:
                connection.execute(INSERT, (n,))
        assert value(lab, "pg1", "SELECT count(*) FROM notes") == 6


def test_a_promoted_replica_is_read_from_as_such_no_more(lab: Lab) -> None:
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        for _ in range(2):
            newest(pools)
        readers = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'shop'"
        pids = value(lab, "pg2", readers)
        lab.kill("pg1")
        ask(lab, "pg2", "SELECT pg_promote()")
        with pools.connection(timeout_s=20) as connection:
            connection.execute(INSERT, (1,))
            assert name_of(lab, connection) == "pg2"
        assert value(lab, "pg2", NEWEST) == 1
        wait_until(lambda: not set(value(lab, "pg2", readers)) & set(pids), "those for reading were closed")


def test_behind_a_pooler_the_server_is_asked_for_its_role(lab: Lab) -> None:
    program = shutil.which("pgbouncer") or ""
    need("PgBouncer", program, "apt-get install pgbouncer")
    with pooled(lab, program, "pg2") as port, shop(lab, nodes={"pg2": {"client_port": port}}) as monitor:
        ask(lab, "pg1", "GRANT ALL ON notes TO replctl")
        options = {"user": "replctl", "dbname": "postgres", "prepare_threshold": None}
        with Pools(monitor, options, min_size=0) as pools:
            for _ in range(4):
                assert newest(pools) is None
            lab.kill("pg1")
            ask(lab, "pg2", "SELECT pg_promote()")
            with pools.connection(timeout_s=20) as connection:
                connection.execute(INSERT, (1,))
        assert value(lab, "pg2", NEWEST) == 1


def test_a_node_whose_receiver_is_dead_is_read_from_no_more(lab: Lab) -> None:
    with shop(lab, max_lag_s=2, readmit_lag_s=1) as monitor, Pools(monitor, APP) as pools:
        lab.cut("pg2")
        wait_for(monitor, lambda s: [d.node for d in s.wheel] == ["pg3"], "it has left")
        served = set()
        for _ in range(6):
            with pools.connection(read=True) as connection:
                served.add(name_of(lab, connection))
    assert served == {"pg3"}  # and the idle primary has put nobody else out


# ---- what an error means


def terminate(lab: Lab, while_it: str) -> threading.Thread:
    """End the application's connection to pg1 as soon as it is in this state."""
    query = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        f" WHERE application_name = 'shop' AND {while_it}"
    )
    thread = threading.Thread(
        target=lambda: wait_until(lambda: value(lab, "pg1", query), f"it is so: {while_it}")
    )
    thread.start()
    return thread


def by_its_end(connection: Any) -> None:
    connection.execute(INSERT, (1,))


def by_commit(connection: Any) -> None:
    connection.execute(INSERT, (1,))
    connection.commit()


def by_text(connection: Any) -> None:
    connection.execute(INSERT, (1,))
    connection.execute("COMMIT")


def by_several_statements(connection: Any) -> None:
    connection.execute("SELECT 1; INSERT INTO notes VALUES (1); COMMIT")


def by_a_transaction(connection: Any) -> None:
    with connection.transaction():
        connection.execute(INSERT, (1,))


Block = Callable[[Any], None]
BLOCKS = [(by_its_end, False), (by_its_end, True), (by_commit, False), (by_a_transaction, False)]
BLOCKS_OF_TEXT = [(by_text, False), (by_several_statements, False)]


@pytest.mark.lab(sync="ANY 1")
@pytest.mark.parametrize(("block", "autocommit"), [*BLOCKS, *BLOCKS_OF_TEXT])
def test_a_connection_that_is_lost_while_it_commits_leaves_the_outcome_unknown(
    lab: Lab, block: Block, autocommit: bool
) -> None:
    wait_streaming(lab, "pg1", "pg2", "pg3")
    with shop(lab) as monitor, Pools(monitor, {**APP, "autocommit": autocommit}) as pools:
        for name in ("pg2", "pg3"):
            lab.freeze(name)
        ending = terminate(lab, "wait_event = 'SyncRep'")
        scope = monitor.new_scope(keys=KEYS)
        with pytest.raises(TransactionOutcomeUnknown), pools.connection(scope=scope) as connection:
            block(connection)
        ending.join()
        assert (value(lab, "pg1", NEWEST), scope.is_dirty) == (1, True)


@pytest.mark.parametrize("autocommit", [False, True])
def test_one_that_is_lost_before_may_be_begun_again(lab: Lab, autocommit: bool) -> None:
    with shop(lab) as monitor, Pools(monitor, {**APP, "autocommit": autocommit}) as pools:
        ending = terminate(lab, "wait_event = 'PgSleep'")
        with pytest.raises(NodeSwitched), pools.connection() as connection, connection.transaction():
            connection.execute(INSERT, (1,))
            connection.execute("SELECT pg_sleep(30)")
        ending.join()
        assert value(lab, "pg1", NEWEST) is None


def test_one_that_is_lost_after_a_part_was_committed_may_not(lab: Lab) -> None:
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        ending = terminate(lab, "wait_event = 'PgSleep'")
        unknown = pytest.raises(TransactionOutcomeUnknown, match="a part was committed")
        with unknown, pools.connection() as connection:
            connection.execute(INSERT, (1,))
            connection.commit()
            connection.execute("SELECT pg_sleep(30)")
        ending.join()
        assert value(lab, "pg1", NEWEST) == 1


def test_an_error_that_was_swallowed_does_not_pass_for_a_commit(lab: Lab) -> None:
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        ending = terminate(lab, "wait_event = 'PgSleep'")
        with pytest.raises(NodeSwitched), pools.connection() as connection:
            connection.execute(INSERT, (1,))
            with suppress(psycopg.Error):
                connection.execute("SELECT pg_sleep(30)")
        ending.join()


def test_errors_of_the_application_stay_what_they_are(lab: Lab) -> None:
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        with pytest.raises(psycopg.errors.UndefinedTable), pools.connection() as connection:
            connection.execute("SELECT * FROM nothing")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), pools.connection() as connection:
            connection.execute("SET TRANSACTION READ ONLY")
            connection.execute(INSERT, (1,))
        with pytest.raises(ZeroDivisionError), pools.connection() as connection:
            connection.execute(INSERT, (1,))
            raise ZeroDivisionError
        assert value(lab, "pg1", NEWEST) is None


def test_a_writer_that_became_read_only_is_another_node_now(lab: Lab) -> None:
    """As a fenced primary is."""
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        switched = pytest.raises(NodeSwitched)
        with switched, pools.connection() as connection:
            configure(lab, "pg1", default_transaction_read_only="on")
            wait_until(lambda: _setting(connection) == "on", "it has heard")
            connection.execute(INSERT, (1,))


def _setting(connection: Any) -> str:
    with connection.transaction(force_rollback=True):
        return str(connection.execute("SHOW default_transaction_read_only").fetchone()[0])


@pytest.mark.lab(sync="ANY 1")
@pytest.mark.parametrize(("block", "autocommit"), BLOCKS)
def test_a_commit_whose_replication_was_not_waited_for_is_no_success(
    lab: Lab, block: Block, autocommit: bool
) -> None:
    wait_streaming(lab, "pg1", "pg2", "pg3")
    with shop(lab) as monitor, Pools(monitor, {**APP, "autocommit": autocommit}) as pools:
        for name in ("pg2", "pg3"):
            lab.freeze(name)
        query = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        thread = threading.Thread(target=lambda: wait_until(lambda: value(lab, "pg1", query), "it waits"))
        thread.start()
        scope = monitor.new_scope(keys=KEYS)
        with pytest.raises(NotReplicated), pools.connection(scope=scope) as connection:
            block(connection)
        thread.join()
        assert (value(lab, "pg1", NEWEST), scope.has_changed) == (1, True)


# ---- beginning, forking, ending


def test_nothing_is_opened_before_the_first_use_and_nothing_is_left_after_the_last(lab: Lab) -> None:
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop'"
    with shop(lab) as monitor:
        threads = threading.active_count()
        with Pools(monitor, APP) as pools:
            assert threading.active_count() == threads
            newest(pools)
            with pools.connection():
                pass
        wait_until(lambda: threading.active_count() == threads, "the threads have ended")
        for name in lab.nodes:
            wait_until(lambda name=name: value(lab, name, count) == 0, "the connections have ended")
        with pytest.raises(PoolsClosed, match="lab: the pools were closed"), pools.connection():
            raise AssertionError


def test_forked_children_open_their_own_and_leave_their_parent_alone(lab: Lab) -> None:
    with shop(lab) as monitor, Pools(monitor, APP) as pools, pools.connection() as connection:
        connection.execute(INSERT, (0,))
        newest(pools)
        told = [_fork(lambda n=n: _write_and_read(pools, n)) for n in (1, 2)]
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in told] == [0, 0]
        connection.execute(INSERT, (3,))
        connection.commit()
        assert value(lab, "pg1", "SELECT array_agg(n ORDER BY n) FROM notes") == [0, 1, 2, 3]
        newest(pools)


def _write_and_read(pools: Pools, n: int) -> None:
    scope = pools.monitor.new_scope(keys=KEYS)
    with pools.connection(scope=scope) as connection:
        connection.execute(INSERT, (n,))
    with pools.connection(read=True, scope=scope) as connection:
        query = "SELECT count(*) FROM notes WHERE n = %s"
        assert connection.execute(query, (n,)).fetchone() == (1,)
    pools.close()
    pools.monitor.close()


def _fork(work: Callable[[], None]) -> int:
    """A child that does only this; nothing of pytest may run there."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child
