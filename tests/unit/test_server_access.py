"""Who may come in, by which address, under which name; and which options are refused together."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from replctl.errors import UsageError
from replctl.server.access import Address, Guard, read_tokens, refuse_open_door
from tests.support import replctl

TOKEN = "0123456789abcdef-token"
OTHER = "fedcba9876543210-token"


def token_file(path: Path, text: str, mode: int = 0o600) -> Path:
    file = path / "tokens"
    file.write_text(text)
    file.chmod(mode)
    return file


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback", "shown"),
    [
        ("127.0.0.1:8008", "127.0.0.1", 8008, True, "127.0.0.1:8008"),
        ("127.8.8.8:0", "127.8.8.8", 0, True, "127.8.8.8:0"),
        ("[::1]:80", "::1", 80, True, "[::1]:80"),
        ("localhost:1", "localhost", 1, True, "localhost:1"),
        ("0.0.0.0:8008", "0.0.0.0", 8008, False, "0.0.0.0:8008"),
        ("[::]:8008", "::", 8008, False, "[::]:8008"),
        ("localhost.example:8008", "localhost.example", 8008, False, "localhost.example:8008"),
    ],
)
def test_an_address_is_read(text: str, host: str, port: int, loopback: bool, shown: str) -> None:
    address = Address.parse(text, "--listen")

    assert (address.host, address.port, address.is_loopback, str(address)) == (host, port, loopback, shown)


@pytest.mark.parametrize(
    "text", ["", "8008", ":8008", "127.0.0.1", "127.0.0.1:", "a:b", "a:65536", "::1:80", "a:-1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected an address and a port"):
        Address.parse(text, "--listen")


@pytest.mark.parametrize(
    ("encrypted", "guarded", "plaintext", "anyone", "missing"),
    [
        (False, False, False, False, "--allow-plaintext --allow-anyone"),
        (True, False, False, False, "--allow-anyone"),
        (False, True, False, False, "--allow-plaintext"),
        (False, False, True, False, "--allow-anyone"),
        (False, False, False, True, "--allow-plaintext"),
        (True, True, False, False, None),
        (False, False, True, True, None),
    ],
)
def test_what_is_given_up_beyond_loopback_is_named(
    encrypted: bool, guarded: bool, plaintext: bool, anyone: bool, missing: str | None
) -> None:
    has = {"encrypted": encrypted, "guarded": guarded, "plaintext": plaintext, "anyone": anyone}
    refuse_open_door(Address("127.0.0.1", 1), "--listen", **has)
    if missing is None:
        refuse_open_door(Address("10.0.0.1", 1), "--listen", **has)
        return
    with pytest.raises(UsageError) as caught:
        refuse_open_door(Address("10.0.0.1", 1), "--listen", **has)
    assert (caught.value.hint or "").endswith(f"where that is meant: {missing}")


def test_each_token_of_the_file_admits_and_nothing_else_does(tmp_path: Path) -> None:
    guard = Guard.of(read_tokens(token_file(tmp_path, f"{TOKEN}\n\n  {OTHER}  \n")), ())
    given = {
        f"Bearer {TOKEN}": True,
        f"bearer  {OTHER} ": True,
        basic("anybody", TOKEN): True,
        basic("", OTHER): True,
        f"Bearer {TOKEN}x": False,
        f"Bearer {TOKEN[:-1]}": False,
        f"Bearer {TOKEN} {OTHER}": False,
        "Bearer ": False,
        "Bearer \udcff": False,
        basic(TOKEN, ""): False,
        "Basic !!!": False,
        f"Digest {TOKEN}": False,
        TOKEN: False,
        "": False,
    }

    assert {header: guard.admits(header) for header in given} == given
    assert (guard.admits(None), Guard().admits(None)) == (False, True)


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (TOKEN, 0o640, "others may read it"),
        ("short", 0o600, "at least 16 letters"),
        (f"{TOKEN}\nshort", 0o600, "at least 16 letters"),
        ("\n", 0o600, "at least 16 letters"),
    ],
)
def test_a_token_file_that_keeps_no_secret_is_refused(tmp_path: Path, text: str, mode: int, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_tokens(token_file(tmp_path, text, mode))
    assert why in (caught.value.why or "")
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        (None, True),
        ("127.0.0.1:8008", True),
        ("10.0.0.9", True),
        ("[::1]:8008", True),
        ("localhost:8008", True),
        ("LOCALHOST.", True),
        ("metrics.example:8008", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:8008", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_a_browser_comes_under_a_name_of_ours_or_an_address(host: str | None, known: bool) -> None:
    assert Guard.of((), ("metrics.example",)).knows(host) is known
    assert Guard.of((b"a token",), ()).knows(host)


INVENTORY = """
schema = 1
[cluster]
name = "shop"
[[nodes]]
name = "pg1"
host = "127.0.0.1"
port = 1
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--listen", "8008"], "expected an address and a port"),
        (["--listen", "0.0.0.0:0"], "everything would pass unencrypted and everybody could read it"),
        (["--agent-listen", "10.0.0.1:1"], "--agent-listen 10.0.0.1:1 is not a loopback address"),
        (["--tls-cert", "a.pem"], "--tls-cert and --tls-key go together"),
        (["--interval", "10ms"], "expected at least 0.25 s"),
        (["--max-age", "x"], "--max-age x"),
        (["--node", "pg9"], "not a node of the inventory, or of several"),
        (["--token-file", "/nowhere"], "cannot be read: No such file or directory"),
        (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "No such file or directory"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(INVENTORY)
    path.chmod(0o600)
    env = {"REPLCTL_INVENTORY": str(path), "REPLCTL_STATE_DIR": str(tmp_path / "state")}
    done = replctl("serve", *options, env=env)

    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
