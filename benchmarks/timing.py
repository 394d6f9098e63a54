"""Timing of programs against each other, and the tables of docs/benchmarks.md.

Only ratios within one run mean anything on somebody else's machine: the programs are run in turn, so
that whatever slows the machine down slows down all of them, and the median is compared.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "docs" / "benchmarks.md"
RUN_LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program to time: what the table calls it, its argv, what its environment has besides."""

    title: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> float:
        """Seconds of one run. Raises RuntimeError, with what it wrote on stderr, when it fails."""
        started_s = time.perf_counter()
        done = subprocess.run(
            self.command,
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=RUN_LIMIT_S,
        )
        took_s = time.perf_counter() - started_s
        if done.returncode != 0:
            raise RuntimeError(f"{self.title} ended with {done.returncode}: {done.stderr.strip()}")
        return took_s


def in_turn(programs: Sequence[Program], rounds: int) -> dict[str, float]:
    """The median seconds of each program, by title, over `rounds` rounds of A B C, A B C, ...

    One more round before it warms the caches and is not counted.
    """
    seconds: dict[str, list[float]] = {program.title: [] for program in programs}
    for number in range(rounds + 1):
        for program in programs:
            took_s = program.run()
            if number:
                seconds[program.title].append(took_s)
    return {title: statistics.median(taken) for title, taken in seconds.items()}


def ratio_table(medians_s: Mapping[str, float], baseline: str) -> str:
    """A Markdown table of the medians and of each as a multiple of the baseline's."""
    lines = ["| program | median | ratio |", "|---|---:|---:|"]
    lines += [
        f"| {title} | {median_s * 1000:.0f} ms | {median_s / medians_s[baseline]:.2f} |"
        for title, median_s in medians_s.items()
    ]
    return "\n".join(lines)


def machine() -> str:
    """What the figures were taken on, in one line."""
    cores = len(os.sched_getaffinity(0))
    return f"Python {platform.python_version()}, {cores} cores, {platform.system()} {platform.machine()}"


def with_section(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers of section `name` replaced. Raises ValueError."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the markers '{begin}' and '{end}' are not there exactly once and in order")
    before, after = text.partition(begin)[0], text.partition(end)[2]
    return f"{before}{begin}\n{content.strip()}\n{end}{after}"


def write_section(name: str, content: str, path: Path = TABLES) -> None:
    """Write a section of a document between its markers."""
    path.write_text(with_section(path.read_text(encoding="utf-8"), name, content), encoding="utf-8")
