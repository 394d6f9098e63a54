"""SQLAlchemy sessions on real servers: where they read and write, and what they see, while replicas lag."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, exc, func, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from replctl.adapters.metrics import metrics_of
from replctl.adapters.sqlalchemy import Router, RoutingSession
from replctl.core.routing import KeyRing, Reason
from replctl.errors import (
    NodeSwitched,
    NoPrimary,
    NotReplicated,
    PoolsClosed,
    TransactionOutcomeUnknown,
    WriteRefused,
)
from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.pg.monitor import Monitor
from tests.live.failover_support import ask, configure, value, wait_streaming, write_inventory
from tests.live.pooler import pooled
from tests.live.test_monitor import INTERVAL_S, QUICK, reason, wait_for, watching
from tests.live.test_route_metrics import registry, samples
from tests.support import need, wait_until

pytestmark = pytest.mark.live

KEYS = KeyRing((b"0123456789abcdef",))
APPLICATION: dict[str, Any] = {"user": "postgres", "application_name": "notes"}
LAGGING = {"max_lag_s": 3600, "max_lag_bytes": "1GiB"}  # so that what lags stays in the pool


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


TEXTS = select(Note.text).order_by(Note.id)
IN_RECOVERY = select(func.pg_is_in_recovery())


def make_table(lab: Lab) -> None:
    ask(lab, "pg1", "CREATE TABLE note (id serial PRIMARY KEY, text text NOT NULL)")
    for name in set(lab.nodes) - {"pg1"}:
        wait_until(lambda n=name: value(lab, n, "SELECT to_regclass('note')"), f"{name} has the table")


@contextmanager
def routing(lab: Lab, options: dict[str, Any] | None = None, **policy: Any) -> Iterator[Router]:
    """A router on the lab with an empty table `note`."""
    make_table(lab)
    own = {**APPLICATION, **(options or {})}
    with watching(lab, **policy) as monitor, Router(monitor, keys=KEYS, **own) as router:
        yield router


def pause(lab: Lab, *nodes: str) -> None:
    for node in nodes:
        ask(lab, node, "SELECT pg_wal_replay_pause()")


def resume(lab: Lab, *nodes: str) -> None:
    for node in nodes:
        ask(lab, node, "SELECT pg_wal_replay_resume()")


def write(router: Router, words: str) -> None:
    with router.write_session() as session:
        session.add(Note(text=words))


def read(router: Router) -> tuple[list[str], str | None, str]:
    """The notes, who served them, and why."""
    with router.read_session() as session:
        found = list(session.scalars(TEXTS))
        assert session.decision is not None
        return found, session.decision.node, str(session.decision.reason)


def backends(lab: Lab, node: str) -> int:
    return int(value(lab, node, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'notes'"))


# ---- where things go


def test_reads_go_to_replicas_in_turn_and_writes_to_the_primary(lab: Lab) -> None:
    of = registry()
    with routing(lab) as router:
        router.metrics = metrics_of(router.monitor, of)
        assert [backends(lab, name) for name in lab.nodes] == [0, 0, 0]
        write(router, "one")
        for name in ("pg2", "pg3"):
            wait_until(lambda n=name: value(lab, n, "SELECT count(*) FROM note") == 1, f"{name} has it")
        served = [read(router) for _ in range(4)]

        assert {found for found, *_ in map(_hashable, served)} == {("one",)}
        assert sorted(str(node) for _, node, _ in served) == ["pg2", "pg2", "pg3", "pg3"]
        assert {name: backends(lab, name) for name in lab.nodes} == {"pg1": 1, "pg2": 1, "pg3": 1}
        assert (router.route().replica, router.route(read=False).node) == (True, "pg1")
        counted = {key: n for key, n in samples(of).items() if key[0] == "db_read_route_total"}
        assert counted == {("db_read_route_total", "round_robin", name): 2.0 for name in ("pg2", "pg3")}
    wait_until(lambda: sum(backends(lab, name) for name in lab.nodes) == 0, "the connections have ended")


def _hashable(served: tuple[list[str], str | None, str]) -> tuple[tuple[str, ...], str | None, str]:
    return (tuple(served[0]), *served[1:])


def test_a_transaction_stays_on_its_node_and_the_next_one_chooses_anew(lab: Lab) -> None:
    port = select(func.inet_server_port())
    with routing(lab) as router, router.session("read") as session:
        served = []
        for _ in range(4):
            served.append({session.scalar(port) for _ in range(3)})
            session.rollback()

        assert [len(ports) for ports in served] == [1, 1, 1, 1]
        assert set().union(*served) == {lab.nodes["pg2"].port, lab.nodes["pg3"].port}


def test_a_replica_that_is_gone_is_replaced_before_anything_is_read(lab: Lab) -> None:
    with routing(lab) as router:
        router.monitor.ensure()
        router.monitor.interval_s = 3600  # the snapshot keeps saying that it is there
        assert router.monitor.wait(router.monitor.snapshot, 10) is not None
        lab.kill("pg2")
        assert {read(router)[1] for _ in range(2)} == {"pg3"}
        lab.kill("pg3")
        # One look may have been asked for, and may have been quicker than the reads.
        assert {read(router)[1:] for _ in range(4)} <= {("pg1", "all_unfit")}


def test_without_a_primary_the_first_use_says_why(lab: Lab) -> None:
    lab.stop("pg1")
    with watching(lab) as monitor, Router(monitor, **APPLICATION) as router:
        session = router.session()
        with pytest.raises(NoPrimary, match="no node answers as primary"):
            session.scalar(select(1))


# ---- one's own writes


def test_what_was_written_is_read_in_the_same_unit_of_work_and_in_the_next_one(lab: Lab) -> None:
    with routing(lab, **LAGGING) as router:
        router.monitor.ensure()
        pause(lab, "pg2", "pg3")
        with router.scope() as scope:
            write(router, "mine")
            assert read(router) == (["mine"], "pg1", "lsn_behind")
            token = scope.token
        assert read(router)[0] == []  # nobody who asks for nothing is kept waiting
        with router.scope(token) as scope:
            assert read(router) == (["mine"], "pg1", "lsn_behind")
            assert not scope.has_changed
        resume(lab, "pg3")
        wait_for(router.monitor, lambda _: _serves(router, token) == {"pg3"}, "pg3 has replayed it")
        with router.scope(token):
            assert {read(router)[1] for _ in range(4)} == {"pg3"}
            assert read(router)[0] == ["mine"]


def _serves(router: Router, token: str | None) -> set[str | None]:
    with router.scope(token):
        return {router.route().node for _ in range(4)}


def test_only_a_unit_of_work_that_wrote_costs_one_query_more(lab: Lab) -> None:
    log = lab.directory / "pg1" / "postgresql.log"

    def logged() -> list[str]:
        return re.findall(r"^notes LOG: .*(?:\n\t.*)*", log.read_text(), re.M)

    def asked() -> int:
        return sum("pg_current_wal_insert_lsn" in entry for entry in logged())

    with routing(lab) as router:
        router.monitor.ensure()
        configure(lab, "pg1", log_statement="all", log_line_prefix="%a ")
        wait_until(lambda: value(lab, "pg1", "SHOW log_statement") == "all", "statements are logged")
        write(router, "no unit of work")
        before = logged()
        for _ in range(5):
            router.engines.get("pg1", writes=True).engine.connect().close()
        assert (logged(), len(before) > 0) == (before, True)  # the guard asks nothing
        with router.scope() as scope:
            with router.write_session() as session:
                session.scalars(TEXTS).all()
            assert (asked(), scope.has_changed, scope.token) == (0, False, None)
            with router.write_session() as session:
                session.add(Note(text="two"))
                session.flush()
                session.add(Note(text="three"))
            assert (asked(), scope.has_changed, scope.is_dirty) == (1, True, False)
        with router.scope() as scope:
            with pytest.raises(ZeroDivisionError), router.write_session() as session:
                session.add(Note(text="rolled back"))
                session.flush()
                raise ZeroDivisionError
            assert (asked(), scope.has_changed) == (1, False)


def test_a_write_in_autocommit_is_one_of_the_unit_of_work_too(lab: Lab) -> None:
    with routing(lab, **LAGGING) as router, router.scope() as scope:
        router.monitor.ensure()
        pause(lab, "pg2", "pg3")
        with router.session() as session:
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            session.execute(text("INSERT INTO note (text) VALUES ('at once')"))
            assert scope.is_dirty
        assert read(router) == (["at once"], "pg1", "wrote")


def test_scopes_stay_in_their_threads(lab: Lab) -> None:
    with routing(lab, **LAGGING) as router:
        router.monitor.ensure()
        pause(lab, "pg2", "pg3")
        found: dict[str, Any] = {}
        barrier = threading.Barrier(2, timeout=10)

        def writes() -> None:
            with router.scope():
                write(router, "mine")
                barrier.wait()
                found["writer"] = read(router)
                barrier.wait()

        def reads() -> None:
            with router.scope() as scope:
                barrier.wait()
                found["reader"] = (read(router)[0], scope.token)
                barrier.wait()

        threads = [threading.Thread(target=target) for target in (writes, reads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

        assert found == {"writer": (["mine"], "pg1", "lsn_behind"), "reader": ([], None)}
        assert read(router)[0] == []  # and none is left here


def test_units_of_work_that_take_turns_on_one_connection_each_hear_of_their_own_write(lab: Lab) -> None:
    with routing(lab, {"write_pool": {"pool_size": 1, "max_overflow": 0}}) as router:
        heard: list[tuple[bool, bool]] = []

        def writes() -> None:
            for _ in range(50):
                with router.scope() as scope:
                    write(router, "mine")
                    heard.append((scope.has_changed, scope.is_dirty))

        threads = [threading.Thread(target=writes) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert heard == [(True, False)] * 200
        assert value(lab, "pg1", "SELECT count(*) FROM note") == 200


def test_a_read_waits_for_the_replica_as_long_as_it_may(lab: Lab) -> None:
    with routing(lab, on_behind="wait", wait_s=10, **LAGGING) as router:
        router.monitor.ensure()
        pause(lab, "pg2", "pg3")
        with router.scope():
            write(router, "soon there")
            resumed = threading.Timer(0.3, resume, (lab, "pg2", "pg3"))
            resumed.start()
            found, node, why = read(router)
            resumed.join()
            assert (found, node in ("pg2", "pg3"), why) == (["soon there"], True, "lsn_wait")


def test_a_read_that_waited_in_vain_goes_to_the_primary(lab: Lab) -> None:
    with routing(lab, on_behind="wait", wait_s=0.1, **LAGGING) as router:
        router.monitor.ensure()
        pause(lab, "pg2", "pg3")
        with router.scope():
            write(router, "not there")
            assert read(router) == (["not there"], "pg1", "lsn_behind")


# ---- automatic sessions


@contextmanager
def automatic(lab: Lab) -> Iterator[tuple[Router, RoutingSession]]:
    """An automatic session that has read from a replica, while no replica replays anything."""
    with routing(lab, **LAGGING) as router:
        write(router, "old")
        for name in ("pg2", "pg3"):
            wait_until(lambda n=name: value(lab, n, "SELECT count(*) FROM note") == 1, f"{name} has it")
        pause(lab, "pg2", "pg3")
        with router.session("automatic") as session:
            assert list(session.scalars(TEXTS)) == ["old"]
            assert session.decision is not None
            assert session.decision.replica
            yield router, session


def node(session: RoutingSession) -> str | None:
    return None if session.decision is None else session.decision.node


def test_a_select_after_a_flush_sees_what_was_flushed(lab: Lab) -> None:
    with automatic(lab) as (_, session):
        session.add(Note(text="flushed"))
        assert (list(session.scalars(TEXTS)), node(session)) == (["old", "flushed"], "pg1")
        session.commit()
        # Outside of any unit of work the session itself remembers.
        assert (list(session.scalars(TEXTS)), node(session)) == (["old", "flushed"], "pg1")


def test_an_insert_that_returns_an_entity_stays_in_one_place(lab: Lab) -> None:
    with automatic(lab) as (_, session):
        session.rollback()
        note = session.scalars(insert(Note).returning(Note), [{"text": "returned"}]).one()
        assert (note.text, node(session)) == ("returned", "pg1")
        changed = session.scalars(update(Note).values(text="changed").returning(Note)).all()
        assert ({n.text for n in changed}, node(session)) == ({"changed"}, "pg1")


@pytest.mark.parametrize(
    "statement",
    [
        select(insert(Note).values(text="x").returning(Note.id).cte("added").c.id),
        text("INSERT INTO note (text) VALUES ('x') RETURNING id"),
        text("SELECT id FROM note"),
        select(Note.id).with_for_update(),
        select(func.pg_advisory_xact_lock(1)),
    ],
    ids=["CTE", "text", "text that reads", "lock", "function"],
)
def test_what_may_write_goes_to_the_primary_and_all_after_it(lab: Lab, statement: Any) -> None:
    with automatic(lab) as (_, session):
        session.execute(statement).all()
        assert node(session) == "pg1"
        session.scalars(TEXTS).all()
        assert (session.scalar(IN_RECOVERY), node(session)) == (False, "pg1")


def test_a_savepoint_that_is_rolled_back_leaves_the_transaction_where_it_is(lab: Lab) -> None:
    with automatic(lab) as (_, session):
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.add(Note(text="undone"))
            session.flush()
            raise ZeroDivisionError
        with session.begin_nested():
            session.add(Note(text="kept"))
        assert (list(session.scalars(TEXTS)), node(session)) == (["old", "kept"], "pg1")
        session.commit()
    assert ask(lab, "pg1", "SELECT text FROM note ORDER BY id") == [("old",), ("kept",)]


def test_an_automatic_session_goes_back_to_replicas_that_have_seen_its_write(lab: Lab) -> None:
    with automatic(lab) as (router, session), router.scope():
        session.rollback()
        session.add(Note(text="new"))
        session.commit()
        assert (list(session.scalars(TEXTS)), node(session)) == (["old", "new"], "pg1")
        session.rollback()
        resume(lab, "pg2")
        wait_for(router.monitor, lambda _: router.route().node == "pg2", "pg2 has replayed it")
        assert (list(session.scalars(TEXTS)), node(session)) == (["old", "new"], "pg2")


# ---- declared sessions


@pytest.mark.parametrize("served_by", ["a replica", "the primary"])
def test_a_session_that_reads_refuses_to_write(lab: Lab, served_by: str) -> None:
    with routing(lab) as router, ExitStack() as stack:
        if served_by == "the primary":
            scope = stack.enter_context(router.scope())
            scope.forced = True
        for write_it, why in (
            (lambda s: (s.add(Note(text="x")), s.flush()), "a flush"),
            (lambda s: s.execute(insert(Note), [{"text": "x"}]), "a statement that writes or locks"),
            (lambda s: s.scalars(select(Note).with_for_update()).all(), "a statement that writes or locks"),
            (
                lambda s: s.execute(text("INSERT INTO note (text) VALUES ('x')")),
                "cannot execute INSERT in a read-only transaction",
            ),
        ):
            with pytest.raises(WriteRefused) as caught, router.read_session() as session:
                session.scalars(TEXTS).all()
                write_it(session)
            assert caught.value.why == why
        assert (read(router)[0], ask(lab, "pg1", "SELECT * FROM note")) == ([], [])


def test_a_session_that_writes_reads_from_replicas_where_that_is_declared(lab: Lab) -> None:
    with routing(lab) as router, sessionmaker(class_=RoutingSession, router=router)() as session:
        session.add(Note(text="x"))
        session.commit()
        with session.reading():
            assert session.scalar(IN_RECOVERY) is True
            with pytest.raises(WriteRefused):
                session.execute(insert(Note), [{"text": "y"}])
            session.rollback()
            assert session.scalar(IN_RECOVERY) is True
        # What began as a read turns to writing, and stays there.
        session.add(Note(text="z"))
        assert session.scalar(IN_RECOVERY) is False
        session.commit()
    assert ask(lab, "pg1", "SELECT text FROM note ORDER BY id") == [("x",), ("z",)]


def test_a_session_with_a_bind_of_its_own_uses_that(lab: Lab) -> None:
    with routing(lab) as router:
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(lab.dsn("pg1")))
        with engine.connect() as connection:
            outer = connection.begin()
            mode = "create_savepoint"
            with router.session("automatic", bind=connection, join_transaction_mode=mode) as session:
                session.add(Note(text="only here"))
                session.commit()
                assert list(session.scalars(TEXTS)) == ["only here"]
            outer.rollback()
        engine.dispose()
        assert ask(lab, "pg1", "SELECT * FROM note") == []


def test_isolation_levels_are_taken_as_of_any_session(lab: Lab) -> None:
    level = text("SHOW transaction_isolation")
    with routing(lab) as router:
        found = {}
        for mode in ("read", "write", "automatic"):
            with router.session(mode) as session:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
                found[mode] = (session.scalar(level), node(session) == "pg1")
        assert found == {
            "read": ("repeatable read", False),
            "write": ("repeatable read", True),
            "automatic": ("repeatable read", True),
        }


# ---- nodes that are not what they were


def test_idle_connections_that_their_server_has_ended_are_replaced_unseen(lab: Lab) -> None:
    with routing(lab) as router:
        for _ in range(2):
            write(router, "x")
            wait_until(lambda: {read(router)[1] for _ in range(4)} == {"pg2", "pg3"}, "both have served")
            for name in lab.nodes:
                lab.stop(name)
                lab.start(name)
            wait_streaming(lab, "pg1", "pg2", "pg3")
            wait_for(router.monitor, lambda s: s.writer == "pg1" and len(s.wheel) == 2, "all are back")
        write(router, "y")
        assert {read(router)[1] for _ in range(4)} == {"pg2", "pg3"}
        assert value(lab, "pg1", "SELECT count(*) FROM note") == 3


def test_monotonic_reads_stay_with_their_replica(lab: Lab) -> None:
    with routing(lab, {"monotonic": True}) as router, router.scope():
        first = read(router)
        assert {read(router)[1:] for _ in range(4)} == {(first[1], "monotonic")}


def test_a_fenced_primary_is_not_written_to_again_by_connections_it_has(lab: Lab) -> None:
    with routing(lab) as router:
        write(router, "before")
        router.monitor.interval_s = 3600
        configure(lab, "pg1", default_transaction_read_only="on")
        ask(lab, "pg1", "SELECT 1")
        with pytest.raises(NodeSwitched) as caught:
            write(router, "after")
        assert "pg1" in str(caught.value) or "takes no writes" in str(caught.value)
        configure(lab, "pg1", default_transaction_read_only=None)
        wait_until(lambda: value(lab, "pg1", "SHOW default_transaction_read_only") == "off", "it is off")
        wait_for(router.monitor, lambda s: s.writer == "pg1", "it is the writer again")
        write(router, "again")
    assert ask(lab, "pg1", "SELECT text FROM note ORDER BY id") == [("before",), ("again",)]


def test_a_node_that_became_a_replica_is_seen_before_anything_is_sent(lab: Lab) -> None:
    """Another server at the same address, as behind a virtual IP: the guard has the last word."""
    with routing(lab) as router:
        write(router, "on the primary")
        writer = router.engines.get("pg1", writes=True)
        writer.node = "pg2"  # from now on its address leads there
        writer.engine.dispose()
        with pytest.raises(NodeSwitched, match="pg2 takes the writes no more: it is no primary"):
            write(router, "on a replica")


def test_what_began_before_the_switch_is_not_committed_on_the_old_primary(lab: Lab) -> None:
    with routing(lab) as router:
        late = pytest.raises(
            NodeSwitched, match="pg1 takes the writes no more: another node takes the writes"
        )
        with late, router.write_session() as session:
            session.add(Note(text="too late"))
            session.flush()
            ask(lab, "pg2", "SELECT pg_promote()", "INSERT INTO note (text) VALUES ('new')")
            wait_for(router.monitor, lambda s: s.writer == "pg2", "pg2 takes the writes")
        with router.scope():
            write(router, "after")
            assert read(router)[:2] == (["new", "after"], "pg2")
        assert ask(lab, "pg1", "SELECT * FROM note") == []


def test_the_applications_own_read_only_transaction_is_its_own_mistake(lab: Lab) -> None:
    with routing(lab) as router:
        with (
            pytest.raises(exc.InternalError, match="read-only transaction"),
            router.write_session() as session,
        ):
            session.execute(text("SET TRANSACTION READ ONLY"))
            session.execute(insert(Note), [{"text": "x"}])
        write(router, "y")


def test_a_connection_that_is_lost_says_what_that_means(lab: Lab) -> None:
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'notes' AND backend_type = 'client backend'"
    )
    with routing(lab) as router:
        lost = pytest.raises(NodeSwitched, match="the connection to the primary was lost")
        with lost as caught, router.write_session() as session:
            session.add(Note(text="x"))
            session.flush()
            ask(lab, "pg1", kill)
            session.scalar(select(1))
        assert isinstance(caught.value.__cause__, psycopg.Error)
        with router.scope(), pytest.raises(TransactionOutcomeUnknown), router.write_session() as session:
            session.add(Note(text="y"))
            session.flush()
            ask(lab, "pg1", kill)
        with pytest.raises(NodeSwitched, match="serves this read no more"), router.read_session() as session:
            session.scalars(TEXTS).all()
            ask(lab, str(node(session)), kill)
            session.scalars(TEXTS).all()
        write(router, "z")
        assert ask(lab, "pg1", "SELECT text FROM note") == [("z",)]


@pytest.mark.lab(replicas=2, sync="ANY 1")
@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_a_commit_that_was_not_replicated_is_no_success(lab: Lab, how: str) -> None:
    wait_streaming(lab, "pg1", "pg2", "pg3")
    with routing(lab) as router, router.scope() as scope:
        write(router, "replicated")
        for name in ("pg2", "pg3"):
            lab.stop(name)
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        ended = threading.Thread(
            target=lambda: (
                wait_until(lambda: ask(lab, "pg1", waiting), "the commit waits"),
                ask(lab, "pg1", f"SELECT pg_{how}_backend(pid) FROM ({waiting}) AS waiting"),
            )
        )
        ended.start()
        expected = NotReplicated if how == "cancel" else TransactionOutcomeUnknown
        session = router.session()
        with pytest.raises(expected):
            session.add(Note(text="not replicated"))
            session.commit()
        ended.join(20)
        assert (scope.has_changed, session.in_transaction()) == (True, how == "terminate")
        session.close()
        with router.read_session() as session:
            assert list(session.scalars(TEXTS)) == ["replicated", "not replicated"]


def test_a_role_that_changes_disposes_of_the_engines_that_were_for_it(lab: Lab) -> None:
    with routing(lab) as router:
        write(router, "one")
        wait_until(lambda: {read(router)[1] for _ in range(4)} == {"pg2", "pg3"}, "all have served")
        with router.session("read") as held:
            while node(held) != "pg2":
                held.rollback()
                held.scalars(TEXTS).all()
            lab.kill("pg1")
            wait_for(router.monitor, lambda s: s.writer is None, "nobody takes writes")
            ask(lab, "pg2", "SELECT pg_promote()")
            wait_for(router.monitor, lambda s: s.writer == "pg2", "pg2 takes the writes")
            held.scalars(TEXTS).all()  # what is in use is not taken away
            assert backends(lab, "pg2") == 1
        wait_until(lambda: backends(lab, "pg2") == 0, "the replica's connections have ended")
        write(router, "two")
    assert ask(lab, "pg2", "SELECT text FROM note ORDER BY id") == [("one",), ("two",)]


# ---- processes and poolers


def test_a_forked_child_connects_anew_and_leaves_its_parents_connections_alone(lab: Lab) -> None:
    with routing(lab) as router:
        write(router, "parent")
        read(router)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # only what a worker does; nothing of pytest may run here
            code = 1
            try:
                write(router, "child")
                os.write(writing, f"{read(router)[1]}".encode())
                router.close()
                router.monitor.close()
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        told = os.read(reading, 100).decode()
        os.close(reading)

        assert (told in ("pg2", "pg3"), os.waitstatus_to_exitcode(status)) == (True, 0)
        write(router, "parent again")
    assert value(lab, "pg1", "SELECT count(*) FROM note") == 3


def test_behind_a_pooler_a_query_tells_the_role(lab: Lab) -> None:
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    need("PgBouncer", program, "apt-get install pgbouncer")
    assert program is not None
    make_table(lab)
    ask(lab, "pg1", "GRANT ALL ON note, note_id_seq TO PUBLIC")
    with pooled(lab, program) as port:
        path = write_inventory(lab, nodes={"pg1": {"client_port": port}}, routing=QUICK)
        with Monitor(load_one(path), interval_s=INTERVAL_S) as monitor, Router(monitor, keys=KEYS) as router:
            with router.scope():
                write(router, "through the pooler")
            assert ask(lab, "pg1", "SELECT text FROM note") == [("through the pooler",)]
            configure(lab, "pg1", default_transaction_read_only="on")
            wait_until(lambda: _refuses(router), "the guard has seen it")


def _refuses(router: Router) -> bool:
    try:
        write(router, "while fenced")
    except (NodeSwitched, NoPrimary):
        return True
    return False


def test_a_router_that_was_closed_says_so(lab: Lab) -> None:
    with routing(lab) as router:
        write(router, "x")
        router.close()
        with pytest.raises(PoolsClosed, match="this router was closed"):
            write(router, "y")


def test_an_ordinary_session_beside_it_is_left_alone(lab: Lab) -> None:
    with routing(lab) as router:
        write(router, "x")
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(lab.dsn("pg1")))
        with Session(engine) as session:
            assert list(session.scalars(TEXTS)) == ["x"]
        engine.dispose()
        assert reason(router.monitor.ensure(), "pg2") == "fit"
        assert router.route(read=False).reason is Reason.WRITE
