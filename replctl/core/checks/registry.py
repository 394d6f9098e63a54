"""The registry of health checks, and what a check function gets to work with.

The checks themselves stand in the other modules of this package; importing it fills CHECKS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from replctl.core.model import NodeFacts
from replctl.core.results import CheckResult, Metric, Status
from replctl.core.status import ClusterStatus, NodeStatus
from replctl.core.thresholds import THRESHOLD_KEYS, Range, Unit, parse_range
from replctl.core.units import format_bytes

Of = Literal["cluster", "node", "replica", "primary"]
"""What a check is about: the cluster as a whole, or every node, or those of one role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A registered check."""

    name: str
    of: Of
    help: str
    hint: str  # the next command or the statement that mends it
    meaning: str  # what it means and what to do, for the documentation
    thresholds: tuple[str, ...] = ()  # keys of THRESHOLD_KEYS
    run: Callable[[Context], Iterable[CheckResult]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Context:
    """What a check function gets: the cluster, and its own thresholds and hint."""

    status: ClusterStatus
    check: Check

    def result(
        self,
        status: Status,
        message: str,
        node: NodeStatus | str | None = None,
        *,
        subject: str | None = None,
        hint: str | None = None,
        metrics: tuple[Metric, ...] = (),
    ) -> CheckResult:
        """A result of this check; the check's own hint unless another is given, none when OK."""
        return CheckResult(
            name=self.check.name,
            status=status,
            message=message,
            node=node.name if isinstance(node, NodeStatus) else node,
            subject=subject,
            hint=None if status is Status.OK else (hint or self.check.hint),
            metrics=metrics,
        )

    def answering(self) -> Iterator[tuple[NodeStatus, NodeFacts]]:
        """Every node that answered, with its facts."""
        for node in self.status.nodes:
            if node.facts is not None:
                yield node, node.facts

    def ranges(self, key: str, node: NodeStatus) -> tuple[Range, Range]:
        """Warning and critical for `key`: the node's own, else the cluster's, else the default."""
        unit = THRESHOLD_KEYS[key].unit
        given = self.status.settings.thresholds(key, node.name)
        return parse_range(given.warning, unit), parse_range(given.critical, unit)

    def held_against(
        self, key: str, value: float, node: NodeStatus, label: str = ""
    ) -> tuple[Status, Metric]:
        """The status of a number by its thresholds, and the number as a metric."""
        return compare(value, self.ranges(key, node), label or f"{node.name}_{key}", THRESHOLD_KEYS[key].unit)


def compare(value: float, ranges: tuple[Range, Range], label: str, unit: Unit) -> tuple[Status, Metric]:
    """Hold a number against a warning and a critical range."""
    warning, critical = ranges
    status = Status.WARNING if warning.alerts(value) else Status.OK
    status = Status.CRITICAL if critical.alerts(value) else status
    return status, Metric(label=label, value=value, unit=unit, warning=warning, critical=critical)


def behind(node: NodeStatus) -> str:
    """`, 1.2 GiB behind`, or nothing when it is not behind or not known to be."""
    lag_bytes = node.lag.lag_bytes
    return f", {format_bytes(lag_bytes)} behind" if lag_bytes and lag_bytes > 0 else ""


CHECKS: dict[str, Check] = {}

Run = Callable[[Context], Iterable[CheckResult]]


def check(
    name: str,
    *,
    of: Of,
    help: str,  # noqa: A002 - as in Check
    hint: str,
    meaning: str,
    thresholds: tuple[str, ...] = (),
) -> Callable[[Run], Run]:
    """Register a check under its name, in the order of the file, which is the order of the output."""

    def register(run: Run) -> Run:
        CHECKS[name] = Check(
            name=name,
            of=of,
            help=help,
            hint=hint,
            meaning=meaning,
            thresholds=thresholds,
            run=run,
        )
        return run

    return register


def evaluate(
    status: ClusterStatus, only: frozenset[str] | None = None, skip: frozenset[str] = frozenset()
) -> tuple[CheckResult, ...]:
    """Run the checks: all, or `only` these, without `skip`."""
    wanted = [c for c in CHECKS.values() if (only is None or c.name in only) and c.name not in skip]
    return tuple(result for c in wanted for result in c.run(Context(status, c)))
