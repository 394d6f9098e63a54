"""What alert rules are made of: a series of one cluster, thresholds of the inventory, words.

A number that the inventory has a threshold for is asked for with that threshold, of each node with its own;
where a check is more than a number, its result is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from replctl.core.metrics import Family
from replctl.core.settings import ClusterSettings
from replctl.core.thresholds import NEVER, THRESHOLD_KEYS, Range, parse_range
from replctl.render.promql import among, series

WARNING, CRITICAL = "warning", "critical"
NODE = "{{ $labels.node }}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert rule. `for_s` = how long it has to hold."""

    name: str
    expr: str
    severity: str
    summary: str
    description: str
    for_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A recording rule."""

    name: str
    expr: str


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes with the same thresholds, and what chooses them in a series."""

    matcher: str | None
    warning: Range
    critical: Range
    is_own: bool = False  # of nodes that have thresholds of their own

    @property
    def levels(self) -> tuple[tuple[str, Range], ...]:
        """Severity and range; what never alerts is left out."""
        both = ((WARNING, self.warning), (CRITICAL, self.critical))
        return tuple((severity, allowed) for severity, allowed in both if allowed != NEVER)


def groups(settings: ClusterSettings, key: str) -> list[Group]:
    """The cluster's thresholds for a key, and those of nodes that have their own."""
    unit = THRESHOLD_KEYS[key].unit
    own = [spec.name for spec in settings.nodes if key in spec.checks.thresholds]
    found: dict[tuple[Range, Range], list[str]] = {}
    for name in own:
        given = settings.thresholds(key, name)
        ranges = (parse_range(given.warning, unit), parse_range(given.critical, unit))
        found.setdefault(ranges, []).append(name)
    shared = settings.thresholds(key)
    rest = among(own, is_in=False) if own else None
    first = Group(rest, parse_range(shared.warning, unit), parse_range(shared.critical, unit))
    return [first, *(Group(among(names), *ranges, True) for ranges, names in found.items())]


@dataclass(frozen=True, slots=True)
class Scope:
    """The cluster that rules are about."""

    settings: ClusterSettings

    @property
    def cluster(self) -> str:
        """Its name."""
        return self.settings.name

    def of(self, family: Family, *matchers: str | None, **equal: str) -> str:
        """A series of this cluster."""
        return series(family, *filter(None, matchers), cluster=self.cluster, **equal)


def by_severity(
    scope: Scope, key: str, make: Callable[[Group, str, Range], str | None]
) -> Iterator[tuple[str, str]]:
    """Severity and expression for the thresholds of `key`: of all groups of nodes in one.

    `make` gives the expression of one group; None where nothing ever alerts.
    """
    parts: dict[str, list[str]] = {WARNING: [], CRITICAL: []}
    for group in groups(scope.settings, key):
        for severity, allowed in group.levels:
            made = make(group, severity, allowed)
            parts[severity] += [] if made is None else [made]
    for severity, found in parts.items():
        if found:
            yield severity, found[0] if len(found) == 1 else " or ".join(f"({one})" for one in found)
