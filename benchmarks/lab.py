"""How long `replctl lab up` takes: a primary and two replicas that stream, on every server version here.

python -m benchmarks.lab [--rounds 5] [--print]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import machine, write_section
from tests.live.servers import SERVERS

LIMIT_S = 60.0


def one_up(pg_bin: Path, base: Path) -> float:
    """Seconds of one `lab up` as a whole process; the lab is gone afterwards."""
    place = ["--dir", str(base / "lab")]
    lab = [sys.executable, "-m", "replctl", "lab"]
    started_s = time.perf_counter()
    try:
        subprocess.run(
            [*lab, "up", *place, "--replicas", "2", "--pg-bin", str(pg_bin)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=LIMIT_S,
        )
        return time.perf_counter() - started_s
    finally:
        subprocess.run([*lab, "down", *place], check=True, stdout=subprocess.DEVNULL, timeout=LIMIT_S)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--print", action="store_true", dest="only_print")
    chosen = options.parse_args()
    lines = ["| PostgreSQL | median | slowest |", "|---|---:|---:|"]
    for major, pg_bin in sorted(SERVERS.items()):
        with tempfile.TemporaryDirectory(prefix="replctl-bench-") as folder:
            Path(folder).chmod(0o755)  # started as root, the servers run as somebody else
            taken_s = [one_up(pg_bin, Path(folder)) for _ in range(chosen.rounds)]
        lines.append(f"| {major} | {statistics.median(taken_s):.1f} s | {max(taken_s):.1f} s |")
    table = "\n".join(lines)
    content = f"{table}\n\n{machine()}; {chosen.rounds} rounds, fsync on."
    print(content)
    if not chosen.only_print:
        write_section("lab", content)


if __name__ == "__main__":
    main()
