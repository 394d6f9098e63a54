"""Whatever is at a node's address: its row says what, the other rows are right, nobody waits too long."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replctl.core.model import Cause, NodeFacts, Unreachable
from replctl.core.status import NodeState
from replctl.lab import Lab
from tests.live.bad_node import DEADLINE_S, HEALTHY, LIMITS, SLACK_S, alias, look_at
from tests.live.looks import (
    HOST,
    Address,
    Looks,
    addresses,
    closed_port,
    inventory,
    inventory_file,
    silent_host,
)
from tests.live.truth import set_on, superuser
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live


# ---- nobody there


def test_a_closed_port_is_refused_not_timeout(shared_lab: Lab) -> None:
    with closed_port() as address:
        assert look_at(shared_lab, address) == (
            Cause.REFUSED,
            "Connection refused",
        )


def test_a_silent_host_is_timeout(shared_lab: Lab) -> None:
    with silent_host() as address:
        assert look_at(shared_lab, address) == (Cause.TIMEOUT, "no answer within 1 s")


def test_a_name_that_does_not_exist_is_dns(shared_lab: Lab) -> None:
    cause, message = look_at(shared_lab, ("name.invalid", 5432))

    assert cause is Cause.DNS
    assert (message or "").startswith("cannot resolve 'name.invalid': ")


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_what_cannot_be_a_host_name_is_dns(shared_lab: Lab, host: str) -> None:
    cause, message = look_at(shared_lab, (host, 5432))

    assert cause is Cause.DNS
    assert repr(host) in (message or "")


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], list[str]]], None]:
    """Lets one name resolve to what a function gives; it may take its time."""
    real = socket.getaddrinfo

    def install(name: str, answer: Callable[[], list[str]]) -> None:
        def answering(host: Any, *rest: Any, **options: Any) -> Any:
            if host != name:
                return real(host, *rest, **options)
            return [found for address in answer() for found in real(address, *rest, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", answering)

    return install


def test_a_resolver_that_hangs_is_timeout_and_holds_up_nobody(shared_lab: Lab, resolver: Any) -> None:
    over = threading.Event()

    def hang() -> list[str]:
        over.wait(timeout=60)
        return [HOST]

    resolver("slow.example", hang)
    try:
        assert look_at(shared_lab, ("slow.example", 5432)) == (Cause.TIMEOUT, "no answer within 1 s")
    finally:
        over.set()


def test_every_address_of_a_name_is_tried(shared_lab: Lab, resolver: Any) -> None:
    """As psql does: a host may have an address where its server does not listen."""
    resolver("two.example", lambda: ["127.0.0.9", HOST])
    nodes = {"pg1": ("two.example", shared_lab.nodes["pg1"].port)}

    with Looks(inventory(nodes, **LIMITS)) as looks:
        assert isinstance(looks.look()["pg1"], NodeFacts)


# ---- something else there


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[Address]:
    """A server that does this with every connection, and then closes it."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    client, _ = listener.accept()
                    client.settimeout(2)
                    with client, contextlib.suppress(OSError):
                        handle(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield HOST, int(listener.getsockname()[1])
        finally:
            over.set()
            thread.join(timeout=5)


def http(client: socket.socket) -> None:
    client.recv(1000)
    client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno\n")


def echo(client: socket.socket) -> None:
    while data := client.recv(1000):
        client.sendall(data)


def ssh(client: socket.socket) -> None:
    client.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    client.recv(1000)


def nothing(client: socket.socket) -> None:
    client.recv(1000)


def garbage(client: socket.socket) -> None:
    client.recv(1000)
    client.sendall(bytes(range(256)) * 4)


@pytest.mark.parametrize("handle", [http, echo, garbage], ids=lambda handle: handle.__name__)
@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
def test_something_that_is_not_postgresql_is_called_so(
    shared_lab: Lab, handle: Callable[[socket.socket], None], sslmode: str
) -> None:
    with serving(handle) as address:
        cause, message = look_at(shared_lab, address, sslmode=sslmode)

    assert cause is Cause.NOT_POSTGRES, message
    assert message


def test_a_server_that_speaks_first_is_not_postgresql(shared_lab: Lab) -> None:
    """With TLS it may go further: the S of `SSH` is how PostgreSQL agrees to it."""
    with serving(ssh) as address:
        assert look_at(shared_lab, address)[0] is Cause.NOT_POSTGRES
        assert look_at(shared_lab, address, sslmode="require")[0] is Cause.TLS


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_a_server_that_hangs_up_at_once_is_not_taken_for_a_closed_port(shared_lab: Lab, sslmode: str) -> None:
    with serving(nothing) as address:
        cause, message = look_at(shared_lab, address, sslmode=sslmode)

    assert cause is Cause.OTHER, message
    assert message == "server closed the connection unexpectedly"


# ---- it is there, but not ready


@pytest.mark.lab(replicas=0)
def test_a_server_without_a_free_connection_says_so(lab: Lab) -> None:
    set_on(lab, "pg1", max_connections="10", superuser_reserved_connections="3", max_wal_senders="5")
    lab.stop("pg1")
    lab.start("pg1")
    with contextlib.ExitStack() as held:
        for _ in range(7):
            held.enter_context(superuser(lab, "pg1"))
        with Looks(inventory(addresses(lab), **LIMITS)) as looks:
            seen = looks.look()["pg1"]

    assert isinstance(seen, Unreachable)
    assert seen.cause is Cause.TOO_MANY_CONNECTIONS, seen.message
    assert seen.message.startswith("FATAL:  remaining connection slots are reserved for ")


@pytest.mark.lab(replicas=2)
def test_a_server_that_does_not_take_connections_yet_is_starting_up(lab: Lab) -> None:
    """A replica without hot standby never does."""
    set_on(lab, "pg3", hot_standby="off")
    lab.stop("pg3")
    lab.start("pg3")

    with Looks(inventory(addresses(lab), **LIMITS)) as looks:
        found = looks.status()

    assert (found["pg3"].cause, found["pg2"].state) == (Cause.STARTING_UP, NodeState.STREAMING)
    assert "not accepting connections" in (found["pg3"].message or "") or "starting up" in (
        found["pg3"].message or ""
    )


@pytest.mark.lab(replicas=1)
def test_a_server_that_is_shutting_down_says_so(lab: Lab) -> None:
    pid = lab.nodes["pg2"].pid
    assert pid is not None
    with superuser(lab, "pg2"):
        os.kill(pid, 15)  # a smart shutdown waits for this session

        def cause() -> Cause | None:
            with Looks(inventory({"pg2": addresses(lab)["pg2"]}, **LIMITS)) as looks:
                seen = looks.look()["pg2"]
            return seen.cause if isinstance(seen, Unreachable) else None

        wait_until(lambda: cause() is Cause.STARTING_UP, "the server refuses us because it shuts down")


@pytest.mark.lab(replicas=2)
def test_a_frozen_server_costs_its_deadline_once_and_comes_back(lab: Lab) -> None:
    with Looks(inventory(addresses(lab), connect_timeout_s=3, query_timeout_s=3)) as looks:
        looks.status()
        lab.freeze("pg3")
        took_s = []
        for _ in range(4):
            began_s = time.monotonic()
            found = looks.status()
            took_s.append(time.monotonic() - began_s)
            assert [n.state for n in found.nodes[:2]] == [NodeState.PRIMARY, NodeState.STREAMING]
            assert (found["pg3"].state, found["pg3"].cause) == (NodeState.UNREACHABLE, Cause.TIMEOUT)
        lab.thaw("pg3")
        wait_until(lambda: looks.status()["pg3"].state is NodeState.STREAMING, "pg3 is seen again")

    assert 3 <= took_s[0] < 3 + SLACK_S
    # Later looks do not wait for it: all of them together cost less than it once did.
    assert sum(took_s[1:]) < 3


@pytest.mark.lab(replicas=2)
def test_a_frozen_primary_does_not_hide_its_replicas(lab: Lab) -> None:
    lab.freeze("pg1")

    with Looks(inventory(addresses(lab), **LIMITS)) as looks:
        found = looks.status()

    lab.thaw("pg1")
    assert (found.primary, found["pg1"].cause) == (None, Cause.TIMEOUT)
    assert [(n.state, n.upstream) for n in found.replicas] == [(NodeState.STREAMING, "pg1")] * 2
    assert found.took_s < DEADLINE_S + SLACK_S


# ---- as a user meets it


@pytest.mark.slow
def test_all_of_it_at_once_is_told_row_by_row_in_every_format(shared_lab: Lab, tmp_path: Path) -> None:
    with (
        closed_port() as closed,
        silent_host() as silent,
        serving(http) as web,
        serving(echo) as parrot,
        serving(nothing) as shy,
    ):
        expected = {
            "closed": (closed, "refused"),
            "silent": (silent, "timeout"),
            "lost": (("name.invalid", 5432), "dns"),
            "web": (web, "not_postgres"),
            "parrot": (parrot, "not_postgres"),
            "shy": (shy, "other"),
            "plain": (alias(shared_lab) | {"sslmode": "require"}, "tls"),
        }
        nodes: dict[str, Any] = addresses(shared_lab) | {name: node for name, (node, _) in expected.items()}
        file = inventory_file(tmp_path, nodes, **LIMITS)
        seen = {}
        for arguments in (
            ["status"],
            ["status", "-o", "wide"],
            ["status", "--tree"],
            ["status", "-o", "json"],
            ["status", "-o", "yaml"],
            ["status", "-o", "csv"],
            ["check"],
            ["check", "-o", "json"],
            ["doctor"],
        ):
            began_s = time.monotonic()
            done = replctl(*arguments, "-i", file)
            assert time.monotonic() - began_s < DEADLINE_S + SLACK_S, arguments
            assert "Traceback" not in done.stdout + done.stderr
            assert done.stderr == "", arguments
            seen[" ".join(arguments)] = done

    rows = {node["name"]: node for node in json.loads(seen["status -o json"].stdout)["nodes"]}
    assert {name: rows[name]["error"]["cause"] for name in expected} == {
        name: cause for name, (_, cause) in expected.items()
    }
    assert [rows[name]["state"] for name in HEALTHY] == list(HEALTHY.values())
    assert [seen[how].returncode for how in ("status", "status -o json", "check", "doctor")] == [0, 0, 2, 1]
    assert all(name in seen["status"].stdout for name in nodes)
