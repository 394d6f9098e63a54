"""The grants on real servers: every statement runs, twice, and each role can do its work and no more."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from replctl.lab import Lab
from replctl.pg.grants import ROLES, limits, statements
from tests.support import wait_until

pytestmark = pytest.mark.live


def session(lab: Lab, node: str, user: str, **options: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(lab.dsn(node, user), autocommit=True, connect_timeout=5, **options)


def may(lab: Lab, node: str, user: str, query: str) -> bool:
    """Whether the role may do it: True if it was done, False if the server said that it may not."""
    with session(lab, node, user) as connection:
        try:
            connection.execute(query.encode())
        except psycopg.errors.InsufficientPrivilege:
            return False
    return True


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.lab(replicas=0)
def test_every_statement_runs_again_and_for_any_name(lab: Lab, role: str) -> None:
    name = "odd \"name\" with 'quotes' \\ and ümlaut"
    with session(lab, "pg1", "postgres") as connection:
        for _ in range(2):
            for statement in statements(lab.major, role, name):
                connection.execute(statement.encode())
        found = connection.execute("SELECT rolcanlogin, rolsuper FROM pg_roles WHERE rolname = %s", (name,))
        assert found.fetchall() == [(True, False)]


@pytest.mark.lab(replicas=0)
def test_a_revoked_right_to_connect_is_granted(lab: Lab) -> None:
    with session(lab, "pg1", "postgres") as connection:
        connection.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC, replctl")
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            session(lab, "pg1", "replctl")

        for statement in statements(lab.major, "operator"):
            connection.execute(statement.encode())

    session(lab, "pg1", "replctl").close()


@pytest.mark.pg(">= 15")
@pytest.mark.lab(replicas=1)
def test_the_operator_can_cut_promote_repoint_and_fence(lab: Lab) -> None:
    acts = [
        "SELECT pg_wal_replay_pause()",
        "SELECT pg_wal_replay_resume()",
        "ALTER SYSTEM SET primary_conninfo = ''",
        "ALTER SYSTEM SET primary_slot_name = 'pg9'",
        "ALTER SYSTEM SET wal_receiver_timeout = '1ms'",
        "ALTER SYSTEM RESET wal_receiver_timeout",
        "ALTER SYSTEM SET recovery_min_apply_delay = 0",
        "ALTER SYSTEM SET hot_standby_feedback = on",
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        "ALTER SYSTEM RESET synchronous_standby_names",
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
        "SELECT error FROM pg_file_settings",
        "SELECT pg_try_advisory_lock(1)",
        "CHECKPOINT",
        "SELECT pg_create_physical_replication_slot('pg3')",
        "SELECT pg_drop_replication_slot('pg3')",
    ]
    assert {act: may(lab, "pg2", "replctl", act) for act in acts} == dict.fromkeys(acts, True)

    assert may(lab, "pg2", "replctl", "SELECT pg_promote(false)")
    with session(lab, "pg2", "replctl") as connection:
        wait_until(
            lambda: connection.execute("SELECT pg_reload_conf(), pg_is_in_recovery()").fetchone()[1] is False,
            "pg2 is promoted",
        )
        connection.execute("SELECT pg_switch_wal()")
        connection.execute("SELECT pg_logical_emit_message(false, 'replctl', 'heartbeat')")


def test_the_operator_sees_everything_about_replication(shared_lab: Lab) -> None:
    with session(shared_lab, "pg1", "replctl") as connection:
        rows = connection.execute("SELECT state FROM pg_stat_replication").fetchall()
    with session(shared_lab, "pg2", "replctl") as connection:
        receiver = connection.execute("SELECT status FROM pg_stat_wal_receiver").fetchall()
        conninfo = connection.execute("SELECT current_setting('primary_conninfo')").fetchone()

    assert (rows, receiver) == ([("streaming",)] * 2, [("streaming",)])
    assert conninfo is not None and "user=replicator" in conninfo[0]


def test_the_operator_reads_positions_over_a_replication_connection(shared_lab: Lab) -> None:
    with psycopg.connect(
        shared_lab.dsn("pg2", "replctl"), replication="database", autocommit=True, connect_timeout=5
    ) as connection:
        cursor = psycopg.ClientCursor(connection)
        (found,) = cursor.execute("IDENTIFY_SYSTEM").fetchall()
    assert found[1] == 1


@pytest.mark.lab(replicas=0)
def test_the_operator_ends_sessions_of_applications_and_not_of_superusers(lab: Lab) -> None:
    with session(lab, "pg1", "app") as application, session(lab, "pg1", "postgres") as superuser:
        assert may(lab, "pg1", "replctl", f"SELECT pg_terminate_backend({application.info.backend_pid})")
        assert not may(lab, "pg1", "replctl", f"SELECT pg_terminate_backend({superuser.info.backend_pid})")
        with pytest.raises(psycopg.OperationalError):
            application.execute("SELECT 1")


@pytest.mark.lab(replicas=0)
def test_the_table_of_marks_is_read_by_the_observer_and_written_by_the_operator(lab: Lab) -> None:
    insert = "INSERT INTO replctl.state (key, value) VALUES ('paused', '{}')"
    table = "SELECT key, value, updated_at <= clock_timestamp() FROM replctl.state"

    assert not may(lab, "pg1", "replctl_observer", insert)
    assert may(lab, "pg1", "replctl", insert)
    with session(lab, "pg1", "replctl_observer") as connection:
        assert connection.execute(table).fetchall() == [("paused", {}, True)]
    assert may(lab, "pg1", "replctl", "UPDATE replctl.state SET value = '[]', updated_at = now()")
    assert may(lab, "pg1", "replctl", "DELETE FROM replctl.state")


@pytest.mark.parametrize(
    "act",
    [
        "SELECT pg_promote(false)",
        "SELECT pg_reload_conf()",
        "ALTER SYSTEM SET primary_conninfo = ''",
        "SELECT pg_create_physical_replication_slot('x')",
        "CREATE SCHEMA mine",
    ],
)
def test_the_observer_can_change_nothing(shared_lab: Lab, act: str) -> None:
    assert not may(shared_lab, "pg1", "replctl_observer", act)


@pytest.mark.parametrize(
    "act",
    [
        "ALTER SYSTEM SET archive_command = 'true'",
        "COPY (SELECT 1) TO '/tmp/replctl-must-not-exist'",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('postgresql.conf')",
        "CREATE ROLE somebody",
        "CREATE SCHEMA mine",
        "SELECT * FROM replctl_lab_ledger",
    ],
)
def test_the_operator_can_do_no_more_than_it_needs(shared_lab: Lab, act: str) -> None:
    assert not may(shared_lab, "pg1", "replctl", act)


@pytest.mark.lab(replicas=0)
def test_the_fencer_can_write_the_file_that_keeps_a_node_a_replica(lab: Lab) -> None:
    path = lab.nodes["pg1"].data_directory / "standby.signal"

    assert may(lab, "pg1", "replctl_fencer", f"COPY (SELECT WHERE false) TO '{path}'")

    assert path.exists()
    assert lab.nodes["pg1"].role == "replica"


def test_the_rewind_role_reads_what_pg_rewind_reads(shared_lab: Lab) -> None:
    acts = [
        "SELECT pg_ls_dir('.', true, false)",
        "SELECT pg_stat_file('PG_VERSION', true)",
        "SELECT pg_read_binary_file('PG_VERSION')",
        "SELECT pg_read_binary_file('PG_VERSION', 0, 2, true)",
    ]
    assert {act: may(shared_lab, "pg1", "replctl_rewind", act) for act in acts} == dict.fromkeys(acts, True)
    assert not may(shared_lab, "pg1", "replctl_rewind", "SELECT pg_promote(false)")


def test_what_cannot_be_granted_is_said() -> None:
    assert [limits(major, "operator") for major in (15, 18)] == [(), ()]
    assert [sentence[:20] for sentence in limits(14, "operator")] == ["Before PostgreSQL 15"]
    assert limits(14, "observer") == ()


@pytest.mark.parametrize("name", ["", "a" * 64, "x$replctl$; DROP TABLE t", "line\nbreak"])
def test_what_is_no_role_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a role name"):
        statements(18, "observer", name)


def test_unknown_roles_and_versions_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown role 'admin'"):
        statements(18, "admin")
    with pytest.raises(ValueError, match="PostgreSQL 13 is not supported"):
        statements(13, "observer")
