"""What live tests of applications' connections share: a watched lab with a table, and a lag that is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replctl.core.routing import KeyRing, Snapshot
from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.pg.monitor import Monitor
from tests.live.failover_support import ask, value, write_inventory
from tests.support import wait_until

KEYS = KeyRing((b"0123456789abcdef",))
APP: dict[str, Any] = {"user": "app", "dbname": "postgres", "application_name": "shop"}
QUICK = {"hold_s": 0, "readmit_after": 1, "max_lag_s": 3600, "readmit_lag_s": 3600}
INTERVAL_S = 0.3
TABLE = ("CREATE TABLE notes (n int)", "GRANT ALL ON notes TO PUBLIC")


def inventory_of(lab: Lab, *, nodes: Any = None, **routing: Any) -> Path:
    """The lab's, with routing that does not let a test wait for what it does not test."""
    return write_inventory(lab, nodes=nodes, routing={**QUICK, **routing})


@contextmanager
def shop(lab: Lab, *, nodes: Any = None, interval_s: float = INTERVAL_S, **routing: Any) -> Iterator[Monitor]:
    """The monitor of an application that has a table `notes`, which all nodes have replayed."""
    ask(lab, "pg1", *TABLE)
    for name in set(lab.nodes) - {"pg1"}:
        wait_until(
            lambda name=name: value(lab, name, "SELECT to_regclass('notes') IS NOT NULL"), "it is there"
        )
    with Monitor(load_one(inventory_of(lab, nodes=nodes, **routing)), interval_s=interval_s) as monitor:
        monitor.ensure()
        yield monitor


def wait_for(
    monitor: Monitor, condition: Callable[[Snapshot], object], what: str, limit_s: float = 15
) -> None:
    """Wait for a snapshot of which this holds."""

    def holds() -> bool:
        snapshot = monitor.wait(monitor.snapshot, 0.5) or monitor.snapshot
        return snapshot is not None and bool(condition(snapshot))

    wait_until(holds, what, limit_s=limit_s)


def pause(lab: Lab, *names: str) -> None:
    """These replicas replay nothing more."""
    for name in names:
        ask(lab, name, "SELECT pg_wal_replay_pause()")
        wait_until(
            lambda name=name: value(lab, name, "SELECT pg_get_wal_replay_pause_state()") == "paused",
            "it stands",
        )


def resume(lab: Lab, *names: str) -> None:
    """And now they do again."""
    for name in names:
        ask(lab, name, "SELECT pg_wal_replay_resume()")


def port_of(connection: Any) -> int:
    """Whom one is connected to."""
    return int(connection.info.port)


def name_of(lab: Lab, connection: Any) -> str:
    """Which node one is connected to."""
    return next(name for name, node in lab.nodes.items() if node.port == port_of(connection))
