"""The Django adapter without a server: settings, statements, errors, blocks, system checks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from django.test import override_settings

from replctl import errors
from replctl.adapters.django import cluster_of, databases, read_replica, use_primary
from replctl.adapters.django.blocks import Choice, choice
from replctl.adapters.django.errors import NodeSwitched, NoPrimary, as_django
from replctl.adapters.django.statements import Effect, effect_of
from tests.live.django_project.running import settings_at

INVENTORY = """
schema = 1
cluster.name = "lab"
nodes = [{name = "pg1", host = "127.0.0.1", port = 1}, {name = "pg2", host = "127.0.0.2", port = 1},
         {name = "pg3", host = "127.0.0.3", port = 1}]
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "orders.toml"
    path.write_text(INVENTORY)
    path.chmod(0o644)
    return path


@pytest.fixture
def project(inventory: Path) -> Iterator[None]:
    settings_at(inventory)
    yield
    cluster_of().close()


# ---- DATABASES


def test_databases_are_a_writer_and_every_node(inventory: Path) -> None:
    place = {
        "inventory": str(inventory),
        "writer": "default",
        "zone": "a",
        "interval_s": 1.0,
        "patience_s": 5.0,
        "metrics": False,
    }
    of_all = {"ENGINE": "replctl.adapters.django.backend", "NAME": "orders", "CONN_MAX_AGE": 60}

    def node(name: str) -> dict[str, Any]:
        return {**of_all, "OPTIONS": {}, "TEST": {"MIRROR": "default"}, "REPLCTL": {**place, "node": name}}

    assert databases(inventory, zone="a", NAME="orders", CONN_MAX_AGE=60, ATOMIC_REQUESTS=True) == {
        "default": {**of_all, "ATOMIC_REQUESTS": True, "REPLCTL": {**place, "node": None}},
        "pg1": node("pg1"),
        "pg2": node("pg2"),
        "pg3": node("pg3"),
    }


def test_what_the_inventory_says_is_not_for_settings_to_say(inventory: Path) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"^HOST, TEST: databases\(\) sets this from the inventory"
    ):
        databases(inventory, HOST="elsewhere", TEST={})
    with pytest.raises(ImproperlyConfigured, match="a node is named 'pg2'"):
        databases(inventory, writer="pg2")


# ---- statements


@pytest.mark.parametrize(
    ("text", "effect"),
    [
        ('SELECT "a"."id" FROM "a" WHERE "a"."updated_at" > %s', Effect.READ),
        ('SELECT DISTINCT "a"."id" FROM "a"', Effect.READ),
        ('SELECT COUNT(*) AS "__count" FROM "a"', Effect.READ),
        ('SELECT 1 AS "a" FROM "a" LIMIT 1', Effect.READ),
        ('SELECT "a"."id" FROM "a" FOR UPDATE', Effect.READ),
        ('SELECT "a"."id" FROM "a" FOR NO KEY UPDATE OF "a"', Effect.READ),
        ("SAVEPOINT s1", Effect.READ),
        ("SET TIME ZONE 'UTC'", Effect.READ),
        ("select charge(%s)", Effect.CALL),
        ("WITH n AS (SELECT 1) SELECT * FROM n", Effect.CALL),
        ("EXPLAIN SELECT 1", Effect.CALL),
        ("COPY a TO STDOUT", Effect.CALL),
        ("INSERT INTO a VALUES (1)", Effect.WRITE),
        ("  -- note\n /* more */ update a set b = 1", Effect.WRITE),
        ("WITH n AS (DELETE FROM a RETURNING *) SELECT * FROM n", Effect.WRITE),
        ("EXPLAIN ANALYZE DELETE FROM a", Effect.WRITE),
        ("SELECT 1; INSERT INTO a VALUES (1)", Effect.WRITE),
        ("SELECT * INTO b FROM a", Effect.WRITE),
        ("COPY a FROM STDIN", Effect.WRITE),
        ("CALL settle()", Effect.WRITE),
        ("DO $$ BEGIN END $$", Effect.WRITE),
        ("REFRESH MATERIALIZED VIEW a", Effect.WRITE),
        ("", Effect.WRITE),
    ],
)
def test_a_statement_is_taken_for_what_it_may_do(text: str, effect: Effect) -> None:
    assert effect_of(text) is effect


# ---- errors


def test_errors_are_both_replctls_and_djangos() -> None:
    error = as_django(errors.NoPrimary("no node answers", why="pg1 is down", hint="replctl status"))
    assert (type(error), str(error), error.hint) == (
        NoPrimary,
        "no node answers: pg1 is down",
        "replctl status",
    )
    assert isinstance(error, errors.NoPrimary)
    assert isinstance(error, OperationalError)
    other = errors.UsageError("wrong")
    assert as_django(other) is other
    assert as_django(NodeSwitched("it is one already")).what == "it is one already"


# ---- blocks


def test_blocks_and_decorators_choose_for_what_is_inside_them_only() -> None:
    @use_primary
    def view() -> Choice | None:
        return choice.get()

    @read_replica()
    async def view_async() -> Choice | None:
        await asyncio.sleep(0)
        return choice.get()

    async def together() -> list[Choice | None]:
        with use_primary():
            return [*await asyncio.gather(view_async(), view_async()), choice.get()]

    with read_replica():
        assert (view(), choice.get()) == (Choice.PRIMARY, Choice.REPLICA)
    assert asyncio.run(together()) == [Choice.REPLICA, Choice.REPLICA, Choice.PRIMARY]
    assert (choice.get(), view.__name__) == (None, "view")


# ---- system checks


def found() -> list[str]:
    return [message.id for message in run_checks()]


@pytest.mark.parametrize(
    ("alias", "change", "expected"),
    [
        ("default", {}, []),
        ("default", {"ATOMIC_REQUESTS": True}, ["replctl.W001"]),
        ("default", {"TEST": {"MIRROR": "pg2"}}, ["replctl.E002"]),
        ("pg2", {"TEST": {"MIRROR": None}}, ["replctl.E002"]),
        ("pg2", {"ATOMIC_REQUESTS": True}, ["replctl.E003"]),
        ("pg2", {"ENGINE": "django.db.backends.postgresql"}, ["replctl.E001"]),
    ],
)
def test_checks_find_what_is_wrong_in_databases(
    project: None, alias: str, change: dict[str, Any], expected: list[str]
) -> None:
    entry = connections.settings[alias]
    before = dict(entry)
    entry.update(change)
    try:
        assert found() == expected
    finally:
        entry.clear()
        entry.update(before)


SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
OURS = "replctl.adapters.django.ReadYourWrites"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"DATABASE_ROUTERS": []}, ["replctl.E004"]),
        ({"MIDDLEWARE": []}, ["replctl.W002"]),
        ({"MIDDLEWARE": [SESSIONS, OURS]}, ["replctl.W003"]),
        ({"MIDDLEWARE": [OURS, SESSIONS]}, []),
        ({"SECRET_KEY": "short"}, ["replctl.E005"]),
    ],
)
def test_checks_find_what_is_missing_around_them(
    project: None, settings: dict[str, Any], expected: list[str]
) -> None:
    with override_settings(**settings):
        assert found() == expected
