"""What a scrape costs: samples and text from one observation, for few nodes and many.

    python -m benchmarks.metrics [--print]

No server is asked: scrapes are answered from a look that was taken. CPU time of this process, the median of
many. The table is printed and written to docs/benchmarks.md (with --print, only printed).
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time

from benchmarks.timing import machine, write_section
from replctl.core.lag import LagHistory
from replctl.core.metrics import Format, Run, collect, render
from replctl.core.report import Report, report
from tests.unit.builders import NOW, primary, replica, settings, state

NODES = (3, 20, 200)
ROUNDS = 15
RUN = Run(version="1", at=NOW, took_s=0.1, success=True, failovers={"orders": 0})


def observed(nodes: int) -> Report:
    """A primary and its replicas, all well, each with a slot."""
    names = [f"pg{number}" for number in range(1, nodes + 1)]
    found = state(primary(*names), *(replica(name) for name in names[1:]))
    return report(found, settings(*names), LagHistory())


def scrape(seen: Report) -> str:
    """What is done for one."""
    return render(collect([seen], RUN), Format.OPENMETRICS)


def cpu_s(seen: Report) -> float:
    """The median CPU time of a scrape, the collector of garbage being as it is in a server."""
    scrape(seen)
    gc.collect()
    taken = []
    for _ in range(ROUNDS):
        began_s = time.process_time()
        scrape(seen)
        taken.append(time.process_time() - began_s)
    return statistics.median(taken)


def table() -> str:
    """The measured table."""
    lines = [machine(), "", "| nodes | samples | KiB of text | CPU of a scrape |", "|---|---|---|---|"]
    for nodes in NODES:
        seen = observed(nodes)
        text = scrape(seen)
        samples = sum(not line.startswith("#") for line in text.splitlines())
        lines.append(f"| {nodes} | {samples} | {len(text) / 1024:.0f} | {cpu_s(seen) * 1000:.1f} ms |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--print", action="store_true", help="do not write docs/benchmarks.md")
    only_print = parser.parse_args().print
    found = table()
    print(found)
    if not only_print:
        write_section("metrics", found)


if __name__ == "__main__":
    main()
