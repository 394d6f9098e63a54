"""The README's five lines make a Prometheus that says which node of the lab was killed, in its own words."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replctl.lab import remove
from tests.live.places import open_directory
from tests.live.proxies import free_ports
from tests.live.servers import SERVERS
from tests.support import ROOT, need, wait_until

pytestmark = pytest.mark.live

SECTION = (ROOT / "README.md").read_text().partition("## See an alert fire\n")[2].partition("\n## ")[0]
(BLOCK,) = re.findall(r"^```\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
(KILL,) = re.findall(r"`(replctl lab kill [^`]+)`", SECTION)
(WORDS,) = re.findall(r'says\s+"([^"]+)"', SECTION)


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A directory with what the lines need of a checkout; afterwards no server runs there any more."""
    need("Prometheus", shutil.which("prometheus"), "apt-get install prometheus")
    with open_directory() as place:
        shutil.copytree(ROOT / "examples", place / "examples")
        yield place
        remove(place / "lab")


@contextlib.contextmanager
def typed(checkout: Path, *lines: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell with these lines; it and all that it runs are ended afterwards, and what they said is shown."""
    path = f"{Path(sys.executable).parent}:{SERVERS[max(SERVERS)]}:/usr/bin:/bin"
    env = {"HOME": str(checkout), "PATH": path, "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
    with (checkout / "log").open("ab") as log:
        process = subprocess.Popen(
            ["/bin/sh", "-c", "\n".join(["set -e", *lines])],
            cwd=checkout,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
        print((checkout / "log").read_text())


def told(port: int, path: str) -> Any:
    """What a Prometheus answers; None while it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=5) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


def firing(port: int) -> dict[str, str]:
    """The alerts that fire, each with what it says."""
    found = (told(port, "alerts") or {}).get("alerts", ())
    return {a["labels"]["alertname"]: a["annotations"]["summary"] for a in found if a["state"] == "firing"}


def test_five_lines_make_an_alert_that_names_the_killed_replica(checkout: Path) -> None:
    lines = BLOCK.splitlines()
    assert len(lines) == 5
    serve, prometheus = free_ports(2)
    # No port and no minute that is not ours: the rest is as it stands there.
    lines[3] = lines[3].replace("replctl serve", f"replctl serve --listen 127.0.0.1:{serve}")
    lines[4] = lines[4].replace("9099", str(prometheus))
    config, rules = (checkout / "examples" / name for name in ("prometheus.yml", "replctl.rules.yml"))
    config.write_text(config.read_text().replace("8008", str(serve)).replace(": 5s", ": 1s"))
    with typed(checkout, *lines[:3]) as process:
        assert process.wait(60) == 0
    rules.write_text(re.sub(r"(?m)^( *for:) .*$", r"\1 1s", rules.read_text()))

    with typed(checkout, *lines[1:2], *lines[3:]) as process:
        up = "query?query=count(replctl_node_up)"
        wait_until(
            lambda: (told(prometheus, up) or {}).get("result") or process.poll() is not None,
            "it has scraped",
            limit_s=30,
        )
        assert process.poll() is None
        wait_until(lambda: firing(prometheus) == {}, "nothing to tell", limit_s=30)
        with typed(checkout, KILL) as killing:
            assert killing.wait(20) == 0
        expected = {"ReplctlNodeDown": WORDS}
        wait_until(lambda: firing(prometheus) == expected, f"{expected} and no other", limit_s=30)
