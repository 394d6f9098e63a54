"""The Django example, started as its docstring says, and asked over HTTP by browsers with cookies."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from replctl.lab import Lab
from tests.live.django_project.running import REPLICAS, ROUTING, caught_up, paused
from tests.live.failover_support import fail_over, write_inventory
from tests.live.pooler import listens
from tests.support import ROOT, run, wait_until

pytestmark = pytest.mark.live

EXAMPLE = ROOT / "examples" / "django_app.py"


def commands(port: int) -> list[list[str]]:
    """The example's commands, for this interpreter and another port."""
    lines = [line.split("#")[0] for line in EXAMPLE.read_text().splitlines()]
    words = [shlex.split(line) for line in lines if line.strip().startswith("python ")]
    return [[sys.executable, *(word.replace("8000", str(port)) for word in rest)] for _, *rest in words]


@contextmanager
def running(inventory: Path) -> Iterator[str]:
    """Its server; gives the address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    environment = {**os.environ, "REPLCTL_INVENTORY": str(inventory), "PYTHONWARNINGS": "error"}
    create, serve = commands(port)
    for _ in range(2):  # the second time changes nothing
        done = run(create, env=environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = inventory.with_suffix(".log")
    with log.open("w") as output:
        server = subprocess.Popen(serve, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            wait_until(lambda: listens(port) or server.poll() is not None, "it listens", limit_s=20)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(15)
            print(log.read_text())
    assert "Traceback" not in log.read_text()


def texts(browser: httpx.Client, path: str = "/notes") -> list[str]:
    response = browser.get(path)
    assert response.status_code == 200, response.text
    found: list[str] = response.json()["notes"]
    return found


@pytest.mark.lab(sync="ANY 1")
def test_it_shows_everybody_his_own_writes_and_follows_a_failover(lab: Lab) -> None:
    inventory = write_inventory(lab, routing=ROUTING)
    with (
        running(inventory) as address,
        httpx.Client(base_url=address, timeout=20) as writer,
        httpx.Client(base_url=address, timeout=20) as other,
    ):
        assert writer.post("/notes", data={"text": "first"}).status_code == 201
        caught_up(lab)
        wait_until(lambda: other.get("/notes").headers["X-Served-By"] in REPLICAS, "replicas serve")
        with paused(lab):
            assert writer.post("/notes", data={"text": "second"}).status_code == 201
            assert texts(writer) == ["first", "second"]
            assert (texts(other), texts(writer, "/stale-notes")) == (["first"], ["first"])

        lab.kill("pg1")
        done = fail_over(inventory, "--to", "pg2")
        assert done.returncode == 0, done.stderr
        wait_until(
            lambda: writer.post("/notes", data={"text": "third"}).status_code == 201, "it writes again"
        )
        assert texts(writer) == ["first", "second", "third"]
