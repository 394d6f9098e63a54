"""Every server of a lab in a network namespace of its own: real packets, that a router in the middle drops.

    server ── veth ── router ── veth ── server          controller ── veth ── router
                        │ ip rule … blackhole

What is dropped is dropped without a word, in one direction or both, for what is open and what is new. The
test itself, its load included, reaches each server through a socket file, as a client on the same host
would: whatever the network does, it can tell what a server acknowledges.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from replctl.lab import Lab
from replctl.lab.account import command_prefix, give, server_account
from tests.live.failover_support import configure, value, wait_streaming
from tests.live.relay import Relay
from tests.support import wait_until

CONTROLLER = "controller"
HBA = "local all all trust\nhost all all 10.0.0.0/8 trust\nhost replication all 10.0.0.0/8 trust\n"
START_LIMIT_S = 60


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)


@cache
def possible() -> bool:
    """Whether namespaces can be made here: by root, with ip(8)."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"replctl-{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (subprocess.SubprocessError, OSError):
        return False
    return True


class Namespaces:
    """The network of one lab. `inside` is what runs a program where the controller is."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._servers = {**lab.nodes, **lab.witnesses}
        self._numbers = {name: n for n, name in enumerate((*self._servers, CONTROLLER), 1)}
        self._dropped: set[tuple[str, str]] = set()
        self._sockets = lab.directory.parent / "sockets"
        self.inside = self.beside(CONTROLLER)

    def _space(self, name: str) -> str:
        return f"replctl-{os.getpid()}-{name}"

    def address(self, name: str) -> str:
        """Where the others reach this one."""
        return f"10.0.{self._numbers[name]}.2"

    def beside(self, name: str) -> tuple[str, ...]:
        """What runs a program on this server's host."""
        return ("ip", "netns", "exec", self._space(name))

    def __enter__(self) -> Namespaces:
        sockets = {s.port: self._sockets / f".s.PGSQL.{s.port}" for s in self._servers.values()}
        with contextlib.ExitStack() as stack:
            stack.callback(self._unwire)
            self._wire()
            self._move()
            stack.enter_context(_Front(sockets))
            self._connect_replicas()
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _wire(self) -> None:
        router = self._space("router")
        _ip("netns", "add", router)
        for name, number in self._numbers.items():
            space, link = self._space(name), f"link{number}"
            _ip("netns", "add", space)
            _ip("-n", router, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", router, "addr", "add", f"10.0.{number}.1/24", "dev", link)
            _ip("-n", router, "link", "set", link, "up")
            _ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", space, "link", "set", device, "up")
            _ip("-n", space, "route", "add", "default", "via", f"10.0.{number}.1")
        forward = ["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]
        subprocess.run(["ip", "netns", "exec", router, *forward], check=True, capture_output=True, timeout=10)

    def _unwire(self) -> None:
        for name in (*self._numbers, "router"):
            with contextlib.suppress(subprocess.SubprocessError, OSError):
                _ip("netns", "del", self._space(name))

    def _move(self) -> None:
        """Start every server again, where only its neighbours on the network reach it."""
        account = server_account()
        self._sockets.mkdir()
        give(self._sockets, account, 0o700)
        for name, server in self._servers.items():
            self.lab.stop(name)
            rules = server.data_directory / "pg_hba.conf"
            rules.write_text(HBA + rules.read_text())
        for name, server in self._servers.items():
            options = f"-c listen_addresses=* -c unix_socket_directories={self._sockets}"
            argv = [str(self.lab.bin_directory / "pg_ctl"), "start", "-w", "-D", str(server.data_directory)]
            argv += ["-l", str(server.log_file), "-o", options]
            into = [*self.beside(name), *command_prefix(account, {})]
            subprocess.run(
                [*into, *argv],
                check=True,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=START_LIMIT_S,
            )

    def _connect_replicas(self) -> None:
        replicas = [name for name, node in self.lab.nodes.items() if node.role == "replica"]
        for name in replicas:
            old = value(self.lab, name, "SHOW primary_conninfo")
            new = old.replace("host=127.0.0.1", f"host={self.address('pg1')}")
            configure(self.lab, name, primary_conninfo=new)
        query = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        for name in replicas:
            wait_until(lambda name=name: value(self.lab, name, query) == 1, f"{name} streams")
        wait_streaming(self.lab, "pg1", *replicas)

    # ---- cutting

    def isolate(self, target: str) -> None:
        """Cut a server off from controllers and from all other servers."""
        self.part(target, *(name for name in self._numbers if name != target))

    def drop(self, source: str, target: str) -> None:
        """Nothing that `source` sends arrives at `target`; the other way all goes on."""
        if (source, target) not in self._dropped:
            self._dropped.add((source, target))
            self._rule("add", source, target)

    def part(self, one: str, *others: str) -> None:
        """Neither hears the other any more."""
        for other in others:
            self.drop(one, other)
            self.drop(other, one)

    def mend(self) -> None:
        """All is heard again."""
        for source, target in self._dropped:
            self._rule("del", source, target)
        self._dropped.clear()

    def _rule(self, verb: str, source: str, target: str) -> None:
        pair = ("from", self.address(source), "to", self.address(target))
        _ip("-n", self._space("router"), "rule", verb, *pair, "blackhole")


class _Front(Relay):
    """Listens where each server of the lab did, and passes on to its socket file."""

    def __init__(self, sockets: dict[int, Path]) -> None:
        super().__init__()
        self._sockets = sockets

    async def start(self) -> None:
        """Listen on the port of each server."""
        for port, path in self._sockets.items():
            await self.listen(partial(self._serve, path), port)

    async def _serve(self, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            far_reader, far = await asyncio.open_unix_connection(path)
            done, left = await asyncio.wait(
                {asyncio.ensure_future(_pump(reader, far)), asyncio.ensure_future(_pump(far_reader, writer))},
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in left:
                task.cancel()
            await asyncio.gather(*done, *left, return_exceptions=True)
        if far is not None:
            far.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def addresses(net: Namespaces) -> dict[str, dict[str, str]]:
    """The servers' addresses in that network, for write_inventory."""
    return {name: {"host": net.address(name)} for name in (*net.lab.nodes, *net.lab.witnesses)}


@contextlib.contextmanager
def namespaces(lab: Lab) -> Iterator[Namespaces]:
    """The lab in namespaces, its replicas streaming across them."""
    with Namespaces(lab) as net:
        yield net
