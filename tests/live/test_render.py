"""Rendered files before real proxies and a real cluster: where writes and reads really go."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from replctl.lab import Lab
from replctl.proxies.console import ask_version
from replctl.proxies.runtime import ask
from replctl.proxies.runtime import ask_version as ask_haproxy
from tests.live.failover_support import ask as ask_node
from tests.live.failover_support import environment, value, write_inventory
from tests.live.proxies import answering, free_ports, haproxy, node_at, one, pgbouncer
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live

# So that a test does not wait for what it does not test.
CHECKS = {"check_interval_s": 0.2, "fall": 2, "rise": 1}


def rendered(
    lab: Lab, proxy: str, *options: str, name: str = "proxy.conf", **tables: Any
) -> subprocess.CompletedProcess[str]:
    """Render into a file beside the lab, by one look at its servers."""
    inventory = write_inventory(lab, **tables)
    return replctl(f"render-{proxy}", "--out", str(place(lab, name)), *options, env=environment(inventory))


def place(lab: Lab, name: str = "proxy.conf") -> Path:
    return lab.directory.parent / name


def listeners(rw: int, ro: int, **keys: Any) -> dict[str, Any]:
    return {"write_bind": f"127.0.0.1:{rw}", "read_bind": f"127.0.0.1:{ro}", **CHECKS, **keys}


def caught_up(lab: Lab) -> None:
    """Wait until every replica has replayed all there is, so that each is fit."""
    lsn = value(lab, "pg1", "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
    end = "SELECT coalesce(pg_last_wal_replay_lsn() - '0/0'::pg_lsn, 0)"
    wait_until(lambda: all(value(lab, n, end) >= lsn for n in ("pg2", "pg3")), "replicas have caught up")


@pytest.mark.parametrize("check", ["login", "sql"])
def test_through_haproxy_writes_reach_the_primary_and_reads_the_replicas(lab: Lab, check: str) -> None:
    rw, ro = free_ports(2)
    done = rendered(lab, "haproxy", haproxy=listeners(rw, ro, check=check))
    assert done.returncode == 0, done.stderr
    caught_up(lab)
    with haproxy(place(lab), rw, ro):
        one(rw, "CREATE TABLE written ()")
        assert answering(lab, rw, 4) == {"pg1": 4}
        # Before its first check a server counts as up; a while later only what the checks found is.
        wait_until(lambda: set(answering(lab, ro, 4)) == {"pg2", "pg3"}, "reads reach both replicas")
        assert answering(lab, ro, 10) == {"pg2": 5, "pg3": 5}
        assert one(ro, "SELECT pg_is_in_recovery()") is True


@pytest.mark.parametrize("check", ["login", "sql"])
def test_the_checks_know_the_role_after_a_promotion_by_hand(lab: Lab, check: str) -> None:
    rw, ro = free_ports(2)
    keys = listeners(rw, ro, check=check, write_role_checks=True)
    assert rendered(lab, "haproxy", haproxy=keys, routing={"on_all_unfit": "error"}).returncode == 0
    caught_up(lab)
    with haproxy(place(lab), rw, ro):
        wait_until(lambda: answering(lab, rw, 6) == {"pg1": 6}, "only the primary takes writes")
        lab.kill("pg1")
        ask_node(lab, "pg2", "SELECT pg_promote()")
        wait_until(lambda: answering(lab, rw, 6) == {"pg2": 6}, "the promoted one takes writes")
        one(rw, "CREATE TABLE written ()")
        assert value(lab, "pg2", "SELECT count(*) FROM pg_tables WHERE tablename = 'written'") == 1
        # pg3 has lost its upstream: by its login it still is a replica, the query knows better.
        wait_until(
            lambda: answering(lab, ro, 6) == {"login": {"pg3": 6}, "sql": {None: 6}}[check],
            "the promoted one serves no reads",
        )


def test_with_one_enabled_server_a_promotion_moves_no_writes_until_the_file_is_rendered(lab: Lab) -> None:
    rw, ro = free_ports(2)
    keys = listeners(rw, ro)
    assert rendered(lab, "haproxy", haproxy=keys).returncode == 0
    before = place(lab).read_text()
    with haproxy(place(lab), rw, ro):
        ask_node(lab, "pg2", "SELECT pg_promote()")
        ask_node(lab, "pg2", "CHECKPOINT", "CREATE TABLE went_on ()")
        # Two primaries: whatever the checks say of pg2, it is not written to.
        wait_until(lambda: set(answering(lab, ro, 4)) == {"pg3"}, "pg2 serves no reads")
        assert answering(lab, rw, 6) == {"pg1": 6}
    lab.kill("pg1")
    done = rendered(lab, "haproxy", haproxy=keys)
    assert done.returncode == 0, done.stderr
    assert place(lab, "proxy.conf.previous").read_text() == before
    with haproxy(place(lab), rw, ro):
        assert answering(lab, rw, 4) == {"pg2": 4}


def test_two_primaries_of_one_timeline_leave_the_file_alone(lab: Lab) -> None:
    keys = listeners(*free_ports(2))
    assert rendered(lab, "haproxy", haproxy=keys).returncode == 0
    before = place(lab).read_text()
    lab.kill("pg1")
    ask_node(lab, "pg2", "SELECT pg_promote()")
    ask_node(lab, "pg3", "SELECT pg_promote()")
    done = rendered(lab, "haproxy", haproxy=keys)

    assert (done.returncode, place(lab).read_text()) == (3, before)
    assert done.stderr.startswith("replctl: several nodes take writes")
    check = rendered(lab, "haproxy", "--check", haproxy=keys)
    assert (check.returncode, check.stdout) == (3, "")


def test_a_replica_that_replays_late_leaves_by_the_query_alone(lab: Lab) -> None:
    rw, ro = free_ports(2)
    routing = {"max_lag_bytes": "1MiB", "max_lag_s": 2, "readmit_lag_bytes": "64kB"}
    done = rendered(lab, "haproxy", haproxy=listeners(rw, ro, check="sql"), routing=routing)
    assert done.returncode == 0, done.stderr
    wal = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1 << 20)) FROM generate_series(1, 4)"
    with haproxy(place(lab), rw, ro):
        wait_until(lambda: set(answering(lab, ro, 4)) == {"pg2", "pg3"}, "reads reach both replicas")
        ask_node(lab, "pg2", "SELECT pg_wal_replay_pause()")
        ask_node(lab, "pg1", wal)
        wait_until(lambda: set(answering(lab, ro, 4)) == {"pg3"}, "the late one is left out")
        ask_node(lab, "pg2", "SELECT pg_wal_replay_resume()")
        wait_until(lambda: set(answering(lab, ro, 4)) == {"pg2", "pg3"}, "it is back")


def test_without_any_replica_reads_go_to_the_primary(lab: Lab) -> None:
    rw, ro = free_ports(2)
    assert rendered(lab, "haproxy", haproxy=listeners(rw, ro)).returncode == 0
    with haproxy(place(lab), rw, ro):
        for name in ("pg2", "pg3"):
            lab.stop(name)
        wait_until(lambda: node_at(lab, ro) == "pg1", "reads go to the primary")


def test_weights_are_shares_of_connections(lab: Lab) -> None:
    rw, ro = free_ports(2)
    weights = {"pg2": {"weight": 300}, "pg3": {"weight": 100}}
    done = rendered(lab, "haproxy", nodes=weights, routing={"policy": "weighted"}, haproxy=listeners(rw, ro))
    assert done.returncode == 0, done.stderr
    with haproxy(place(lab), rw, ro):
        wait_until(lambda: set(answering(lab, ro, 4)) <= {"pg2", "pg3"}, "reads reach replicas")
        found = answering(lab, ro, 40)
        assert 28 <= found["pg2"] <= 32
        assert found["pg2"] + found["pg3"] == 40


def test_a_drained_replica_is_in_neither_file(lab: Lab) -> None:
    inventory = write_inventory(lab)
    drain = ("route", "--drain", "pg2", "--reason", "new disks", "--yes")
    assert replctl(*drain, env=environment(inventory)).returncode == 0
    assert rendered(lab, "haproxy", haproxy=listeners(*free_ports(2))).returncode == 0
    assert rendered(lab, "pgbouncer", name="databases.ini", pgbouncer={"databases": ["app"]}).returncode == 0

    lines = [line.split() for line in place(lab).read_text().splitlines()]
    servers = [line for line in lines if line[:1] == ["server"]][3:]
    assert [(line[1], line[-1] == "disabled") for line in servers] == [
        ("pg1", True),
        ("pg2", True),
        ("pg3", False),
    ]
    assert f"app_ro = host=127.0.0.1 port={lab.nodes['pg3'].port} " in place(lab, "databases.ini").read_text()


def test_through_pgbouncer_writes_reach_the_primary_and_reads_the_replicas(lab: Lab) -> None:
    (port,) = free_ports(1)
    console = f"host=127.0.0.1 port={port} user=postgres dbname=pgbouncer"
    keys = {"databases": ["postgres"], "admin": [console]}
    caught_up(lab)
    first = rendered(lab, "pgbouncer", name="databases.ini", pgbouncer=keys)
    assert first.returncode == 0, first.stderr
    assert "does not answer" in first.stderr
    ports = {name: node.port for name, node in lab.nodes.items()}
    with pgbouncer(lab, place(lab, "databases.ini"), port):
        one(port, "CREATE TABLE written ()")
        assert node_at(lab, port) == "pg1"
        # Two ports with one replica each: the lower one, and each by an alias of its own.
        assert node_at(lab, port, "postgres_ro") == min(("pg2", "pg3"), key=ports.__getitem__)
        assert [node_at(lab, port, f"postgres_ro_{ports[n]}") for n in ("pg2", "pg3")] == ["pg2", "pg3"]
        assert one(port, "SELECT pg_is_in_recovery()", "postgres_ro") is True

        caught_up(lab)
        version = ask_version(console)
        again = rendered(lab, "pgbouncer", name="databases.ini", pgbouncer=keys)
        assert (again.returncode, "warning" in again.stderr) == (0, False)
        head = place(lab, "databases.ini").read_text().splitlines()[1]
        assert head.endswith(f"for PgBouncer {version}")


def test_a_running_haproxy_is_asked_for_its_version(lab: Lab, tmp_path: Path) -> None:
    rw, ro = free_ports(2)
    socket_path = tmp_path / "admin.sock"
    keys = listeners(rw, ro, stats_socket=str(socket_path), sockets=[str(socket_path)])
    first = rendered(lab, "haproxy", haproxy=keys)
    assert first.returncode == 0, first.stderr
    with haproxy(place(lab), rw, ro):
        wait_until(socket_path.exists, "its socket is there")
        version = ask_haproxy(str(socket_path))
        states = [line.split() for line in ask(str(socket_path), "show servers state").splitlines()[2:]]
        # Fields 2, 4 and 7: backend, server, and the administrative state, of which bit 1 is `disabled`.
        by_name = {(s[1], s[3]): bool(int(s[6]) & 1) for s in states if len(s) > 6}
        assert by_name["lab_rw", "pg1"] is False
        assert by_name["lab_rw", "pg2"] is True
        place(lab).unlink()  # a file that is there stays for the version that it was written for
        again = rendered(lab, "haproxy", haproxy=keys)
        assert (again.returncode, "warning" in again.stderr) == (0, False)
        assert place(lab).read_text().splitlines()[1].endswith(f"for HAProxy {version}")
