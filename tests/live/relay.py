"""Listening sockets in a thread with an event loop of its own, closed to the last one when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Self

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


class Relay:
    """Subclasses listen in `start`, by `listen`; `loop` runs from then on until the end."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._listeners: list[asyncio.Server] = []
        self._accepted: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    async def start(self) -> None:
        """Listen, wherever that is."""
        raise NotImplementedError

    async def listen(self, serve: Serve, port: int = 0) -> int:
        """Answer on this port of 127.0.0.1, or on any that is free; the port."""

        def accepted(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> Coroutine[None, None, None]:
            # Noted here: one that is cancelled before its first step would close nothing.
            self._accepted.add(writer)
            return self._until_closed(serve, reader, writer)

        server = await asyncio.start_server(accepted, "127.0.0.1", port, reuse_address=True)
        self._listeners.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _until_closed(
        self, serve: Serve, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()
            self._accepted.discard(writer)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.start())
        self._ready.set()
        self.loop.run_forever()
        for listener in self._listeners:
            listener.close()
        # Again and again: what was accepted just now begins while the others end.
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(asyncio.sleep(0))
        for writer in self._accepted:
            writer.transport.abort()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
