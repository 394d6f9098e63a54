"""A reload of HAProxy is believed only where another process has the structure; and what would be done."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replctl.lab import Lab
from tests.live.failover_support import environment, write_inventory
from tests.live.proxies import free_ports, haproxy_program, listens, node_at
from tests.live.test_apply import CHECKS, apply, at, config, databases, enabled, leads_to, pooled, promoted
from tests.live.test_render import caught_up
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """HAProxy with a supervisor, which starts another process at a reload (-W), and a rendered file."""

    lab: Lab
    table: dict[str, Any]
    rw: int
    process: subprocess.Popen[bytes]

    @property
    def reload(self) -> list[str]:
        """As systemd and Docker do it, without a word about how it went."""
        return ["/bin/sh", "-c", f"kill -USR2 {self.process.pid}"]

    def inventory(self, **keys: Any) -> Path:
        return write_inventory(self.lab, haproxy={**self.table, "reload": self.reload, **keys})


@contextmanager
def supervised(lab: Lab, **keys: Any) -> Iterator[Supervised]:
    caught_up(lab)
    rw, ro = free_ports(2)
    door = str(lab.directory.parent / "admin.sock")
    table: dict[str, Any] = {
        "write_bind": f"127.0.0.1:{rw}",
        "read_bind": f"127.0.0.1:{ro}",
        "file": str(config(lab)),
        "stats_socket": door,
        "sockets": [door],
        **CHECKS,
        **keys,
    }
    out(write_inventory(lab, haproxy=table), lab)
    argv = [haproxy_program(), "-W", "-db", "-f", str(config(lab))]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: listens(rw) and Path(door).exists(), "HAProxy listens")
            yield Supervised(lab=lab, table=table, rw=rw, process=process)
        finally:
            process.terminate()
            process.wait(10)


def out(inventory: Path, lab: Lab) -> None:
    done = replctl("render-haproxy", "--out", str(config(lab)), env=environment(inventory))
    assert done.returncode == 0, done.stderr


def session(port: int) -> closing[psycopg.Connection[Any]]:
    return closing(psycopg.connect(host="127.0.0.1", port=port, user="postgres", autocommit=True))


def test_a_reload_that_haproxy_refuses_is_found_and_taken_back_without_ending_a_session(lab: Lab) -> None:
    # The port is taken: `haproxy -c` finds nothing wrong, and the process before goes on.
    taken = lab.nodes["pg1"].port
    with supervised(lab, hard_stop_after_s=0.5) as proxy, session(proxy.rw) as client:
        before = config(lab).read_text()
        done = apply(proxy.inventory(write_bind=f"127.0.0.1:{taken}", hard_stop_after_s=0.5), "haproxy")
        assert (done.returncode, config(lab).read_text()) == (1, before)
        assert "it is as it was, in every one" in done.stderr
        assert "the reload made no new process: the one before goes on" in done.stderr
        assert (client.execute("SELECT 1").fetchone(), node_at(lab, proxy.rw)) == ((1,), "pg1")


def test_a_file_that_was_written_without_a_reload_is_reloaded_by_apply_or_said_to_be_missing(
    lab: Lab,
) -> None:
    (later,) = free_ports(1)
    with supervised(lab) as proxy:
        keys = {"read_bind": f"127.0.0.1:{later}"}
        out(proxy.inventory(**keys), lab)
        said = apply(write_inventory(lab, haproxy={**proxy.table, **keys}), "haproxy")
        wanted = "runs with another structure than the file's: reload it"
        assert (said.returncode, wanted in said.stderr, listens(later)) == (4, True, False)
        done = apply(proxy.inventory(**keys), "haproxy")
        assert done.returncode == 0, done.stderr
        assert "runs with another structure than the file's: mended" in done.stderr
        assert listens(later)
        again = apply(proxy.inventory(**keys), "haproxy")
        fine = f"replctl: {config(lab)} is as it should be, and so is what runs\n"
        assert (again.returncode, again.stderr) == (0, fine)


def test_sessions_of_the_process_before_a_reload_end_in_time(lab: Lab) -> None:
    # No runtime command reaches them: a failover later on would leave them with the old writer.
    with supervised(lab, hard_stop_after_s=1) as proxy, session(proxy.rw) as client:
        client.execute("SELECT 1")
        done = apply(proxy.inventory(hard_stop_after_s=1, fall=5), "haproxy")
        assert done.returncode == 0, done.stderr

        def ended() -> bool:
            try:
                client.execute("SELECT 1")
            except psycopg.OperationalError:
                return True
            return False

        wait_until(ended, "the session ends", limit_s=10)
        assert node_at(lab, proxy.rw) == "pg1"


def test_a_dry_run_says_what_would_be_done_and_does_nothing(lab: Lab) -> None:
    with supervised(lab) as proxy:
        before = config(lab).read_text()
        plain = apply(proxy.inventory(), "haproxy", "--dry-run")
        assert (plain.returncode, plain.stdout) == (0, f"{config(lab)}: nothing to do\n")

        promoted(lab)
        door = proxy.table["sockets"][0]
        moved = apply(proxy.inventory(), "haproxy", "--dry-run")
        assert moved.returncode == 0, moved.stderr
        assert f"the HAProxy at {door} would be told over its socket: lab_rw/pg1 is enabled; " in moved.stdout
        other = apply(proxy.inventory(fall=7), "haproxy", "--dry-run")
        assert other.returncode == 0, other.stderr
        assert f"the HAProxy at {door} would be reloaded" in other.stdout
        assert f"{config(lab)} would be written\n" in other.stdout
        assert [line[:1] for line in other.stdout.splitlines() if " fall 7 " in line] == ["+", "+"]
        assert (config(lab).read_text(), "lab_rw/pg1" in enabled(door)) == (before, True)
    gone = apply(proxy.inventory(), "haproxy", "--dry-run")
    assert gone.returncode == 0, gone.stderr
    assert f"warning: the HAProxy at {door} does not answer" in gone.stderr


def test_a_dry_run_of_pgbouncer_says_what_would_be_done_and_does_nothing(lab: Lab) -> None:
    with pooled(lab) as (inventory, (port,)):
        before = databases(lab).read_text()
        promoted(lab)
        done = apply(inventory, "pgbouncer", "--dry-run")
        assert done.returncode == 0, done.stderr
        wanted = f"alias postgres has port {lab.nodes['pg1'].port}, not {lab.nodes['pg2'].port}"
        assert f"the PgBouncer at 127.0.0.1:{port} would be reloaded: {wanted}" in done.stdout
        assert (databases(lab).read_text(), leads_to(port)) == (before, at(lab, "pg1"))
