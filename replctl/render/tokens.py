"""The one way for a value into a rendered file: a whitelist for each kind of token.

PgBouncer and HAProxy both read lines, and both let a newline, a blank or a quote begin something else. So
nothing is escaped: what is not plainly harmless is refused, with where it stands. All problems of one
rendering are said at once.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Iterable

from replctl.errors import InventoryError

NAME_BYTES = 63
SHOWN_MAX = 60
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_USER = re.compile(r"[A-Za-z0-9_.@-]{1,63}")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PATH = re.compile(r"/[A-Za-z0-9_./+@-]{1,4000}")
_VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}")
_PRINTABLE = re.compile(r"[\x20-\x7e]+")
# Blanks inside, parameters such as $1 and one level of quotes; no comments, no second statement.
_QUERY = re.compile(r"[A-Za-z0-9_.,()=<>*+:|' $-]+")
_PARAMETER = re.compile(r"\$(?!1(?![0-9]))")


class Whitelist:
    """Takes values of one inventory, gives tokens, and remembers what it refused.

    A refused value gives an empty token or 0; `settle` then raises, so that no text is made of it.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[str] = []

    def settle(self) -> None:
        """Raises InventoryError with everything that was refused so far."""
        if self.problems:
            raise InventoryError(
                f"{self.file} has values that cannot go into a rendered file",
                problems=tuple(dict.fromkeys(self.problems)),
            )

    def refuse(self, value: object, where: str, expected: str) -> None:
        """Note that this value, which stands at `where` such as `[pgbouncer] auth_user`, is refused."""
        self.problems.append(f"{self.file}: {where} = {shown(value)}: {expected}")

    def _matched(self, value: object, where: str, pattern: re.Pattern[str], expected: str) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.refuse(value, where, f"expected {expected}")
        return ""

    def name(self, value: object, where: str) -> str:
        """A name of ours: cluster, node, zone, database, alias."""
        return self._matched(value, where, _NAME, "1 to 63 letters, digits, '_', '.' or '-'")

    def user(self, value: object, where: str) -> str:
        """A role that stands in the text as it is."""
        return self._matched(value, where, _USER, "1 to 63 letters, digits, '_', '.', '@' or '-'")

    def packed(self, value: object, where: str) -> str:
        """A text that reaches the file as hexadecimal digits of its bytes, so only NUL would do harm."""
        if isinstance(value, str) and value.isprintable() and 0 < len(_utf8(value)) <= NAME_BYTES:
            return value
        self.refuse(value, where, "expected 1 to 63 bytes without control characters")
        return ""

    def path(self, value: object, where: str, limit: int = 4000) -> str:
        """An absolute path. Sockets have names of about a hundred bytes at most."""
        expected = f"an absolute path of letters, digits and _ . / + @ -, up to {limit} bytes"
        found = self._matched(value, where, _PATH, expected)
        if len(found) > limit:
            self.refuse(value, where, f"expected {expected}")
        return found

    def choice(self, value: object, where: str, choices: Iterable[str]) -> str:
        """One of a few words."""
        known = tuple(choices)
        if isinstance(value, str) and value in known:
            return value
        self.refuse(value, where, f"expected one of {', '.join(known)}")
        return known[0]

    def integer(self, value: object, where: str, low: int, high: int) -> int:
        """A whole number within bounds; a text of digits is none."""
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.refuse(value, where, f"expected a whole number from {low} to {high}")
        return low

    def port(self, value: object, where: str) -> int:
        """A TCP port."""
        return self.integer(value, where, 1, 65535)

    def milliseconds(self, value: object, where: str) -> int:
        """Seconds, at most a day, as whole milliseconds, at least one."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and math.isfinite(value) and 0 < value <= 86400:  # type: ignore[arg-type,operator]
            return max(1, round(value * 1000))  # type: ignore[operator]
        self.refuse(value, where, "expected seconds, more than 0 and at most 86400")
        return 1

    def host(self, value: object, where: str) -> str:
        """A name, an IPv4 or bare IPv6 address, or the directory of a Unix socket."""
        if isinstance(value, str):
            if value.startswith("/"):
                return self.path(value, where, 90)
            if is_address(value) or is_host_name(value):
                return value
        self.refuse(value, where, "expected a host name, an address without brackets or scope, or a path")
        return ""

    def address(self, value: object, where: str) -> str:
        """An address by its digits, where a name would be looked up but once."""
        if isinstance(value, str) and is_address(value):
            return value
        self.refuse(value, where, 'expected an address such as "10.0.0.6" or "::1"')
        return ""

    def bind(self, value: object, where: str) -> str:
        """Where a listener is: `*:5000`, `10.0.0.5:5000`, `[::1]:5000`."""
        if isinstance(value, str) and (parts := split_port(value)) is not None:
            host, _ = parts
            if host == "*" or is_address(host) or is_host_name(host):
                return value
        self.refuse(value, where, 'expected an address such as "*:5000" or "[::1]:5000"')
        return ""

    def name_server(self, value: object, where: str) -> str:
        """A name server by its address: HAProxy looks up no names to find who looks up names."""
        if isinstance(value, str) and (parts := split_port(value)) is not None and is_address(parts[0]):
            return value
        self.refuse(value, where, 'expected an address such as "10.0.0.2:53" or "[::1]:53"')
        return ""

    def listen_addresses(self, value: object, where: str) -> str:
        """PgBouncer's `listen_addr`: `*`, or addresses and names with commas and without blanks."""
        words = value.split(",") if isinstance(value, str) and len(value) <= 255 else []
        if words and all(w == "*" or is_address(w) or is_host_name(w) for w in words):
            return ",".join(words)
        self.refuse(value, where, "expected *, or addresses with commas and no blanks between them")
        return ""

    def query(self, value: object, where: str) -> str:
        """A lookup query for PgBouncer: one statement on one line that has $1 in it."""
        expected = 'one SELECT of up to 1000 plain characters with $1 in it, without ; # % " \\ or comments'
        text = self._matched(value, where, _QUERY, expected)
        plain = (
            text == text.strip() and "--" not in text and not _PARAMETER.search(text) and len(text) <= 1000
        )
        if text and not (plain and "$1" in text and text.count("'") % 2 == 0):
            self.refuse(value, where, f"expected {expected}")
        return text

    def version(self, value: object, where: str, oldest: tuple[int, int]) -> tuple[int, ...]:
        """A version as numbers, at least `oldest`."""
        text = self._matched(value, where, _VERSION, 'a version such as "1.24"')
        numbers = tuple(int(word) for word in text.split(".")) if text else oldest
        if numbers < oldest:
            least = ".".join(str(number) for number in oldest)
            self.refuse(value, where, f"nothing is rendered for versions before {least}")
        return numbers


