"""What replctl shows in the cases that fool the usual formulas, beside the truth, second by second.

    python -m benchmarks.lag_cases [--pg 18] [--print]

The truth is known from outside: rows with the time of their commit, and which of them a replica shows (see
tests/live/truth.py). The table is printed and written to docs/lag.md (with --print, only printed).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.timing import ROOT, machine, write_section
from replctl.core.lag import LagBound
from replctl.inventory import load_one
from replctl.lab import Lab
from tests.live.servers import SERVERS
from tests.live.truth import (
    Reading,
    Watch,
    Writer,
    archive_only,
    cut,
    delayed,
    open_transaction,
    paused,
    set_on,
    superuser,
)

DOCUMENT = ROOT / "docs" / "lag.md"
INTERVAL_S = 1.0
NOISE_S = 0.3  # what a look itself takes on a busy machine
HEAD = """\
| case | truth | replctl | usual formula | `replay_lag` | replctl off by at most |
|---|---:|---:|---:|---:|---:|"""
PAGES = "SELECT pg_logical_emit_message(true, 'case', repeat('x', 400)) FROM generate_series(1, 50)"
MIB = 1024 * 1024


@dataclass
class Table:
    """The rows so far, from a cluster pg1 → pg2, pg1 → pg3 → pg4 with rows coming in."""

    lab: Lab
    writer: Writer
    watch: Watch
    rows: list[str] = field(default_factory=list)

    def add(self, case: str, readings: list[Reading]) -> None:
        """What stood there at the last look, and how far replctl was off at its worst."""
        last = readings[-1]
        shown = ">= " if last.shown.lag_bound is LagBound.LOWER else ""
        worst_s = max(r.error_s or 0.0 for r in readings)
        known = all(r.error_s is not None for r in readings)
        cells = [
            case,
            seconds(last.least_s),
            f"{shown}{cell(readings, lambda r: r.shown.lag_s)}",
            cell(readings, lambda r: r.usual_s),
            cell(readings, lambda r: r.replay_lag_s),
            f"{worst_s:.2f} s" if known else "unknown",
        ]
        self.rows.append(f"| {' | '.join(cells)} |")
        print(self.rows[-1], flush=True)

    def follow(self, node: str, for_s: float) -> list[Reading]:
        """One node, look after look."""
        return [look[node] for look in self.watch.follow(for_s)]

    def settle(self) -> None:
        """Go on when all replicas have everything, and the writer writes."""
        self.writer.pad_bytes = 100
        self.writer.resume()
        self.watch.follow_until(
            lambda look: len(look) == 3 and all(r.most_s == 0 == r.shown.lag_s for r in look.values()),
            "all replicas have all rows",
            limit_s=40,
        )
        self.watch.follow(2)


def seconds(value: float | None) -> str:
    """A number of seconds, or that there is none."""
    return "none" if value is None else f"{value:.1f} s"


def cell(readings: list[Reading], said: Callable[[Reading], float | None]) -> str:
    """What was said at the last look; bold where it was off by more than an interval at any look."""
    off = [r.off(said(r)) or 0.0 for r in readings]
    text = seconds(said(readings[-1]))
    return f"**{text}**" if max(off) > INTERVAL_S + NOISE_S else text


def quiet_cases(table: Table) -> None:
    """Nothing is wrong."""
    table.settle()
    table.add("rows come in, all is well", table.follow("pg2", 5))
    table.writer.rest()
    table.add("the primary is idle, all is well", table.follow("pg2", 20))
    table.lab.stop("pg2")
    table.lab.start("pg2")
    table.add("restarted, the primary is idle", table.follow("pg2", 6))
    with open_transaction(table.lab) as execute:
        readings: list[Reading] = []
        for _ in range(3):
            execute(PAGES)
            readings += table.follow("pg2", 2)
        table.add("a transaction is left open, all is well", readings[1:])


def replay_cases(table: Table) -> None:
    """Replay is held back."""
    table.settle()
    with paused(table.lab, "pg2"):
        table.add("replay is paused, rows come in", table.follow("pg2", 8))
        table.writer.rest()
        table.add("replay is paused, the primary is idle", table.follow("pg2", 8))
    table.watch.follow_until(lambda look: look["pg2"].most_s == 0, "pg2 has caught up")
    table.add("replay goes on again, nothing is missing", table.follow("pg2", 3))
    table.settle()
    with delayed(table.lab, "pg2", "3s"):
        table.add("`recovery_min_apply_delay = 3s`", table.follow("pg2", 8))


def transport_cases(table: Table) -> None:
    """WAL does not arrive, or comes by another way."""
    table.settle()
    with cut(table.lab, "pg2"):
        table.writer.pad_bytes = 200_000
        looks = table.watch.follow_until(
            lambda look: (look["pg2"].most_bytes or 0) > 20 * MIB, "20 MB are missing", limit_s=30
        )
        table.add("cut off while 20 MB are written", [look["pg2"] for look in looks])
    table.settle()
    with cut(table.lab, "pg3"):
        table.add("streams from a replica that is cut off", table.follow("pg4", 8))
    table.settle()
    table.writer.rest()
    with archive_only(table.lab, "pg2"):
        table.writer.resume()
        table.writer.pad_bytes = 150_000
        table.watch.follow_until(lambda look: "pg2" in look and look["pg2"].least_s > 0, "a row is missing")
        table.add("fed from the archive, rows come in", table.follow("pg2", 12))


def primary_cases(table: Table) -> None:
    """The primary is gone; last of all, since nobody brings it back."""
    table.settle()
    with paused(table.lab, "pg3"):
        table.watch.follow(2)
        table.writer.rest()
        table.watch.silent.add("pg1")
        table.lab.kill("pg1")
        table.add("the primary is gone, replay is paused", table.follow("pg3", 8))


def promoted_case(table: Table) -> None:
    """What the formulas say on a replica that became the primary."""
    with superuser(table.lab, "pg2") as connection:
        connection.execute("SELECT pg_promote()")
    table.watch.follow_until(lambda look: "pg2" not in look, "pg2 is seen as the primary")
    table.watch.follow(5)
    usual_s, _ = table.watch.formulas("pg2")
    shown_s = table.watch.last.status["pg2"].lag_s if table.watch.last else None
    usual = f"**{seconds(usual_s)}**" if usual_s is not None else seconds(usual_s)
    table.rows.append(
        f"| promoted: a primary has no lag | none | {seconds(shown_s)} | {usual} | none | 0.00 s |"
    )
    print(table.rows[-1], flush=True)


@contextmanager
def cluster(major: int) -> Iterator[Table]:
    """A cluster of this version with rows coming in, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as folder:
        Path(folder).chmod(0o755)  # started as root, the servers run as somebody else
        place, pg_bin = Path(folder) / "lab", SERVERS[major]
        with Lab.up(place, replicas=3, cascade=True, fsync=False, pg_bin=pg_bin) as lab:
            for node in ("pg2", "pg3", "pg4"):
                set_on(lab, node, wal_retrieve_retry_interval="500ms")
            inventory = load_one(lab.inventory_path)
            with Writer(lab) as writer, Watch(lab, inventory, writer, interval_s=INTERVAL_S) as watch:
                yield Table(lab, writer, watch)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--pg", type=int, default=max(SERVERS), choices=sorted(SERVERS))
    options.add_argument("--print", action="store_true", dest="only_print")
    chosen = options.parse_args()
    print(HEAD)
    with cluster(chosen.pg) as table:
        for cases in (quiet_cases, replay_cases, transport_cases, primary_cases, promoted_case):
            cases(table)
        version = table.lab.server_version
    content = "\n".join([HEAD, *table.rows, "", f"PostgreSQL {version}; {machine()}; a look every second."])
    if not chosen.only_print:
        write_section("lag-cases", content, DOCUMENT)


if __name__ == "__main__":
    main()
