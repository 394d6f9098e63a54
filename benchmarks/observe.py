"""How long one look at 200 nodes takes, all of them well and with one that is silent.

    python -m benchmarks.observe [--nodes 200] [--rounds 20] [--print]

The nodes are the servers of one lab under many loopback addresses, so every node has its own connection
and its own sample. The silent one accepts connections and never says a word.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import machine, write_section
from replctl.inventory import Inventory
from replctl.lab import Lab
from replctl.pg.observe import Observer
from tests.live.looks import Address, inventory
from tests.live.truth import set_on

CONNECT_TIMEOUT_S = 1
SERVERS = 4  # a primary and three replicas


@contextlib.contextmanager
def many_addresses(count: int) -> Iterator[dict[str, Address]]:
    """`count` names with addresses at which the servers of a lab answer."""
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as folder:
        Path(folder).chmod(0o755)  # started as root, the servers run as somebody else
        with Lab.up(Path(folder) / "lab", replicas=SERVERS - 1) as lab:
            hosts = [f"127.0.{1 + number // 200}.{1 + number % 200}" for number in range(count // SERVERS)]
            for name in lab.nodes:
                set_on(lab, name, listen_addresses=",".join(["127.0.0.1", *hosts]))
                lab.stop(name)
                lab.start(name)
            yield {
                f"{name}-{number}": (host, node.port)
                for name, node in lab.nodes.items()
                for number, host in enumerate(hosts)
            }


@contextlib.contextmanager
def silent_host() -> Iterator[Address]:
    """Where connections are accepted and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()


async def looks(looked_at: Inventory, rounds: int) -> tuple[float, list[float]]:
    """Seconds of the first look, which connects, and of each later one. Raises RuntimeError."""
    async with Observer(looked_at) as observer:
        taken_s = []
        for _ in range(rounds + 1):
            began_s = time.perf_counter()
            state = await observer.observe()
            taken_s.append(time.perf_counter() - began_s)
            silent = [u for u in state.nodes if u.node == "silent"]
            if len(state.facts) + len(silent) != len(state.nodes):
                raise RuntimeError("a node that works did not answer")
        return taken_s[0], taken_s[1:]


def row(title: str, looked_at: Inventory, rounds: int) -> str:
    """One line of the table."""
    first_s, later_s = asyncio.run(looks(looked_at, rounds))
    return (
        f"| {title} | {first_s * 1000:.0f} ms | {statistics.median(later_s) * 1000:.0f} ms | "
        f"{max(later_s) * 1000:.0f} ms |"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--nodes", type=int, default=200)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--print", action="store_true", dest="only_print")
    chosen = options.parse_args()
    lines = ["| nodes | first look, connecting | later looks, median | slowest |", "|---|---:|---:|---:|"]
    with many_addresses(chosen.nodes) as nodes, silent_host() as silent:
        few = dict(list(nodes.items())[:3])
        timeouts = {"connect_timeout_s": CONNECT_TIMEOUT_S}
        lines.append(row("3", inventory(few, **timeouts), chosen.rounds))
        lines.append(row(str(len(nodes)), inventory(nodes, **timeouts), chosen.rounds))
        with_silent = inventory(nodes | {"silent": silent}, **timeouts)
        lines.append(row(f"{len(nodes)} and a silent one", with_silent, chosen.rounds))
    table = "\n".join(lines)
    content = (
        f"{table}\n\n{machine()}, shared with the servers; {chosen.rounds} later looks; "
        f"`connect_timeout_s = {CONNECT_TIMEOUT_S}`."
    )
    print(content)
    if not chosen.only_print:
        write_section("observe", content)


if __name__ == "__main__":
    main()
