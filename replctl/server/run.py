"""The process of `replctl serve`: its sockets, its loops, its signals, its words to systemd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from replctl.controller.notify import keep_notifying, notify
from replctl.errors import ReplctlError, UsageError
from replctl.inventory import Inventory
from replctl.journal import Background
from replctl.server.access import Address, Guard, read_tokens
from replctl.server.agent import LINE_BYTES_MAX, Agent
from replctl.server.connections import BACKLOG, Entrance, listen
from replctl.server.places import Places
from replctl.server.watch import FIRST_LOOK_LIMIT_S, Watch
from replctl.server.web import Site

END_LIMIT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says. `node`: whom paths without a name mean."""

    listen: Address
    agent_listen: Address | None = None
    interval_s: float = 1.0
    max_age_s: float = 5.0
    node: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    hosts: tuple[str, ...] = ()
    access_log: bool = False


class Server:
    """One run of it. `serve` ends when `stopping` is set."""

    def __init__(
        self, inventories: Sequence[Inventory], options: Options, log: Callable[[str], object]
    ) -> None:
        """Raises UsageError for a node, a token file or a certificate that there is not."""
        self.stopping = asyncio.Event()
        self._options = options
        self._log = log
        tokens, self._tls = _secrets(options)
        self._guard = Guard.of(tokens, (*options.hosts, options.listen.host))
        self._watches = [Watch(one, interval_s=options.interval_s, log=log) for one in inventories]
        try:
            self._places = Places(self._watches, node=options.node)
        except KeyError:
            names = [f"{w.name}/{n.name}" for w in self._watches for n in w.inventory.settings.nodes]
            raise UsageError(
                f"--node {options.node}",
                why="not a node of the inventory, or of several",
                hint=", ".join(names),
            ) from None

    def reload(self) -> None:
        """Read the token file and the certificate again; what cannot be read stays as it was."""
        try:
            # All of it first, and a context of its own: one that is in use loses its key where the new one
            # does not fit the new certificate.
            self._guard.tokens, self._tls = _secrets(self._options)
        except UsageError as error:
            self._log(f"not reloaded, everything stays as it was: {error}")
        else:
            self._log("reloaded the token file and the certificate")

    async def serve(self) -> None:
        """Look, listen, answer, until `stopping`. Raises ReplctlError where an address cannot be had."""
        looking = [asyncio.create_task(watch.run()) for watch in self._watches]
        try:
            # So that the first answer is one. Nobody who balances load is told yes before, in any case.
            await asyncio.gather(*(w.fresh(FIRST_LOOK_LIMIT_S, FIRST_LOOK_LIMIT_S) for w in self._watches))
            async with contextlib.AsyncExitStack() as stack:
                await self._listen(stack)
                notify("READY=1\nSTATUS=answering")
                watchdog = asyncio.create_task(keep_notifying())
                await self.stopping.wait()
                notify("STOPPING=1")
                watchdog.cancel()
        finally:
            for task in looking:
                task.cancel()
            await asyncio.wait(looking, timeout=END_LIMIT_S)

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        options = self._options
        site = Site(
            self._places, self._guard, max_age_s=options.max_age_s, log=self._log, access=options.access_log
        )
        entrance = Entrance(site.handle, lambda: self._tls)
        with _refusing(options.listen, "--listen"):
            sockets = await listen(options.listen.host, options.listen.port)
        stack.push_async_callback(entrance.close, END_LIMIT_S)
        bound = _bound(sockets[0])
        for one in sockets:
            entrance.accept(one)
        self._log(f"listening on {'https' if self._tls else 'http'}://{bound}")
        if options.agent_listen is None:
            return
        agent, address = Agent(self._places), options.agent_listen
        with _refusing(address, "--agent-listen"):
            agents = await asyncio.start_server(
                agent.serve, address.host, address.port, limit=LINE_BYTES_MAX, backlog=BACKLOG
            )
        stack.callback(agents.close)
        self._log(f"answering agent checks on {_bound(agents.sockets[0])}")


async def serve(inventories: Sequence[Inventory], options: Options) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the token file and the certificate again."""
    # Not print(): a reader of the log that stands still must not hold up an answer.
    lines = Background(lambda line: os.write(2, f"{line}\n".encode(errors="backslashreplace")))

    def log(sentence: str) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines.leave(f"{at} {' '.join(sentence.split())}")

    try:
        server = Server(inventories, options, log)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, server.reload)
        await server.serve()
    finally:
        lines.close()
    return 0


def _secrets(options: Options) -> tuple[tuple[bytes, ...], ssl.SSLContext | None]:
    """Digests of the tokens, and what encrypts. Raises UsageError for a file that cannot be used."""
    tokens = read_tokens(options.token_file) if options.token_file else ()
    if options.tls_cert is None:
        return tokens, None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty password, so that an encrypted key is an error and no question on the terminal.
        context.load_cert_chain(options.tls_cert, options.tls_key, password="")
    except (OSError, ssl.SSLError) as error:
        why = getattr(error, "reason", None) or error.strerror or str(error)
        raise UsageError(f"--tls-cert {options.tls_cert}", why=str(why), hint="both files are PEM") from None
    return tokens, context


@contextlib.contextmanager
def _refusing(address: Address, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ReplctlError(f"{option} {address} cannot be had", why=why) from None


def _bound(listening: socket.socket) -> str:
    """The address that it has, also where any port would do."""
    host, port = listening.getsockname()[:2]
    return str(Address(host, port))
