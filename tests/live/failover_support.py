"""What live tests of failover share: a controller process, networks that can be cut, looks at nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import struct
import subprocess
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replctl.inventory import dump
from replctl.lab import Lab
from tests.live.relay import Relay
from tests.live.running import Running
from tests.support import replctl, wait_until

# Short, so that a test does not wait for what it does not test; the rest is the profile's.
GRACES = {"stop_grace_s": 1.0, "restart_grace_s": 1.0}
SSL_REQUESTS = (80877103, 80877104)


def ask(lab: Lab, node: str, *queries: str, user: str = "postgres") -> list[tuple[Any, ...]]:
    """The rows of the last of these statements, each its own transaction."""
    with psycopg.connect(lab.dsn(node, user), autocommit=True, connect_timeout=5) as connection:
        for query in queries:
            cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def value(lab: Lab, node: str, query: str) -> Any:
    """The one value of a query."""
    return ask(lab, node, query)[0][0]


def configure(lab: Lab, node: str, **settings: str | None) -> None:
    """ALTER SYSTEM and reload; None = RESET."""
    for name, new in settings.items():
        what = f"RESET {name}" if new is None else f"SET {name} = '{new}'"
        ask(lab, node, f"ALTER SYSTEM {what}")
    ask(lab, node, "SELECT pg_reload_conf()")


def write_inventory(
    lab: Lab,
    *,
    failover: Mapping[str, Any] | None = None,
    nodes: Mapping[str, Mapping[str, Any]] | None = None,
    name: str = "cluster.toml",
    **tables: Mapping[str, Any],
) -> Path:
    """The lab's inventory at profile fast, with these keys of [failover], of nodes, of other tables."""
    document = tomllib.loads(lab.inventory_path.read_text())
    document["failover"] = {**document["failover"], "profile": "fast", **(failover or {})}
    for node in (*document["nodes"], *document.get("witnesses", ())):
        for key, content in (nodes or {}).get(node["name"], {}).items():
            merged = {**node.get(key, {}), **content} if isinstance(content, Mapping) else content
            node[key] = merged
    for table, content in tables.items():
        document[table] = {**document.get(table, {}), **content}
    path = lab.directory.parent / name
    path.write_text(dump(document))
    path.chmod(0o644)
    return path


def environment(inventory: Path) -> dict[str, str]:
    """What a run of replctl needs: this inventory, and a place for its memory beside it."""
    return {
        "REPLCTL_INVENTORY": str(inventory),
        "REPLCTL_STATE_DIR": str(inventory.parent / "state"),
        "NO_COLOR": "1",
    }


def fail_over(inventory: Path, *options: str, limit_s: float = 40.0) -> subprocess.CompletedProcess[str]:
    """`replctl failover`, as somebody at a terminal would run it, who has said yes."""
    confirmed = () if {"--dry-run", "--explain", "--auto"} & set(options) else ("--yes",)
    return replctl("failover", *options, *confirmed, env=environment(inventory), limit_s=limit_s)


class Auto(Running):
    """`replctl failover --auto` as a process, and what it has logged so far."""

    def __init__(self, inventory: Path, *options: str, inside: Sequence[str] = ()) -> None:
        self.logged: list[dict[str, Any]] = []
        self.stray: list[str] = []
        words = ("failover", "--auto", "--log-format", "json", *options)
        super().__init__(*words, env=environment(inventory), inside=inside)

    def hear(self, line: str) -> None:
        try:
            self.logged.append(json.loads(line))
        except ValueError:
            self.stray.append(line)

    def __enter__(self) -> Auto:
        self.wait_for("covers")
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        code = self.end(signal.SIGTERM)
        print(self.text)  # shown with a failure
        if failure is None:
            assert (code, self.stray) == (0, [])

    @property
    def text(self) -> str:
        """Its log as people read it."""
        shown = [f"{line['at'][11:23]} {line['event']}: {line['message']}" for line in list(self.logged)]
        return "\n".join([*shown, *self.stray])

    def events(self, event: str, word: str = "") -> list[dict[str, Any]]:
        """The lines of this event whose sentence has this word."""
        return [line for line in list(self.logged) if line["event"] == event and word in line["message"]]

    def wait_for(self, event: str, word: str = "", *, limit_s: float = 15.0) -> dict[str, Any]:
        """The first line of this event with this word. Fails the test, with the log, after the limit."""
        until_s = time.monotonic() + limit_s
        while not (found := self.events(event, word)):
            if time.monotonic() > until_s or self.process.poll() is not None:
                pytest.fail(
                    f"no event {event!r} with {word!r} within {limit_s:g} s:\n{self.text}", pytrace=False
                )
            threading.Event().wait(0.02)
        return found[0]

    @property
    def acted(self) -> list[str]:
        """The sentences of all it did."""
        return [
            line["message"] for line in list(self.logged) if line["event"] in ("failover", "step", "done")
        ]


# ---- what a cluster looks like


