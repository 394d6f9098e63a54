"""The HTTP server's connections: few, short, with small heads and no bodies. aiohttp does the parsing.

One request for each connection, and one limit for all of it: a client that sends a byte a second, or reads
one a second, is cut off like one that sends nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

CONNECTIONS_MAX = 256
CONNECTION_LIMIT_S = 15.0
HEAD_LINE_BYTES_MAX = 8190
_SILENT = logging.Logger("replctl.serve", logging.CRITICAL + 1)  # aiohttp's: what is to be told, we tell
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Connection(RequestHandler):
    """One connection. What cannot be parsed is refused without a word in the log: anybody can send it."""

    __slots__ = ()

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
    """Makes connections for asyncio's create_server; one too many is closed at once."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        self._running = asyncio.get_running_loop()

    def __call__(self) -> RequestHandler:
        return _Connection(
            self,
            loop=self._running,
            keepalive_timeout=CONNECTION_LIMIT_S,
            lingering_time=0.0,
            max_line_size=HEAD_LINE_BYTES_MAX,
            max_field_size=HEAD_LINE_BYTES_MAX,
            logger=_SILENT,
            access_log=_SILENT,
        )

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count it, and set its end."""
        super().connection_made(handler, transport)
        limit_s = CONNECTION_LIMIT_S if len(self.connections) <= CONNECTIONS_MAX else 0.0
        self._running.call_later(limit_s, transport.abort)


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
