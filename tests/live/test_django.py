"""Django on a cluster whose replicas stand still: whatever is written is read again, and the rest is old."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import InternalError, connection, connections, router, transaction

from replctl.adapters.django import cluster_of, read_replica, unit_of_work, use_primary
from replctl.adapters.django.testing import collapsed, lagging
from replctl.core.routing import parse
from replctl.lab import Lab, remove
from replctl.pg.monitor import Monitor
from tests.live.django_project.running import REPLICAS, caught_up, paused, running
from tests.live.failover_support import ask, configure, value
from tests.live.places import open_directory
from tests.live.servers import EXPECTED, SERVERS, in_turn
from tests.support import need, wait_until

pytestmark = pytest.mark.live

RESUME = "SELECT pg_wal_replay_resume()"


@pytest.fixture(scope="module")
def project_lab() -> Iterator[Lab]:
    need("a PostgreSQL", SERVERS, "pip install 'replctl[test]'")
    major = in_turn("tests/live/test_django.py", list(SERVERS) or list(EXPECTED))
    with open_directory(for_labs=True) as place:
        lab = Lab.up(place / "lab", pg_bin=SERVERS[major], fsync=False)
        try:
            yield lab
        finally:
            remove(lab.directory)


@pytest.fixture
def project(project_lab: Lab) -> Iterator[Lab]:
    """The project with empty tables."""
    with running(project_lab):
        empty(project_lab)
        yield project_lab


def empty(lab: Lab) -> None:
    tables = ", ".join(f"django_project_{name}" for name in ("article", "author", "tag"))
    ask(lab, "pg1", f"TRUNCATE {tables} CASCADE")
    caught_up(lab)


class Browser:
    """Keeps its cookies; by Django's synchronous or asynchronous stack."""

    def __init__(self, kind: str = "sync") -> None:
        from django.test import AsyncClient, Client

        client: Any = AsyncClient() if kind == "async" else Client()
        self.get = _blocking(client.get) if kind == "async" else client.get
        self.post = _blocking(client.post) if kind == "async" else client.post


def _blocking(method: Any) -> Any:
    async def called(*arguments: Any, **options: Any) -> Any:
        return await method(*arguments, **options)

    return async_to_sync(called)


def models() -> Any:
    from tests.live.django_project import models

    return models


def titles() -> list[str]:
    return list(models().Article.objects.order_by("id").values_list("title", flat=True))


def monitor() -> Monitor:
    return cluster_of().monitor


# ---- requests


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_who_writes_reads_it_in_the_next_request_and_nobody_else_is_kept_from_replicas(
    project: Lab, kind: str
) -> None:
    writer, other = Browser(kind), Browser(kind)
    with paused(project):
        response = writer.post(f"/{kind}/", {"title": "new"})

        assert (response.status_code, set(response.cookies)) == (201, {"replctl_lab"})
        seen = writer.get(f"/{kind}/")
        assert (seen.json(), set(seen.cookies)) == ({"titles": ["new"], "from": ["default"]}, set())
        assert other.get(f"/{kind}/").json() == {"titles": [], "from": []}
        assert other.get(f"/{kind}-primary/").json()["titles"] == ["new"]
        assert writer.get(f"/{kind}-replica/").json()["titles"] == []
        token = response.headers["X-Replctl-lab"]
        claim = parse(token)
        assert claim is not None
        assert claim.position is not None  # was asked for, in the thread that has the connection
        called = Browser(kind).get(f"/{kind}/", headers={"X-Replctl-lab": token})
        assert called.json()["titles"] == ["new"]

    wait_until(lambda: writer.get(f"/{kind}/").json()["from"][0] in REPLICAS, "its reads leave the primary")
    assert writer.get(f"/{kind}/").json()["titles"] == ["new"]


@pytest.mark.parametrize(
    ("path", "written"), [("/raw/", True), ("/rolled-back/", False), ("/sync-primary/", True)]
)
def test_a_cookie_is_set_for_what_was_committed_by_whatever_means(
    project: Lab, path: str, written: bool
) -> None:
    browser = Browser()
    with paused(project):
        response = browser.post(path, {"title": "new"})

        assert bool(response.cookies) is written
        assert browser.get("/sync/").json()["titles"] == (["new"] if written else [])


def test_a_transaction_that_only_reads_sets_no_cookie(project: Lab) -> None:
    models().Article.objects.create(title="old")
    response = Browser().get("/atomic-reads/")
    assert (response.json(), set(response.cookies)) == ({"titles": ["old"], "from": ["default"]}, set())


def test_a_request_reads_from_one_replica_and_requests_take_turns(project: Lab) -> None:
    models().Article.objects.create(title="old")
    caught_up(project)
    wait_for_look()
    served = [Browser().get("/sync/").json()["from"][0] for _ in range(8)]
    assert {name: served.count(name) for name in served} == {"pg2": 4, "pg3": 4}
    with unit_of_work():
        assert len({models().Article.objects.get()._state.db for _ in range(8)}) == 1


