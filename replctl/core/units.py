"""Sizes and times as people write them, and back.

Sizes count as PostgreSQL does: `1GB` and `1GiB` both are 1024³ bytes. Times are seconds; `m` is refused
because it is a minute to some and a month to others.
https://www.postgresql.org/docs/current/config-setting.html#CONFIG-SETTING-NAMES-VALUES
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50}
TIME_UNITS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}
SIZE_MAX_BYTES = (1 << 63) - 1
TIME_MAX_S = 100 * 365 * 86400.0

_NUMBER = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?)\s*([A-Za-z]*)\s*")
# kB, MB, … are PostgreSQL's own spelling of the same units.
_SIZES = {name.lower(): size for name, size in SIZE_UNITS.items()}
_SIZES |= {name.lower().replace("ib", "b"): size for name, size in SIZE_UNITS.items()}


def parse_bytes(value: str | int) -> int:
    """Bytes of `16MiB`, `1GB`, `1.5 GiB` or a plain number. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("neither a text nor a whole number")
    if isinstance(value, int):
        size = value
    else:
        number, unit = _split(value)
        if unit and unit.lower() not in _SIZES:
            raise ValueError(f"{unit} is not a unit of size; known are {', '.join(SIZE_UNITS)}")
        factor = _SIZES[unit.lower()] if unit else 1
        if number.isdecimal():
            size = int(number) * factor
        else:
            size = round(min(float(number) * factor, SIZE_MAX_BYTES * 2))
    if not 0 <= size <= SIZE_MAX_BYTES:
        raise ValueError("a size is between 0 and 8 EiB")
    return size


def parse_duration(value: str | int | float) -> float:
    """Seconds of `5`, `500ms`, `30s`, `5min`, `2h`, `1d` or a plain number. Raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("neither a text nor a number")
    if isinstance(value, str):
        number, unit = _split(value)
        if unit and unit not in TIME_UNITS:
            raise ValueError(f"{unit} is not a unit of time; known are {', '.join(TIME_UNITS)}")
        # Divided rather than multiplied by 0.001, so that 300ms is 0.3 to the last bit.
        seconds = float(number) / 1000 if unit == "ms" else float(number) * TIME_UNITS[unit or "s"]
    else:
        seconds = float(value) if abs(value) <= TIME_MAX_S else TIME_MAX_S * 2
    if not 0 <= seconds <= TIME_MAX_S:  # also false for nan
        raise ValueError("a time is between 0 and 100 years")
    return seconds


def _split(text: str) -> tuple[str, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError("not a number and a unit")
    return match[1], match[2]


def exact_bytes(size: int) -> str:
    """The shortest text that `parse_bytes` reads back as the same number: `16MiB`, `1500`."""
    for name, factor in reversed(SIZE_UNITS.items()):
        if factor > 1 and size and size % factor == 0:
            return f"{size // factor}{name}"
    return str(size)


def exact_duration(seconds: float) -> str:
    """A text that `parse_duration` reads back as the same number: `5min`, `30s`, `500ms`."""
    for name in ("d", "h", "min", "s", "ms"):
        count = round(seconds / TIME_UNITS[name])
        text = f"{count}{name}"
        if count and parse_duration(text) == seconds:
            return text
    return f"{seconds!r}s" if seconds else "0s"


def format_bytes(size: int) -> str:
    """For people: `512 B`, `1.2 GiB`, `-3.0 MiB`. One decimal above a kibibyte."""
    sign, rest = ("-", -size) if size < 0 else ("", size)
    if rest < 1024:
        return f"{sign}{rest} B"
    names = list(SIZE_UNITS)[1:]
    for name in names:
        scaled = round(rest / SIZE_UNITS[name], 1)
        if scaled < 1024 or name == names[-1]:  # 1023.96 KiB rounds up to 1.0 MiB
            return f"{sign}{scaled:.1f} {name}"
    raise AssertionError("unreachable")


def format_duration(seconds: float) -> str:
    """For people: `0.3 ms`, `250 ms`, `1.2 s`, `42 s`, `5 min 3 s`, `2 h 5 min`, `3 d 4 h`."""
    sign, rest = ("-", -seconds) if seconds < 0 else ("", seconds)
    if rest == 0:
        return "0 s"
    if rest < 0.0095:
        return f"{sign}{round(rest * 1000, 1):.1f} ms"
    if rest < 0.9995:
        return f"{sign}{round(rest * 1000)} ms"
    if rest < 9.95:
        return f"{sign}{rest:.1f} s"
    whole = round(rest)
    for (big, small), size, part in (
        (("d", "h"), 86400, 3600),
        (("h", "min"), 3600, 60),
        (("min", "s"), 60, 1),
    ):
        if whole >= size:
            count, left = divmod(whole, size)
            tail = f" {left // part} {small}" if left // part else ""
            return f"{sign}{count} {big}{tail}"
    return f"{sign}{whole} s"


def utc(unix_s: float) -> str:
    """`2030-01-31 12:00:00 UTC`."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def format_version(server_version_num: int) -> str:
    """`15.18`, from the number by which a server calls its version: `150018`."""
    return f"{server_version_num // 10000}.{server_version_num % 10000}"


def server_bytes(text: str | None) -> int | None:
    """Bytes of a size as a server shows its settings (`64MB`, base 1024; `-1`). None when it is not one."""
    match = re.fullmatch(r"(-?\d+)(B|kB|MB|GB|TB)?", text or "")
    if match is None:
        return None
    power = ("B", "kB", "MB", "GB", "TB").index(match[2] or "B")
    return int(match[1]) << (10 * power)
