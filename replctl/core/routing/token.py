"""Positions that a read must have seen, and the signed texts that carry them between processes.

A token reads `v1.system.timeline.lsn.issued.signature`: a fingerprint of the system identifier, the
timeline in decimal, the LSN and the Unix time of its making (milliseconds) in hexadecimal, and half of an
HMAC-SHA256 in the same. An empty LSN says "wrote just then, where to is not known": a sticky window.
About 70 letters, fit for a cookie, a header or a job. Nothing in it is secret; the signature keeps others
from sending all their reads to the primary.

A token that is malformed, forged or expired is as good as none: it never raises.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from replctl.core.model import Lsn

MAX_AGE_S = 3600.0
"""An hour: by then every replica that may be read from has long replayed what the token asks for."""

SECRET_BYTES_MIN = 16
TOKEN_LENGTH_MAX = 128
SIGNATURE_LETTERS = 32  # half of the digest
NO_SYSTEM = "0" * 10  # of a sticky window that begins before the cluster was looked at: it needs none
_TOKEN = re.compile(
    r"v1\.([0-9a-f]{10})\.([0-9]{1,10})\.([0-9a-f]{0,16})\.([0-9a-f]{1,12})\.([0-9a-f]{32})", re.ASCII
)


class Position(NamedTuple):
    """A place in the WAL of one cluster. Within one system, the greater one includes the smaller one."""

    system: str  # fingerprint of the system identifier
    timeline: int
    lsn: Lsn


class Claim(NamedTuple):
    """What a token says. `position` None = something was written at `issued_at` (Unix time)."""

    system: str
    position: Position | None
    issued_at: float


def fingerprint(system_identifier: str) -> str:
    """What stands for a system identifier in tokens: 10 hexadecimal digits."""
    return hashlib.sha256(system_identifier.encode()).hexdigest()[:10]


def later(one: Position | None, other: Position | None) -> Position | None:
    """The position that includes both. Of two systems, the second: the first is not of its history."""
    if one is None or other is None:
        return one or other
    return other if one.system != other.system or other > one else one


def parse(text: str) -> Claim | None:
    """What a token says, whoever made it; None where it is not a token."""
    match = _TOKEN.fullmatch(text) if len(text) <= TOKEN_LENGTH_MAX else None
    if match is None:
        return None
    system, timeline, lsn, issued_ms, _ = match.groups()
    position = Position(system, int(timeline), Lsn(lsn, 16)) if lsn else None
    return Claim(system, position, int(issued_ms, 16) / 1000)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Makes and checks tokens. The first secret signs, every one is accepted: to rotate, put a new one first.

    Raises ValueError for no secret, or one of fewer than SECRET_BYTES_MIN bytes.
    """

    secrets: tuple[bytes, ...] = field(repr=False)
    max_age_s: float = MAX_AGE_S
    _keys: tuple[hmac.HMAC, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.secrets or any(len(secret) < SECRET_BYTES_MIN for secret in self.secrets):
            raise ValueError(f"expected one or more secrets of at least {SECRET_BYTES_MIN} bytes")
        # Derived, since applications hand over a secret that signs other things too.
        keys = (hmac.digest(secret, b"replctl token v1", "sha256") for secret in self.secrets)
        # Ready to be copied: half the time of a new one.
        object.__setattr__(self, "_keys", tuple(hmac.new(key, digestmod="sha256") for key in keys))

    def issue(self, position: Position, now_at: float) -> str:
        """The token for a position."""
        body = f"v1.{position.system}.{position.timeline}.{position.lsn:x}.{_milliseconds(now_at):x}"
        return f"{body}.{_signature(self._keys[0], body)}"

    def issue_window(self, system: str, now_at: float) -> str:
        """The token for a write whose position is not known."""
        body = f"v1.{system}.0..{_milliseconds(now_at):x}"
        return f"{body}.{_signature(self._keys[0], body)}"

    def verify(self, text: str | None, now_at: float) -> Claim | None:
        """What a token of ours says; None where there is none, where it is not ours, or too old.

        One from the future is of a clock that differs from this one: what it says of the WAL holds all
        the same.
        """
        claim = parse(text) if text else None
        if claim is None or text is None:
            return None
        body, _, signature = text.rpartition(".")
        if not any(hmac.compare_digest(signature, _signature(key, body)) for key in self._keys):
            return None
        return None if now_at - claim.issued_at > self.max_age_s else claim


def _milliseconds(at: float) -> int:
    return max(0, int(at * 1000))


def _signature(key: hmac.HMAC, body: str) -> str:
    mac = key.copy()
    mac.update(body.encode())
    return mac.hexdigest()[:SIGNATURE_LETTERS]
