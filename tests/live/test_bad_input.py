"""Whatever is at a node's address: its row says what, the other rows are right, nobody waits too long."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replctl.core.model import Cause, NodeFacts, Unreachable
from replctl.core.status import ClusterStatus, NodeState
from replctl.inventory import dump
from replctl.lab import Lab
from tests.live.looks import HOST, Address, Looks, addresses, closed_port, inventory, silent_host
from tests.live.truth import set_on, superuser
from tests.support import need, replctl, wait_until

pytestmark = pytest.mark.live

LIMITS: dict[str, Any] = {"connect_timeout_s": 1, "query_timeout_s": 1}
DEADLINE_S = 3.0  # what one node may cost at most: to connect, to ask, to ask again
SLACK_S = 4.0  # of a busy machine
HEALTHY = {"pg1": NodeState.PRIMARY, "pg2": NodeState.STREAMING, "pg3": NodeState.STREAMING}


def look_at(lab: Lab, bad: Address | dict[str, Any], **connection: Any) -> tuple[Cause | None, str | None]:
    """Look at a healthy cluster with one bad node. Returns what is said of it; all else is asserted here."""
    node = bad if isinstance(bad, dict) else {"host": bad[0], "port": bad[1]}
    nodes: dict[str, Any] = {**addresses(lab), "bad": node | connection}
    with Looks(inventory(nodes, **LIMITS)) as looks:
        began_s = time.monotonic()
        found = looks.status()
        took_s = time.monotonic() - began_s
        again_s = time.monotonic()
        looks.status()
        again_s = time.monotonic() - again_s
    assert_others_are_right(found)
    assert took_s < DEADLINE_S + SLACK_S
    assert again_s < SLACK_S
    return found["bad"].cause, found["bad"].message


def assert_others_are_right(found: ClusterStatus) -> None:
    states = {name: found[name].state for name in HEALTHY}
    assert (found.primary, states) == ("pg1", HEALTHY)
    assert all(found[name].in_pool for name in ("pg2", "pg3"))


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


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "bad host"])
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


@pytest.mark.parametrize("handle", [http, echo, ssh, garbage], ids=lambda handle: handle.__name__)
@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
def test_something_that_is_not_postgresql_is_called_so(
    shared_lab: Lab, handle: Callable[[socket.socket], None], sslmode: str
) -> None:
    with serving(handle) as address:
        cause, message = look_at(shared_lab, address, sslmode=sslmode)

    assert cause is Cause.NOT_POSTGRES, message
    assert message


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_a_server_that_hangs_up_at_once_is_not_taken_for_a_closed_port(shared_lab: Lab, sslmode: str) -> None:
    with serving(nothing) as address:
        cause, message = look_at(shared_lab, address, sslmode=sslmode)

    assert cause is Cause.OTHER, message
    assert message == "server closed the connection unexpectedly"


# ---- it does not let us in


@contextlib.contextmanager
def access(lab: Lab, *rules: str, rest: bool = True) -> Iterator[None]:
    """pg_hba.conf of pg1 begins with these rules; without `rest` it has no others but the lab's own."""
    path = lab.nodes["pg1"].data_directory / "pg_hba.conf"
    before = path.read_text()
    own = [f"host {what} {HOST}/32 trust" for what in ("all postgres", "all replctl", "replication all")]
    path.write_text("\n".join([*rules, *([before] if rest else own), ""]))
    _reload(lab)
    try:
        yield
    finally:
        path.write_text(before)
        _reload(lab)


def _reload(lab: Lab) -> None:
    """Return when new connections meet what is configured now."""
    with superuser(lab, "pg1") as connection:
        row = connection.execute("SELECT pg_conf_load_time(), pg_reload_conf()").fetchone()
    assert row is not None

    def loaded() -> bool:
        with superuser(lab, "pg1") as another:
            now = another.execute("SELECT pg_conf_load_time()").fetchone()
        assert now is not None
        return bool(now[0] > row[0])

    wait_until(loaded, "the server has read its configuration again")


@contextlib.contextmanager
def role(lab: Lab, name: str, options: str = "") -> Iterator[None]:
    with superuser(lab, "pg1") as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN {options}".encode())
        try:
            yield
        finally:
            connection.execute(f"DROP ROLE {name}".encode())


def alias(lab: Lab) -> dict[str, Any]:
    """pg1 by another address than pg1 has."""
    return {"host": "localhost", "port": lab.nodes["pg1"].port}


PASSWORD = "correct horse battery"


@pytest.fixture
def guarded(shared_lab: Lab) -> Iterator[Lab]:
    """A lab whose role `guarded` needs a password."""
    scram = "SET password_encryption = 'scram-sha-256'"
    with superuser(shared_lab, "pg1") as connection:
        connection.execute(scram.encode())
    with (
        role(shared_lab, "guarded", f"PASSWORD '{PASSWORD}' IN ROLE pg_monitor"),
        access(shared_lab, f"host all guarded {HOST}/32 scram-sha-256"),
    ):
        yield shared_lab


