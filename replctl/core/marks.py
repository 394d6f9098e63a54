"""What replctl.state says: is automatic failover paused or blocked, and which nodes are drained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DRAIN = "drain:"
"""What the keys of drained nodes begin with; the rest is the node's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One mark: why, since when and until when (Unix times; None = until it is taken away)."""

    reason: str
    since_at: float
    until_at: float | None

    def holds(self, now: float) -> bool:
        """Whether it still holds."""
        return self.until_at is None or now < self.until_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """All marks of a cluster."""

    pause: Mark | None = None
    block: Mark | None = None
    sync: Mark | None = None  # fewer replicas have to confirm than the inventory says, until they are back
    drained: dict[str, Mark] = field(default_factory=dict)  # by node: it serves no reads

    def of(self, key: str) -> Mark | None:
        """The mark that is kept under this key; None where there is none."""
        if key.startswith(DRAIN):
            return self.drained.get(key.removeprefix(DRAIN))
        return {"pause": self.pause, "block": self.block, "sync": self.sync}[key]

    def objection(self, now: float) -> str | None:
        """Why no automatic failover may happen now; None when it may."""
        if self.pause is not None and self.pause.holds(now):
            return f"paused: {self.pause.reason}"
        if self.block is not None and self.block.holds(now):
            return f"blocked after a failover: {self.block.reason}"
        return None


def parse_marks(rows: dict[str, Any]) -> Marks:
    """Read the rows. One that cannot be read holds for ever: what is unclear makes stricter, never looser."""
    drained = {
        key.removeprefix(DRAIN): mark
        for key, value in rows.items()
        if key.startswith(DRAIN) and (mark := _mark(value)) is not None
    }
    return Marks(**{key: _mark(rows.get(key)) for key in ("pause", "block", "sync")}, drained=drained)


def _mark(value: Any) -> Mark | None:
    if value is None:
        return None
    try:
        until = value["until_at"]
        return Mark(
            reason=str(value.get("reason") or "no reason given"),
            since_at=float(value["since_at"]),
            until_at=None if until is None else float(until),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return Mark(reason="a mark that cannot be read", since_at=0.0, until_at=None)
