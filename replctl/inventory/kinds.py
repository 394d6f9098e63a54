"""The kinds of values that keys take: how each is read from TOML, and what is expected when it cannot be.

A reader gets the TOML value and returns ours, or raises ValueError with the reason ("" where the
expectation says it all). Readers are pure: what is on disk is looked at in `files`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from replctl.core import thresholds
from replctl.core.quorum import parse_sync_rule
from replctl.core.settings import Thresholds
from replctl.core.units import exact_bytes, exact_duration, parse_bytes, parse_duration
from replctl.inventory.problems import describe

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,255}")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value. `write` turns what `read` gave back into TOML."""

    name: str
    expected: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value
    choices: tuple[str, ...] = ()
    local_path: bool = False  # a file on this machine: `~` and relative paths are resolved


def text(expected: str = "a text", *, pattern: re.Pattern[str] | None = None, limit: int = 255) -> Kind:
    """A printable text on one line."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError
        if not value.isprintable():
            raise ValueError("control characters are refused")
        if pattern is not None and not pattern.fullmatch(value):
            raise ValueError
        if len(value.encode()) > limit:
            raise ValueError(f"longer than {limit} bytes")
        return value

    return Kind("text", expected, read)


def name() -> Kind:
    """A name of ours: it goes into files, labels and SQL, so it is plain."""
    return text("a name of 1 to 63 letters, digits, '_', '.' or '-'", pattern=_NAME)


def host() -> Kind:
    """A host name, an address, or the directory of a Unix socket."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError
        if not value.isprintable():
            raise ValueError("control characters are refused")
        if value.startswith("/"):
            return value
        if "," in value:
            raise ValueError("one node is one host")
        if value.count(":") == 1:
            raise ValueError("the port has its own key, port")
        if value.startswith("["):
            raise ValueError("an IPv6 address is written without brackets")
        if not _HOST.fullmatch(value) or value.startswith("-"):
            raise ValueError
        return value

    return Kind("host", 'a host such as "10.0.0.1", "db1.example.org" or "::1"', read)


def address() -> Kind:
    """An address by its digits, for what looks up no names."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError("a name is not looked up here") from None
        if "%" in value:
            raise ValueError("a scope means something on one machine only")
        return value

    return Kind("text", 'an address such as "10.0.0.6" or "::1"', read)


def integer(low: int, high: int, what: str = "a whole number") -> Kind:
    """A whole number within bounds."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Kind("integer", f"{what} from {low} to {high}", read)


def port() -> Kind:
    """A TCP port."""
    return integer(1, 65535, "a port")


def flag() -> Kind:
    """True or false."""

    def read(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Kind("boolean", "true or false", read)


def choice(*choices: str) -> Kind:
    """One of a few words."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError
        return value

    return Kind("choice", f"one of {', '.join(choices)}", read, choices=choices)


def size() -> Kind:
    """Bytes."""

    def read(value: Any) -> int:
        return parse_bytes(value)

    return Kind("size", 'a size such as "16MiB", "1GB" or a number of bytes', read, exact_bytes)


def duration(low_s: float = 0.0, high_s: float = 86400.0) -> Kind:
    """Seconds, within bounds."""

    def read(value: Any) -> float:
        seconds = parse_duration(value)
        if not low_s <= seconds <= high_s:
            raise ValueError(f"not from {exact_duration(low_s)} to {exact_duration(high_s)}")
        return seconds

    def write(seconds: float) -> int | float:
        return int(seconds) if seconds == int(seconds) else seconds

    return Kind("time", 'a time such as 5, "500ms", "30s", "5min" or "2h"', read, write)


def argv(placeholders: tuple[str, ...] | None = None, *, empty: bool = False, repeat: bool = True) -> Kind:
    """A command as a list of arguments. `placeholders` None = braces mean nothing.

    `repeat` False keeps the words of a wrong value out of the message.
    """

    def read(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            meant = f"; write {describe(value.split())}" if repeat and value.isprintable() else ""
            raise ValueError(f"there is no shell: each argument is an element of its own{meant}")
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise ValueError
        if not value and not empty:
            raise ValueError("the list is empty")
        if value and not value[0].strip():
            raise ValueError("the program, its first element, is empty")
        if any("\0" in word for word in value):
            raise ValueError("control characters are refused")
        if placeholders is not None:
            _check_placeholders(value, placeholders)
        return tuple(value)

    return Kind("argv", 'a list of arguments such as ["ssh", "host", "true"]', read, list)


def template(placeholder: str, example: str) -> Kind:
    """A name with one placeholder in it, such as `{name}`."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError
        if not _NAME.fullmatch(value.replace(f"{{{placeholder}}}", "x")):
            raise ValueError(f"beside {{{placeholder}}} only letters, digits, '_', '.' and '-'")
        return value

    return Kind("text", f'a name with {{{placeholder}}} in it, such as "{example}"', read)


def _check_placeholders(words: list[str], allowed: tuple[str, ...]) -> None:
    for word in words:
        for match in PLACEHOLDER.finditer(word):
            if match[0] in ("{{", "}}") or match[1] in allowed:
                continue
            known = ", ".join(f"{{{one}}}" for one in allowed)
            raise ValueError(
                f"unknown placeholder {match[0]}; known are {known}; a brace of its own is written {{{{"
            )


def path(*, local: bool) -> Kind:
    """A file: here, or on the nodes."""
    kind = text("the path of a file", limit=4096)
    return Kind(
        "path", kind.expected if local else "the path of a file on the nodes", kind.read, local_path=local
    )


def texts(expected: str, one: Kind) -> Kind:
    """A list of texts of one kind."""

    def read(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise ValueError
        return tuple(one.read(word) for word in value)

    return Kind("list", expected, read, list)


def levels(unit: thresholds.Unit) -> Kind:
    """Two thresholds, warning and critical, each a number with a unit, a range, or `never`."""
    example = {
        "bytes": '["16MiB", "1GiB"]',
        "seconds": '["30s", "5min"]',
        "percent": '["80%", "95%"]',
        "count": "[1, 2]",
    }[unit.value]

    def read(value: Any) -> Thresholds:
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError("two values are needed")
        if any(isinstance(one, bool) or not isinstance(one, (str, int, float)) for one in value):
            raise ValueError
        warning, critical = (str(one).strip() for one in value)
        ranges = [thresholds.parse_range(one, unit) for one in (warning, critical)]
        if not thresholds.in_order(ranges[0], ranges[1]):
            raise ValueError("the warning would come after the critical alert")
        return Thresholds(warning=warning, critical=critical)

    expected = f'[warning, critical] such as {example}, or "never" in place of either'
    return Kind("thresholds", expected, read, lambda value: [value.warning, value.critical])


def synchronous() -> Kind:
    """A value of synchronous_standby_names that a guarantee can be built on."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        if not value.isprintable():
            raise ValueError("control characters are refused")
        rule = parse_sync_rule(value)
        if rule is None:
            return ""
        if "*" in rule.members:
            raise ValueError(
                "* is any receiver, also one that is no node of this inventory: nothing can be proven"
            )
        folded = [member.lower() for member in rule.members]
        for member in rule.members:
            if folded.count(member.lower()) > 1:
                raise ValueError(f"{member} is named twice")
        if rule.confirmations > len(rule.members):
            raise ValueError(f"{rule.confirmations} of {len(rule.members)} can never confirm")
        return value

    expected = 'a value of synchronous_standby_names such as "ANY 1 (pg1, pg2, pg3)", or "" for asynchronous'
    return Kind("text", expected, read)
