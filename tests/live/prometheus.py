"""A real Prometheus that scrapes and evaluates rules every half second, as a process of a test."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support import need, wait_until

LIMIT_S = 30.0
EVERY = "500ms"


class Prometheus:
    """Scrapes one address by these rules, whose `for` is a second each, so that no test waits an hour."""

    def __init__(self, directory: Path, target: str, rules: str) -> None:
        need("Prometheus", shutil.which("prometheus"), "apt-get install prometheus")
        directory.mkdir()
        (directory / "rules.yml").write_text(re.sub(r"(?m)^( *for:) .*$", r"\1 1s", rules))
        config = {
            "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "replctl", "static_configs": [{"targets": [target]}]}],
        }
        (directory / "prometheus.yml").write_text(json.dumps(config))  # YAML reads JSON
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = ["prometheus", f"--config.file={directory / 'prometheus.yml'}"]
        command += [
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        self._log = directory / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--log.level=warn"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def __enter__(self) -> Prometheus:
        try:
            wait_until(self._is_ready, "Prometheus is ready", limit_s=LIMIT_S)
        except BaseException:
            self.process.kill()
            self.process.wait(10)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()[-3000:]
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return bool(self.query("up == 1"))
        return False

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What it answers now."""
        found = self._get(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
        return list(found)

    def firing(self) -> dict[str, dict[str, str]]:
        """The alerts that fire: `Name node`, `!` after the name of a critical one, each with its words."""
        found = {}
        for alert in self._get("alerts")["alerts"]:
            if alert["state"] == "firing":
                labels = alert["labels"]
                mark = "!" if labels["severity"] == "critical" else ""
                where = labels.get("node") or labels.get("replica")
                name = " ".join(
                    filter(None, (f"{labels['alertname']}{mark}", where, labels.get("slot_name")))
                )
                found[name] = alert["annotations"]
        return found

    def wait_firing(self, expected: Iterable[str], *, limit_s: float = LIMIT_S) -> None:
        """Wait until just these fire. Fails the test with those that do instead."""
        wanted = set(expected)
        seen: set[str] = set()

        def is_so() -> bool:
            seen.clear()
            seen.update(self.firing())
            return seen == wanted

        try:
            wait_until(is_so, f"just {sorted(wanted)} fire", limit_s=limit_s)
        except pytest.fail.Exception:
            pytest.fail(f"after {limit_s:g} s {sorted(seen)} fire, expected {sorted(wanted)}", pytrace=False)
