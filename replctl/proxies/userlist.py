"""PgBouncer's userlist, read as strictly as a reload of it has to be.

A reload first forgets all passwords, then reads up to the first line that is wrong, and says that it
succeeded: everybody after that line is locked out. The secrets in it are looked past, and never shown.
"""

from __future__ import annotations

import re
from pathlib import Path

from replctl import files
from replctl.errors import RefusedError, ReplctlError

USER_BYTES = 127
SECRET_BYTES = 2047
_LINE = re.compile(r'\s*"((?:[^"\n]|"")*)"[^"\n]*"((?:[^"\n]|"")*)"')


def broken_line(text: str) -> int | None:
    """The number of the first line after which PgBouncer reads no more; None where it reads all."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith(";"):
            continue
        match = _LINE.match(line)
        if match is None:
            return number
        user, secret = (part.replace('""', '"').encode() for part in match.groups())
        if len(user) > USER_BYTES or len(secret) > SECRET_BYTES:
            return number
    return None


def check_userlist(path: str | None, *, readable_here: bool) -> None:
    """Raise RefusedError where the userlist would lock somebody out. One that may not be read is passed."""
    if path is None or not readable_here:
        return
    try:
        text = files.read(Path(path))
    except ReplctlError:
        return
    number = broken_line(text or "")
    if number is not None:
        raise RefusedError(
            f"{path} is broken in line {number}: a reload would lock out everybody after it",
            why='expected "user" "secret" in double quotes, a quote inside doubled',
            hint="mend it; nothing was changed",
        )
