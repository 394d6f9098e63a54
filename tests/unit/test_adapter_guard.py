"""Where connections of an application go, and what their errors mean for the transaction that met them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from replctl.adapters.connections import _may_commit
from replctl.adapters.guard import is_lost, is_pooled, outcome, parameters
from replctl.errors import NodeSwitched, TransactionOutcomeUnknown
from replctl.inventory import Inventory, load_one

INVENTORY = """
schema = 1
[cluster]
name = "shop"
[connection]
user = "replctl"
sslmode = "require"
passfile = "PASSFILE"
connect_timeout_s = 3
[[nodes]]
name = "pg1"
host = "10.0.0.1"
[[nodes]]
name = "pg2"
host = "db2.internal"
client_host = "pg2.public"
client_port = 6432
"""
ALWAYS = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15000,
    "sslmode": "require",
}


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    path = tmp_path / "shop.toml"
    passfile = tmp_path / "pgpass"
    passfile.touch(0o600)
    path.write_text(INVENTORY.replace("PASSFILE", str(passfile)))
    path.chmod(0o600)
    return load_one(path)


def test_an_application_without_a_role_of_its_own_has_the_inventorys(
    inventory: Inventory, tmp_path: Path
) -> None:
    assert parameters(inventory, "pg1") == ALWAYS | {
        "host": "10.0.0.1",
        "hostaddr": "10.0.0.1",
        "port": "5432",
        "user": "replctl",
        "dbname": "postgres",
        "passfile": str(tmp_path / "pgpass"),
    }


def test_one_with_its_own_gets_the_address_for_clients_and_nothing_that_belongs_to_the_other(
    inventory: Inventory,
) -> None:
    own = {"user": "app", "dbname": "orders", "options": "-c lock_timeout=1s", "autocommit": True}
    assert parameters(inventory, "pg2", own, read_only=True) == ALWAYS | {
        "host": "pg2.public",
        "hostaddr": "",
        "port": "6432",
        "user": "app",
        "dbname": "orders",
        "options": "-c lock_timeout=1s -c default_transaction_read_only=on",
        "autocommit": True,
    }
    assert [is_pooled(inventory, name) for name in ("pg1", "pg2")] == [False, True]


LOST = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow, errors.ConnectionFailure)


@pytest.mark.parametrize("error", [*(kind("lost") for kind in LOST), psycopg.OperationalError("EOF")])
def test_a_lost_connection_means_what_was_under_way(error: psycopg.Error) -> None:
    expected: dict[tuple[bool, bool], type[Any]] = {
        (False, False): NodeSwitched,
        (True, False): TransactionOutcomeUnknown,
        (False, True): TransactionOutcomeUnknown,
    }
    found = {case: type(outcome(error, committing=case[0], may_have_written=case[1])) for case in expected}
    assert (is_lost(error), found) == (True, expected)


@pytest.mark.parametrize(
    "error",
    [
        errors.SerializationFailure("again"),
        errors.UniqueViolation("twice"),
        errors.QueryCanceled("too slow"),
        psycopg.ProgrammingError("no"),
        ValueError("ours"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert outcome(error, committing=True, may_have_written=True) is None


def test_a_writer_that_takes_no_writes_has_switched_whatever_was_under_way() -> None:
    found = outcome(errors.ReadOnlySqlTransaction("no"), committing=True, may_have_written=True)
    assert (type(found), found and found.why) == (NodeSwitched, "no")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (None, False),
        ("INSERT INTO t VALUES (1)", False),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", False),
        ("SELECT CASE WHEN true THEN 1 END", False),
        ("SELECT 'committed'", False),
        ("COMMIT", True),
        (b"commit and chain", True),
        ("/* now */ END", True),
        ("INSERT INTO t VALUES (1); end", True),
        ("PREPARE  TRANSACTION 'x'", True),
        ("CALL work()", True),
        ("DO $$ BEGIN END $$", True),
        (sql.SQL("UPDATE {} SET n = 1").format(sql.Identifier("t")), False),
        (sql.SQL("CALL {}()").format(sql.Identifier("work")), True),
        (object(), True),
    ],
)
def test_what_may_commit_as_text_is_never_taken_for_what_does_not(statement: Any, expected: bool) -> None:
    assert _may_commit(statement) is expected
