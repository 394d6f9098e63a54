"""`replctl doctor` with exactly the roles of `replctl grants`: what lacks is found, and mended as told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replctl.cli import run
from replctl.inventory import load
from replctl.lab import Lab
from replctl.pg.grants import operator_rights
from tests.live.pooler import pooled
from tests.support import need, wait_until

pytestmark = pytest.mark.live

Doctor = Callable[..., dict[str, Any]]


@pytest.fixture
def replctl(capfd, monkeypatch, tmp_path):
    """Run a command line in this process; gives the code and what was printed."""
    monkeypatch.setenv("REPLCTL_STATE_DIR", str(tmp_path / "state"))

    def call(*arguments: str) -> tuple[int, str, str]:
        return run(arguments), *capfd.readouterr()

    return call


@pytest.fixture
def doctor(replctl) -> Doctor:
    """The document that `doctor -o json` gives for an inventory, with its exit code."""

    def call(inventory: Path) -> dict[str, Any]:
        code, out, err = replctl("doctor", "-i", str(inventory), "-o", "json")
        assert err == ""
        return json.loads(out) | {"exit": code}

    return call


def execute(lab: Lab, node: str, *statements: str) -> None:
    with psycopg.connect(lab.dsn(node), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def changed(lab: Lab, path: Path, *changes: tuple[str, str]) -> Path:
    """A copy of the lab's inventory with each pattern replaced."""
    text = lab.inventory_path.read_text()
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count, f"{pattern} is not in the inventory"
    path.write_text(text)
    path.chmod(0o600)
    return path


def found(document: dict[str, Any]) -> list[tuple[str, str, str | None, str]]:
    return [(f["topic"], f["severity"], f["node"], f["message"]) for f in document["findings"]]


def used_by(role: str, lab: Lab, directory: Path) -> Path:
    """The lab's inventory for another login."""
    return changed(lab, directory / f"{role}.toml", ('^user = "replctl"', f'user = "{role}"'))


# ---- what each role sees


def test_the_operator_finds_nothing_on_a_fresh_cluster(shared_lab, doctor, replctl):
    document = doctor(shared_lab.inventory_path)

    assert (document["exit"], document["verdict"]) == (0, "ok")
    assert (document["findings"], document["checks"], document["lacking_now"]) == ([], [], [])
    assert document["ready"] == {"failover": True, "switchover": True, "rejoin": True}
    assert [v["name"] for v in document["votes"]["voters"] if v["reachable"]] == ["pg1", "pg2", "pg3"]
    assert document["fence"] == {"durable": False, "commands": []}
    code, text, err = replctl("doctor", "-i", str(shared_lab.inventory_path))
    assert (code, err) == (0, "")
    assert text.endswith("failover    ready\nswitchover  ready\nrejoin      ready\nchecks      OK\n")


def test_the_observer_sees_everything_that_status_and_check_show(shared_lab, replctl, tmp_path):
    inventory = used_by("replctl_observer", shared_lab, tmp_path)

    code, out, err = replctl("check", "-i", str(inventory), "-o", "json")
    assert (code, err) == (0, "")
    assert {c["status"] for c in json.loads(out)["checks"]} == {"OK"}

    code, out, err = replctl("status", "-i", str(inventory), "-o", "json")
    status = json.loads(out)
    assert (code, err, status["verdict"], status["sync"]["configured"]) == (
        0,
        "",
        "ok",
        shared_lab.synchronous,
    )
    assert [(n["state"], n["sync_state"], n["upstream"]) for n in status["nodes"]] == [
        ("primary", None, None),
        ("streaming", "quorum", "pg1"),
        ("streaming", "quorum", "pg1"),
    ]


def test_the_observer_is_told_that_it_is_no_operator(shared_lab, doctor, tmp_path):
    inventory = used_by("replctl_observer", shared_lab, tmp_path)

    document = doctor(inventory)

    major = shared_lab.major
    assert document["exit"] == 1
    assert [f["remedy"] for f in document["findings"]] == [
        f"replctl grants --pg {major} --role operator --name replctl_observer"
    ]


def test_the_fencer_is_told_that_its_fence_lasts(shared_lab, doctor, tmp_path):
    inventory = used_by("replctl_fencer", shared_lab, tmp_path)

    document = doctor(inventory)

    assert (document["findings"], document["fence"]["durable"]) == ([], True)


