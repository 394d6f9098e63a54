"""How reads are spread over the replicas that are fit: each policy makes a wheel that is then walked.

A policy gets the fit replicas, in the inventory's order, and the own zone. It returns them in the order in
which reads take them, as often as they take part, each with its reason. It makes no node fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from replctl.core.model import Lsn
from replctl.core.routing.reasons import Reason

SLOTS_MAX = 256
"""The longest wheel; shares that need a longer one are rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A replica that may be read from."""

    name: str
    zone: str | None
    weight: int
    lag_bytes: int
    replayed_lsn: Lsn


Wheel = Sequence[tuple[Candidate, Reason]]
Policy = Callable[[Sequence[Candidate], str | None], Wheel]


def round_robin(fit: Sequence[Candidate], _zone: str | None) -> Wheel:
    """Each in turn, as often as any other."""
    return [(c, Reason.ROUND_ROBIN) for c in fit]


def least_lag(fit: Sequence[Candidate], _zone: str | None) -> Wheel:
    """The one with the fewest bytes of lag; those that have equally few in turn."""
    least = min((c.lag_bytes for c in fit), default=0)
    return [(c, Reason.LEAST_LAG) for c in fit if c.lag_bytes == least]


def weighted(fit: Sequence[Candidate], _zone: str | None) -> Wheel:
    """As often as their weights say, evenly mixed: 5, 1 and 1 give a a b a c a a."""
    return [(fit[i], Reason.WEIGHTED) for i in smooth(tuple(c.weight for c in fit))]


def own_zone(fit: Sequence[Candidate], zone: str | None) -> Wheel:
    """Those of the own zone by weight; all of them where there is none, or no zone was given."""
    near = [c for c in fit if zone is not None and c.zone == zone]
    reason = Reason.ZONE if near else Reason.OTHER_ZONE
    return [(c, reason) for c, _ in weighted(near or fit, zone)]


POLICIES: dict[str, Policy] = {
    "round-robin": round_robin,
    "least-lag": least_lag,
    "weighted": weighted,
    "zone": own_zone,
}


@lru_cache(maxsize=64)
def smooth(weights: tuple[int, ...]) -> tuple[int, ...]:
    """Indices in the order of smooth weighted round-robin, once around.

    Every turn each one gains its weight, the greatest is taken and pays the sum of all.
    """
    shares = _reduced(weights)
    total = sum(shares)
    credit = [0] * len(shares)
    taken: list[int] = []
    for _ in range(total):
        credit = [c + share for c, share in zip(credit, shares, strict=True)]
        chosen = max(range(len(shares)), key=credit.__getitem__)
        credit[chosen] -= total
        taken.append(chosen)
    return tuple(taken)


def _reduced(weights: tuple[int, ...]) -> tuple[int, ...]:
    """The same shares in the smallest numbers, and in SLOTS_MAX at most, or one slot each."""
    divisor = math.gcd(*weights) or 1
    shares = tuple(w // divisor for w in weights)
    total = sum(shares)
    if total <= SLOTS_MAX:
        return shares
    return tuple(max(1, round(share * SLOTS_MAX / total)) for share in shares)
