"""What is another now than at an earlier look, which may have been another run's: the makings of events.

What was known of a silent node stays known until it says otherwise: a fact that is unknown has not changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from replctl.core.status import ClusterStatus, NodeStatus

FACTS = ("state", "role", "timeline", "upstream")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the looks up to now have left. `at` = Unix time of the last one that found something new."""

    at: float
    system: str | None = None  # the system identifier of the servers
    primary: str | None = None  # the last there was
    failovers: int = 0  # how often another node was seen to have taken over the writes
    nodes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by node: its facts as text


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    """One fact that is another now."""

    at: float  # Unix time of the look that saw it
    fact: str  # primary | state | role | timeline | upstream
    node: str
    before: str
    after: str

    @property
    def message(self) -> str:
        """One sentence."""
        if self.fact == "primary":
            return f"{self.after} is the primary now, {self.before} was"
        return f"{self.node}: {self.fact} {self.before} → {self.after}"


def notice(known: Known | None, status: ClusterStatus) -> tuple[Known, tuple[Noticed, ...]]:
    """What is known after this look, and what it found to be another. A first look finds nothing.

    A look from before the last change is an older one that took longer: it says nothing. Other servers under
    the same names, such as a lab that was built anew, have changed nothing; failovers go on being counted.
    """
    if known is not None and status.observed_at <= known.at:
        return known, ()
    nodes = {node.name: _facts(node) for node in status.nodes if node.name not in status.state.cut_short}
    system = status.system_identifier or (known.system if known else None)
    if known is None or known.system not in (None, system):
        failovers = known.failovers if known else 0
        first = Known(
            at=status.observed_at, system=system, primary=status.primary, failovers=failovers, nodes=nodes
        )
        return first, ()
    names = [node.name for node in status.nodes]
    merged = {name: {**known.nodes.get(name, {}), **nodes.get(name, {})} for name in names}
    taken_over = None not in (known.primary, status.primary) and known.primary != status.primary
    after = Known(
        at=status.observed_at,
        system=system,
        primary=status.primary or known.primary,
        failovers=known.failovers + taken_over,
        nodes=merged,
    )
    found = tuple(_differences(known, after))
    if not found and (system, after.primary, merged) == (known.system, known.primary, dict(known.nodes)):
        return known, ()
    return after, found


def _facts(node: NodeStatus) -> dict[str, str]:
    facts = {fact: getattr(node, fact) for fact in FACTS}
    return {fact: str(value) for fact, value in facts.items() if value is not None}


def _differences(before: Known, after: Known) -> Iterator[Noticed]:
    if before.primary is not None and after.primary is not None and before.primary != after.primary:
        was, now = before.primary, after.primary
        yield Noticed(at=after.at, fact="primary", node=now, before=was, after=now)
    for name, facts in after.nodes.items():
        earlier = before.nodes.get(name, {})
        for fact, value in facts.items():
            if fact in earlier and earlier[fact] != value:
                yield Noticed(at=after.at, fact=fact, node=name, before=earlier[fact], after=value)