@pytest.mark.lab(replicas=1)
def test_the_rewind_role_is_enough_for_pg_rewind(lab):
    """The old primary wrote on, alone; pg_rewind finds out what it would have to copy."""
    execute(lab, "pg2", "SELECT pg_promote()", "CHECKPOINT")
    execute(lab, "pg1", "CREATE TABLE diverged AS SELECT generate_series(1, 1000)")
    lab.stop("pg1")
    prefix = load(lab.inventory_path).commands["pg1"].run

    done = subprocess.run(
        [
            *prefix,
            "pg_rewind",
            "--dry-run",
            f"--target-pgdata={lab.nodes['pg1'].data_directory}",
            f"--source-server={lab.dsn('pg2', 'replctl_rewind')}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )

    assert (done.returncode, done.stderr.splitlines()[-1:]) == (0, ["pg_rewind: Done!"])


# ---- it changes nothing


def everything(lab: Lab) -> dict[str, Any]:
    """What a superuser sees of every node that an examination could change."""
    queries = [
        "SELECT name, setting, source, pending_restart FROM pg_settings WHERE source <> 'client' ORDER BY 1",
        "SELECT sourcefile, name, setting, applied, error FROM pg_file_settings ORDER BY seqno",
        "SELECT slot_name, active FROM pg_replication_slots ORDER BY 1",
        "SELECT rolname, rolsuper, rolreplication FROM pg_roles ORDER BY 1",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        "SELECT pg_is_in_recovery()",
        "SELECT pg_postmaster_start_time(), pg_conf_load_time()",
        "SELECT * FROM replctl.state",
        "SELECT pg_snapshot_xmax(pg_current_snapshot())",  # the next transaction that writes
    ]
    seen: dict[str, Any] = {}
    for node in lab.nodes:
        with psycopg.connect(lab.dsn(node), autocommit=True) as connection:
            seen[node] = [connection.execute(query).fetchall() for query in queries]
    return seen


@pytest.mark.lab(replicas=1, sync="ANY 1", witness=True)
def test_an_examination_changes_nothing(lab, doctor):
    execute(lab, "pg1", "ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")  # it writes
    before = everything(lab)

    document = doctor(lab.inventory_path)

    assert document["exit"] == 0
    assert everything(lab) == before


# ---- every right, revoked in turn


def revocation(grant: str) -> str:
    """What takes away what a statement of `grants` gives."""
    if grant.endswith(" REPLICATION"):
        return grant.removesuffix("REPLICATION") + "NOREPLICATION"
    return re.sub(r" TO (?=\"replctl\"$)", " FROM ", "REVOKE" + grant.removeprefix("GRANT"))


@pytest.mark.slow
@pytest.mark.pg(">= 15")
@pytest.mark.lab(replicas=1, sync="ANY 1", witness=True)
def test_every_right_that_lacks_is_found_and_mended_by_the_statement_given(lab, doctor):
    assert doctor(lab.inventory_path)["findings"] == []
    for right in operator_rights(lab.major, "replctl"):
        execute(lab, "pg1", revocation(right.statement))

        document = doctor(lab.inventory_path)

        assert document["exit"] == 1, right.what
        assert found(document) == [
            ("failover", "critical", None, f"role replctl lacks {right.what} (for {right.needed_for})")
        ]
        execute(lab, "pg1", document["findings"][0]["remedy"])
        mended(lab, doctor)


def mended(lab: Lab, doctor: Doctor) -> None:
    """Wait until doctor finds nothing more: what mends a role has to reach the replica too."""
    wait_until(lambda: doctor(lab.inventory_path)["findings"] == [], "the finding is gone")


@pytest.mark.pg(">= 15")
@pytest.mark.lab(replicas=1, sync="ANY 1", witness=True)
def test_without_any_right_and_without_the_table_one_command_mends_it(lab, doctor, replctl):
    execute(
        lab, "pg1", "DROP OWNED BY replctl", "ALTER ROLE replctl NOREPLICATION", "DROP SCHEMA replctl CASCADE"
    )
    execute(lab, "pg1", "REVOKE pg_monitor, pg_signal_backend, pg_checkpoint FROM replctl")

    commands = {f["remedy"] for f in doctor(lab.inventory_path)["findings"]}

    (command,) = commands
    code, statements, _ = replctl(*command.split()[1:])
    assert code == 0
    execute(lab, "pg1", statements)
    mended(lab, doctor)


@pytest.mark.lab(replicas=0)
def test_a_login_that_is_revoked_is_told_with_what_gives_it_back(lab, replctl):
    for revoke, cause in (
        ("ALTER ROLE replctl NOLOGIN", "not permitted to log in"),
        ("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC, replctl", "permission denied for database"),
    ):
        execute(lab, "pg1", "ALTER ROLE replctl LOGIN", revoke)

        code, out, _ = replctl("check", "reachable", "-i", str(lab.inventory_path), "-o", "json")

        (result,) = json.loads(out)["checks"]
        assert (code, cause in result["message"]) == (2, True)
        assert "replctl grants" in result["hint"]


# ---- what stands in the way on a node


@contextmanager
def altered(lab: Lab, node: str, setting: str, value: str) -> Iterator[None]:
    execute(lab, node, f"ALTER SYSTEM SET {setting} = '{value}'", "SELECT pg_reload_conf()")
    yield
    execute(lab, node, f"ALTER SYSTEM RESET {setting}", "SELECT pg_reload_conf()")


@contextmanager
def appended(lab: Lab, node: str, line: str) -> Iterator[None]:
    """Another line in postgresql.conf, and a reload that shows it."""
    path = lab.nodes[node].data_directory / "postgresql.conf"
    before = path.read_text()
    path.write_text(f"{before}\n{line}\n")
    execute(lab, node, "SELECT pg_reload_conf()")
    yield
    path.write_text(before)
    execute(lab, node, "SELECT pg_reload_conf()")


@contextmanager
def cut(lab: Lab, node: str) -> Iterator[None]:
    lab.cut(node)
    yield
    lab.mend(node)


@contextmanager
def connected(lab: Lab, node: str, application_name: str) -> Iterator[None]:
    with psycopg.connect(lab.dsn(node), application_name=application_name):
        yield


WAYS: dict[str, tuple[Callable[[Lab], Any], list[tuple[str, str, str | None, str]]]] = {
    "a setting that is not the expected one": (
        lambda lab: altered(lab, "pg1", "synchronous_standby_names", ""),
        [("failover", "critical", "pg1", "synchronous_standby_names is '', expected 'ANY 1 (pg1, pg2)'")],
    ),
    "a rule that anybody satisfies": (
        lambda lab: altered(lab, "pg1", "synchronous_standby_names", "*"),
        [
            ("failover", "critical", "pg1", "synchronous_standby_names is '*', expected 'ANY 1 (pg1, pg2)'"),
            (
                "failover",
                "critical",
                "pg1",
                "any name may confirm commits without being in the inventory: zero loss cannot be proven",
            ),
        ],
    ),
    "a delayed replica that confirms": (
        lambda lab: altered(lab, "pg2", "recovery_min_apply_delay", "50ms"),
        [
            (
                "failover",
                "warning",
                "pg2",
                "pg2 is delayed and confirms commits: before PostgreSQL 16 it cannot be cut",
            )
        ],
    ),
    "a replica without its slot": (
        lambda lab: altered(lab, "pg2", "primary_slot_name", ""),
        [
            (
                "failover",
                "warning",
                "pg2",
                "it uses no slot, though [replication] slot is set: WAL may go before it is read",
            )
        ],
    ),
    "a conninfo that nobody would write": (
        lambda lab: cut(lab, "pg2"),
        [("failover", "warning", "pg2", "its primary_conninfo differs from [replication] in sslmode")],
    ),
    "another manager": (
        lambda lab: connected(lab, "pg2", "Patroni heartbeat"),
        [("failover", "critical", "pg2", "another manager is connected: Patroni heartbeat")],
    ),
}


@pytest.mark.lab(replicas=1, sync="ANY 1", witness=True)
def test_what_stands_in_the_way_is_found_while_it_stands(lab, doctor):
    for name, (provoke, expected) in WAYS.items():
        with provoke(lab):
            wait_until(lambda: found(doctor(lab.inventory_path)) == expected, f"doctor finds {name}")  # noqa: B023 - called at once
        if name == "a replica without its slot":  # RESET took the lab's own value away
            execute(lab, "pg2", "ALTER SYSTEM SET primary_slot_name = 'pg2'", "SELECT pg_reload_conf()")
        mended(lab, doctor)


@pytest.mark.lab(replicas=1, sync="ANY 1", witness=True)
def test_the_statement_for_synchronous_replication_mends_it(lab, doctor):
    execute(lab, "pg1", "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    wait_until(lambda: doctor(lab.inventory_path)["findings"], "the rule has changed")

    remedies = [f["remedy"] for f in doctor(lab.inventory_path)["findings"]]

    assert len(set(remedies)) == 1
    for statement in filter(None, remedies[0].split("; ")):
        execute(lab, "pg1", statement)
    mended(lab, doctor)


@pytest.mark.lab(replicas=1, sync="ANY 1", witness=True)
def test_a_file_that_swallows_every_reload_is_found(lab, doctor):
    with appended(lab, "pg2", "this is = no setting"):
        document = doctor(lab.inventory_path)

    assert [(f["severity"], f["node"]) for f in document["findings"]] == [("critical", "pg2")]
    assert re.fullmatch(
        r"a syntax error makes it ignore every reload: .*postgresql\.conf:\d+: syntax error",
        document["findings"][0]["message"],
    )
    mended(lab, doctor)


@pytest.mark.pg(">= 17")
@pytest.mark.lab(replicas=1, sync="ANY 1", witness=True)
def test_a_server_that_forbids_alter_system_is_found(lab, doctor):
    with appended(lab, "pg2", "allow_alter_system = off"):
        wait_until(
            lambda: (
                found(doctor(lab.inventory_path))
                == [
                    (
                        "failover",
                        "critical",
                        "pg2",
                        "allow_alter_system is off: it can be neither cut nor repointed",
                    )
                ]
            ),
            "doctor finds it",
        )
    mended(lab, doctor)


@pytest.mark.lab(replicas=1, sync="ANY 1")
def test_two_voters_are_too_few(lab, doctor):
    document = doctor(lab.inventory_path)

    assert found(document) == [
        ("failover", "critical", None, "2 voters need 2; without the primary 1 are left")
    ]
    assert document["ready"] == {"failover": False, "switchover": False, "rejoin": False}


# ---- what an inventory lacks

LACKS = {
    "no [replication]": (
        (r"^\[replication\]\n(?:.+\n)+", ""),
        "the inventory has no [replication]: no replica can be repointed",
    ),
    "nothing about synchronous replication": (
        (r"^synchronous = .*$", ""),
        "the inventory does not say what synchronous_standby_names must be",
    ),
    "a command that is not there": (
        (r"^stop = \[\n? *\"[^\"]*\"", 'stop = ["/no/such/program"'),
        "/no/such/program cannot be run here",
    ),
}


@pytest.mark.parametrize("name", LACKS)
def test_what_an_inventory_lacks_is_found(shared_lab, doctor, tmp_path, name):
    change, message = LACKS[name]

    document = doctor(changed(shared_lab, tmp_path / "lacking.toml", change))

    assert (document["exit"], [f[3] for f in found(document)]) == (1, [message])


def test_a_cluster_of_another_manager_is_left_to_it(shared_lab, doctor, replctl, tmp_path):
    inventory = changed(
        shared_lab, tmp_path / "patroni.toml", ('^name = "lab"', 'manager = "patroni"\nname = "lab"')
    )

    document = doctor(inventory)
    _, text, _ = replctl("doctor", "-i", str(inventory))

    assert (document["exit"], document["findings"]) == (0, [])
    assert "Failover, switchover and rejoin are left to patroni." in text


# ---- when something is broken already


@pytest.mark.lab(sync="ANY 1")
def test_what_is_lacking_now_is_told_apart_from_what_is_set_wrongly(lab, doctor):
    lab.kill("pg1")
    document = doctor(lab.inventory_path)

    assert (document["exit"], document["findings"], document["lacking_now"]) == (1, [], [])
    assert document["ready"] == {"failover": True, "switchover": False, "rejoin": False}

    lab.kill("pg3")
    document = doctor(lab.inventory_path)

    assert document["lacking_now"] == [
        "only 1 (pg2) of the 2 votes that are needed without the primary",
        "only 1 (pg2) of the 2 replicas that prove together that nothing is lost",
    ]
    assert document["ready"]["failover"] is False


@pytest.mark.lab(replicas=1, sync="ANY 1", witness=True)
def test_a_witness_that_is_gone_is_found(lab, doctor):
    lab.stop("w1")

    document = doctor(lab.inventory_path)

    assert [(f["severity"], f["node"]) for f in document["findings"]] == [("warning", "w1")]
    assert document["lacking_now"] == ["only 1 (pg2) of the 2 votes that are needed without the primary"]


# ---- a pooler in between


@pytest.mark.lab(replicas=0)
def test_a_pooler_is_no_server(lab, doctor, tmp_path):
    program = shutil.which("pgbouncer")
    need("PgBouncer", program, "apt-get install pgbouncer")
    with pooled(lab, program) as port:
        inventory = changed(lab, tmp_path / "pooled.toml", (r"^port = \d+", f"port = {port}"))
        messages = [f["message"] for f in doctor(inventory)["findings"]]

    assert "this address leads through a connection pooler: votes need a direct connection" in messages
