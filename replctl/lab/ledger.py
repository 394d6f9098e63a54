"""The rows that were acknowledged to a load, and what they say about the cluster afterwards. Pure.

- An **outage** is the time between one acknowledged row and the next, of whichever writer, where that is
  longer than 100 ms and one interval; so it is at most an interval too long, and never too short. The
  first row has a second, since every client has to connect first.
- A row is **missing** when it was acknowledged and the current primary does not have it. It was
  acknowledged **late** when the node that did so was no longer the primary: when a higher timeline had
  begun, or had been seen to acknowledge a row, before. Every other missing row is **lost**.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

OUTAGE_S = 0.1
FIRST_ROW_S = 1.0


class Row(NamedTuple):
    """A row whose commit was acknowledged. `at` is our Unix time of the acknowledgement."""

    writer: int
    id: int
    node: str
    timeline: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Nothing was acknowledged from `started_at` (Unix time) on for `length_s`; `over` = it ended."""

    started_at: float
    length_s: float
    over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a load met with. None = not known: no primary could be asked, or that was not measured."""

    run: str
    started_at: float
    took_s: float
    writers: int
    interval_s: float
    deadline_s: float
    rows_acknowledged: int
    rows_unanswered: int  # sent, and refused or not answered in time: written or not
    rows_unconfirmed: int  # committed with the warning that no replica has it: not counted as acknowledged
    acknowledged_by: dict[str, int]
    compared_with: str | None  # the current primary
    rows_lost: int | None
    rows_late: int | None
    outages: tuple[Outage, ...]
    longest_gap_s: float | None  # between two acknowledged rows; None with fewer than two
    ordinary_outages: tuple[Outage, ...] | None
    ordinary_rows: int | None
    ledger_file: Path | None

    @property
    def longest_outage_s(self) -> float:
        """Length of the longest outage, 0 where there was none."""
        return max((outage.length_s for outage in self.outages), default=0.0)

    @property
    def write_path_down_s(self) -> float:
        """Length of all outages together."""
        return sum(outage.length_s for outage in self.outages)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON document: times ISO 8601 UTC, lengths in seconds."""
        ordinary = None
        if self.ordinary_outages is not None:
            ordinary = {
                "rows_acknowledged": self.ordinary_rows,
                "outages": [_outage_json(outage) for outage in self.ordinary_outages],
            }
        return {
            "schema_version": 1,
            "run": self.run,
            "started_at": _iso(self.started_at),
            "took_s": round(self.took_s, 3),
            "writers": self.writers,
            "interval_s": self.interval_s,
            "deadline_s": self.deadline_s,
            "rows_acknowledged": self.rows_acknowledged,
            "rows_unanswered": self.rows_unanswered,
            "rows_unconfirmed": self.rows_unconfirmed,
            "acknowledged_by": self.acknowledged_by,
            "compared_with": self.compared_with,
            "rows_lost": self.rows_lost,
            "rows_late": self.rows_late,
            "outages": [_outage_json(outage) for outage in self.outages],
            "longest_outage_s": round(self.longest_outage_s, 3),
            "longest_gap_s": None if self.longest_gap_s is None else round(self.longest_gap_s, 4),
            "write_path_down_s": round(self.write_path_down_s, 3),
            "ordinary_client": ordinary,
            "ledger_file": None if self.ledger_file is None else str(self.ledger_file),
        }


def outages(
    acknowledged_at: Sequence[float], *, started_at: float, ended_at: float, interval_s: float
) -> tuple[Outage, ...]:
    """The gaps between these Unix times, from the start of the load to its end."""
    found = []
    before, limit_s = started_at, FIRST_ROW_S
    for at in sorted(acknowledged_at):
        if at - before > limit_s:
            found.append(Outage(started_at=before, length_s=at - before, over=True))
        before, limit_s = max(before, at), OUTAGE_S + interval_s
    if ended_at - before > limit_s:
        found.append(Outage(started_at=before, length_s=ended_at - before, over=False))
    return tuple(found)


def longest_gap(acknowledged_at: Sequence[float]) -> float | None:
    """The longest time between two of these; None where there are fewer than two."""
    ordered = sorted(acknowledged_at)
    return max((after - before for before, after in pairwise(ordered)), default=None)


def late_and_lost(
    rows: Iterable[Row], present: set[tuple[int, int]], began: Mapping[int, float]
) -> tuple[int, int]:
    """How many acknowledged rows are missing: (late, lost).

    `present` holds (writer, id) of the current primary's rows; `began` when each timeline began, where
    that is known from elsewhere.
    """
    rows = list(rows)
    first = dict(began)
    for row in rows:
        first[row.timeline] = min(row.at, first.get(row.timeline, row.at))
    late = lost = 0
    for row in rows:
        if (row.writer, row.id) in present:
            continue
        if any(timeline > row.timeline and at <= row.at for timeline, at in first.items()):
            late += 1
        else:
            lost += 1
    return late, lost


def count_by_node(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows each node acknowledged, by name."""
    return dict(sorted(Counter(row.node for row in rows).items()))


def _outage_json(outage: Outage) -> dict[str, Any]:
    return {
        "started_at": _iso(outage.started_at),
        "length_s": round(outage.length_s, 3),
        "over": outage.over,
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