def passfile(directory: Path, password: str) -> str:
    path = directory / "pgpass"
    path.write_text(f"*:*:*:*:{password}\n")
    path.chmod(0o600)
    return str(path)


def test_a_wrong_password_is_auth_and_is_not_repeated(guarded: Lab, tmp_path: Path) -> None:
    secret = passfile(tmp_path, "wrong-hunter2")

    cause, message = look_at(guarded, alias(guarded), user="guarded", passfile=secret)

    assert cause is Cause.AUTH
    assert (message or "").startswith('FATAL:  password authentication failed for user "guarded"')
    assert "hunter2" not in (message or "")


def test_the_right_password_is_let_in(guarded: Lab, tmp_path: Path) -> None:
    secret = passfile(tmp_path, PASSWORD)

    assert look_at(guarded, alias(guarded), user="guarded", passfile=secret) == (None, None)


def test_no_password_at_all_is_auth(guarded: Lab) -> None:
    assert look_at(guarded, alias(guarded), user="guarded") == (
        Cause.AUTH,
        "fe_sendauth: no password supplied",
    )


COMMANDS: dict[str, tuple[list[str], str]] = {
    "fails": (["false"], "password_command 'false' gave no password: exit code 1"),
    "prints nothing": (["true"], "password_command 'true' gave no password: an empty first line"),
    "does not exist": (
        ["/nonexistent/program"],
        "password_command '/nonexistent/program' gave no password: No such file or directory",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_password_command_that_gives_none_is_auth(guarded: Lab, name: str) -> None:
    argv, said = COMMANDS[name]

    assert look_at(guarded, alias(guarded), user="guarded", password_command=argv) == (Cause.AUTH, said)


def test_a_password_command_that_prints_the_password_is_believed(guarded: Lab) -> None:
    argv = ["printf", "%s\n", PASSWORD]

    assert look_at(guarded, alias(guarded), user="guarded", password_command=argv) == (None, None)


def test_a_wrong_password_of_a_command_does_not_reach_the_message(guarded: Lab) -> None:
    cause, message = look_at(
        guarded, alias(guarded), user="guarded", password_command=["echo", "wrong-hunter2"]
    )

    assert cause is Cause.AUTH
    assert "hunter2" not in (message or "")


def test_a_password_command_that_hangs_does_not_outlive_the_run(guarded: Lab, tmp_path: Path) -> None:
    nodes: dict[str, Any] = addresses(guarded)
    nodes |= {"bad": alias(guarded) | {"user": "guarded", "password_command": ["sleep", "60"]}}
    file = written(tmp_path, nodes)

    began_s = time.monotonic()
    done = replctl("status", "-i", str(file), "--json", "--timeout", "2s")
    took_s = time.monotonic() - began_s

    found = {node["name"]: node for node in json.loads(done.stdout)["nodes"]}
    assert found["bad"]["error"]["cause"] == "timeout"
    assert [found[name]["reachable"] for name in HEALTHY] == [True, True, True]
    assert took_s < 2 + SLACK_S
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("rule", "options", "cause", "said"),
    [
        ("host all nobody_here {host}/32 reject", "", Cause.AUTH, "pg_hba.conf rejects connection"),
        ("", "NOLOGIN", Cause.AUTH, 'role "nobody_here" is not permitted to log in'),
        ("", "CONNECTION LIMIT 0", Cause.TOO_MANY_CONNECTIONS, 'too many connections for role "nobody_here"'),
    ],
)
def test_a_role_that_is_not_let_in(shared_lab: Lab, rule: str, options: str, cause: Cause, said: str) -> None:
    with role(shared_lab, "nobody_here", options), access(shared_lab, rule.format(host=HOST)):
        found, message = look_at(shared_lab, alias(shared_lab), user="nobody_here")

    assert found is cause
    assert said in (message or "")


def test_a_role_without_an_entry_in_pg_hba_is_auth(shared_lab: Lab) -> None:
    with role(shared_lab, "nobody_here"), access(shared_lab, rest=False):
        cause, message = look_at(shared_lab, alias(shared_lab), user="nobody_here")

    assert cause is Cause.AUTH
    assert (message or "").startswith('FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "nobody_here"')


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"user": "never_made"}, 'FATAL:  role "never_made" does not exist'),
        ({"dbname": "never_made"}, 'FATAL:  database "never_made" does not exist'),
    ],
)
def test_a_role_or_database_that_does_not_exist_is_auth(
    shared_lab: Lab, keys: dict[str, str], said: str
) -> None:
    assert look_at(shared_lab, alias(shared_lab), **keys) == (Cause.AUTH, said)


