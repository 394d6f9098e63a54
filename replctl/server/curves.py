"""The lag of each replica over the last half hour, for the page: the highest of every few seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

STEP_S = 5.0
STEPS_MAX = 360


class Curves:
    """A ring of lags for each replica. Times are Unix times, lags bytes; None = not known."""

    def __init__(self) -> None:
        self._lags: dict[str, deque[int | None]] = {}
        self._steps: deque[int] = deque(maxlen=STEPS_MAX)

    def add(self, at: float, lags: Mapping[str, int | None]) -> None:
        """One more look. Within a step the highest lag stays; a clock that went back begins anew."""
        step = int(at // STEP_S)
        if self._steps and step < self._steps[-1]:
            self._steps.clear()
            self._lags.clear()
        if not self._steps or step > self._steps[-1]:
            self._steps.append(step)
            for kept in self._lags.values():
                kept.append(None)
        for name, lag in lags.items():
            kept = self._lags.setdefault(name, deque([None] * len(self._steps), maxlen=STEPS_MAX))
            known = [value for value in (kept[-1], lag) if value is not None]
            kept[-1] = max(known, default=None)

    def of(self, name: str) -> list[int | None]:
        """The lags of one replica, a value for every step from the first to the last, the newest last."""
        if not self._steps or name not in self._lags:
            return []
        first = max(self._steps[0], self._steps[-1] - STEPS_MAX + 1)
        values: list[int | None] = [None] * (self._steps[-1] - first + 1)
        for step, lag in zip(self._steps, self._lags[name], strict=True):
            if step >= first:
                values[step - first] = lag
        return values
