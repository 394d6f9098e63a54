"""Free ports on loopback, kept for us until the servers listen on them."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from types import TracebackType

from replctl.errors import LabError, RefusedError, UsageError

HOST = "127.0.0.1"
# Below the ports that systems hand to outgoing connections: a killed node's port must not be taken by
# somebody's client before the node is started again.
_RANGE = range(15000, 30000)
_ATTEMPTS = 2000


class Reservation:
    """Distinct ports that nobody else gets while this is open.

    On Linux a bound socket that does not listen keeps a port from everybody who binds without
    SO_REUSEADDR, as this does, and not from PostgreSQL, which binds with it. So the ports stay reserved
    until the servers listen, and two labs that are built at the same moment cannot collide. Elsewhere a
    port is let go just before its server starts.
    """

    def __init__(self, count: int, base_port: int | None = None) -> None:
        self._held: dict[int, socket.socket] = {}
        try:
            if base_port is None:
                self._choose(count)
            else:
                self._take_from(base_port, count)
        except BaseException:
            self.close()
            raise
        self.ports = tuple(self._held)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def starting(self, port: int) -> None:
        """Say that the server of this port is about to be started."""
        if sys.platform != "linux":
            self._held.pop(port).close()

    def close(self) -> None:
        """Let all ports go."""
        for held in self._held.values():
            held.close()
        self._held.clear()

    def _choose(self, count: int) -> None:
        attempts = random.SystemRandom().sample(_RANGE, _ATTEMPTS)
        for port in attempts:
            if len(self._held) == count:
                return
            with contextlib.suppress(OSError):
                self._hold(port)
        raise LabError(f"found no {count} free ports", why=f"looked between {_RANGE.start} and {_RANGE.stop}")

    def _take_from(self, base_port: int, count: int) -> None:
        if not 1024 <= base_port <= 65536 - count:
            raise UsageError(
                f"--base-port {base_port} does not fit",
                why=f"{count} ports from it on must lie between 1024 and 65535",
            )
        for port in range(base_port, base_port + count):
            try:
                self._hold(port, reuse=True)  # else a lab that just ended would block its ports for a minute
            except OSError as error:
                raise RefusedError(
                    f"port {port} is not free",
                    why=error.strerror,
                    hint="choose another --base-port, or leave it out to get free ports",
                ) from None

    def _hold(self, port: int, *, reuse: bool = False) -> None:
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if reuse:
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((HOST, port))
            if sys.platform == "linux":
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            holder.close()
            raise
        self._held[port] = holder
