"""The problems of one file, one line each: file, table, key, what was found, what was expected.

What looks like a secret is never repeated, not even to say that it is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

FOUND_MAX = 200  # a path is worth being read whole
NOT_SHOWN = "(not shown)"
LITERAL_REFUSED = (
    "a literal password is refused; use passfile, service, a client certificate or password_command"
)

_SECRET_NAME = re.compile(r"pass|pwd|secret|token|credential", re.IGNORECASE)
# password=…, PGPASSWORD=…, --pass=…, "passwd" : …; not passfile=, bypass=, nor a shell's $VARIABLE.
_ASSIGNED = re.compile(
    r"""(?:pass(?:word|wd|phrase)|(?<![a-z])pass)["']?\s*[=:]\s*["']?(?!["']?\$)[^\s"']""", re.IGNORECASE
)
_IN_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)
_OPTION = re.compile(r"--?(?:password|passwd|passphrase|pass)", re.IGNORECASE)


class Problems:
    """Collects lines. `label` is the file as the user knows it."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.lines: list[str] = []

    def add(self, where: str, message: str) -> None:
        """A problem of a table, or of the whole file where `where` is empty."""
        line = " ".join(part for part in (f"{self.label}:", where) if part)
        self.lines.append(f"{line}: {message}" if where else f"{line} {message}")

    def value(self, where: str, key: str, value: Any, message: str) -> None:
        """A problem of one value."""
        found = NOT_SHOWN if is_secret_name(key) or holds_password(value) else describe(value)
        self.add(f"{where} {describe_key(key)} = {found}".lstrip(), message)


def is_secret_name(key: str) -> bool:
    """Whether the value of a key of this name may be a secret."""
    return _SECRET_NAME.search(key) is not None


def holds_password(value: Any) -> bool:
    """Whether a text, or one in a list or table, holds a password: in a conninfo, a URI, or an option."""
    if isinstance(value, str):
        return bool(_ASSIGNED.search(value) or _IN_URI.search(value))
    if isinstance(value, dict):
        return any(is_secret_name(str(k)) or holds_password(v) for k, v in value.items())
    if not isinstance(value, list):
        return False
    if any(holds_password(one) for one in value):
        return True
    words = [one for one in value if isinstance(one, str)]
    # The fence agents' own short option; ssh and others mean a port by it.
    fence_agent = bool(words) and words[0].rpartition("/")[2].startswith("fence_")
    return any(
        (_OPTION.fullmatch(option) or (fence_agent and option == "-p"))
        and not argument.startswith(("-", "$"))
        for option, argument in pairwise(words)
    )


def describe(value: Any) -> str:
    """A value as TOML, on one line, shortened, with nothing that could move a cursor."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, list):
        text = f"[{', '.join(describe(one) for one in value)}]"
    elif hasattr(value, "isoformat"):  # TOML's dates and times
        text = value.isoformat()
    elif isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        text = f'"{printable(escaped)}"'
    else:
        text = repr(value)
    return text if len(text) <= FOUND_MAX else f"{text[: FOUND_MAX - 1]}…"


def printable(text: object) -> str:
    """A text without anything that could move a cursor."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(text))


def describe_key(key: str) -> str:
    """A key as it stands in the file."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else describe(key)


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known word that this one was probably meant to be."""
    import difflib

    found = difflib.get_close_matches(word.lower(), list(known), 1, cutoff)
    return found[0] if found else None
