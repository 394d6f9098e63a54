"""Starts the project in the process of the tests, on one lab after another."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync, sync_to_async

from replctl.lab import Lab
from tests.live.failover_support import ask, value, write_inventory
from tests.support import wait_until

# Replicas of these tests are behind on purpose, for longer than a test takes.
ROUTING = {"hold_s": 0, "readmit_after": 1, "max_lag_s": 3600, "max_lag_bytes": "1GiB"}
REPLICAS = ("pg2", "pg3")
PAUSED = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
_place: list[Path] = []


@contextlib.contextmanager
def running(
    lab: Lab,
    *,
    failover: Mapping[str, Any] | None = None,
    nodes: Mapping[str, Mapping[str, Any]] | None = None,
    **routing: Any,
) -> Iterator[Path]:
    """The project on this lab, with its tables; gives the inventory. Every connection ends with the block."""
    path = write_inventory(lab, failover=failover, nodes=nodes, routing={**ROUTING, **routing})
    settings_at(path)
    from django.core.management import call_command
    from django.db import connections

    from replctl.adapters.django import cluster_of

    try:
        call_command("migrate", run_syncdb=True, verbosity=0)
        caught_up(lab)
        cluster_of().monitor.ensure()
        yield path
    finally:
        connections.close_all()
        async_to_sync(_close_async)()
        cluster_of().close()


def settings_at(path: Path) -> None:
    """Settings exist once in a process, so that every lab's inventory goes to one place."""
    if not _place:
        _place.append(Path(tempfile.mkdtemp(prefix="replctl-test-")) / "cluster.toml")
        shutil.copy(path, _place[0])
        with pytest.MonkeyPatch.context() as environment:  # programs that later tests start have their own
            environment.setenv("DJANGO_PROJECT_INVENTORY", str(_place[0]))
            environment.setenv("DJANGO_SETTINGS_MODULE", "tests.live.django_project.settings")
            django.setup()
    shutil.copy(path, _place[0])
    _place[0].chmod(0o644)


async def _close_async() -> None:
    from django.db import connections

    await sync_to_async(connections.close_all, thread_sensitive=True)()


def caught_up(lab: Lab) -> None:
    """Wait until every replica has replayed all that the primary has."""
    end = value(lab, "pg1", "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
    replayed = "SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn"
    wait_until(lambda: all(value(lab, name, replayed) >= end for name in REPLICAS), "replicas catch up")


@contextlib.contextmanager
def paused(lab: Lab, *nodes: str) -> Iterator[None]:
    """Replay stands still on these replicas (default: on all)."""
    for name in nodes or REPLICAS:
        ask(lab, name, "SELECT pg_wal_replay_pause()")
        wait_until(lambda name=name: value(lab, name, PAUSED), f"{name} is paused")
    try:
        yield
    finally:
        for name in nodes or REPLICAS:
            ask(lab, name, "SELECT pg_wal_replay_resume()")
        caught_up(lab)
