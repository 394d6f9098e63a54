"""How soon writes arrive at a new primary through proxies, from the promotion on.

    python -m benchmarks.proxies [--rounds 10] [--print]

Each round is a lab of its own with 8 clients under load: an automatic failover, and the time from the
promotion to the first write through the proxies, and to that of the last client.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.timing import machine, write_section
from replctl.lab import Lab
from tests.live.servers import SERVERS
from tests.live.test_proxied_failover import on_lost

LOSSES = ("killed", "frozen")
WAYS = {"direct": "PgBouncer", "chain": "PgBouncer, then HAProxy"}
MAJOR = 15


def one(way: str, how: str) -> tuple[float, float]:
    """Seconds to the first write, and to the last client's first."""
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as name:
        Path(name).chmod(0o755)
        lab = Lab.up(Path(name) / "lab", pg_bin=SERVERS[MAJOR], fsync=False, sync="ANY 1")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the proxies' logs
                return on_lost(lab, way, how)
        finally:
            lab.down()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--print", action="store_true", dest="only_print")
    chosen = options.parse_args()
    rows = [
        "| proxies | primary | first write | worst | last client | worst |",
        "|---|---|---:|---:|---:|---:|",
    ]
    load = os.getloadavg()[0]
    cases = [(way, how) for way in WAYS for how in LOSSES]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {case: [] for case in cases}
    for _ in range(chosen.rounds):
        for case in cases:
            found[case].append(one(*case))
    for way, how in cases:
        first, last = zip(*found[way, how], strict=True)
        cells = (statistics.median(first), max(first), statistics.median(last), max(last))
        rows.append(
            f"| {WAYS[way]} | {how} | " + " | ".join(f"{cell * 1000:.0f} ms" for cell in cells) + " |"
        )
    loads = f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after"
    content = "\n".join([*rows, "", f"{machine()}; {chosen.rounds} rounds; {loads}."])
    print(content)
    if not chosen.only_print:
        write_section("proxies", content)


if __name__ == "__main__":
    main()