def picture(lab: Lab) -> dict[str, tuple[Any, ...]]:
    """All of every running node that a failover changes: who writes, upstreams, replay, settings by hand."""
    query = """
    SELECT pg_is_in_recovery(), current_setting('primary_conninfo'), current_setting('primary_slot_name'),
           current_setting('recovery_min_apply_delay'), current_setting('wal_receiver_timeout'),
           current_setting('synchronous_standby_names'), current_setting('default_transaction_read_only'),
           CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END"""
    return {n: ask(lab, n, query)[0] for n, node in lab.nodes.items() if node.state == "running"}


def streaming(lab: Lab, upstream: str) -> set[str]:
    """Who streams from this node."""
    query = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
    return {row[0] for row in ask(lab, upstream, query)}


def wait_streaming(lab: Lab, upstream: str, *replicas: str) -> None:
    """Wait until these, and no others, stream from this node."""
    wait_until(lambda: streaming(lab, upstream) == set(replicas), f"{replicas} stream from {upstream}")


def writable(lab: Lab) -> set[str]:
    """The running nodes on which a session may write."""
    query = "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'"
    return {n for n, node in lab.nodes.items() if node.state == "running" and value(lab, n, query)}


def receiver_count(lab: Lab, node: str) -> int:
    """How many receivers a replica has: shown ones and hidden ones."""
    query = """
    SELECT (SELECT count(*) FROM pg_stat_wal_receiver)
         + (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver')"""
    return int(value(lab, node, query))


# ---- a network that can be cut


class Network(Relay):
    """A proxy before every server, which lets pass or swallows by who connects.

    Replicas are told from each other and from controllers by the application_name of their startup
    message. What is cut is not refused: bytes stay where they are, as behind a firewall that drops.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ports: dict[str, int] = {}
        self.inside: tuple[str, ...] = ()  # a controller may run anywhere
        self._servers = {**lab.nodes, **lab.witnesses}
        self._cut: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()
        super().__init__()

    def drop(self, source: str, target: str) -> None:
        """Nothing that `source` sends arrives at `target`; the other way all goes on."""
        self._set(self._cut | {(source, target)})

    def part(self, one: str, *others: str) -> None:
        """Neither hears the other any more."""
        self.cut(*((one, other) for other in others))

    def cut(self, *pairs: tuple[str, str]) -> None:
        """Drop all that these say to each other; `controller` is one of them."""
        self._set(self._cut | set(pairs) | {(target, source) for source, target in pairs})

    def isolate(self, target: str) -> None:
        """Cut a server off from controllers and from all other servers."""
        self.part(target, "controller", *(name for name in self._servers if name != target))

    def mend(self) -> None:
        """Let everything pass; what waited goes on."""
        self._set(set())

    def _set(self, pairs: set[tuple[str, str]]) -> None:
        done = threading.Event()

        def change() -> None:
            self._cut = pairs
            self._changed.set()
            self._changed = asyncio.Event()
            done.set()

        self.loop.call_soon_threadsafe(change)
        assert done.wait(10)

    async def start(self) -> None:
        """Listen once for each server."""
        for name, node in self._servers.items():
            self.ports[name] = await self.listen(partial(self._serve, name, node.port))

    async def _serve(
        self, target: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            first = await _startup(reader, writer)
            there, back = (self._source(first), target), (target, self._source(first))
            await self._passable(there)
            await self._passable(back)
            far_reader, far = await asyncio.open_connection("127.0.0.1", port)
            far.write(first)
            await asyncio.gather(self._pump(there, reader, far), self._pump(back, far_reader, writer))
        if far is not None:
            far.transport.abort()

    def _source(self, startup: bytes) -> str:
        words = startup[8:].split(b"\0")
        options = dict(zip(words[::2], words[1::2], strict=False))
        name = options.get(b"application_name", b"").decode()
        return name if name in self._servers else "controller"

    async def _passable(self, pair: tuple[str, str]) -> None:
        while pair in self._cut:
            await self._changed.wait()

    async def _pump(
        self, pair: tuple[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            data = await reader.read(65536)
            await self._passable(pair)
            if not data:
                writer.transport.abort()
                return
            writer.write(data)
            await writer.drain()


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The startup message, after requests for encryption have been declined."""
    while True:
        head = await reader.readexactly(8)
        length, code = struct.unpack("!II", head)
        if code not in SSL_REQUESTS:
            return head + await reader.readexactly(length - 8)
        writer.write(b"N")


@contextlib.contextmanager
def network(lab: Lab) -> Iterator[Network]:
    """The lab behind such a network: its replicas stream through it already."""
    with Network(lab) as net:
        replicas = [name for name, node in lab.nodes.items() if node.role == "replica"]
        for name in replicas:
            old = value(lab, name, "SHOW primary_conninfo")
            configure(
                lab,
                name,
                primary_conninfo=old.replace(f"port={lab.nodes['pg1'].port}", f"port={net.ports['pg1']}"),
            )
        pids = dict.fromkeys(replicas)
        for name in replicas:
            query = "SELECT max(sender_port) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
            wait_until(
                lambda name=name, query=query: value(lab, name, query) == net.ports["pg1"],
                f"{name} streams through the proxy",
            )
        wait_streaming(lab, "pg1", *pids)
        yield net


def behind(net: Network) -> dict[str, dict[str, int]]:
    """The servers' addresses in that network, for write_inventory."""
    return {name: {"port": port} for name, port in net.ports.items()}
