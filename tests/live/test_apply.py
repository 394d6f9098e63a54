"""Rendered files applied to real proxies before a real cluster: taken and seen there, or as it was."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replctl.lab import Lab
from replctl.proxies import runtime
from tests.live.failover_support import ask as ask_node
from tests.live.failover_support import environment, write_inventory
from tests.live.proxies import free_ports, haproxy, haproxy_program, listens, node_at, pgbouncer
from tests.live.test_render import caught_up
from tests.support import ROOT, replctl, wait_until

pytestmark = pytest.mark.live

CHECKS = {"check_interval_s": 0.2, "fall": 2, "rise": 1}


def console(port: int) -> str:
    return f"host=127.0.0.1 port={port} user=postgres dbname=pgbouncer"


def databases(lab: Lab) -> Path:
    return lab.directory.parent / "databases.ini"


def pooler_table(lab: Lab, *ports: int, **keys: Any) -> dict[str, Any]:
    """[pgbouncer] for these PgBouncers, which read one file."""
    named = {"databases": ["postgres"], "version": "1.18", "file": str(databases(lab))}
    return {**named, "admin": [console(port) for port in ports], **keys}


def apply(inventory: Path, proxy: str, *options: str) -> subprocess.CompletedProcess[str]:
    return replctl(f"render-{proxy}", "--apply", *options, env=environment(inventory))


def shown(port: int, command: str = "SHOW DATABASES") -> dict[str, dict[str, Any]]:
    """What a console shows, by the first column."""
    with closing(psycopg.connect(console(port), autocommit=True, connect_timeout=5)) as connection:
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        rows = cursor.execute(command.encode()).fetchall()
    return {str(next(iter(row.values()))): row for row in rows}


def leads_to(port: int, alias: str = "postgres") -> str:
    row = shown(port)[alias]
    return f"{row['host']}:{row['port']}"


def at(lab: Lab, node: str) -> str:
    return f"127.0.0.1:{lab.nodes[node].port}"


def promoted(lab: Lab, node: str = "pg2") -> None:
    """Another primary, by hand; the old one is gone."""
    lab.kill("pg1")
    ask_node(lab, node, "SELECT pg_promote()")


@contextmanager
def pooled(lab: Lab, count: int = 1, **keys: Any) -> Iterator[tuple[Path, list[int]]]:
    """PgBouncers with one file that was rendered for them; the inventory, and their ports."""
    caught_up(lab)
    ports = free_ports(count)
    inventory = write_inventory(lab, pgbouncer=pooler_table(lab, *ports, **keys))
    done = replctl("render-pgbouncer", "--out", str(databases(lab)), env=environment(inventory))
    assert done.returncode == 0, done.stderr
    with pgbouncer(lab, databases(lab), ports[0]):
        if count == 1:
            yield inventory, ports
            return
        with another(lab, databases(lab), ports[1]):
            yield inventory, ports


@contextmanager
def another(lab: Lab, databases: Path, port: int) -> Iterator[Path]:
    """A second PgBouncer with the same databases; its main file."""
    folder = lab.directory.parent / "second"
    folder.mkdir()
    folder.chmod(0o755)
    link = folder / "databases.ini"
    link.symlink_to(databases)
    with pgbouncer(lab, link, port):
        yield folder / "pgbouncer.ini"


# ---- PgBouncer


def test_a_new_primary_reaches_every_pgbouncer_and_idle_clients_stay(lab: Lab) -> None:
    with pooled(lab, 2) as (inventory, ports):
        with closing(
            psycopg.connect(host="127.0.0.1", port=ports[0], user="postgres", autocommit=True)
        ) as idle:
            idle.execute("SELECT 1")
            promoted(lab)
            done = apply(inventory, "pgbouncer")
            assert done.returncode == 0, done.stderr
            assert [leads_to(port) for port in ports] == [at(lab, "pg2")] * 2
            assert idle.execute("SELECT current_setting('port')::int").fetchone() == (lab.nodes["pg2"].port,)
        again = apply(inventory, "pgbouncer")
        assert (again.returncode, again.stderr) == (
            0,
            f"replctl: {databases(lab)} is as it should be, and so is what runs\n",
        )


def test_a_transaction_on_a_frozen_primary_is_ended_with_one_error(lab: Lab) -> None:
    with pooled(lab) as (inventory, (port,)):
        said: list[str] = []

        def work() -> None:
            with closing(psycopg.connect(host="127.0.0.1", port=port, user="postgres")) as connection:
                connection.execute("SELECT 1")
                lab.freeze("pg1")
                try:
                    connection.execute("SELECT 2")
                except psycopg.OperationalError as error:
                    said.append(str(error))

        worker = threading.Thread(target=work)
        worker.start()
        wait_until(lambda: lab.nodes["pg1"].state == "frozen", "pg1 is frozen")
        ask_node(lab, "pg2", "SELECT pg_promote()")
        done = apply(inventory, "pgbouncer", "--timeout", "3s")
        worker.join(10)
        assert done.returncode == 0, done.stderr
        assert "clients of postgres ended" in done.stderr
        assert len(said) == 1
        assert node_at(lab, port) == "pg2"
        assert str(shown(port)["postgres"]["paused"]) == "0"


def test_a_half_applied_file_is_refused_and_where_writes_are_lost_kept_and_said(lab: Lab) -> None:
    # Its version lets keys through that this PgBouncer does not know: it applies what stands before them.
    with pooled(lab) as (_inventory, (port,)):
        before = databases(lab).read_text()
        later = write_inventory(lab, pgbouncer=pooler_table(lab, port, version="1.24"))
        refused = apply(later, "pgbouncer")
        assert (refused.returncode, databases(lab).read_text()) == (3, before)
        assert "is a 1.18, and the file is for a 1.24" in refused.stderr

        promoted(lab)
        lost = apply(later, "pgbouncer")  # the file before leads nowhere
        assert (lost.returncode, leads_to(port), node_at(lab, port)) == (4, at(lab, "pg2"), "pg2")
        assert "alias postgres_ro" in lost.stderr
        assert databases(lab).with_name("databases.ini.previous").read_text() == before


def test_a_reload_that_says_success_and_did_nothing_is_found_and_rolled_back(lab: Lab) -> None:
    with pooled(lab) as (_, ports):
        before = databases(lab).read_text()
        main = databases(lab).with_name("pgbouncer.ini")
        main.write_text("this is no setting\n" + main.read_text())
        inventory = write_inventory(lab, pgbouncer=pooler_table(lab, *ports), nodes={"pg3": {"weight": 0}})
        done = apply(inventory, "pgbouncer")
        assert (done.returncode, databases(lab).read_text()) == (1, before)
        assert "did not take the file: it is as it was" in done.stderr
        assert "alias postgres_ro" in done.stderr
        refused = databases(lab).with_name("databases.ini.previous").read_text()
        main.write_text(main.read_text().removeprefix("this is no setting\n"))
        assert apply(inventory, "pgbouncer").returncode == 0
        assert databases(lab).read_text() == refused != before


def test_where_writes_are_lost_the_new_file_stays_though_no_pgbouncer_takes_it_yet(lab: Lab) -> None:
    with pooled(lab) as (inventory, (port,)):
        main = databases(lab).with_name("pgbouncer.ini")
        main.write_text("this is no setting\n" + main.read_text())
        promoted(lab)
        done = apply(inventory, "pgbouncer")
        wanted = f"alias postgres has port {lab.nodes['pg1'].port}, not {lab.nodes['pg2'].port}"
        assert (done.returncode, wanted in done.stderr) == (4, True)
        main.write_text(main.read_text().removeprefix("this is no setting\n"))
        assert apply(inventory, "pgbouncer").returncode == 0
        assert node_at(lab, port) == "pg2"


KEPT = ("* = host=10.9.9.9 port=5432", "mine = host=10.9.9.9 port=5432,5433 dbname=mine")


def test_aliases_that_are_kept_as_they_are_do_not_undo_a_failover(lab: Lab) -> None:
    with pooled(lab) as (inventory, (port,)):
        text = databases(lab).read_text()
        databases(lab).write_text(text + "".join(f"{line}\n" for line in KEPT))
        promoted(lab)
        done = apply(inventory, "pgbouncer")
        assert (done.returncode, node_at(lab, port)) == (0, "pg2"), done.stderr
        assert [line in databases(lab).read_text().splitlines() for line in KEPT] == [True, True]


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
def test_clients_of_a_pgbouncer_that_was_away_at_the_failover_are_let_go_later(
    lab: Lab, pool_mode: str
) -> None:
    with (
        pooled(lab, pool_mode=pool_mode) as (inventory, (port,)),
        closing(psycopg.connect(host="127.0.0.1", port=port, user="postgres")) as client,
    ):
        where = "SELECT current_setting('port')::int"
        assert client.execute(where).fetchone() == (lab.nodes["pg1"].port,)
        if pool_mode == "session":
            client.commit()
        ask_node(lab, "pg2", "SELECT pg_promote()", "CHECKPOINT")  # pg1 lives on
        done = replctl("render-pgbouncer", "--out", str(databases(lab)), env=environment(inventory))
        assert done.returncode == 0, done.stderr
        with closing(psycopg.connect(console(port), autocommit=True)) as connection:
            connection.execute("RELOAD")  # as one that was frozen does when it goes on
        assert (leads_to(port), client.execute(where).fetchone()) == (
            at(lab, "pg2"),
            (lab.nodes["pg1"].port,),
        )
        done = apply(inventory, "pgbouncer", "--offline")  # two primaries answer: the file has the writer
        assert (done.returncode, "clients of postgres ended" in done.stderr) == (0, True)
        with pytest.raises(psycopg.OperationalError):
            client.execute(where)
        assert node_at(lab, port) == "pg2"


def test_a_transaction_at_the_right_primary_outlives_reconnect(lab: Lab) -> None:
    with (
        pooled(lab) as (inventory, (port,)),
        closing(psycopg.connect(host="127.0.0.1", port=port, user="postgres")) as client,
    ):
        client.execute("SELECT 1")
        with closing(psycopg.connect(console(port), autocommit=True)) as connection:
            connection.execute("RECONNECT")
        assert apply(inventory, "pgbouncer").returncode == 0
        client.execute("SELECT 1")


def test_where_writes_are_lost_one_pgbouncer_that_does_not_take_it_stops_no_other(lab: Lab) -> None:
    with pooled(lab, 2) as (inventory, ports):
        main = lab.directory.parent / "second" / "pgbouncer.ini"
        main.write_text("this is no setting\n" + main.read_text())
        promoted(lab)
        done = apply(inventory, "pgbouncer")
        assert done.returncode == 4
        assert f"127.0.0.1:{ports[1]}: alias postgres has port" in done.stderr
        assert (node_at(lab, ports[0]), leads_to(ports[1])) == ("pg2", at(lab, "pg1"))


def test_a_broken_userlist_is_refused_before_a_reload_locks_everybody_out(lab: Lab) -> None:
    userlist = lab.directory.parent / "userlist.txt"
    with pooled(lab, auth_file=str(userlist)) as (inventory, (port,)):
        promoted(lab)
        userlist.write_text('"postgres" ""\n"oops\n"replctl" ""\n')
        before = databases(lab).read_text()
        done = apply(inventory, "pgbouncer")
        assert (done.returncode, databases(lab).read_text()) == (3, before)
        assert done.stderr.startswith(f"replctl: {userlist} is broken in line 2")
        userlist.write_text('"postgres" ""\n"replctl" ""\n')
        assert apply(inventory, "pgbouncer").returncode == 0
        assert node_at(lab, port) == "pg2"


def test_a_file_that_cannot_be_written_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    with pooled(lab) as (_, (port,)):
        promoted(lab)
        folder = Path("/proc/self/net")  # where nobody may make files, not even root
        inventory = write_inventory(
            lab, pgbouncer=pooler_table(lab, port, file=str(folder / "databases.ini"))
        )
        done = apply(inventory, "pgbouncer")
        assert (done.returncode, leads_to(port)) == (1, at(lab, "pg1"))
        assert "cannot be written" in done.stderr


def test_a_pgbouncer_that_is_down_is_said_and_has_the_file_when_it_starts(lab: Lab) -> None:
    (down,) = free_ports(1)
    with pooled(lab) as (_, (port,)):
        inventory = write_inventory(lab, pgbouncer=pooler_table(lab, port, down))
        promoted(lab)
        done = apply(inventory, "pgbouncer")
        assert done.returncode == 4
        assert f"the PgBouncer at 127.0.0.1:{down} does not answer" in done.stderr
        assert node_at(lab, port) == "pg2"
        with another(lab, databases(lab), down):
            assert node_at(lab, down) == "pg2"
            assert apply(inventory, "pgbouncer").returncode == 0


def test_what_was_changed_by_hand_at_runtime_is_mended_and_said(lab: Lab) -> None:
    with pooled(lab) as (inventory, (port,)):
        text = databases(lab).read_text()
        pg1, pg3 = lab.nodes["pg1"].port, lab.nodes["pg3"].port
        databases(lab).write_text(
            text.replace(f"postgres = host=127.0.0.1 port={pg1}", f"postgres = host=127.0.0.1 port={pg3}")
        )
        shown(port, "SHOW VERSION")
        with closing(psycopg.connect(console(port), autocommit=True)) as connection:
            connection.execute("RELOAD")
        assert leads_to(port) == at(lab, "pg3")
        databases(lab).write_text(text)
        done = apply(inventory, "pgbouncer")
        assert done.returncode == 0
        assert f"alias postgres has port {pg3}, not {pg1}: mended" in done.stderr
        assert leads_to(port) == at(lab, "pg1")


# ---- HAProxy


def config(lab: Lab) -> Path:
    return lab.directory.parent / "haproxy.cfg"


@contextmanager
def balanced(
    lab: Lab, nodes: dict[str, dict[str, Any]] | None = None, **keys: Any
) -> Iterator[tuple[Path, int, int, str]]:
    """HAProxy with a file that was rendered for it; the inventory, its ports for writing and reading."""
    caught_up(lab)
    rw, ro = free_ports(2)
    door = str(lab.directory.parent / "admin.sock")
    table = {
        "write_bind": f"127.0.0.1:{rw}",
        "read_bind": f"127.0.0.1:{ro}",
        "file": str(config(lab)),
        "stats_socket": door,
        "sockets": [door],
        **CHECKS,
        **keys,
    }
    inventory = write_inventory(lab, haproxy=table, nodes=nodes)
    done = replctl("render-haproxy", "--out", str(config(lab)), env=environment(inventory))
    assert done.returncode == 0, done.stderr
    with haproxy(config(lab), rw, ro):
        wait_until(Path(door).exists, "its socket is there")  # after the ports
        yield inventory, rw, ro, door


def changed(inventory: Path, old: str, new: str) -> Path:
    """The inventory with other words."""
    text = inventory.read_text()
    assert old in text
    inventory.write_text(text.replace(old, new))
    return inventory


def writers(door: str) -> set[str]:
    return {name for name in enabled(door) if name.startswith("lab_rw/")}


def enabled(door: str) -> set[str]:
    """The servers that are not in maintenance, as listener/server."""
    rows = [line.split() for line in runtime.ask(door, "show servers state").splitlines()]
    return {f"{r[1]}/{r[3]}" for r in rows if len(r) > 6 and r[0].isdigit() and not int(r[6]) & 9}


def test_a_new_primary_reaches_haproxy_without_a_reload(lab: Lab) -> None:
    with balanced(lab) as (inventory, rw, _ro, door):
        assert node_at(lab, rw) == "pg1"
        with closing(psycopg.connect(host="127.0.0.1", port=rw, user="postgres", autocommit=True)) as session:
            ask_node(lab, "pg2", "SELECT pg_promote()", "CHECKPOINT")  # pg1 is alive, and older
            done = apply(inventory, "haproxy")
            assert done.returncode == 0, done.stderr
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
        assert node_at(lab, rw) == "pg2"
        assert {name for name in enabled(door) if name.startswith("lab_rw/")} == {"lab_rw/pg2"}
        lab.kill("pg1")
        again = apply(inventory, "haproxy")
        assert (again.returncode, again.stderr) == (
            0,
            f"replctl: {config(lab)} is as it should be, and so is what runs\n",
        )


def test_who_comes_back_at_once_when_the_old_writer_s_sessions_end_is_at_the_new_one(lab: Lab) -> None:
    found: list[str | None] = []

    def hold(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as held:
            held.recv(1)  # it sends nothing: only the end comes
        with socket.create_connection(("127.0.0.1", port), timeout=20) as again:
            again.sendall(bytes.fromhex("0000000804d2162f"))  # a wish for TLS: any server answers it
            found.append(again.recv(1).decode() or None)

    with balanced(lab) as (inventory, rw, _ro, door):
        holders = [threading.Thread(target=hold, args=(rw,)) for _ in range(8)]
        for holder in holders:
            holder.start()
        at_pg1 = re.compile("^lab_rw,pg1,[^,]*,[^,]*,8,", re.MULTILINE)
        wait_until(lambda: at_pg1.search(runtime.ask(door, "show stat")), "all are there")
        ask_node(lab, "pg2", "SELECT pg_promote()", "CHECKPOINT")
        done = apply(inventory, "haproxy")
        for holder in holders:
            holder.join(20)
        assert (done.returncode, found) == (0, ["N"] * 8)


@pytest.mark.parametrize("keys", [{}, {"reload": ["/bin/false"]}], ids=["no reload", "one that fails"])
def test_a_change_that_needs_a_reload_does_not_hold_up_writes_after_a_failover(
    lab: Lab, keys: dict[str, Any]
) -> None:
    with balanced(lab, **keys) as (inventory, rw, _ro, door):
        ask_node(lab, "pg2", "SELECT pg_promote()", "CHECKPOINT")  # pg1 is alive
        done = apply(changed(inventory, 'name = "pg3"', 'name = "pg4"'), "haproxy")
        assert (done.returncode, "lab_rw/pg4 is not there" in done.stderr) == (4, True)
        assert (writers(door), node_at(lab, rw)) == ({"lab_rw/pg2"}, "pg2")
        assert "pg4" in config(lab).read_text()


def test_a_haproxy_that_was_away_at_the_failover_is_moved_before_any_reload(lab: Lab) -> None:
    with balanced(lab) as (inventory, rw, _ro, door):
        changed(inventory, 'name = "pg3"', 'name = "pg4"')
        promoted(lab)
        done = replctl("render-haproxy", "--out", str(config(lab)), env=environment(inventory))
        assert (done.returncode, writers(door)) == (0, {"lab_rw/pg1"})
        late = apply(inventory, "haproxy")
        assert (late.returncode, writers(door), node_at(lab, rw)) == (4, {"lab_rw/pg2"}, "pg2")


def test_after_a_failover_haproxy_is_moved_though_its_file_cannot_be_written(
    lab: Lab, tmp_path: Path
) -> None:
    program = tmp_path / "run"
    program.write_text('#!/bin/sh\n[ "$1" != tee ] || { echo no room >&2; exit 1; }\nexec "$@"\n')
    program.chmod(0o755)
    with balanced(lab, run=[str(program)]) as (inventory, rw, _ro, door):
        before = config(lab).read_text()
        promoted(lab)
        done = apply(inventory, "haproxy")
        assert (done.returncode, config(lab).read_text()) == (4, before)
        assert "tee failed: no room" in done.stderr
        assert (writers(door), node_at(lab, rw)) == ({"lab_rw/pg2"}, "pg2")


def test_a_file_that_somebody_broke_is_mended(lab: Lab) -> None:
    with balanced(lab, reload=["/bin/true"]) as (inventory, _rw, _ro, door):
        before = config(lab).read_text()
        config(lab).write_text(before.replace("check weight 100", "check weight"))
        done = apply(inventory, "haproxy")
        assert (done.returncode, config(lab).read_text(), writers(door)) == (0, before, {"lab_rw/pg1"})


def test_an_address_is_the_same_however_it_is_written(lab: Lab) -> None:
    nodes = {"pg3": {"client_host": "2001:DB8:0::2"}}
    with balanced(lab, nodes) as (inventory, _rw, _ro, door):
        runtime.ask(door, "set server lab_ro/pg2 weight 7")
        done = apply(inventory, "haproxy")
        assert (done.returncode, "lab_ro/pg2 has weight 7, not 100: mended" in done.stderr) == (0, True)


def test_a_state_that_was_set_by_hand_is_mended_and_said(lab: Lab) -> None:
    with balanced(lab) as (inventory, _rw, _ro, door):
        runtime.ask(door, "set server lab_rw/pg3 state ready")
        runtime.ask(door, "set server lab_ro/pg2 weight 7")
        done = apply(inventory, "haproxy")
        assert done.returncode == 0, done.stderr
        assert "lab_ro/pg2 has weight 7, not 100; lab_rw/pg3 is enabled: mended" in done.stderr or (
            "lab_rw/pg3 is enabled; lab_ro/pg2 has weight 7, not 100: mended" in done.stderr
        )
        assert enabled(door) == {"lab_rw/pg1", "lab_ro/pg2", "lab_ro/pg3"}


def test_a_change_of_structure_needs_a_reload_and_has_it_only_where_one_is_configured(lab: Lab) -> None:
    with balanced(lab) as (_inventory, rw, ro, door):
        before = config(lab).read_text()
        table = {
            "write_bind": f"127.0.0.1:{rw}",
            "read_bind": f"127.0.0.1:{ro}",
            "file": str(config(lab)),
            "stats_socket": door,
            "sockets": [door],
            **CHECKS,
            "fall": 5,
        }
        refused = apply(write_inventory(lab, haproxy=table), "haproxy")
        assert (refused.returncode, config(lab).read_text()) == (3, before)
        assert "needs a reload, and [haproxy] reload is not configured" in refused.stderr
        fails = apply(write_inventory(lab, haproxy={**table, "reload": ["/bin/false"]}), "haproxy")
        assert (fails.returncode, config(lab).read_text()) == (1, before)
        assert "the reload command /bin/false: exit code 1" in fails.stderr
        lies = apply(write_inventory(lab, haproxy={**table, "reload": ["/bin/true"]}), "haproxy")
        assert (lies.returncode, config(lab).read_text()) == (1, before)
        assert "the reload made no new process" in lies.stderr


def test_a_file_that_haproxy_refuses_is_not_written(lab: Lab) -> None:
    with balanced(lab) as (_, _rw, _ro, door):
        before = config(lab).read_text()
        keys = {"write_bind": "no.such.host.invalid:5000", "file": str(config(lab)), "sockets": [door]}
        done = apply(write_inventory(lab, haproxy={**keys, "reload": ["/bin/true"]}), "haproxy")
        assert (done.returncode, config(lab).read_text()) == (1, before)
        assert done.stderr.startswith("replctl: HAProxy refuses the rendered file: ")


def test_a_socket_that_is_gone_is_said_and_the_file_is_there_for_the_next_start(lab: Lab) -> None:
    with balanced(lab) as (inventory, rw, ro, door):
        Path(door).unlink()
        promoted(lab)
        done = apply(inventory, "haproxy")
        assert done.returncode == 4
        assert f"the HAProxy at {door} does not answer" in done.stderr
    with haproxy(config(lab), rw, ro):
        assert node_at(lab, rw) == "pg2"


def test_a_reload_by_the_supervisor_makes_a_new_structure_true(lab: Lab) -> None:
    caught_up(lab)
    rw, ro, later = free_ports(3)
    door, supervisor = str(lab.directory.parent / "admin.sock"), str(lab.directory.parent / "supervisor.sock")
    table = {
        "write_bind": f"127.0.0.1:{rw}",
        "read_bind": f"127.0.0.1:{ro}",
        "file": str(config(lab)),
        "stats_socket": door,
        "sockets": [door],
        "reload": [str(ROOT / "deploy" / "haproxy-reload.py"), supervisor],
        **CHECKS,
    }
    inventory = write_inventory(lab, haproxy=table)
    first = replctl("render-haproxy", "--out", str(config(lab)), env=environment(inventory))
    assert first.returncode == 0, first.stderr
    argv = [haproxy_program(), "-W", "-db", "-S", f"{supervisor},mode,600", "-f", str(config(lab))]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: listens(rw), "HAProxy listens")
            changed = write_inventory(
                lab, haproxy={**table, "read_bind": f"127.0.0.1:{later}"}, nodes={"pg3": {"name": "pg4"}}
            )
            done = apply(changed, "haproxy")
            assert done.returncode == 0, done.stderr
            assert enabled(door) == {"lab_rw/pg1", "lab_ro/pg2", "lab_ro/pg4"}
            assert (listens(later), listens(ro)) == (True, False)
            assert node_at(lab, rw) == "pg1"
        finally:
            process.terminate()
            process.wait(10)


def test_a_console_and_a_socket_that_say_nothing_hold_nobody_up_for_long(lab: Lab) -> None:
    with pooled(lab) as (_, (port,)), socket.create_server(("127.0.0.1", 0)) as deaf:
        silent = deaf.getsockname()[1]
        inventory = write_inventory(
            lab,
            pgbouncer=pooler_table(lab, port, silent),
            haproxy={"file": str(config(lab)), "sockets": [f"127.0.0.1:{silent}"], "version": "2.6"},
        )
        promoted(lab)
        began_s = time.monotonic()
        done = apply(inventory, "pgbouncer")
        assert (done.returncode, node_at(lab, port)) == (4, "pg2")
        assert f"the PgBouncer at 127.0.0.1:{silent} does not answer: not within 3 s" in done.stderr
        done = apply(inventory, "haproxy")
        assert (done.returncode, config(lab).exists()) == (4, True)
        assert f"the HAProxy at 127.0.0.1:{silent} does not answer: timed out" in done.stderr
        assert time.monotonic() - began_s < 20
