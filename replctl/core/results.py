"""What a check says: a status, one sentence, a hint, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from replctl.core.thresholds import Range, Unit


class Status(IntEnum):
    """The four words and exit codes of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def rank(self) -> int:
        """Order of badness: OK < UNKNOWN < WARNING < CRITICAL."""
        return {Status.OK: 0, Status.UNKNOWN: 1, Status.WARNING: 2, Status.CRITICAL: 3}[self]


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of them; OK for none."""
    return max(statuses, key=lambda s: s.rank, default=Status.OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number of a check, in its base unit, with the thresholds it was held against."""

    label: str
    value: float | None
    unit: Unit
    warning: Range | None = None
    critical: Range | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What one check found on one node, or (node None) on the cluster."""

    name: str
    status: Status
    message: str
    node: str | None = None
    subject: str | None = None  # what on that node, where there are several: the slot's name
    hint: str | None = None
    metrics: tuple[Metric, ...] = ()

    @property
    def code(self) -> str:
        """The check's name as JSON spells it."""
        return self.name.replace("-", "_")
