"""What the dashboard shows: panel by panel, each asking for metrics of the registry."""

from __future__ import annotations

from dataclasses import dataclass, replace

from replctl.core.metrics import Family
from replctl.core.metrics import families as f
from replctl.render.promql import series

Words = tuple[tuple[str, str, str], ...]
"""Value, text and colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One expression of a panel, and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. `threshold` is the key of `[checks]` whose numbers it shows."""

    kind: str  # timeseries | stat | table | state-timeline
    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 12
    height: int = 8
    threshold: str | None = None
    words: Words = ()
    description: str = ""


def of(family: Family, **equal: str) -> str:
    """A series of the chosen clusters and nodes."""
    chosen = ['cluster=~"$cluster"'] + (['node=~"$node"'] if "node" in family.labels else [])
    return series(family, *chosen, **equal)


VERDICTS: Words = (
    ("0", "OK", "green"),
    ("1", "WARNING", "orange"),
    ("2", "CRITICAL", "red"),
    ("3", "UNKNOWN", "purple"),
)
ROLES: Words = (("0", "silent", "red"), ("1", "replica", "blue"), ("2", "primary", "green"))
YES_OR_NO: Words = (("0", "no", "red"), ("1", "yes", "green"))
NODE = "{{cluster}} {{node}}"
SLOT = "{{node}} {{slot_name}}"


def _tile(title: str, expr: str, words: Words = ()) -> Panel:
    query = Query(expr=expr, legend="{{cluster}}")
    return Panel(kind="stat", title=title, queries=(query,), width=4, height=4, words=words)


def _graph(
    title: str, *queries: tuple[str, str], unit: str = "short", threshold: str | None = None, about: str = ""
) -> Panel:
    found = tuple(Query(expr=expr, legend=legend) for legend, expr in queries)
    return Panel(
        kind="timeseries", title=title, queries=found, unit=unit, threshold=threshold, description=about
    )


def _strip(title: str, legend: str, expr: str, words: Words) -> Panel:
    query = Query(expr=expr, legend=legend)
    return Panel(kind="state-timeline", title=title, queries=(query,), words=words)


def panels() -> tuple[Panel, ...]:
    """Every panel, in the order of the page."""
    return (*_tiles(), *_lag(), *_history(), *_storage(), *_ourselves())


def _tiles() -> tuple[Panel, ...]:
    return (
        _tile("Verdict", of(f.CLUSTER_STATUS), VERDICTS),
        _tile("Primaries", of(f.PRIMARIES)),
        _tile("Nodes that answer", f"sum by (cluster) ({of(f.UP)})"),
        _tile("Replicas fit for reads", f"sum by (cluster) ({of(f.IN_POOL)})"),
        _tile("Failovers", f"max by (cluster) (increase({of(f.FAILOVERS)}[$__range]))"),
        _tile("Slots without consumer", f"sum by (cluster) ({of(f.SLOT_ACTIVE)} == bool 0)"),
    )


def _lag() -> tuple[Panel, ...]:
    written, replayed = (f"rate({of(family)}[$__rate_interval])" for family in (f.POSITION, f.REPLAYED))
    return (
        _graph("Lag", (NODE, of(f.LAG_SECONDS)), unit="s", threshold="lag_s"),
        _graph("Lag in WAL", (NODE, of(f.LAG_BYTES)), unit="bytes", threshold="lag_bytes"),
        _graph(
            "Where it is behind",
            ("{{node}} transport", of(f.TRANSPORT_LAG)),
            ("{{node}} apply", of(f.APPLY_LAG)),
            unit="bytes",
            about="Transport: not received, so look at the network. Apply: received and not replayed.",
        ),
        _graph(
            "WAL written and replayed",
            ("{{node}} written", written),
            ("{{node}} replayed", replayed),
            unit="Bps",
        ),
    )


def _history() -> tuple[Panel, ...]:
    numbered = enumerate(("unknown", "replica", "primary"))
    roles = " or ".join(f"{number} * ({of(f.ROLE, role=role)} == 1)" for number, role in numbered)
    states = Query(expr=f"{of(f.STATE)} == 1")
    return (
        _strip("Roles", NODE, f"max by (cluster, node) ({roles})", ROLES),
        _strip("Receives WAL", NODE, of(f.RECEIVER_CONNECTED), YES_OR_NO),
        _graph("Timeline", (NODE, of(f.TIMELINE))),
        Panel(kind="table", title="States", queries=(states,)),
    )


def _storage() -> tuple[Panel, ...]:
    failed = f"increase({of(f.ARCHIVE_FAILED)}[$__rate_interval])"
    conflicts = f"increase({of(f.CONFLICTS)}[$__rate_interval])"
    return (
        _graph(
            "WAL kept by slots", (SLOT, of(f.SLOT_RETAINED)), unit="bytes", threshold="slot_retained_bytes"
        ),
        _strip("Slots in use", SLOT, of(f.SLOT_ACTIVE), YES_OR_NO),
        _graph("Failures to archive", ("{{node}}", failed)),
        _graph("Queries cancelled by replay", ("{{node}} {{type}}", conflicts)),
    )


def _ourselves() -> tuple[Panel, ...]:
    took = _graph("Time to answer", (NODE, of(f.SCRAPE_DURATION)), unit="s")
    skew = _graph("Clock skew", (NODE, of(f.CLOCK_SKEW)), unit="s", threshold="clock_skew_s")
    return replace(took, height=6), replace(skew, height=6)