def test_scopes_do_not_leak_between_requests_that_share_threads(project: Lab) -> None:
    """Four threads serve forty users in turn; half of them write, each his own."""
    from django.db import connections

    def one(number: int) -> tuple[bool, list[str]]:
        writes, browser = number % 2 == 0, Browser()
        if writes:
            browser.post("/sync/", {"title": f"of {number}"})
        seen = browser.get("/sync/").json()["titles"]
        connections.close_all()
        return writes, seen

    with paused(project), ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(one, range(40)))

    for number, (writes, seen) in enumerate(answers):
        assert (f"of {number}" in seen) is writes
        assert writes or seen == []
    assert connections["default"].connection is None or not connections["default"].in_atomic_block


def test_tasks_of_one_request_share_what_it_wrote(project: Lab) -> None:
    Article = models().Article

    async def work() -> list[Any]:
        with unit_of_work():
            await Article.objects.acreate(title="new")
            return await asyncio.gather(*(Article.objects.filter(title="new").acount() for _ in range(3)))

    with paused(project):
        assert async_to_sync(work)() == [1, 1, 1]


# ---- inside a transaction, and what looks like a read


def test_what_was_created_is_read_inside_atomic_and_after_it(project: Lab) -> None:
    Article = models().Article
    with paused(project), unit_of_work():
        with transaction.atomic():
            created = Article.objects.create(title="new")
            assert Article.objects.get(pk=created.pk)._state.db == "default"
            with transaction.atomic():
                assert Article.objects.filter(title="new").exists()
        assert Article.objects.filter(title="new").count() == 1
    with paused(project), unit_of_work():
        assert Article.objects.count() == 1  # what was there before; read from a replica
        transaction.set_autocommit(False)
        try:
            Article.objects.create(title="second")
            assert Article.objects.count() == 2
            transaction.commit()
        finally:
            transaction.set_autocommit(True)


def test_what_the_orm_does_with_objects_of_replicas_is_right(project: Lab) -> None:
    Article, Author, Tag = models().Article, models().Author, models().Tag
    Article.objects.create(title="old")
    Tag.objects.create(name="seen")
    caught_up(project)
    with paused(project), unit_of_work():
        read = Article.objects.get(title="old")
        tag = Tag.objects.get(name="seen")
        assert {read._state.db, tag._state.db} <= set(REPLICAS)
        author = Author.objects.create(name="ann")
        read.author = author  # one of the primary to one of a replica
        read.tags.add(tag, Tag.objects.create(name="new"))
        read.save()
        assert sorted(read.tags.values_list("name", flat=True)) == ["new", "seen"]

        for expected in (True, False):
            found, created = Article.objects.get_or_create(title="other")
            assert (found._state.db, created) == ("default", expected)
        changed, created = Article.objects.update_or_create(title="other", defaults={"views": 7})
        assert (changed.views, created) == (7, False)

        Article.objects.filter(title="other").update(views=8)
        changed.refresh_from_db()
        assert (changed.views, changed._state.db) == (8, "default")
        with transaction.atomic():
            locked = Article.objects.select_for_update().get(title="old")
            assert (locked._state.db, locked.author_id) == ("default", author.pk)
        assert author.article_set.get().title == "old"
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_project_article SET views = 9 RETURNING title")
            assert sorted(cursor.fetchall()) == [("old",), ("other",)]
        assert set(Article.objects.values_list("views", flat=True)) == {9}


def test_an_object_of_the_primary_is_refreshed_there_in_another_unit_of_work(project: Lab) -> None:
    with paused(project):
        created = models().Article.objects.create(
            title="new", author=models().Author.objects.create(name="ann")
        )
        with unit_of_work():
            created.refresh_from_db()
            assert (created.title, created.author.name) == ("new", "ann")
            assert titles() == []  # while others read what is old


def test_outside_of_any_unit_of_work_reads_go_to_the_primary(project: Lab) -> None:
    with paused(project):
        models().Article.objects.create(title="new")
        assert titles() == ["new"]
        with read_replica():
            assert titles() == []
            with use_primary():
                assert titles() == ["new"]
            with transaction.atomic():
                assert titles() == ["new"]


def test_copy_and_functions_of_raw_cursors_are_seen_as_writes(project: Lab) -> None:
    ask(
        project,
        "pg1",
        """CREATE OR REPLACE FUNCTION written(text) RETURNS void LANGUAGE sql
           AS $$ INSERT INTO django_project_article (title, views) VALUES ($1, 0) $$""",
    )
    caught_up(project)
    with paused(project):
        with unit_of_work(), connection.cursor() as cursor:
            with cursor.copy("COPY django_project_article (title, views) FROM STDIN") as copy:
                copy.write_row(("copied", 0))
            assert titles() == ["copied"]
        with unit_of_work(), connection.cursor() as cursor:
            cursor.callproc("written", ["called"])
            assert titles() == ["copied", "called"]
        with unit_of_work(), connection.cursor() as cursor:
            cursor.execute(
                "WITH n AS (SELECT 1) INSERT INTO django_project_article (title, views) SELECT 'cte', 0"
            )
            assert titles() == ["copied", "called", "cte"]


