"""A primary that lives is never failed over, whatever a controller gets to see of it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replctl.lab import Lab, Load
from tests.live.failover_support import (
    GRACES,
    Auto,
    ask,
    picture,
    wait_streaming,
    writable,
    write_inventory,
)
from tests.support import wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1")]

CLIENTS_MAX = 1000


@contextlib.contextmanager
def watched(lab: Lab, inventory: Path) -> Iterator[tuple[Auto, Load]]:
    """A controller and a load; at the end nothing must have been done, and nothing be lost."""
    before = picture(lab)
    with Auto(inventory) as auto, Load(lab, ordinary=False) as load:
        load.wait_for_rows(20)
        yield auto, load
        load.wait_for_rows(20)
        wait_streaming(lab, "pg1", "pg2", "pg3")
        report = load.stop()
    assert [auto.acted, picture(lab), writable(lab)] == [[], before, {"pg1"}], auto.text
    assert report.acknowledged_by == {"pg1": report.rows_acknowledged}
    assert [report.rows_lost, report.rows_late] == [0, 0]


def test_an_orderly_restart_is_waited_for(lab: Lab) -> None:
    with watched(lab, write_inventory(lab, failover={"stop_grace_s": 20})) as (auto, load):
        lab.stop("pg1")
        auto.wait_for("verdict", "orderly stop")
        lab.start("pg1")
        load.wait_for_rows(20, timeout_s=20)


def test_a_crash_of_one_backend_is_waited_for(lab: Lab) -> None:
    with watched(lab, write_inventory(lab)) as (auto, load):
        victim = psycopg.connect(lab.dsn("pg1"), connect_timeout=5)
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        wait_until(lambda: not alive(victim), "the server has noticed")
        load.wait_for_rows(20, timeout_s=20)
        auto.wait_for("verdict", "the primary answers")


def alive(client: psycopg.Connection[Any]) -> bool:
    """Whether the session answers; closed where it does not."""
    try:
        client.execute("SELECT 1")
    except psycopg.OperationalError:
        client.close()
        return False
    return True


def test_a_storm_of_clients_is_life(lab: Lab) -> None:
    """53300: all connections are taken, so every new probe is turned away."""
    with watched(lab, write_inventory(lab)) as (auto, load), ExitStack() as storm:
        with pytest.raises(psycopg.OperationalError, match=r"too many clients|connection slots"):
            for _ in range(CLIENTS_MAX):
                storm.enter_context(psycopg.connect(lab.dsn("pg1"), connect_timeout=5))
        load.wait_for_rows(300, timeout_s=20)  # about ten probes at least
    assert auto.events("verdict", "failures") == []


def test_a_rotated_password_is_life(lab: Lab) -> None:
    pgpass = lab.directory.parent / "pgpass"
    pgpass.write_text("*:*:*:replctl:before\n")
    pgpass.chmod(0o600)
    inventory = write_inventory(lab, connection={"passfile": str(pgpass)})
    rotate(lab, "before")
    for node in lab.nodes.values():
        rules = node.data_directory / "pg_hba.conf"
        rules.write_text(f"host all replctl 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        ask(lab, node.name, "SELECT pg_reload_conf()")
    with watched(lab, inventory) as (auto, load):
        rotate(lab, "after")
        load.wait_for_rows(300, timeout_s=20)
        pgpass.write_text("*:*:*:replctl:after\n")
    assert auto.events("verdict", "failures") == []


def rotate(lab: Lab, password: str) -> None:
    ask(lab, "pg1", f"ALTER ROLE replctl PASSWORD '{password}'")


def test_a_hung_postmaster_is_vetoed_while_commits_flow(lab: Lab) -> None:
    """Nobody new gets in, while those who are connected go on writing, and replicas confirm."""
    pid = lab.nodes["pg1"].pid
    assert pid is not None
    with watched(lab, write_inventory(lab)) as (auto, load), pinned_in(pid):
        auto.wait_for("verdict", "vetoed")
        load.wait_for_rows(200, timeout_s=20)


@contextlib.contextmanager
def pinned_in(postmaster: int) -> Iterator[None]:
    """The postmaster alone stands still."""
    os.kill(postmaster, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(postmaster, signal.SIGCONT)


def test_a_hung_postmaster_of_an_idle_primary_is_left_until_its_open_sessions_are_dead_too(lab: Lab) -> None:
    """Nothing moves and nobody gets in; but whoever is in gets answers, and could write."""
    pid = lab.nodes["pg1"].pid
    assert pid is not None
    before = picture(lab)
    with Auto(write_inventory(lab, failover=GRACES)) as auto:
        with pinned_in(pid):
            auto.wait_for("ended", "PRIMARY_ALIVE")
        auto.wait_for("verdict", "the primary answers")
        assert [auto.acted, picture(lab)] == [[], before]

        with pinned_in(pid):
            auto.wait_for("verdict", "nothing moves")
            lab.kill("pg1")
        auto.wait_for("done")
        assert writable(lab) == {auto.events("done")[0]["node"]}
