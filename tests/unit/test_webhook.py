"""The webhook that ships with replctl, against real servers of this test: it tells, tries again, gives up."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from replctl.webhook import sentence
from tests.support import ROOT, need

DOCUMENT: dict[str, Any] = {
    "schema_version": 1,
    "hook": "after",
    "cluster": "orders",
    "inventory": "/etc/replctl/orders.toml",
    "id": "20300131-120000-3f2a",
    "action": "failover",
    "automatic": True,
    "lost": "pg1",
    "target": "pg2",
    "outcome": "done",
    "problem": None,
}
TOLD = "orders: pg2 is the primary now, pg1 is lost (automatic failover 20300131-120000-3f2a)"
SECRET = "T00-s3cret"  # what the address of a chat holds


@dataclass
class Server:
    """What was asked of it, and what it answers: one status for each request, the last one for all others."""

    statuses: tuple[int, ...] = (200,)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def next_status(self) -> int:
        return self.statuses[min(len(self.bodies), len(self.statuses)) - 1]


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            server.bodies.append({"path": self.path, "json": json.loads(content)})
            status = server.next_status()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{server.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving(server: Server, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    if context is not None:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
    scheme = "http" if context is None else "https"
    server.url = f"{scheme}://localhost:{listening.server_port}/services/{SECRET}"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


Tell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tell() -> Tell:
    """Run the hook as a controller does: the document on standard input."""

    def run(
        url: str | None,
        *options: str,
        document: object = DOCUMENT,
        inside: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        address = {} if url is None else {"REPLCTL_WEBHOOK_URL": url}
        return subprocess.run(
            [*inside, sys.executable, "-m", "replctl.webhook", *options],
            cwd=ROOT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **address, **(env or {})},
            input=json.dumps(document),
            capture_output=True,
            text=True,
            timeout=20,
        )

    return run


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, with its key in the same file."""
    need("openssl", shutil.which("openssl"), "apt-get install openssl")
    directory = tmp_path_factory.mktemp("tls")
    both = directory / "both.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    both.write_text((directory / "key.pem").read_text() + (directory / "cert.pem").read_text())
    return both


def _outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    assert SECRET not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_failover_is_told_over_tls_with_a_sentence_and_the_whole_document(
    tell: Tell, certificate: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(Server(), context) as server:
        done = tell(server.url, "--ca-file", str(certificate))
    assert _outcome(done) == (0, "", "")
    assert server.bodies == [{"path": f"/services/{SECRET}", "json": {"text": TOLD, "event": DOCUMENT}}]


def test_a_certificate_that_nobody_trusts_ends_it_at_once(tell: Tell, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(Server(), context) as server:
        code, _, said = _outcome(tell(server.url))
    assert (code, server.bodies) == (1, [])
    assert said.startswith("replctl webhook: localhost was not told: self")


def test_an_answer_of_500_is_tried_again_until_it_is_taken(tell: Tell) -> None:
    with serving(Server(statuses=(500, 503, 200))) as server:
        done = tell(server.url)
    assert _outcome(done) == (0, "", "")
    assert [one["json"]["text"] for one in server.bodies] == [TOLD] * 3


def test_a_server_that_never_takes_it_is_given_up_within_the_limit(tell: Tell) -> None:
    began_s = time.monotonic()
    with serving(Server(statuses=(500,))) as server:
        done = tell(server.url, "--limit", "1.2")
    assert _outcome(done) == (1, "", "replctl webhook: localhost was not told: it answered 500\n")
    assert len(server.bodies) == 2
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (307, "it answered 307, and redirects are not followed"),
        (302, "it answered 302, and redirects are not followed"),
        (404, "it answered 404"),
    ],
)
def test_a_redirect_or_a_refusal_is_final(tell: Tell, status: int, why: str) -> None:
    with serving(Server(statuses=(status, 200))) as server:
        done = tell(server.url)
    assert _outcome(done) == (1, "", f"replctl webhook: localhost was not told: {why}\n")
    assert [one["path"] for one in server.bodies] == [f"/services/{SECRET}"]


