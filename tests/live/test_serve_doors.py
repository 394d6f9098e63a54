"""What `replctl serve` refuses, on real sockets: strangers, bodies, long heads, slow clients, crowds."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from replctl.lab import Lab
from replctl.server.connections import CONNECTION_LIMIT_S, CONNECTIONS_MAX
from tests.live.failover_support import environment, write_inventory
from tests.live.serve_support import Serve, read_all
from tests.support import need, replctl, wait_until

pytestmark = pytest.mark.live

TOKEN = "0123456789abcdef-first"
OTHER = "0123456789abcdef-second"
SHOWN = ("/metrics", "/status.json", "/", "/probe?target=pg1")
FEW = 60  # descriptors of a server without clients, and of connections that are about to end
BOUNDED_MIB = 100  # at rest it takes some 60


@pytest.fixture
def inventory(shared_lab: Lab, tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    path = write_inventory(shared_lab, name=f"{tmp_path.name}.toml")
    return Path(shutil.move(path, tmp_path / "cluster.toml"))  # labs may be on another file system


@pytest.fixture
def server(inventory: Path) -> Iterator[Serve]:
    with Serve(inventory) as running:
        yield running


def token_file(folder: Path, *tokens: str) -> Path:
    path = folder / "tokens"
    path.touch(mode=0o600)
    path.write_text("\n".join(tokens))
    return path


# ---- paths, methods, bodies, heads


def test_paths_are_names_and_not_files(server: Serve) -> None:
    tricks = (
        "/..%2f",
        "/../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//pg1/primary",
        "/pg1//primary",
        "/pg1/primary/",
        "/pg1%2fprimary",
        "/pg1/primary%00",
        "/PG1/primary",
        "/pg1/primary;a=b",
        "/*/primary",
        "/metrics/",
        "/metrics%3f",
        "/.well-known/x",
        "/robots.txt",
        "/pg1",
        "/pg1/metrics",
    )
    assert {path: server.ask(path).code for path in tricks} == dict.fromkeys(tricks, 404)
    templates = {"/pg1/leader": 200, "/pg1/master": 200, "/pg2/leader": 503, "/pg1/standby-leader": 503}
    assert {path: server.code(path) for path in templates} == templates
    for elsewhere in (b"GET http://evil.example/pg1/primary", b"OPTIONS *", b"GET http://localhost/metrics"):
        assert server.raw(elsewhere + b" HTTP/1.1\r\nHost: a\r\n\r\n").split(b" ")[1] == b"404"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
def test_nothing_can_be_done_here_only_asked(server: Serve, method: str) -> None:
    assert {path: server.ask(path, method).code for path in ("/pg1/primary", "/metrics", "/")} == {
        "/pg1/primary": 405,
        "/metrics": 405,
        "/": 405,
    }
    assert server.code("/metrics", "OPTIONS") == 405


def test_a_body_is_refused_unread(server: Serve) -> None:
    for head in (
        b"Content-Length: 1000000000",
        b"Transfer-Encoding: chunked",
        b"Content-Length: 5\r\nExpect: 100-continue",
    ):
        answer = server.raw(b"GET /pg1/primary HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"100 Continue" not in answer


def test_long_heads_are_refused_and_cost_no_memory(server: Serve) -> None:
    mib = b"x" * (1 << 20)
    for data in (
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + mib + b"\r\n\r\n",
        b"GET /" + mib + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-Y: z\r\n" * 100_000 + b"\r\n",
    ):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(server.raw, [data] * 16))
        # Where all of it is not read, the connection may be reset before the answer arrives.
        assert {answer.split(b" ")[1] if answer else b"400" for answer in answers} == {b"400"}
    assert server.code("/pg1/primary") == 200
    assert server.rss_mib < BOUNDED_MIB


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\nblub\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 20000,
    ],
)
def test_what_is_no_request_is_refused_without_a_word_in_the_log(server: Serve, data: bytes) -> None:
    before = list(server.lines)
    answer = server.raw(data, limit_s=CONNECTION_LIMIT_S + 5)

    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"404", b"405", b"505")
    assert b"Traceback" not in answer
    assert b"aiohttp" not in answer
    assert server.lines == before
    assert server.code("/pg1/primary") == 200


@pytest.mark.slow
def test_who_sends_or_reads_slowly_is_cut_off_and_holds_up_nobody(server: Serve) -> None:
    with ExitStack() as stack:
        slow = [
            stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=CONNECTION_LIMIT_S + 10)
            )
            for _ in range(50)
        ]
        began_s = time.monotonic()
        for client in slow:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n")
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(1):
                for client in slow:
                    try:
                        client.sendall(b"X: y\r\n")
                    except OSError:
                        return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            while time.monotonic() < began_s + 5:
                asked_s = time.monotonic()
                assert server.code("/pg1/primary") == 200
                assert time.monotonic() - asked_s < 1
            assert {read_all(client) for client in slow} == {b""}
        finally:
            stop.set()
            dripping.join()
    assert CONNECTION_LIMIT_S - 1 < time.monotonic() - began_s < CONNECTION_LIMIT_S + 5


def test_connections_have_a_limit_and_the_oldest_make_room_for_the_newest(server: Serve) -> None:
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            for _ in range(CONNECTIONS_MAX + 20)
        ]
        assert [read_all(client) for client in idle[:20]] == [b""] * 20
        assert _is_open(server)
        assert server.descriptors < CONNECTIONS_MAX + FEW
    assert server.rss_mib < BOUNDED_MIB


def test_connections_that_begin_no_encryption_are_counted_too_and_keep_nobody_out(
    inventory: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    options = ("--tls-cert", str(cert), "--tls-key", str(key))
    trusted = ssl.create_default_context(cafile=str(cert))
    with Serve(inventory, *options, tls=trusted) as server, ExitStack() as stack:
        codes = []
        for number in range(600):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            if number % 60 == 59:
                codes.append(server.code("/pg1/primary"))
                assert server.descriptors < CONNECTIONS_MAX + FEW
        assert codes == [200] * 10
        assert server.rss_mib < BOUNDED_MIB + CONNECTIONS_MAX / 4  # asyncio has 256 KiB for each of TLS


def _is_open(server: Serve) -> bool:
    return server.raw(b"OPTIONS /pg1/primary HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")


def test_fifty_scrapers_at_once_all_get_their_answer(server: Serve) -> None:
    with ThreadPoolExecutor(50) as pool:
        began_s = time.monotonic()
        answers = list(pool.map(lambda _: server.ask("/metrics"), range(200)))
        took_s = time.monotonic() - began_s
    assert {answer.code for answer in answers} == {200}
    assert took_s < 10
    assert server.rss_mib < BOUNDED_MIB


# ---- names, tokens, TLS


def test_a_page_under_a_name_of_somebody_else_gets_nothing(server: Serve, inventory: Path) -> None:
    for host in ("evil.example", "evil.example:8008", "127.0.0.1.evil.example", "localhost@evil", "<b>"):
        assert {
            path: server.ask(path, Host=host, Accept="text/html").code for path in SHOWN
        } == dict.fromkeys(SHOWN, 421)
        assert host not in server.ask("/metrics", Host=host).text
        # A check may have any name, and learns no more than yes or no.
        assert server.ask("/pg1/primary", "OPTIONS", Host=host).code == 200
        told = server.ask("/pg1/primary", Host=host)
        assert (told.code, told.text) == (200, "")
    with Serve(inventory, "--allow-host", "lag.example") as named:
        assert named.ask("/metrics", Host="lag.example:8008").code == 200


def test_what_shows_something_needs_a_token_and_what_says_yes_or_no_does_not(inventory: Path) -> None:
    tokens = token_file(inventory.parent, TOKEN, OTHER)
    with Serve(inventory, "--token-file", str(tokens)) as server:
        for path in SHOWN:
            refused = server.ask(path, Accept="text/html")
            assert (refused.code, refused.text) == (401, "a token is needed\n")
            assert refused.headers["WWW-Authenticate"].startswith("Basic ")
            assert server.ask(path, Accept="text/html", Authorization="Bearer wrong").code == 401
            for token in (TOKEN, OTHER):
                assert server.ask(path, Accept="text/html", Authorization=f"Bearer {token}").code == 200
        silent, told = server.ask("/pg1/primary"), server.ask("/pg1/primary", Authorization=f"Bearer {TOKEN}")
        assert (silent.code, silent.text) == (200, "")
        assert (told.code, told.json["reason"]) == (200, "it takes writes")

        token_file(inventory.parent, OTHER)
        server.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: server.ask("/metrics", Authorization=f"Bearer {TOKEN}").code == 401, "it is revoked"
        )
        assert server.ask("/metrics", Authorization=f"Bearer {OTHER}").code == 200
        token_file(inventory.parent, "short")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in server.log, "it says why it does not take it")
        assert server.ask("/metrics", Authorization=f"Bearer {OTHER}").code == 200
        assert not [line for line in server.lines if TOKEN in line or OTHER in line]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    need("openssl", shutil.which("openssl"), "apt-get install openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    return certificate, key


def make_certificate(certificate: Path, key: Path) -> None:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)


def test_with_tls_everything_is_encrypted_and_a_new_certificate_is_taken_on_sighup(
    inventory: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    options = ("--tls-cert", str(cert), "--tls-key", str(key))
    with Serve(inventory, *options, tls=ssl.create_default_context(cafile=str(cert))) as server:
        assert (server.code("/pg1/primary"), server.ask("/metrics").code) == (200, 200)
        assert b"200" not in server.raw(b"OPTIONS /pg1/primary HTTP/1.0\r\n\r\n")
        make_certificate(cert, key)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded" in server.log, "it has taken the new one")
        with pytest.raises(ssl.SSLCertVerificationError):
            server.code("/pg1/primary")
        server._tls = ssl.create_default_context(cafile=str(cert))
        assert server.code("/pg1/primary") == 200


def test_a_certificate_without_its_key_is_not_taken_and_neither_is_what_came_with_it(
    inventory: Path, certificate: tuple[Path, Path]
) -> None:
    (cert, key), tokens = certificate, token_file(inventory.parent, TOKEN)
    options = ("--tls-cert", str(cert), "--tls-key", str(key), "--token-file", str(tokens))
    trusted = ssl.create_default_context(cafile=str(cert))
    with Serve(inventory, *options, tls=trusted) as server:
        old = key.read_bytes()
        make_certificate(cert, key)
        key.write_bytes(old)
        token_file(inventory.parent, OTHER)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "not reloaded, everything stays as it was: --tls-cert" in server.log, "it says so")
        codes = {
            token: server.ask("/metrics", Authorization=f"Bearer {token}").code for token in (TOKEN, OTHER)
        }
        assert codes == {TOKEN: 200, OTHER: 401}


def test_beyond_loopback_it_listens_only_as_it_was_told(inventory: Path) -> None:
    env = environment(inventory)
    done = replctl("serve", "--listen", "0.0.0.0:0", env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "hint: --tls-cert with --tls-key, and --token-file" in done.stderr
    with Serve(inventory, "--listen", "0.0.0.0:0", "--allow-plaintext", "--allow-anyone") as server:
        assert server.code("/pg1/primary") == 200


def test_the_agent_answers_names_and_nothing_else(inventory: Path) -> None:
    with Serve(inventory, "--agent-listen", "127.0.0.1:0") as server:
        asked = {
            "pg2": "up ready 100%\n",
            "cluster/pg2": "down #unknown_name\n",
            "lab/pg2 replica": "up ready 100%\n",
            "pg1 primary": "up ready 100%\n",
            "pg2 primary": "down #not_the_primary\n",
            "pg1": "down #primary\n",
            "GET / HTTP/1.1": "down #unknown_name\n",
        }
        assert {line: server.agent(line) for line in asked} == asked
        assert server.agent("x" * 100_000) == ""
        assert server.raw(b"\xff\xfe\n", port=server.agent_port) == b""
        began_s = time.monotonic()
        assert server.raw(b"pg2", port=server.agent_port) == b""  # no end of a line
        assert time.monotonic() - began_s < 5
        assert server.agent("pg2") == "up ready 100%\n"