# ---- positions


def test_a_token_carries_what_was_written_to_another_unit_of_work(project: Lab) -> None:
    with paused(project):
        with unit_of_work() as scope:
            models().Article.objects.create(title="new")
        assert (scope.is_dirty, scope.after is None) == (False, False)
        with unit_of_work(scope.token):
            assert titles() == ["new"]
        with unit_of_work():
            assert titles() == []


def test_after_many_writes_the_position_is_asked_for_once(project: Lab) -> None:
    """Counted by the server: its log of the statements of this session."""
    configure(project, "pg1", log_statement="all")
    try:
        wait_until(lambda: value(project, "pg1", "SHOW log_statement") == "all", "statements are logged")
        log = project.directory / "pg1" / "postgresql.log"
        connection.close()
        before = len(log.read_text())
        Browser().post("/sync/", {"title": "one"})
        Browser().get("/sync/")
        said = log.read_text()[before:]
    finally:
        configure(project, "pg1", log_statement=None)
    assert (said.count("INSERT INTO"), said.count("replctl:position")) == (1, 1)


def test_with_on_behind_wait_the_replica_is_waited_for(project_lab: Lab) -> None:
    with running(project_lab, on_behind="wait", wait_s=5):
        empty(project_lab)
        with paused(project_lab, "pg2", "pg3"):
            with unit_of_work() as scope:
                models().Article.objects.create(title="new")
            resumed = threading.Timer(0.3, lambda: [ask(project_lab, n, RESUME) for n in REPLICAS])
            resumed.start()
            with unit_of_work(scope.token):
                found = models().Article.objects.get()
            resumed.join()
        assert (found.title, found._state.db in REPLICAS) == ("new", True)


# ---- the rest of Django


def test_only_the_writer_is_migrated_and_server_side_cursors_read_replicas(project: Lab) -> None:
    migrates = {alias: router.allow_migrate_model(alias, models().Article) for alias in connections}
    assert migrates == {"default": True, "pg1": False, "pg2": False, "pg3": False}
    models().Article.objects.bulk_create(models().Article(title=f"n{n}") for n in range(5000))
    caught_up(project)
    wait_for_look()
    with unit_of_work():
        read = list(models().Article.objects.iterator(chunk_size=1000))
    assert (len(read), len({a._state.db for a in read} & set(REPLICAS))) == (5000, 1)


def test_a_session_of_a_replica_refuses_writes_by_itself(project: Lab) -> None:
    with pytest.raises(InternalError, match="read-only transaction"):
        models().Article.objects.using("pg2").create(title="wrong")
    with connections["pg2"].cursor() as cursor:
        cursor.execute("SHOW default_transaction_read_only")
        assert cursor.fetchone() == ("on",)


def test_for_tests_all_reads_can_be_served_by_the_writer_and_replicas_made_to_look_late(project: Lab) -> None:
    with paused(project):
        with collapsed() as decisions, unit_of_work():
            models().Article.objects.create(title="new")
        with collapsed() as decisions, unit_of_work():
            assert titles() == ["new"]
        assert [(d.replica, d.node in REPLICAS) for d in decisions] == [(True, True)]
    wait_for_look()
    browser = Browser()
    with lagging() as decisions:
        browser.post("/sync/", {"title": "second"})
        assert browser.get("/sync/").json()["titles"] == ["new", "second"]
        Browser().get("/sync/")
    assert [str(d.reason) for d in decisions] == ["lsn_behind", "round_robin"]


def test_djangos_own_test_cases_have_one_test_database_and_read_their_writes(project: Lab) -> None:
    import unittest

    from django.test import TestCase
    from django.test.utils import setup_databases, teardown_databases

    class Case(TestCase):
        def test_it(self) -> None:
            with unit_of_work():
                models().Article.objects.create(title="of a test")
                self.assertEqual(titles(), ["of a test"])
                self.assertEqual(connection.settings_dict["NAME"], "test_postgres")

    before = setup_databases(verbosity=0, interactive=False)
    try:
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    finally:
        connections.close_all()
        teardown_databases(before, verbosity=0)
        for alias in ("pg1", *REPLICAS):  # Django leaves mirrors as they are
            connections[alias].settings_dict["NAME"] = "postgres"
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
    assert titles() == []


def test_django_finds_nothing_to_complain_of(project: Lab) -> None:
    from django.core.checks import run_checks

    assert run_checks() == []


def wait_for_look() -> None:
    """Until the monitor has looked at what is there now."""
    for _ in range(2):
        assert monitor().wait(monitor().snapshot, 5)