def test_a_server_that_accepts_and_says_nothing_holds_the_hook_no_longer_than_its_limit(tell: Tell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_s = time.monotonic()
        done = tell(f"http://127.0.0.1:{silent.getsockname()[1]}/{SECRET}", "--limit", "1")
    assert _outcome(done)[0] == 1
    assert time.monotonic() - began_s < 5


def test_a_server_that_sends_a_byte_now_and_then_is_over_at_the_limit_too(tell: Tell) -> None:
    over = threading.Event()

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            while not over.wait(0.1):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as slow:
        thread = threading.Thread(target=drip, args=(slow,), daemon=True)
        thread.start()
        began_s = time.monotonic()
        done = tell(f"http://127.0.0.1:{slow.getsockname()[1]}/{SECRET}", "--limit", "1")
        over.set()
        thread.join()
    assert _outcome(done)[0] == 1
    assert time.monotonic() - began_s < 5


SILENT_DNS = """
import os, socket, sys
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
silent.set_inheritable(True)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def _where_names_hang(directory: Path) -> list[str]:
    """What runs a program where the name server is there and never answers, in namespaces of its own."""
    file = directory / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\n")
    script = 'ip link set lo up && mount --bind "$0" /etc/resolv.conf && exec "$@"'
    inside = ["unshare", "--map-root-user", "--mount", "--net", "sh", "-ec", script, str(file)]
    found = shutil.which("unshare") and shutil.which("ip")
    possible = found and subprocess.run([*inside, "true"], capture_output=True, timeout=10).returncode == 0
    need("namespaces", found if possible else None, "unshare and ip, where the kernel lets this user")
    return [*inside, sys.executable, "-c", SILENT_DNS]


def test_a_name_server_that_never_answers_holds_the_hook_no_longer_than_its_limit(
    tell: Tell, tmp_path: Path
) -> None:
    inside = _where_names_hang(tmp_path)
    began_s = time.monotonic()
    done = tell(f"https://chat.example.org/{SECRET}", "--limit", "1", inside=inside)
    assert _outcome(done) == (1, "", "replctl webhook: not told within 1 s\n")
    assert time.monotonic() - began_s < 4


def test_standard_input_that_never_ends_is_over_at_the_limit_too() -> None:
    address = {"REPLCTL_WEBHOOK_URL": f"http://127.0.0.1:9/{SECRET}"}
    command = [sys.executable, "-m", "replctl.webhook", "--limit", "0.5"]
    with subprocess.Popen(
        command, cwd=ROOT, env=address, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as hook:
        assert hook.wait(timeout=10) == 1
        assert hook.stderr is not None
        assert hook.stderr.read() == "replctl webhook: not told within 0.5 s\n"


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "1e9", "soon"])
def test_a_limit_that_is_none_is_a_mistake_of_usage(tell: Tell, limit: str) -> None:
    done = tell(f"http://127.0.0.1:9/{SECRET}", f"--limit={limit}")
    assert _outcome(done)[0] == 2
    assert "argument --limit: " in done.stderr


def test_no_proxy_gets_to_see_an_address_without_tls(tell: Tell) -> None:
    with serving(Server()) as server, serving(Server()) as proxy:
        at = proxy.url.rpartition("/services/")[0]
        done = tell(server.url, env={"http_proxy": at, "HTTPS_PROXY": at, "all_proxy": at})
    assert _outcome(done) == (0, "", "")
    assert (len(server.bodies), proxy.bodies) == (1, [])


def test_nobody_listening_is_said_with_the_host_and_without_the_address(tell: Tell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, _, said = _outcome(tell(f"http://127.0.0.1:{port}/{SECRET}", "--limit", "0.3"))
    assert (code, said) == (1, "replctl webhook: 127.0.0.1 was not told: Connection refused\n")


@pytest.mark.parametrize(
    "url",
    [
        f"http://example.org/{SECRET}",
        f"ftp://localhost/{SECRET}",
        "",
        "https://[",
        "https://a b",
        f"https:///{SECRET}",
        f"https://a..b/{SECRET}",
        f"https://{'a' * 64}.org/{SECRET}",
        f"https://localhost:{SECRET}/",
        f"https://localhost:99999/{SECRET}",
        f"http://localhost:9%0d/{SECRET}",
        f"https://user:{SECRET}@localhost/",
    ],
)
def test_an_address_without_https_or_a_host_is_a_mistake_of_usage(tell: Tell, url: str) -> None:
    expected = "replctl webhook: REPLCTL_WEBHOOK_URL holds no usable address that begins with https://\n"
    assert _outcome(tell(url)) == (2, "", expected)


def test_the_address_may_stand_in_a_file_that_other_users_cannot_read(tell: Tell, tmp_path: Path) -> None:
    file = tmp_path / "webhook.url"
    with serving(Server()) as server:
        file.write_text(f"{server.url}\n")
        file.chmod(0o640)
        told = tell(None, "--url-file", str(file))
        file.chmod(0o644)
        refused = tell(None, "--url-file", str(file))
    assert _outcome(told) == (0, "", "")
    expected = f"replctl webhook: {file} is open to every user: chmod o= {file}\n"
    assert _outcome(refused) == (2, "", expected)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("document", [[1], "text", {"problem": "x" * 70_000}])
def test_what_is_no_document_of_a_hook_is_not_sent(tell: Tell, document: object) -> None:
    with serving(Server()) as server:
        done = tell(server.url, document=document)
    expected = "replctl webhook: no JSON document of a hook on standard input\n"
    assert (_outcome(done), server.bodies) == ((2, "", expected), [])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"hook": "before", "outcome": None, "automatic": False},
            "orders: failover 20300131-120000-3f2a begins: pg1 is lost, pg2 is to be the primary",
        ),
        (
            {"hook": "on_failure", "outcome": "stopped", "problem": "<b> & more"},
            "orders: automatic failover 20300131-120000-3f2a ended: stopped: &lt;b&gt; &amp; more",
        ),
        ({"lost": None}, TOLD.replace("pg1", "?")),
    ],
)
def test_the_sentence_says_what_happened_to_whom(changes: dict[str, Any], expected: str) -> None:
    assert sentence({**DOCUMENT, **changes}) == expected
