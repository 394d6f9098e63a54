"""Waiting until something has lasted: one look may come at a bad moment."""

from __future__ import annotations

from dataclasses import dataclass, field

SEEN_TWICE_S = 1.0  # what is to be mended has been so for at least this long


@dataclass
class Patience:
    """Since when something has been so without interruption."""

    _since_s: dict[str, float] = field(default_factory=dict)

    def has_lasted(self, what: str, holds: bool, at_s: float, limit_s: float = SEEN_TWICE_S) -> bool:
        """Whether it holds, and has held at every call for `limit_s`."""
        if not holds:
            self._since_s.pop(what, None)
            return False
        return at_s - self._since_s.setdefault(what, at_s) >= limit_s
