"""`replctl serve` as a process, and what HTTP clients and load balancers get from it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.live.failover_support import environment
from tests.live.running import Running
from tests.support import wait_until

LIMIT_S = 15.0


class Reply(NamedTuple):
    """One answer."""

    code: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Serve(Running):
    """A running server on free ports; ends with SIGTERM, and has to end well."""

    def __init__(
        self,
        inventory: Path,
        *options: str,
        tls: ssl.SSLContext | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._tls = tls
        words = ("serve", "--listen", "127.0.0.1:0", *options)
        super().__init__(*words, env={**environment(inventory), **(env or {})})

    def __enter__(self) -> Serve:
        try:
            wait_until(
                lambda: self._port("listening on http") or self.process.poll() is not None, "it listens"
            )
            assert self.process.poll() is None, self.log
        except BaseException:
            self.end(signal.SIGKILL)
            raise
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        code = self.end(signal.SIGTERM)
        print(self.log)  # shown with a failure
        if failure is None:
            assert (code, "Traceback" in self.log) == (0, False)

    @property
    def port(self) -> int:
        """Of HTTP."""
        return self._port("listening on http")

    @property
    def agent_port(self) -> int:
        """Of agent checks."""
        wait_until(lambda: self._port("answering agent checks on"), "it answers agent checks")
        return self._port("answering agent checks on")

    def _port(self, words: str) -> int:
        found = [line for line in list(self.lines) if words in line]
        return int(found[0].rpartition(":")[2]) if found else 0

    @property
    def url(self) -> str:
        """Of the page, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", **headers: str) -> Reply:
        """One request, the path as it is; `Some_Header` is Some-Header."""
        if self._tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        else:
            connection = http.client.HTTPSConnection(
                "localhost", self.port, timeout=LIMIT_S, context=self._tls
            )
        try:
            connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, text in headers.items():
                connection.putheader(name.replace("_", "-"), text)
            connection.endheaders()
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read().decode())
        finally:
            connection.close()

    def code(self, path: str, method: str = "OPTIONS") -> int:
        """The code of an answer, as HAProxy asks for it."""
        return self.ask(path, method).code

    def codes(self, *nodes: str, query: str = "") -> dict[str, list[str]]:
        """Which of the usual questions each node is a yes to."""
        roles = ("primary", "replica", "read-only", "sync", "async", "health", "readiness")
        return {n: [role for role in roles if self.code(f"/{n}/{role}{query}") == 200] for n in nodes}

    def wait_code(self, path: str, code: int, *, limit_s: float = LIMIT_S) -> None:
        """Wait until this path has this code."""
        wait_until(lambda: self.code(path) == code, f"{path} has {code}", limit_s=limit_s)

    def raw(self, data: bytes, *, limit_s: float = LIMIT_S, port: int | None = None) -> bytes:
        """What comes back for these bytes until the server hangs up."""
        with socket.create_connection(("127.0.0.1", port or self.port), timeout=limit_s) as client:
            try:
                client.sendall(data)
            except OSError:
                return b""  # it hung up before all was sent
            return read_all(client)

    def agent(self, line: str) -> str:
        """What the agent answers to this line."""
        return self.raw(f"{line}\n".encode(), port=self.agent_port).decode()

    @property
    def rss_mib(self) -> float:
        """Its memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    @property
    def descriptors(self) -> int:
        """How many files and connections it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def cpu_s(self) -> float:
        """The CPU time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_all(client: socket.socket) -> bytes:
    """Everything until the other side hangs up. Fails the test where it does not within the limit."""
    got = b""
    until_s = time.monotonic() + (client.gettimeout() or LIMIT_S)
    try:
        while time.monotonic() < until_s and (data := client.recv(65536)):
            got += data
    except ConnectionResetError:
        pass
    except TimeoutError:
        pytest.fail(f"the server did not hang up: {got[:200]!r}", pytrace=False)
    return got
