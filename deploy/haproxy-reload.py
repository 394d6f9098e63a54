#!/usr/bin/env python3
"""Reload HAProxy by its supervisor's socket: exit code 0 only where the new configuration runs.

haproxy-reload.py SOCKET
"""

from __future__ import annotations

import socket
import sys

LIMIT_S = 10.0


def command(path: str, text: str) -> str:
    """What the supervisor answers. Raises OSError; waits LIMIT_S seconds at most."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as supervisor:
        supervisor.settimeout(LIMIT_S)
        supervisor.connect(path)
        supervisor.sendall(f"{text}\n".encode())
        supervisor.shutdown(socket.SHUT_WR)
        parts = []
        while part := supervisor.recv(4096):
            parts.append(part)
    return b"".join(parts).decode(errors="replace")


def main() -> None:
    """Ends with exit code 1 and a sentence where it is not reloaded."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} SOCKET")
    try:
        answer = command(sys.argv[1], "reload")
    except OSError as error:
        sys.exit(f"no answer from {sys.argv[1]}: {error}")
    # HAProxy 2.7 and later wait and say how it went; before, the connection just ends.
    if answer and not answer.startswith("Success=1"):
        sys.exit(answer)


if __name__ == "__main__":
    main()