@pytest.mark.lab(replicas=1)
def test_a_server_without_a_free_connection_says_so(lab: Lab) -> None:
    reserved = "reserved_connections" if lab.major >= 16 else "superuser_reserved_connections"
    set_on(lab, "pg1", max_connections="12", superuser_reserved_connections="2", max_wal_senders="5")
    set_on(lab, "pg2", max_connections="12", max_wal_senders="5")
    for name in ("pg1", "pg2"):
        lab.stop(name)
        lab.start(name)
    with contextlib.ExitStack() as held, superuser(lab, "pg1") as last:
        assert last.execute(f"SHOW {reserved}".encode()).fetchone()
        for _ in range(9):
            with contextlib.suppress(Exception):
                held.enter_context(superuser(lab, "pg1"))
        with Looks(inventory(addresses(lab), **LIMITS)) as looks:
            seen = looks.look()["pg1"]

    assert isinstance(seen, Unreachable)
    assert seen.cause is Cause.TOO_MANY_CONNECTIONS, seen.message


# ---- TLS


def test_a_server_without_tls_where_tls_is_required(shared_lab: Lab) -> None:
    assert look_at(shared_lab, alias(shared_lab), sslmode="require") == (
        Cause.TLS,
        "server does not support SSL, but SSL was required",
    )


@pytest.fixture
def with_tls(shared_lab: Lab) -> Iterator[Path]:
    """pg1 has TLS with a certificate of its own for `localhost`; what is yielded is the certificate."""
    openssl = shutil.which("openssl")
    need("openssl", openssl, "apt-get install openssl")
    data = shared_lab.nodes["pg1"].data_directory
    key, certificate = data / "server.key", data / "server.crt"
    argv = [str(openssl), "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost"]
    argv += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    owner = data.stat()
    for path in (key, certificate):
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o600)
    set_on(shared_lab, "pg1", ssl="on")
    _reload(shared_lab)
    try:
        yield certificate
    finally:
        set_on(shared_lab, "pg1", ssl="")
        _reload(shared_lab)


def tls_build(lab: Lab) -> None:
    """Some builds come without TLS."""
    with superuser(lab, "pg1") as connection:
        row = connection.execute("SELECT setting FROM pg_config() WHERE name = 'CONFIGURE'").fetchone()
    need("a PostgreSQL with TLS", row and "openssl" in row[0], "apt-get install postgresql-15")


@pytest.mark.pg("== 15")
def test_a_certificate_that_is_trusted_is_accepted(shared_lab: Lab, with_tls: Path, tmp_path: Path) -> None:
    trusted = shutil.copy(with_tls, tmp_path / "root.crt")

    assert look_at(shared_lab, alias(shared_lab), sslmode="verify-full", sslrootcert=str(trusted)) == (
        None,
        None,
    )


@pytest.mark.pg("== 15")
def test_a_certificate_that_nobody_vouches_for_is_tls(
    shared_lab: Lab, with_tls: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.crt"
    argv = ["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=other"]
    argv += ["-keyout", str(tmp_path / "other.key"), "-out", str(other)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)

    cause, message = look_at(shared_lab, alias(shared_lab), sslmode="verify-full", sslrootcert=str(other))

    assert cause is Cause.TLS
    assert "certificate verify failed" in (message or "")


@pytest.mark.pg("== 15")
def test_a_certificate_of_another_host_is_tls(shared_lab: Lab, with_tls: Path, tmp_path: Path) -> None:
    trusted = shutil.copy(with_tls, tmp_path / "root.crt")
    by_address = {"host": "127.0.0.1", "port": shared_lab.nodes["pg1"].port}
    nodes: dict[str, Any] = {"bad": by_address}

    with Looks(inventory(nodes, **LIMITS | {"sslmode": "verify-full", "sslrootcert": str(trusted)})) as looks:
        seen = looks.look()["bad"]

    assert isinstance(seen, Unreachable)
    assert seen.cause is Cause.TLS
    assert 'server certificate for "localhost" does not match host name "127.0.0.1"' in seen.message


@pytest.mark.pg("== 15")
def test_a_root_certificate_that_does_not_exist_is_tls(
    shared_lab: Lab, with_tls: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "none.crt"

    cause, message = look_at(shared_lab, alias(shared_lab), sslmode="verify-full", sslrootcert=str(missing))

    assert cause is Cause.TLS
    assert str(missing) in (message or "")


# ---- it is there, but not ready


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
    with Looks(inventory(addresses(lab), **LIMITS)) as looks:
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

    assert 1 <= took_s[0] < 1 + SLACK_S
    # Later looks do not wait for it: all of them together cost less than it once did.
    assert sum(took_s[1:]) < 1


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


def written(directory: Path, nodes: dict[str, Any]) -> Path:
    rows = [
        {"name": name, **(node if isinstance(node, dict) else {"host": node[0], "port": node[1]})}
        for name, node in nodes.items()
    ]
    document = {
        "schema": 1,
        "cluster": {"name": "bad"},
        "connection": {"user": "replctl", "sslmode": "disable", **LIMITS},
        "nodes": rows,
    }
    path = directory / "bad.toml"
    path.write_text(dump(document))
    return path


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
        file = written(tmp_path, nodes)
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
            done = replctl(*arguments, "-i", str(file))
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
