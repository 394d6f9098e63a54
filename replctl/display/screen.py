"""What the dashboard knows and how the user set it: values, from which `frame` draws.

A look, a key, a new size: each gives another Screen. No clock, no terminal, no server in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from replctl.core.changes import Known, Noticed, notice
from replctl.core.report import Report
from replctl.core.results import Status
from replctl.core.settings import ClusterSettings
from replctl.core.status import NodeStatus
from replctl.display.columns import Row
from replctl.display.overview import severities
from replctl.display.sparkline import CELLS
from replctl.display.style import Medium
from replctl.display.table import tree_order

CHANGES_MAX = 5
OLD_INTERVALS = 3  # data older than this many intervals is marked
INTERVALS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
INTERVAL_MIN_S = INTERVALS_S[0]


class Sort(StrEnum):
    """Orders of the rows. PROBLEMS keeps the inventory's order among equals: rows do not jump about."""

    PROBLEMS = "problems"
    INVENTORY = "inventory"
    NAME = "name"
    LAG = "lag"
    STATE = "state"


class Overlay(StrEnum):
    """What stands in the place of the table."""

    NONE = "none"
    HELP = "help"
    DETAIL = "detail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of one cluster since the dashboard began."""

    settings: ClusterSettings
    report: Report | None = None  # None = the first look is under way
    last: dict[str, NodeStatus] = field(default_factory=dict)  # the last facts of each node
    last_at: dict[str, float] = field(default_factory=dict)  # when they were sampled, our Unix time
    lags: dict[str, tuple[int | None, ...]] = field(default_factory=dict)  # the last looks, None = not known
    known: Known | None = None
    changes: tuple[Noticed, ...] = ()

    def and_now(self, report: Report) -> Seen:
        """With one more look."""
        status = report.status
        # After a clock that was set back, begin anew: all looks would be older than what is known.
        is_newer = self.known is not None and self.known.at < status.observed_at
        known, found = notice(self.known if is_newer else None, status)
        answering = [n for n in status.nodes if n.reachable]
        skew_s = status.observed_at - status.state.observed_at_s
        return replace(
            self,
            report=report,
            last=self.last | {n.name: n for n in answering},
            last_at=self.last_at | {n.name: n.sampled_at_s + skew_s for n in answering},
            lags={
                n.name: (*self.lags.get(n.name, ())[-(CELLS - 1) :], n.lag.lag_bytes) for n in status.nodes
            },
            known=known,
            changes=(*self.changes, *found)[-CHANGES_MAX:],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """One dashboard: what was seen, how it is shown. `medium.width` is never None here."""

    clusters: tuple[Seen, ...]
    medium: Medium
    height: int
    now: float = 0.0  # our Unix time of this frame
    interval_s: float = 2.0
    current: int = 0  # which of the clusters is shown
    paused: bool = False
    sort: Sort = Sort.PROBLEMS
    reverse: bool = False
    as_tree: bool = False
    wide: bool = False
    first_column: int = 0  # of a wide table that does not fit
    problems_only: bool = False
    filter: str = ""
    typing: bool = False  # the keys go into the filter
    selected: str | None = None
    overlay: Overlay = Overlay.NONE
    scroll: int = 0  # first line shown of an overlay

    @property
    def width(self) -> int:
        """Cells of a line."""
        return self.medium.width or 80

    @property
    def seen(self) -> Seen:
        """The cluster on show."""
        return self.clusters[self.current]

    def with_look(self, cluster: int, report: Report) -> Screen:
        """After a look at one of the clusters."""
        clusters = list(self.clusters)
        clusters[cluster] = clusters[cluster].and_now(report)
        return replace(self, clusters=tuple(clusters))

    def resized(self, width: int, height: int) -> Screen:
        """On a terminal of another size."""
        return replace(self, medium=self.medium._replace(width=width), height=height)

    def rows(self) -> list[Row]:
        """The rows of the cluster on show, filtered and in order."""
        report = self.seen.report
        if report is None:
            return []
        severity = severities(report)
        rows = [self._row(node, severity[node.name], report) for node in report.status.nodes]
        rows = self._as_tree(rows) if self.as_tree else self._sorted(rows)
        if self.problems_only:
            rows = [r for r in rows if r.severity is not Status.OK]
        return [r for r in rows if _matches(r, self.filter)]

    def selected_row(self) -> Row | None:
        """The row that the keys act on: the one chosen, else the first."""
        rows = self.rows()
        return next((r for r in rows if r.node.name == self.selected), rows[0] if rows else None)

    def _row(self, node: NodeStatus, severity: Status, report: Report) -> Row:
        last = None if node.reachable else self.seen.last.get(node.name)
        return Row(
            node=node,
            severity=severity,
            glyphs=self.medium.glyphs,
            bytes_at_least=report.status.primary is None,
            last=last,
            silent_s=max(0.0, self.now - self.seen.last_at[node.name]) if last is not None else None,
            lags=self.seen.lags.get(node.name, ()),
        )

    def _as_tree(self, rows: list[Row]) -> list[Row]:
        by_name = {r.node.name: r for r in rows}
        # A node that is silent keeps its place: below the upstream it had.
        upstreams = {n: r.last.upstream if r.last else r.node.upstream for n, r in by_name.items()}
        order = tree_order(self.seen.settings, upstreams, self.medium.glyphs)
        return [replace(by_name[name], stem=stem) for name, stem in order]

    def _sorted(self, rows: list[Row]) -> list[Row]:
        if self.sort is Sort.PROBLEMS:
            rows = sorted(rows, key=lambda r: -r.severity.rank)
        elif self.sort is Sort.NAME:
            rows = sorted(rows, key=lambda r: r.node.name)
        elif self.sort is Sort.LAG:
            rows = sorted(rows, key=lambda r: 1 if r.node.lag.lag_bytes is None else -r.node.lag.lag_bytes)
        elif self.sort is Sort.STATE:
            rows = sorted(rows, key=lambda r: r.node.state)
        return rows[::-1] if self.reverse else rows


def _matches(row: Row, text: str) -> bool:
    """Whether a row's words contain what the user typed."""
    node = row.node
    words = (node.name, node.role, node.state, node.upstream, node.zone, node.cause, node.host)
    return text.casefold() in " ".join(str(w) for w in words if w is not None).casefold()
