"""What PgBouncer runs with is read back too: the pools of its aliases, and the settings of a whole file."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from replctl.inventory import load
from replctl.lab import Lab
from tests.live.failover_support import environment, write_inventory
from tests.live.proxies import free_ports, listens
from tests.live.test_apply import apply, databases, pooled, pooler_table, shown
from tests.live.test_render import caught_up
from tests.support import need, replctl, wait_until

pytestmark = pytest.mark.live

SECRET = "just-for-this-test"


def fine(lab: Lab) -> tuple[int, str]:
    return 0, f"replctl: {databases(lab)} is as it should be, and so is what runs\n"


def test_a_pool_that_is_another_is_mended_and_said(lab: Lab) -> None:
    with pooled(lab, pool_size=20, max_db_connections=50) as (_, (port,)):
        keys = {"pool_size": 21, "max_db_connections": 50, "pool_mode": "session", "reserve_pool_size": 3}
        inventory = write_inventory(lab, pgbouncer=pooler_table(lab, port, **keys))
        written = replctl("render-pgbouncer", "--out", str(databases(lab)), env=environment(inventory))
        assert (written.returncode, shown(port)["postgres"]["pool_size"]) == (0, 20)

        done = apply(inventory, "pgbouncer")
        assert done.returncode == 0, done.stderr
        assert "alias postgres has pool_mode transaction, not session" in done.stderr
        assert "alias postgres has pool_size 20, not 21" in done.stderr
        row = shown(port)["postgres_ro"]
        keys_shown = ("pool_mode", "pool_size", "reserve_pool", "max_connections")
        assert [row[key] for key in keys_shown] == ["session", 21, 3, 50]
        again = apply(inventory, "pgbouncer")
        assert (again.returncode, again.stderr) == fine(lab)


@contextmanager
def whole(lab: Lab, port: int) -> Iterator[dict[str, Any]]:
    """PgBouncer with a whole file of ours; the keys of [pgbouncer]."""
    caught_up(lab)
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    need("PgBouncer", program, "apt-get install pgbouncer")
    assert program is not None
    userlist = databases(lab).with_name("userlist.txt")
    userlist.write_text(f'"postgres" "{SECRET}"\n')
    userlist.chmod(0o644)
    keys = pooler_table(lab, port, auth_file=str(userlist), listen_port=port)
    run(write_inventory(lab, pgbouncer=keys), "--full", "--out", str(databases(lab)))
    prefix = load(lab.inventory_path).commands["pg1"].run or ()
    with subprocess.Popen(
        [*prefix, program, str(databases(lab))], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    ) as process:
        try:
            wait_until(lambda: listens(port), "PgBouncer listens")
            yield keys
        finally:
            process.terminate()
            process.wait(10)


def run(inventory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(inventory), "PGPASSWORD": SECRET}
    return replctl("render-pgbouncer", *options, env=env)


def test_of_a_whole_file_the_settings_are_read_back_and_what_needs_a_restart_is_said(lab: Lab) -> None:
    port, later = free_ports(2)
    with whole(lab, port) as keys:
        first = run(write_inventory(lab, pgbouncer=keys), "--apply")
        assert (first.returncode, first.stderr) == fine(lab)

        inventory = write_inventory(lab, pgbouncer={**keys, "auth_user": "postgres"})
        run(inventory, "--full", "--out", str(databases(lab)))  # and no reload
        done = run(inventory, "--apply")
        assert done.returncode == 0, done.stderr
        assert "auth_user is not set, not postgres: mended" in done.stderr
        again = run(inventory, "--apply")
        assert (again.returncode, again.stderr) == fine(lab)

        inventory = write_inventory(lab, pgbouncer={**keys, "auth_user": "postgres", "listen_port": later})
        done = run(inventory, "--apply")
        assert (done.returncode, f"listen_port = {later}\n" in databases(lab).read_text()) == (4, True)
        assert f"127.0.0.1:{port}: listen_port is {port}, not {later}: restart it" in done.stderr
