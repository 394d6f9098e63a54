"""What losing a primary costs: the write outage as a client sees it, and the rows that were lost.

    python -m benchmarks.failover [--rounds 20] [--pg 18] [--profile fast ...] [--print]

Every run builds a cluster (a primary, two replicas, ANY 1), starts `replctl failover --auto` and a client
that writes a row every 20 ms, and kills or freezes the primary at a random moment of the controller's
interval. The outage is the time between two rows acknowledged to that client; "decided to promoted" is the
controller's own log. Beside it the outage of an ordinary libpq client with both hosts in its connection
string.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.timing import machine, write_section
from replctl.lab import Lab, Load
from tests.live.failover_support import Auto, write_inventory
from tests.live.servers import SERVERS

LIMIT_S = 40.0
SETTLE_S = 0.5  # of rows on either side
REST_S = 30.0
HEAD = """\
| profile | the primary is | runs | write outage, median | slowest | decided to promoted | ordinary client | \
rows | lost |
|---|---|---:|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one loss cost."""

    outage_s: float
    action_s: float
    ordinary_s: float
    rows: int
    lost: int


@contextlib.contextmanager
def controller(lab: Lab, profile: str) -> Iterator[Auto]:
    """`replctl failover --auto` on this lab; what it prints is not shown."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        Auto(write_inventory(lab, failover={"profile": profile})) as auto,
    ):
        yield auto


def one_loss(how: str, profile: str, pg_bin: Path) -> Run:
    """Build, lose the primary, wait until writes go on, count. Raises what went wrong."""
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as folder:
        Path(folder).chmod(0o755)  # started as root, the servers run as somebody else
        with Lab.up(Path(folder) / "lab", replicas=2, sync="ANY 1", pg_bin=pg_bin) as lab:
            with Load(lab) as load, controller(lab, profile) as auto:
                auto.wait_for("verdict", "alive", limit_s=LIMIT_S)
                load.wait_for_rows(10)
                time.sleep(SETTLE_S + random.random())
                (lab.kill if how == "killed" else lab.freeze)("pg1")
                auto.wait_for("done", limit_s=LIMIT_S)
                load.wait_for_rows(10)
                time.sleep(SETTLE_S)
                report = load.stop()
                [decided], [promoted] = auto.events("failover"), auto.events("step", "promote")
            action = datetime.fromisoformat(promoted["at"]) - datetime.fromisoformat(decided["at"])
    if report.rows_lost is None:
        raise RuntimeError("no primary could be asked which rows it has")
    ordinary = report.ordinary_outages or ()
    return Run(
        outage_s=report.longest_outage_s,
        action_s=action.total_seconds(),
        ordinary_s=max((outage.length_s for outage in ordinary), default=0.0),
        rows=report.rows_acknowledged,
        lost=report.rows_lost,
    )


def row(profile: str, how: str, runs: Sequence[Run]) -> str:
    """One line of the table."""
    outages_s, median = [run.outage_s for run in runs], statistics.median
    cells = [
        profile,
        how,
        len(runs),
        f"{median(outages_s) * 1000:.0f} ms",
        f"{max(outages_s) * 1000:.0f} ms",
        f"{median(run.action_s for run in runs) * 1000:.0f} ms",
        f"{median(run.ordinary_s for run in runs) * 1000:.0f} ms",
        sum(run.rows for run in runs),
        sum(run.lost for run in runs),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def losses(profiles: Sequence[str], rounds: int, pg_bin: Path) -> Iterator[str]:
    """The lines of the table, each as soon as it is there."""
    for profile in profiles:
        for how in ("killed", "frozen"):
            yield row(profile, how, [one_loss(how, profile, pg_bin) for _ in range(rounds)])


def at_rest(profile: str, pg_bin: Path) -> str:
    """What a controller uses while nothing happens: percent of one core, MiB."""
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as folder:
        Path(folder).chmod(0o755)
        with (
            Lab.up(Path(folder) / "lab", replicas=2, sync="ANY 1", pg_bin=pg_bin) as lab,
            controller(lab, profile) as auto,
        ):
            auto.wait_for("verdict", "alive", limit_s=LIMIT_S)
            time.sleep(SETTLE_S)
            process = Path("/proc") / str(auto.process.pid)
            before_s = _cpu_s(process)
            time.sleep(REST_S)
            percent = 100 * (_cpu_s(process) - before_s) / REST_S
            resident_kib = (process / "status").read_text().partition("VmRSS:")[2].split()[0]
    mib = int(resident_kib) / 1024
    return f"| {profile} | {percent:.1f} % | {mib:.0f} MiB |"


def _cpu_s(process: Path) -> float:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # user and system, in hundredths of a second


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--pg", type=int, default=max(SERVERS))
    options.add_argument("--profile", nargs="+", default=["fast", "normal"])
    options.add_argument("--print", action="store_true", dest="only_print")
    chosen = options.parse_args()
    pg_bin = SERVERS[chosen.pg]
    lines = [HEAD]
    for line in losses(chosen.profile, chosen.rounds, pg_bin):
        print(line, file=sys.stderr, flush=True)
        lines.append(line)
    rest = ["| profile | CPU at rest | memory |", "|---|---:|---:|"]
    rest += [at_rest(profile, pg_bin) for profile in chosen.profile]
    table, table_at_rest = "\n".join(lines), "\n".join(rest)
    footer = f"PostgreSQL {chosen.pg}, {machine()}, all of it on one machine."
    content = f"{table}\n\n{table_at_rest}\n\n{footer}"
    print(content)
    if not chosen.only_print:
        write_section("failover", content)


if __name__ == "__main__":
    main()
