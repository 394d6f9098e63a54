"""Reads a check's output as a monitoring server does, and refuses what one of them would get wrong.

Written from the text of the guidelines and of the servers' manuals, not from our own output:
https://www.monitoring-plugins.org/doc/guidelines.html (output, thresholds, performance data)
https://assets.nagios.com/downloads/nagioscore/docs/nagioscore/4/en/pluginapi.html (several lines)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

STATES = {0: "OK", 1: "WARNING", 2: "CRITICAL", 3: "UNKNOWN"}
FIRST_LINE_MAX = 80  # a pager cuts what is longer
OUTPUT_MAX_BYTES = 8192  # Nagios reads no more
# "no unit", time, percentage, bytes, counter
UNITS = {"", "s", "us", "ms", "%", "B", "KB", "MB", "GB", "TB", "c"}

_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
_VALUE = re.compile(rf"(?P<number>{_NUMBER})(?P<unit>[^0-9;\"' ]*)")
_RANGE = re.compile(rf"(?P<inside>@?)(?:(?P<start>~|{_NUMBER})?(?P<colon>:))?(?P<end>{_NUMBER})?")


@dataclass(frozen=True)
class Range:
    """[@]start:end; alerts outside of it, or inside with @, ends included."""

    start: float
    end: float
    inside: bool

    @classmethod
    def parse(cls, text: str) -> Range:
        match = _RANGE.fullmatch(text)
        if match is None or text.strip("@") == "" or text.strip("@") == ":":
            raise ValueError(f"not a range: {text!r}")
        start = match["start"] if match["colon"] else "0"
        low = -math.inf if start == "~" else float(start or 0)
        high = math.inf if match["end"] is None else float(match["end"])
        if low > high:
            raise ValueError(f"start > end: {text!r}")
        return cls(low, high, bool(match["inside"]))

    def alerts(self, value: float) -> bool:
        return (self.start <= value <= self.end) == self.inside


@dataclass(frozen=True)
class Datum:
    """'label'=value[UOM];[warn];[crit];[min];[max]; value None is U: it could not be determined."""

    value: Decimal | None
    unit: str
    warn: Range | None = None
    crit: Range | None = None
    low: Decimal | None = None
    high: Decimal | None = None

    @classmethod
    def parse(cls, text: str) -> Datum:
        value, *rest = text.split(";")
        if len(rest) > 4:
            raise ValueError(f"more than warn, crit, min and max: {text!r}")
        warn, crit, low, high = [*rest, "", "", "", ""][:4]
        match = _VALUE.fullmatch(value)
        if match is None and value != "U":
            raise ValueError(f"not a value: {value!r}")
        unit = match["unit"] if match else ""
        if unit not in UNITS:
            raise ValueError(f"unknown unit {unit!r} in {text!r}")
        found = cls(
            value=Decimal(match["number"]) if match else None,
            unit=unit,
            warn=Range.parse(warn) if warn else None,
            crit=Range.parse(crit) if crit else None,
            low=_plain(low),
            high=_plain(high),
        )
        if found.value is not None and not (found.low is None or found.low <= found.value):
            raise ValueError(f"below its minimum: {text!r}")
        return found


def _plain(text: str) -> Decimal | None:
    if not text:
        return None
    if not re.fullmatch(_NUMBER, text):
        raise ValueError(f"neither a number nor empty: {text!r}")
    return Decimal(text)


@dataclass(frozen=True)
class Seen:
    """What a monitoring server has of one run."""

    state: str
    text: str  # what a pager shows
    details: tuple[str, ...]
    data: dict[str, Datum]


def read(code: int, stdout: str, stderr: str = "", *, limit_bytes: int | None = OUTPUT_MAX_BYTES) -> Seen:
    """Read one run. Raises ValueError for whatever would be lost, cut or misread."""
    if code not in STATES:
        raise ValueError(f"exit code {code}")
    if stderr:
        raise ValueError(f"nobody reads standard error: {stderr!r}")
    if not stdout.endswith("\n") or stdout.endswith("\n\n"):
        raise ValueError(f"not whole lines: {stdout!r}")
    if limit_bytes is not None and len(stdout.encode()) > limit_bytes:
        raise ValueError(f"{len(stdout.encode())} bytes: the end is cut")
    first, *details = stdout[:-1].split("\n")
    for line in (first, *details):
        if not line.strip() or not line.isprintable():
            raise ValueError(f"an empty line, or a control character: {line!r}")
    text, bar, numbers = first.partition("|")
    if any("|" in line for line in details):
        raise ValueError(f"more performance data begins within {details}")
    _check_text(code, text)
    if bar and not numbers.strip():
        raise ValueError(f"a | without performance data: {first!r}")
    return Seen(STATES[code], text.rstrip(), tuple(details), _performance(numbers))


def _check_text(code: int, text: str) -> None:
    """SERVICE STATUS: Information text."""
    service, _, rest = text.partition(" ")
    status, colon, information = rest.partition(": ")
    if not re.fullmatch("[A-Z]+", service) or status != STATES[code]:
        raise ValueError(f"not 'SERVICE {STATES[code]}: text': {text!r}")
    if not colon or not information.strip():
        raise ValueError(f"says nothing: {text!r}")
    if len(text.rstrip()) >= FIRST_LINE_MAX:
        raise ValueError(f"{len(text.rstrip())} characters: {text!r}")


def _performance(text: str) -> dict[str, Datum]:
    found: dict[str, Datum] = {}
    at = 0
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        label, at = _label(text, at)
        end = text.find(" ", at)
        end = len(text) if end < 0 else end
        if label in found:
            raise ValueError(f"label {label!r} twice")
        found[label] = Datum.parse(text[at:end])
        at = end
    return found


def _label(text: str, at: int) -> tuple[str, int]:
    """The label that begins here, and where its value begins."""
    if text[at] == "'":
        match = re.compile(r"'((?:[^'=]|'')+)'=").match(text, at)
    else:
        match = re.compile(r"([^'= ]+)=").match(text, at)
    if match is None:
        raise ValueError(f"no label at {text[at:]!r}")
    return match[1].replace("''", "'"), match.end()
