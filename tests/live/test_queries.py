"""Every query on every server, whoever asks: one set of columns from all variants; PostgreSQL's grammar."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from replctl.core.quorum import parse_sync_rule, sync_name
from replctl.lab import Lab
from replctl.pg.facts import node_facts
from replctl.pg.grants import operator_rights
from replctl.pg.queries import (
    BEAT,
    CORE,
    PLACE,
    POSITION,
    QUERIES,
    READY,
    SAMPLE,
    SETTINGS,
    Query,
    rights_query,
)
from tests.live.truth import superuser
from tests.support import wait_until

pytestmark = pytest.mark.live
on_every_server = pytest.mark.every_pg

NODES = ["pg1", "pg2"]  # the primary and a replica
# A superuser, the role that the lab's inventory connects as, and one that may do nothing special.
USERS = ["postgres", "replctl", "app"]
ON_PRIMARIES = (BEAT, POSITION)
FOR_ANYBODY = (SAMPLE, CORE, PLACE, READY)


def connect(lab: Lab, node: str, user: str) -> psycopg.Connection[DictRow]:
    return psycopg.connect(lab.dsn(node, user), autocommit=True, row_factory=dict_row, connect_timeout=5)


def columns(cursor: psycopg.Cursor[Any]) -> list[tuple[str, int]]:
    assert cursor.description is not None
    return [(column.name, column.type_code) for column in cursor.description]


@on_every_server
@pytest.mark.parametrize(
    ("node", "query"),
    [(n, q) for n in NODES for q in QUERIES if n == "pg1" or q not in ON_PRIMARIES],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_every_variant_has_the_same_columns_on_every_server_that_can_run_it(
    shared_lab: Lab, node: str, query: Query
) -> None:
    with connect(shared_lab, node, "postgres") as connection:
        found = {
            first: columns(connection.execute(text.encode()))
            for first, text in query.variants.items()
            if first <= shared_lab.major
        }

    assert len(found) >= 1
    assert all(each == found[min(found)] for each in found.values()), found


@on_every_server
def test_what_is_asked_without_a_view_has_the_columns_of_the_sample(shared_lab: Lab) -> None:
    with connect(shared_lab, "pg2", "replctl") as connection:
        version = connection.info.server_version
        whole, rest = (
            [name for name, _ in columns(connection.execute(query.for_version(version).encode()))]
            for query in (SAMPLE, CORE)
        )

    assert sorted(whole) == sorted(rest)


@on_every_server
@pytest.mark.parametrize("query", FOR_ANYBODY, ids=lambda query: query.name)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("node", NODES)
def test_nobody_is_refused_a_look(shared_lab: Lab, node: str, user: str, query: Query) -> None:
    with connect(shared_lab, node, user) as connection:
        rows = connection.execute(query.for_version(connection.info.server_version).encode()).fetchall()

    assert len(rows) == 1


@on_every_server
@pytest.mark.parametrize("query", (SAMPLE, CORE), ids=lambda query: query.name)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("node", NODES)
def test_every_row_becomes_facts(shared_lab: Lab, node: str, user: str, query: Query) -> None:
    with connect(shared_lab, node, user) as connection:
        version = connection.info.server_version
        rows = connection.execute(query.for_version(version).encode()).fetchall()

    facts = node_facts(
        node, rows[0], server_version_num=version, asked_at=time.time(), round_trip_s=0.0, sampled_at_s=0.0
    )

    assert facts.in_recovery is (node != "pg1")
    assert facts.is_complete is (query is SAMPLE)
    assert facts.monitor_privilege is (query is SAMPLE and user != "app")
    assert set(facts.settings) == (set(SETTINGS) if query is SAMPLE else set())


@on_every_server
def test_every_setting_is_shown_to_everybody(shared_lab: Lab) -> None:
    with connect(shared_lab, "pg2", "app") as connection:
        shown = {name: connection.execute(f"SHOW {name}".encode()).fetchone() for name in SETTINGS}

    assert None not in shown.values()


@on_every_server
def test_the_operator_of_the_lab_holds_every_right_that_is_asked_for(shared_lab: Lab) -> None:
    with connect(shared_lab, "pg1", "replctl") as connection:
        wanted = operator_rights(shared_lab.major, "replctl")
        row = connection.execute(rights_query(tuple(w.test for w in wanted)).encode()).fetchone()

    assert row is not None
    assert [w.what for w, held in zip(wanted, row["held"], strict=True) if not held] == []


@on_every_server
def test_the_application_holds_none_of_the_operators_rights(shared_lab: Lab) -> None:
    with connect(shared_lab, "pg1", "app") as connection:
        wanted = operator_rights(shared_lab.major, "app")
        row = connection.execute(rights_query(tuple(w.test for w in wanted)).encode()).fetchone()

    assert row is not None
    assert [w.what for w, held in zip(wanted, row["held"], strict=True) if held] == []


@on_every_server
def test_a_heartbeat_moves_the_wal_and_is_replayed(shared_lab: Lab) -> None:
    with connect(shared_lab, "pg1", "replctl") as primary, connect(shared_lab, "pg2", "replctl") as replica:
        before = primary.execute("SELECT pg_current_wal_lsn() - '0/0' AS lsn").fetchone()
        primary.execute(BEAT.for_version(primary.info.server_version).encode())

        def replayed() -> bool:
            row = replica.execute("SELECT pg_last_wal_replay_lsn() - '0/0' AS lsn").fetchone()
            assert before is not None
            assert row is not None
            return bool(row["lsn"] > before["lsn"])

        wait_until(replayed, "the replica has replayed the heartbeat")


# ---- synchronous_standby_names: what we can read is what the server takes

_PIECES = [
    *("ANY", "any", "FIRST", "First", "1", "2", "02", "0", "(", ")", ",", "*", '"', '""', " ", "  ", "\t"),
    *("pg1", "pg-1", "pg_1$", '"pg-1"', '"a ""b"" (c), d"', "größe", "1pg", "anyone", ";", ".", "-", "\\"),
]
_values = st.lists(st.sampled_from(_PIECES), max_size=9).map("".join) | st.lists(
    st.sampled_from(_PIECES), max_size=9
).map(" ".join)
_names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)


def takes(connection: psycopg.Connection[Any], value: str) -> bool:
    """Whether the server takes it. It is written down, not put into effect."""
    statement = sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(sql.Literal(value))
    try:
        connection.execute(statement)
    except (psycopg.errors.InvalidParameterValue, psycopg.errors.SyntaxError):
        return False
    return True


@pytest.fixture
def setting(shared_lab: Lab) -> Any:
    """A connection to the primary that may write the setting down, which is undone."""
    with superuser(shared_lab, "pg1") as connection:
        yield connection
        connection.execute("ALTER SYSTEM RESET synchronous_standby_names")


_a_lot = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_a_lot
@given(value=_values)
@example("ANY 1 (pg1, pg2)")
@example(" ")
@example("ANY1(pg1)")
@example("any")
@example('1 "(" pg1)')
@example("a, 1 (b)")
def test_a_value_is_read_exactly_when_the_server_takes_it(
    setting: psycopg.Connection[Any], value: str
) -> None:
    try:
        parse_sync_rule(value)
        is_read = True
    except ValueError:
        is_read = False

    assert is_read is takes(setting, value)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=_names)
def test_every_name_can_be_written_for_the_server(setting: psycopg.Connection[Any], name: str) -> None:
    assert takes(setting, f"ANY 1 ({sync_name(name)})")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ANY 1 (pg2, pg3)", {"pg2": "quorum", "pg3": "quorum"}),
        ("any 2 (PG2, Pg3)", {"pg2": "quorum", "pg3": "quorum"}),
        ('FIRST 1 ("PG3", pg2)', {"pg2": "potential", "pg3": "sync"}),
        ("pg2", {"pg2": "sync", "pg3": "async"}),
        ("2 (pg3, *)", {"pg2": "sync", "pg3": "sync"}),
        ("ANY 1 (*)", {"pg2": "quorum", "pg3": "quorum"}),
        ("", {"pg2": "async", "pg3": "async"}),
    ],
)
def test_a_rule_means_what_the_server_makes_of_it(
    setting: psycopg.Connection[Any], value: str, shown: dict[str, str]
) -> None:
    assert takes(setting, value)
    setting.execute("SELECT pg_reload_conf()")
    try:
        query = "SELECT application_name, sync_state FROM pg_stat_replication"
        wait_until(lambda: dict(setting.execute(query).fetchall()) == shown, f"{value!r} is in effect")
        rule = parse_sync_rule(value)

        methods = {"quorum": "ANY", "sync": "FIRST", "potential": "FIRST"}
        assert {methods[s] for s in shown.values() if s != "async"} == ({rule.method} if rule else set())
    finally:
        setting.execute("ALTER SYSTEM RESET synchronous_standby_names")
        setting.execute("SELECT pg_reload_conf()")
        wait_until(
            lambda: set(dict(setting.execute(query).fetchall()).values()) == {"quorum"},
            "the lab is as it was",
        )
