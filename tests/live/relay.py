"""Listening sockets in a thread with an event loop of its own, closed to the last one when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Self

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


class Relay:
    """Subclasses listen in `start`, by `listen`; `loop` runs from then on until the end.

    It accepts by itself: asyncio's servers lose a socket that was accepted in the turn before they close.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._listeners: list[socket.socket] = []
        self._accepted: dict[socket.socket, asyncio.Task[None]] = {}
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
        listener = socket.create_server(("127.0.0.1", port))
        listener.setblocking(False)
        self._listeners.append(listener)
        self.loop.add_reader(listener, self._accept, listener, serve)
        return int(listener.getsockname()[1])

    def _accept(self, listener: socket.socket, serve: Serve) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):  # it has gone away again
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            self._accepted[accepted] = self.loop.create_task(self._converse(serve, accepted))

    async def _converse(self, serve: Serve, accepted: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=accepted)
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()
            del self._accepted[accepted]

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.start())
        self._ready.set()
        self.loop.run_forever()
        for listener in self._listeners:
            self.loop.remove_reader(listener)
            listener.close()
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for accepted in self._accepted:  # cancelled before their first step
            accepted.close()
        self.loop.run_until_complete(asyncio.sleep(0))  # what was aborted closes its socket now
        self.loop.close()