def shown(value: object) -> str:
    """A value in a message: on one line, in ASCII, and not long."""
    text = json.dumps(value) if isinstance(value, str) else ascii(value)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 1]}…"


def is_address(host: str) -> bool:
    """Whether it is an IPv4 or IPv6 address; no brackets, and no scope, which means something on one host."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return host.isascii() and "%" not in host


def is_host_name(host: str) -> bool:
    """Whether it can be a DNS name. What consists of digits and dots alone is a broken address."""
    labels = host.removesuffix(".").split(".")
    broken = re.fullmatch(r"[0-9.]+", host) is not None
    return len(host) <= 253 and not broken and all(_HOST_LABEL.fullmatch(label) for label in labels)


def split_port(text: str) -> tuple[str, int] | None:
    """`[::1]:53` as ("::1", 53); None where there is no port, or an IPv6 address has no brackets."""
    host, _, digits = text.rpartition(":")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 5 and 1 <= int(digits) <= 65535):
        return None
    if host.startswith("[") and host.endswith("]"):
        inner = host[1:-1]
        return (inner, int(digits)) if ":" in inner else None
    return None if ":" in host else (host, int(digits))


def with_port(host: str, port: int) -> str:
    """`::1` and 53 as `[::1]:53`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def assert_plain(text: str) -> str:
    """The text itself. The last gate of every renderer: raises ValueError unless it is ASCII in lines."""
    for line in text.removesuffix("\n").split("\n"):
        if line and not _PRINTABLE.fullmatch(line):
            raise ValueError(f"a rendered line is not plain: {shown(line)}")
    return text


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
