"""The HTTP server's connections: few, short, with small heads and no bodies. aiohttp does the parsing.

One request for each connection, and one limit for all of it: a client that sends a byte a second, or reads
one a second, is cut off like one that sends nothing. Connections are accepted here and not by asyncio, which
shows one of TLS only after its handshake: whoever begins none could take every descriptor there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

CONNECTIONS_MAX = 256
CONNECTION_LIMIT_S = 15.0  # the handshake included
HANDSHAKE_LIMIT_S = 5.0
BACKLOG = 128
ACCEPT_AGAIN_S = 0.1  # where there is no descriptor left
HEAD_LINE_BYTES_MAX = 8190
_SILENT = logging.Logger("replctl.serve", logging.CRITICAL + 1)  # aiohttp's: what is to be told, we tell
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Connection(RequestHandler):
    """One connection. What cannot be parsed is refused without a word in the log: anybody can send it."""

    __slots__ = ("ended",)

    ended: asyncio.Future[None]

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002 - aiohttp's signature
        message: str | None = None,  # noqa: ARG002 - as above; it repeats what was sent
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        text = "this is not a request that is understood here\n" if status < 500 else "that went wrong\n"
        return closing(web.Response(status=status, text=text))


class Connections(web.Server):
    """Makes the protocol of each connection, and tells it when it has ended."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        self._running = asyncio.get_running_loop()

    def __call__(self) -> _Connection:
        connection = _Connection(
            self,
            loop=self._running,
            keepalive_timeout=CONNECTION_LIMIT_S,
            lingering_time=0.0,
            max_line_size=HEAD_LINE_BYTES_MAX,
            max_field_size=HEAD_LINE_BYTES_MAX,
            logger=_SILENT,
            access_log=_SILENT,
        )
        connection.ended = self._running.create_future()
        return connection

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Whoever waits for its end goes on."""
        super().connection_lost(handler, exc)
        if isinstance(handler, _Connection) and not handler.ended.done():
            handler.ended.set_result(None)


class Entrance:
    """Accepts connections, and counts each from the moment it is one. `tls` gives what encrypts new ones.

    Beyond the limit the oldest is closed for the newest: an honest request is over in no time, and whoever
    holds connections open keeps nobody out.
    """

    def __init__(self, handler: Handler, tls: Callable[[], ssl.SSLContext | None]) -> None:
        self._connections = Connections(handler)
        self._tls = tls
        self._most = connections_max()
        self._open: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._accepting: list[asyncio.Task[None]] = []

    def accept(self, listening: socket.socket) -> None:
        """Take what comes in there, until `close`."""
        self._accepting.append(asyncio.create_task(self._accept(listening)))

    async def close(self, limit_s: float) -> None:
        """Take no more, let answers that are under way go out within `limit_s`, and close everything."""
        for task in self._accepting:
            task.cancel()
        await self._connections.shutdown(limit_s)
        left = [*self._accepting, *self._open]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    client, _ = await loop.sock_accept(listening)
                except OSError:  # of that client, or of this process, which has no descriptor left
                    await asyncio.sleep(ACCEPT_AGAIN_S)
                    continue
                task = asyncio.create_task(self._serve(client))
                self._open[task] = None
                task.add_done_callback(lambda done: self._open.pop(done, None))
                if len(self._open) > self._most:
                    oldest = next(iter(self._open))
                    del self._open[oldest]
                    oldest.cancel()
                await asyncio.sleep(0)  # sock_accept does not let others run while there is one more

    async def _serve(self, client: socket.socket) -> None:
        loop, tls, connection = asyncio.get_running_loop(), self._tls(), self._connections()
        transport = None
        try:
            with contextlib.suppress(OSError):  # which includes a handshake that fails, and all that is late
                async with asyncio.timeout(CONNECTION_LIMIT_S):
                    transport, _ = await loop.connect_accepted_socket(
                        lambda: connection,
                        client,
                        ssl=tls,
                        ssl_handshake_timeout=HANDSHAKE_LIMIT_S if tls else None,
                    )
                    await connection.ended
        finally:
            if transport is not None:
                transport.abort()


def connections_max() -> int:
    """How many at once: few enough to leave half of the descriptors to the nodes, besides the agent's."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS_MAX, soft // 4))


async def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address that the name has. Raises OSError where one is taken, or none can be had."""
    loop = asyncio.get_running_loop()
    found: list[socket.socket] = []
    missing: OSError | None = None
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, address in dict.fromkeys((one[0], one[4]) for one in addresses):
        try:
            listening = socket.create_server(address, family=family, backlog=BACKLOG)
        except OSError as error:
            # `localhost` has an address of IPv6 also where the machine has none.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for one in found:
                    one.close()
                raise
            missing = error
        else:
            listening.setblocking(False)
            found.append(listening)
    if not found:
        raise missing or OSError(errno.EADDRNOTAVAIL, "no address")
    return found


def closing(response: web.Response) -> web.Response:
    """The same, after which the connection ends; and that no cache, frame or sniffer is to touch it."""
    response.force_close()
    response.headers.update(
        {
            "Server": "replctl",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
    )
    return response
