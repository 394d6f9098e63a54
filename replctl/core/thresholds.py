"""The thresholds of the checks: their inventory keys with defaults, and how their texts are read.

A threshold is a human size or time, a Nagios range of them, or `never`: `16MiB` alerts above 16 MiB (and
below 0), `10:` below 10, `~:10` above 10, `@10:20` inside.
https://www.monitoring-plugins.org/doc/guidelines.html#THRESHOLDFORMAT
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from replctl.core.units import parse_bytes, parse_duration


class Unit(StrEnum):
    """What a threshold or a metric counts."""

    BYTES = "bytes"
    SECONDS = "seconds"
    PERCENT = "percent"
    COUNT = "count"
    COUNTER = "counter"  # only ever rises

    @property
    def symbol(self) -> str:
        """The unit of measurement as monitoring plugins write it."""
        return {"bytes": "B", "seconds": "s", "percent": "%", "count": "", "counter": "c"}[self.value]


@dataclass(frozen=True, slots=True)
class ThresholdKey:
    """An inventory key of `[checks]`: what it counts, and when it warns and is critical by default."""

    unit: Unit
    warning: str
    critical: str
    help: str


THRESHOLD_KEYS: dict[str, ThresholdKey] = {
    "lag_bytes": ThresholdKey(Unit.BYTES, "16MiB", "1GiB", "WAL that a replica has not replayed yet"),
    "lag_s": ThresholdKey(Unit.SECONDS, "30s", "5min", "how old the data on a replica is"),
    "slot_inactive_s": ThresholdKey(
        Unit.SECONDS, "5min", "30min", "how long a slot has had no consumer (PostgreSQL 17 and later)"
    ),
    "slot_retained_bytes": ThresholdKey(
        Unit.BYTES,
        "1GiB",
        "10GiB",
        "WAL that a slot keeps; by default 25 % and 50 % of max_slot_wal_keep_size where that is set",
    ),
    "archiver_s": ThresholdKey(Unit.SECONDS, "0s", "30min", "how long archiving has failed"),
    "wal_senders_percent": ThresholdKey(Unit.PERCENT, "80%", "95%", "share of max_wal_senders in use"),
    "slots_percent": ThresholdKey(Unit.PERCENT, "80%", "95%", "share of max_replication_slots in use"),
    "clock_skew_s": ThresholdKey(
        Unit.SECONDS, "2s", "10s", "difference of a node's clock to ours, beyond the network's share"
    ),
}


@dataclass(frozen=True, slots=True)
class Range:
    """The values that are fine: low to high, or outside of that when `inverted`."""

    low: float
    high: float
    inverted: bool = False

    def alerts(self, value: float) -> bool:
        """Whether this value is to be reported."""
        return (self.low <= value <= self.high) == self.inverted

    def __str__(self) -> str:
        """As monitoring plugins write it, in the base unit; empty when it never alerts."""
        if self.low == -math.inf and self.high == math.inf:
            return ""
        low = "~" if self.low == -math.inf else _digits(self.low)
        high = "" if self.high == math.inf else _digits(self.high)
        body = high if (self.low == 0 and high) else f"{low}:{high}"
        return f"@{body}" if self.inverted else body


NEVER = Range(-math.inf, math.inf)


def _digits(value: float) -> str:
    """Plain decimal digits: the guidelines allow no exponent."""
    text = f"{value:.6f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_range(text: str, unit: Unit) -> Range:
    """Read a threshold. Raises ValueError saying what was expected."""
    body = text.strip()
    if body == "never":
        return NEVER
    inverted = body.startswith("@")
    low_text, colon, high_text = body.removeprefix("@").rpartition(":")
    low = 0.0
    if colon:
        low = -math.inf if low_text.strip() == "~" else _value(low_text, unit)
    high = math.inf if colon and not high_text.strip() else _value(high_text, unit)
    if low > high:
        raise ValueError(f"the range from {low_text!r} up to {high_text!r} is empty")
    return Range(low, high, inverted)


def in_order(warning: Range, critical: Range) -> bool:
    """Whether the warning comes first: not when the critical range alerts where the warning does not."""
    if NEVER in (warning, critical) or warning.inverted or critical.inverted:
        return True
    return warning.low >= critical.low and warning.high <= critical.high


def _value(text: str, unit: Unit) -> float:
    text = text.strip()
    if unit is Unit.BYTES:
        return float(parse_bytes(text))
    if unit is Unit.SECONDS:
        return parse_duration(text)
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"not a number: {text!r}")
    return value
