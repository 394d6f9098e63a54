"""Who may ask: addresses to listen on, tokens, and the names under which a browser may come.

What listens beyond loopback is encrypted and asks for a token, unless somebody gives up either by name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from replctl.errors import UsageError

TOKEN_LETTERS_MIN = 16
TOKEN_FILE_BYTES_MAX = 65536


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 = any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Address:
        """Read `127.0.0.1:8008` or `[::1]:8008`. Raises UsageError."""
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if (
            not colon
            or not bare
            or not port.isdecimal()
            or int(port) > 65535
            or (":" in bare and bare == host)
        ):
            raise UsageError(
                f"{option} {text}", why="expected an address and a port", hint=f"{option} 127.0.0.1:8008"
            )
        return cls(bare, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can come here."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def refuse_open_door(
    address: Address, option: str, *, encrypted: bool, guarded: bool, plaintext: bool, anyone: bool
) -> None:
    """Raises UsageError where this address would show more than was said. `plaintext`, `anyone`: was said."""
    if address.is_loopback:
        return
    open_doors = [
        (not encrypted and not plaintext, "everything would pass unencrypted", "--allow-plaintext"),
        (not guarded and not anyone, "everybody could read it", "--allow-anyone"),
    ]
    found = [(why, how) for is_open, why, how in open_doors if is_open]
    if found:
        raise UsageError(
            f"{option} {address} is not a loopback address",
            why=" and ".join(why for why, _ in found),
            hint="--tls-cert with --tls-key, and --token-file; or, where that is meant: "
            + " ".join(how for _, how in found),
        )


def read_tokens(path: Path) -> tuple[bytes, ...]:
    """The digests of the tokens in a file, one a line. Raises UsageError; no message holds a token."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read(TOKEN_FILE_BYTES_MAX).split(b"\n")
    except OSError as error:
        raise UsageError(f"--token-file {path}", why=f"cannot be read: {error.strerror}") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        why = f"mode {stat.S_IMODE(mode):04o}: others may read it"
        raise UsageError(f"--token-file {path}", why=why, hint=f"chmod go= {path}")
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens or min(map(len, tokens)) < TOKEN_LETTERS_MIN:
        raise UsageError(
            f"--token-file {path}",
            why=f"expected a token of at least {TOKEN_LETTERS_MIN} letters in each line",
            hint="openssl rand -hex 32",
        )
    return tuple(map(_digest, tokens))


def _digest(token: bytes) -> bytes:
    """Of one length, whatever the token's is: comparing tells nothing of it."""
    return hashlib.sha256(token).digest()


@dataclass
class Guard:
    """Decides who may read. `tokens` are digests, and may be replaced; none = everybody who gets here."""

    tokens: tuple[bytes, ...] = ()
    names: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, tokens: Iterable[bytes], names: Iterable[str]) -> Guard:
        """With the names of this machine besides."""
        own = {"localhost", socket.gethostname().lower()}
        return cls(tuple(tokens), frozenset(own | {name.lower() for name in names}))

    def admits(self, authorization: str | None) -> bool:
        """Whether it has one of the tokens: `Bearer TOKEN`, or `Basic` with the token as the password."""
        if not self.tokens:
            return True
        given = _digest(_token_of(authorization or ""))
        # All of them, in any case: how long it takes must not tell which one was right.
        return sum(hmac.compare_digest(given, token) for token in self.tokens) > 0

    def knows(self, host: str | None) -> bool:
        """Whether a request for this Host is meant for us.

        A page elsewhere can give our address a name of its own and have a browser read us under it. Whoever
        has to show a token is not deceived by that.
        """
        if self.tokens or host is None:
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name.lower().rstrip(".") in self.names:
            return True
        try:
            ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
        except ValueError:
            return False
        return True


def _token_of(authorization: str) -> bytes:
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
