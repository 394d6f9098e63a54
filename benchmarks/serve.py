"""What `replctl serve` costs: CPU of a scrape and at rest, memory, on 3 and on 200 nodes.

    python -m benchmarks.serve [--nodes 200] [--rounds 100] [--rest 20] [--print]

The nodes are a primary and many replicas: the servers of one lab under many loopback addresses. CPU is
that of the server's process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import http.client
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.observe import SERVERS, many_addresses
from benchmarks.timing import machine, write_section
from replctl.core.lag import LagHistory
from replctl.core.metrics import Format, Run, collect, render
from replctl.core.report import reported
from replctl.core.status import assess
from replctl.inventory import Inventory, dump
from replctl.pg.observe import Observer
from tests.live.looks import Address, inventory

START_LIMIT_S = 30.0
SETTLE_S = 5.0


async def _first_scrape(looked_at: Inventory, rounds: int) -> tuple[float, int]:
    """Median CPU seconds of the first scrape of a look (checks, samples, text), and the bytes of it."""
    async with Observer(looked_at) as observer:
        state = await observer.observe()
    status = assess(state, looked_at.settings, LagHistory())
    run = Run(version="0", at=0.0, took_s=0.0, success=True)
    taken_s, text = [], ""
    for _ in range(rounds):
        began_s = time.process_time()
        text = render(collect([reported(dataclasses.replace(status))], run), Format.TEXT)
        taken_s.append(time.process_time() - began_s)
    return statistics.median(taken_s), len(text)


def cpu_s(pid: int) -> float:
    """CPU of all threads of a process, in seconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def rss_mib(pid: int) -> float:
    """Memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def scrape(port: int) -> None:
    """One scrape, as Prometheus makes it. Raises RuntimeError for any other answer than 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics?max_age=1h")
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"a scrape was answered with {response.status}")


def _start(folder: Path, file: Path, *options: str) -> tuple[subprocess.Popen[str], int]:
    """A server and its port."""
    command = [sys.executable, "-m", "replctl", "serve", "-i", str(file), "--listen", "127.0.0.1:0", *options]
    env = {**os.environ, "REPLCTL_STATE_DIR": str(folder / "state")}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)
    if found is None:
        process.kill()
        raise RuntimeError(f"it did not start: {line}{process.stderr.read()}")
    return process, int(found[1])


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    finally:
        process.kill()


def row(title: str, looked_at: Inventory, rounds: int, rest_s: float) -> str:
    """One line of the table."""
    first_s, size = asyncio.run(_first_scrape(looked_at, rounds))
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as name:
        folder = Path(name)
        file = folder / "cluster.toml"
        file.touch(mode=0o600)
        file.write_text(dump(looked_at.document()))
        process, port = _start(folder, file, "--interval", "1h")
        try:
            scrape(port)
            began_s = cpu_s(process.pid)
            for _ in range(rounds):
                scrape(port)
            again_s = (cpu_s(process.pid) - began_s) / rounds
        finally:
            _end(process)
        process, port = _start(folder, file)
        try:
            scrape(port)
            time.sleep(SETTLE_S)
            began_s = cpu_s(process.pid)
            time.sleep(rest_s)
            share = (cpu_s(process.pid) - began_s) / rest_s
            memory_mib = rss_mib(process.pid)
        finally:
            _end(process)
    return (
        f"| {title} | {first_s * 1000:.1f} ms | {again_s * 1000:.1f} ms | {size / 1024:.0f} KiB |"
        f" {share * 100:.1f} % | {memory_mib:.0f} MiB |"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--nodes", type=int, default=200)
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--rest", type=float, default=20.0)
    options.add_argument("--print", action="store_true", dest="only_print")
    chosen = options.parse_args()
    lines = [
        "| nodes | first scrape of a look | scrape again | answer | CPU at rest | memory |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    # Every server has as many addresses, and only one of them is to be a primary.
    with many_addresses(SERVERS * -(-(chosen.nodes - 1) // (SERVERS - 1))) as addresses:
        primary, *replicas = (name for name in addresses if not name.startswith("pg1-") or name == "pg1-0")
        for count in (3, chosen.nodes):
            found: dict[str, Address] = {name: addresses[name] for name in (primary, *replicas[: count - 1])}
            lines.append(row(str(count), inventory(found), chosen.rounds, chosen.rest))
    content = "\n".join(lines) + (
        f"\n\n{machine()}, shared with the servers; {chosen.rounds} scrapes; CPU time of the process,"
        f" at rest over {chosen.rest:g} s with a look each second."
    )
    print(content)
    if not chosen.only_print:
        write_section("serve", content)


if __name__ == "__main__":
    main()
