"""HAProxy's runtime socket: one command, one answer, hung up."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

from replctl.errors import ReplctlError

TIMEOUT_S = 2.0
ANSWER_BYTES = 4 * 1024 * 1024
VERSION = re.compile(r"^Version: ([0-9]{1,3}\.[0-9]{1,3})(?![0-9])", re.MULTILINE)


def ask(place: str, command: str, timeout_s: float = TIMEOUT_S) -> str:
    """The answer to one command. `place` is a path, or `host:port`. Raises ReplctlError.

    The command is one line, made of tokens of ours; `timeout_s` is for the whole of it.
    """
    until_s = time.monotonic() + timeout_s
    try:
        with _connected(place, timeout_s) as connection:
            connection.sendall(f"{command}\n".encode("ascii"))
            answer = b""
            while len(answer) < ANSWER_BYTES:
                connection.settimeout(max(0.01, until_s - time.monotonic()))
                part = connection.recv(65536)
                if not part:
                    return answer.decode("utf-8", "replace")
                answer += part
    except (OSError, ValueError) as error:
        raise ReplctlError(f"the HAProxy at {place} does not answer", why=_why(place, error)) from None
    raise ReplctlError(f"the HAProxy at {place} does not answer", why="what it says does not end")


def ask_version(place: str) -> str:
    """The version of the HAProxy behind this socket, such as `2.8`. Raises ReplctlError."""
    match = VERSION.search(ask(place, "show info"))
    if match is None:
        raise ReplctlError(
            f"the HAProxy at {place} does not tell its version", why="what answers is another program"
        )
    return match[1]


def _why(place: str, error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError) and Path(place).is_file():
        return "that is a file, not a socket"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _connected(place: str, timeout_s: float) -> socket.socket:
    if place.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_s)
        try:
            connection.connect(place)
        except BaseException:
            connection.close()
            raise
        return connection
    host, _, port = place.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout_s)
