"""The web examples, started as their docstrings say, and asked over HTTP."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from replctl.lab import Lab
from tests.live.failover_support import ask, value, write_inventory
from tests.live.pooler import listens
from tests.live.test_monitor import QUICK
from tests.live.test_sqlalchemy import LAGGING, pause, resume
from tests.support import ROOT, need, run, wait_until

pytestmark = pytest.mark.live

LINES_MAX = 100  # with the imports


def commands(example: str) -> list[str]:
    """The commands of an example's docstring."""
    text = (ROOT / "examples" / f"{example}.py").read_text().split('"""')[1]
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def arguments(command: str, port: int) -> list[str]:
    """A command of the docstring, for this interpreter and another port."""
    program, *rest = shlex.split(command)
    return [sys.executable, "-m", program, *(word.replace("8000", str(port)) for word in rest)]


@contextmanager
def running(example: str, inventory: Path) -> Iterator[httpx.Client]:
    """The example's server; gives a browser without cookies."""
    for package in ("fastapi", "flask", "httpx", "prometheus_client", "uvicorn"):
        need(package, importlib.util.find_spec(package), "pip install 'replctl[test]'")
    port = free_port()
    environment = {**os.environ, "REPLCTL_INVENTORY": str(inventory), "PYTHONWARNINGS": "default"}
    programs = [c for c in commands(example) if c.startswith(("flask ", "uvicorn "))]
    for command in programs[:-1]:
        done = run(arguments(command, port), env=environment)
        assert done.returncode == 0, done.stderr
    log = inventory.with_suffix(".log")
    with log.open("w") as output:
        server = subprocess.Popen(
            arguments(programs[-1], port), cwd=ROOT, env=environment, stdout=output, stderr=output
        )
        try:
            wait_until(lambda: listens(port) or server.poll() is not None, "it listens", limit_s=20)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as browser:
                yield browser
        finally:
            server.terminate()
            server.wait(15)
            print(log.read_text())
    assert "Traceback" not in log.read_text()


def stranger(browser: httpx.Client) -> httpx.Client:
    """Another browser, at the same server."""
    return httpx.Client(base_url=browser.base_url, timeout=20)


KINDS: Mapping[str, tuple[str, str]] = {
    "fastapi_app": ("/orders", "item"),
    "flask_app": ("/notes", "text"),
}


@pytest.mark.parametrize("example", KINDS)
def test_an_example_reads_from_replicas_and_shows_everybody_his_own_writes(lab: Lab, example: str) -> None:
    path, key = KINDS[example]
    inventory = write_inventory(lab, routing={**QUICK, **LAGGING})
    with running(example, inventory) as browser:
        for node in ("pg2", "pg3"):
            table = path.removeprefix("/")
            wait_until(lambda n=node, t=table: value(lab, n, f"SELECT to_regclass('{t}')"), f"{node} has it")
        assert {browser.get(path).headers["X-Served-By"] for _ in range(4)} == {"pg2", "pg3"}
        pause(lab, "pg2", "pg3")
        posted = browser.post(path, json={key: "tea"})
        assert (posted.status_code, posted.headers["X-Served-By"]) == (201, "pg1")
        assert re.search(r"^replctl_lab=v1\.[^;]+; .*HttpOnly; SameSite=Lax$", posted.headers["Set-Cookie"])
        got = browser.get(path)
        assert (got.json(), got.headers["X-Served-By"]) == (["tea"], "pg1")
        assert "Set-Cookie" not in got.headers
        with stranger(browser) as other:
            seen = other.get(path)
            assert (seen.json(), seen.headers["X-Served-By"] in ("pg2", "pg3")) == ([], True)
        resume(lab, "pg2", "pg3")
        wait_until(lambda: browser.get(path).headers["X-Served-By"] != "pg1", "a replica has it")
        assert browser.get(path).json() == ["tea"]
        counted = browser.get("/metrics").text
        assert re.search(
            r'^db_read_route_total\{cluster="lab",reason="lsn_behind",target="pg1"\} [1-9]\d*\.0$',
            counted,
            re.M,
        )
        assert ask(lab, "pg1", f"SELECT {key} FROM {path[1:]}") == [("tea",)]


@pytest.mark.parametrize("example", KINDS)
def test_an_example_says_when_to_come_back_while_nobody_takes_writes(lab: Lab, example: str) -> None:
    path, key = KINDS[example]
    with running(example, write_inventory(lab, routing=QUICK)) as browser:
        assert browser.post(path, json={key: "tea"}).status_code == 201
        lab.kill("pg1")
        refused = browser.post(path, json={key: "milk"})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        with stranger(browser) as other:
            wait_until(lambda: other.get(path).json() == ["tea"], "a replica has it")
        ask(lab, "pg2", "SELECT pg_promote()")
        wait_until(lambda: browser.post(path, json={key: "milk"}).status_code == 201, "pg2 takes the writes")
        assert browser.get(path).json() == ["tea", "milk"]


@pytest.mark.parametrize("example", KINDS)
def test_an_example_is_short_and_says_how_to_run_it(example: str) -> None:
    text = (ROOT / "examples" / f"{example}.py").read_text()
    assert len(text.splitlines()) <= LINES_MAX
    assert [c for c in commands(example) if c.startswith("pip install '.[lab,metrics,sqlalchemy]'")]
