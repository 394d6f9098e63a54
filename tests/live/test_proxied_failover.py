"""Clients behind real proxies, and the primary lost: writes follow without anybody typing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from replctl.lab import Lab
from replctl.render.rendered import facts_of
from tests.live.clients import Clients, prepare
from tests.live.failover_support import (
    GRACES,
    Auto,
    ask,
    behind,
    configure,
    environment,
    fail_over,
    network,
    write_inventory,
)
from tests.live.proxies import free_ports, haproxy, node_at, pgbouncer
from tests.live.test_apply import CHECKS, console
from tests.live.test_render import caught_up
from tests.support import replctl, wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1")]


def beside(lab: Lab, name: str) -> Path:
    return lab.directory.parent / name


def rendered(inventory: Path, proxy: str, out: Path) -> None:
    done = replctl(f"render-{proxy}", "--out", str(out), env=environment(inventory))
    assert done.returncode == 0, done.stderr


@contextmanager
def chain(lab: Lab, **tables: Any) -> Iterator[tuple[Path, int]]:
    """Clients reach PgBouncer, which reaches HAProxy, which reaches the primary; inventory and port."""
    caught_up(lab)
    rw, ro, port = free_ports(3)
    door, config = str(beside(lab, "admin.sock")), beside(lab, "haproxy.cfg")
    keys = {"write_bind": f"127.0.0.1:{rw}", "read_bind": f"127.0.0.1:{ro}", **CHECKS}
    keys |= {"file": str(config), "stats_socket": door, "sockets": [door]}
    inventory = write_inventory(lab, haproxy=keys, **tables)
    rendered(inventory, "haproxy", config)
    databases = beside(lab, "databases.ini")
    databases.write_text(f"[databases]\npostgres = host=127.0.0.1 port={rw} pool_mode=transaction\n")
    databases.chmod(0o644)
    # Nobody tells this PgBouncer anything: how soon it tries again is up to its configuration.
    with haproxy(config, rw, ro), pgbouncer(lab, databases, port, login_retry_s=0.1):
        yield inventory, port


@contextmanager
def direct(lab: Lab, **tables: Any) -> Iterator[tuple[Path, int]]:
    """Clients reach PgBouncer, which reaches the primary."""
    caught_up(lab)
    (port,) = free_ports(1)
    databases = beside(lab, "databases.ini")
    keys = {"databases": ["postgres"], "version": "1.18", "file": str(databases), "admin": [console(port)]}
    inventory = write_inventory(lab, pgbouncer=keys, **tables)
    rendered(inventory, "pgbouncer", databases)
    with pgbouncer(lab, databases, port, login_retry_s=15):  # its default
        yield inventory, port


GOAL_S = 0.5
WAYS = {"chain": chain, "direct": direct}


def since_promotion(auto: Auto, clients: Clients, server: int) -> tuple[float, float]:
    """Seconds from the promotion to the first write through the proxies, and to the last client's first."""
    promoted = auto.events("step", "promote ")[0]
    at = datetime.fromisoformat(promoted["at"]).timestamp() - (time.time() - time.monotonic())
    back = clients.returned_s(server)
    return back[0] - at, back[-1] - at


def on_lost(lab: Lab, way: str, how: str) -> tuple[float, float]:
    """8 clients lose the primary. When the first and the last of them wrote again, from the promotion on."""
    prepare(lab)
    old = lab.nodes["pg1"].port
    with ExitStack() as stack:
        nodes, lose = None, {"killed": lab.kill, "frozen": lab.freeze}.get(how)
        if how == "cut off":
            net = stack.enter_context(network(lab))
            # Clients and proxies go on reaching it; only its replicas and the controller do not.
            nodes = {
                name: {**where, "client_port": lab.nodes[name].port} for name, where in behind(net).items()
            }
            lose = net.isolate
        assert lose is not None
        inventory, port = stack.enter_context(WAYS[way](lab, failover=GRACES, nodes=nodes))
        auto = stack.enter_context(Auto(inventory))
        clients = stack.enter_context(Clients(port))
        auto.wait_for("verdict", "alive")
        wait_until(lambda: clients.back(old), "every client writes")
        lose("pg1")
        primary = auto.wait_for("done", limit_s=40)["node"]  # whichever was further ahead
        new = lab.nodes[primary].port
        wait_until(lambda: clients.back(new), "every client is back")
        auto.wait_for("proxy", f"writes go to {primary}")
        first_s, last_s = since_promotion(auto, clients, new)
        assert auto.events("proxy_failed") == []
        assert clients.lost(lab, primary) == []
    began_s = clients.returned_s(new)[0]
    assert [ack for ack in clients.taken_by(old) if ack.at_s > began_s] == []
    return first_s, last_s


