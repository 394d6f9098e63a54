"""PgBouncer's files as PgBouncer reads them, of which only what we write and keep is understood.

One key a line; the value runs to the line's end; comments stand on lines of their own. A connection string
has `key=value` between blanks, and single quotes around values with blanks, doubled inside. The rules are
those of libusual's cfparser.c and of PgBouncer's loader.c; where they are lax, this is strict.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DATABASES = "databases"
_SECTION = re.compile(r"\[([A-Za-z0-9_.-]+)\]")
_KEY = re.compile(r"([A-Za-z0-9_.*-]+)[ \t]*=[ \t]*(.*)")
_PAIR = re.compile(r" *([a-z_]+) *= *(?:'((?:[^']|'')*)'|([^' ]+))(?: +|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One setting: `section` is None before the first section."""

    section: str | None
    key: str
    value: str


def read(text: str) -> list[Line]:
    """Every setting of a file, in its order; `%include` lines are passed over.

    Raises ValueError, with the number of the line, for what PgBouncer would refuse or read in two ways.
    """
    found: list[Line] = []
    section = None
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r")
        if not line or line[0] in ";#%":
            continue
        if (header := _SECTION.fullmatch(line)) is not None:
            section = header[1]
        elif (setting := _KEY.fullmatch(line)) is not None and line.isprintable():
            found.append(Line(section=section, key=setting[1], value=setting[2]))
        else:
            raise ValueError(f"line {number} is neither a section nor key = value")
    return found


def databases(text: str) -> dict[str, dict[str, str]]:
    """The aliases of a file, each with the settings of its connection string. Raises ValueError."""
    found: dict[str, dict[str, str]] = {}
    for line in read(text):
        if line.section == DATABASES:
            try:
                found[line.key] = connection(line.value)
            except ValueError as error:
                raise ValueError(f"alias {line.key}: {error}") from None
    return found


def connection(text: str) -> dict[str, str]:
    """The settings of a connection string. Raises ValueError."""
    settings: dict[str, str] = {}
    rest = text.strip(" ")
    while rest:
        pair = _PAIR.match(rest)
        if pair is None:
            raise ValueError("its connection string is not key=value with blanks between")
        key, quoted, bare = pair.groups()
        if key in settings:
            raise ValueError(f"its connection string has {key} twice")
        settings[key] = bare if quoted is None else quoted.replace("''", "'")
        rest = rest[pair.end() :]
    return settings


def written(settings: dict[str, str]) -> str:
    """The connection string of these settings; `connection` of it gives them again."""
    return " ".join(f"{key}={_quoted(value)}" for key, value in settings.items())


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[^' ]+", value) else "'{}'".format(value.replace("'", "''"))
