"""Looking at real nodes as every command does, and a wire in between that counts what goes over it."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from replctl.core.lag import LagHistory
from replctl.core.model import ClusterState
from replctl.core.status import ClusterStatus, assess
from replctl.inventory import Inventory, dump, parse
from replctl.lab import Lab
from replctl.pg.observe import Observer

HOST = "127.0.0.1"
Address = tuple[str, int]


Nodes = Mapping[str, Address | dict[str, Any]]


def document(nodes: Nodes, **connection: Any) -> dict[str, Any]:
    """An inventory of these nodes: address, or the keys of `[[nodes]]`. Connects as the lab's operator."""
    rows = [
        {"name": name, **(node if isinstance(node, dict) else {"host": node[0], "port": node[1]})}
        for name, node in nodes.items()
    ]
    return {
        "schema": 1,
        "cluster": {"name": "looked-at"},
        "connection": {"user": "replctl", "sslmode": "disable"} | connection,
        "nodes": rows,
    }


def inventory(nodes: Nodes, **connection: Any) -> Inventory:
    """The same, read."""
    return parse(document(nodes, **connection), Path("looks.toml"))


def inventory_file(directory: Path, nodes: Nodes, **connection: Any) -> str:
    """The same as a file, for `replctl -i`."""
    path = directory / "looks.toml"
    path.write_text(dump(document(nodes, **connection)))
    return str(path)


def addresses(lab: Lab) -> dict[str, Address]:
    """Where the nodes of a lab are."""
    return {name: (HOST, node.port) for name, node in lab.nodes.items()}


class Looks:
    """Look after look on connections that stay open, each with the history of those before it."""

    def __init__(self, looked_at: Inventory) -> None:
        self.settings = looked_at.settings
        self._runner = asyncio.Runner()
        self.observer = self._runner.run(_opened(looked_at))
        self._history = LagHistory()

    def __enter__(self) -> Looks:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._runner.run(self.observer.close())
        self._runner.close()

    def look(self, limit_s: float | None = None, *, with_marks: bool = True) -> ClusterState:
        """The next look."""
        return self._runner.run(self.observer.observe(limit_s=limit_s, with_marks=with_marks))

    def status(self, limit_s: float | None = None) -> ClusterStatus:
        """The next look, interpreted."""
        found = assess(self.look(limit_s), self.settings, self._history)
        self._history = found.history
        return found


async def _opened(looked_at: Inventory) -> Observer:
    return Observer(looked_at)


def look(looked_at: Inventory, limit_s: float | None = None) -> ClusterState:
    """One look, then hang up."""
    with Looks(looked_at) as looks:
        return looks.look(limit_s)


class Wire:
    """A relay to one server. `round_trips`: how often the client spoke after the server had its turn."""

    def __init__(self, server: Address) -> None:
        self._server = server
        self._listener = socket.create_server((HOST, 0))
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.connections = 0
        self.round_trips = 0

    @property
    def address(self) -> Address:
        """Where clients connect."""
        return HOST, int(self._listener.getsockname()[1])

    def __enter__(self) -> Wire:
        self._listener.settimeout(0.05)
        self._start(self._accept)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._listener.close()

    def _start(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                self.connections += 1
                self._start(self._relay, client)

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server, selectors.DefaultSelector() as ready:
            others = {client: server, server: client}
            for end in others:
                ready.register(end, selectors.EVENT_READ)
            servers_turn = False
            while not self._over.is_set():
                for key, _ in ready.select(timeout=0.05):
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    with contextlib.suppress(OSError):
                        data = end.recv(65536)
                        if not data:
                            return
                        if end is client and not servers_turn:
                            self.round_trips += 1
                        servers_turn = end is client
                        others[end].sendall(data)


@contextlib.contextmanager
def silent_host() -> Iterator[Address]:
    """A host that accepts connections and never says a word, as one whose server is frozen."""
    with socket.create_server((HOST, 0)) as listener:
        yield HOST, int(listener.getsockname()[1])


@contextlib.contextmanager
def closed_port() -> Iterator[Address]:
    """An address where nobody listens, kept from everybody else."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        yield HOST, int(held.getsockname()[1])