@pytest.mark.parametrize("how", ["killed", "frozen", "cut off"])
@pytest.mark.parametrize("way", WAYS)
def test_clients_go_on_at_the_new_primary_and_no_acknowledged_write_is_lost(
    lab: Lab, way: str, how: str
) -> None:
    first_s, last_s = on_lost(lab, way, how)
    # On a machine that does other work as well everything takes that much longer.
    limit_s = GOAL_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    print(f"FIGURES {way} {how}: first write {first_s:.3f} s, last client {last_s:.3f} s")
    assert (first_s < limit_s, last_s < 2 * limit_s) == (True, True)


# ---- a failover that was interrupted after the promotion


def half_done(lab: Lab) -> None:
    """pg2 is promoted, and nothing else: pg3 still follows pg1."""
    lab.kill("pg1")
    configure(lab, "pg2", synchronous_standby_names="")
    ask(lab, "pg2", "SELECT pg_promote()")


@pytest.mark.parametrize("way", WAYS)
def test_a_controller_that_finishes_a_failover_moves_the_proxies_too(lab: Lab, way: str) -> None:
    with WAYS[way](lab, failover=GRACES) as (inventory, port):
        assert node_at(lab, port) == "pg1"
        half_done(lab)
        with Auto(inventory) as auto:
            auto.wait_for("failover", "finishing what was left: pg2 is the primary", limit_s=40)
            auto.wait_for("done")
            assert len(auto.events("proxy", "writes go to pg2")) == 1
        wait_until(lambda: node_at(lab, port) == "pg2", "clients reach pg2", limit_s=20)


def test_a_failover_that_is_finished_by_hand_moves_the_proxies_too(lab: Lab) -> None:
    with direct(lab) as (inventory, port):
        half_done(lab)
        done = fail_over(inventory)
        assert done.returncode == 0, done.stderr
        assert f"writes go to pg2: {beside(lab, 'databases.ini')} is written" in done.stdout
        assert node_at(lab, port) == "pg2"


@pytest.mark.parametrize("way", WAYS)
def test_a_controller_that_is_started_moves_proxies_that_were_left_at_the_old_primary(
    lab: Lab, way: str
) -> None:
    with WAYS[way](lab, failover=GRACES) as (inventory, port):
        text = inventory.read_text()
        write_inventory(lab, failover=GRACES)  # without proxies: as a run that was killed before it told them
        lab.kill("pg1")
        assert fail_over(inventory).returncode == 0
        inventory.write_text(text)
        once = fail_over(inventory, "--auto", "--once")
        assert (once.returncode, "writes go to pg2" in once.stdout) == (0, True), once.stderr
        wait_until(lambda: node_at(lab, port) == "pg2", "clients reach pg2", limit_s=20)
        assert fail_over(inventory, "--auto", "--once").stdout == ""


def test_a_decision_of_once_that_a_proxy_did_not_follow_is_done_in_part(lab: Lab) -> None:
    (port,) = free_ports(1)
    databases = beside(lab, "databases.ini")
    keys = {"databases": ["postgres"], "version": "1.18", "file": str(databases), "admin": [console(port)]}
    inventory = write_inventory(lab, pgbouncer=keys, failover=GRACES)
    lab.kill("pg1")
    done = fail_over(inventory, "--auto", "--once")
    assert (done.returncode, lab.primary()) == (4, "pg2")
    assert f"proxy_failed: the PgBouncer at 127.0.0.1:{port} does not answer" in done.stdout


# ---- failover by hand


def test_a_failover_by_hand_moves_writes_and_says_so(lab: Lab) -> None:
    with direct(lab) as (inventory, port):
        lab.kill("pg1")
        assert node_at(lab, port) is None  # from now on PgBouncer would wait 15 s before it tries again
        done = fail_over(inventory)
        assert done.returncode == 0, done.stderr
        assert f"writes go to pg2: {beside(lab, 'databases.ini')} is written" in done.stdout
        assert node_at(lab, port) == "pg2"
        text = beside(lab, "databases.ini").read_text()
        tenure = facts_of(text).tenure
        assert tenure is not None and (tenure.writer, tenure.timeline) == ("pg2", 2)
        # What a look sees is what the failover knew: nothing is left to write but who reads.
        done = replctl("render-pgbouncer", "--check", env=environment(inventory))
        assert "writes go" not in "".join(line for line in done.stdout.splitlines() if line[:1] in "+-")


def test_a_proxy_that_does_not_take_it_fails_no_failover_and_is_said(lab: Lab) -> None:
    (port,) = free_ports(1)
    databases = beside(lab, "databases.ini")
    keys = {"databases": ["postgres"], "version": "1.18", "file": str(databases), "admin": [console(port)]}
    inventory = write_inventory(lab, pgbouncer=keys)
    lab.kill("pg1")
    done = fail_over(inventory)
    assert (done.returncode, lab.primary()) == (4, "pg2")
    assert f"the PgBouncer at 127.0.0.1:{port} does not answer" in done.stderr
    events = replctl("events", "last", "--json", env=environment(inventory))
    assert '"proxy_failed"' in events.stdout
