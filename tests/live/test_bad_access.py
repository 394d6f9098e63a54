"""A server that does not let us in: passwords, pg_hba.conf, roles, TLS. Secrets are in no message."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replctl.core.model import Cause, Unreachable
from replctl.lab import Lab
from tests.live.bad_node import HEALTHY, LIMITS, SLACK_S, alias, is_let_in, look_at
from tests.live.looks import HOST, Looks, addresses, inventory, inventory_file
from tests.live.truth import set_on, superuser
from tests.support import need, replctl, wait_until

pytestmark = pytest.mark.live


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
        connection.execute(f"CREATE ROLE {name} {options or 'LOGIN'}".encode())
        try:
            yield
        finally:
            connection.execute(f"DROP ROLE {name}".encode())


PASSWORD = "correct horse battery"


@pytest.fixture
def guarded(shared_lab: Lab) -> Iterator[Lab]:
    """A lab whose role `guarded` needs a password."""
    with (
        role(shared_lab, "guarded", f"LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_monitor"),
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

    assert is_let_in(alias(guarded), user="guarded", passfile=secret)


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

    assert is_let_in(alias(guarded), user="guarded", password_command=argv)


def test_a_wrong_password_of_a_command_does_not_reach_the_message(guarded: Lab) -> None:
    cause, message = look_at(
        guarded, alias(guarded), user="guarded", password_command=["echo", "wrong-hunter2"]
    )

    assert cause is Cause.AUTH
    assert "hunter2" not in (message or "")


def test_a_password_command_that_hangs_does_not_outlive_the_run(guarded: Lab, tmp_path: Path) -> None:
    nodes: dict[str, Any] = addresses(guarded)
    nodes |= {"bad": alias(guarded) | {"user": "guarded", "password_command": ["sleep", "60"]}}
    file = inventory_file(tmp_path, nodes, **LIMITS)

    began_s = time.monotonic()
    done = replctl("status", "-i", file, "--json", "--timeout", "2s")
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
        (
            "",
            "LOGIN CONNECTION LIMIT 0",
            Cause.TOO_MANY_CONNECTIONS,
            "too many connections for role",
        ),
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


@pytest.mark.pg("== 15")
def test_a_certificate_that_is_trusted_is_accepted(shared_lab: Lab, with_tls: Path, tmp_path: Path) -> None:
    trusted = shutil.copy(with_tls, tmp_path / "root.crt")

    assert is_let_in(alias(shared_lab), sslmode="verify-full", sslrootcert=str(trusted))


@pytest.mark.pg("== 15")
@pytest.mark.usefixtures("with_tls")
def test_a_certificate_that_nobody_vouches_for_is_tls(shared_lab: Lab, tmp_path: Path) -> None:
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
    assert 'does not match host name "127.0.0.1"' in seen.message


@pytest.mark.pg("== 15")
@pytest.mark.usefixtures("with_tls")
def test_a_root_certificate_that_does_not_exist_is_tls(shared_lab: Lab, tmp_path: Path) -> None:
    missing = tmp_path / "none.crt"

    cause, message = look_at(shared_lab, alias(shared_lab), sslmode="verify-full", sslrootcert=str(missing))

    assert cause is Cause.TLS
    assert str(missing) in (message or "")
