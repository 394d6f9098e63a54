"""Expressions of Prometheus, made from the metric registry: a name or a label that nobody exports fails here.

https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable

from replctl.core.metrics import Family
from replctl.core.thresholds import Range


def series(family: Family, *matchers: str, **equal: str) -> str:
    """`name{label="value"}`. `matchers` = more of them, as written. Raises ValueError for a foreign label."""
    found = [f"{label}={quoted(value)}" for label, value in equal.items()] + list(matchers)
    foreign = [one for one in found if re.split(r"[=!]", one, maxsplit=1)[0] not in family.labels]
    if foreign:
        raise ValueError(f"{family.name} has no label for {foreign[0]}")
    return f"{family.name}{{{','.join(found)}}}" if found else family.name


def quoted(text: str) -> str:
    """A string of PromQL, which is one of JSON."""
    return json.dumps(text, ensure_ascii=False)


def among(names: Iterable[str], *, is_in: bool = True, label: str = "node") -> str:
    """A matcher of nodes by name."""
    # Names hold nothing but letters, digits, dots, hyphens and underscores.
    pattern = "|".join(name.replace(".", r"\.") for name in names)
    return f"{label}{'=~' if is_in else '!~'}{quoted(pattern)}"


def outside(expression: str, allowed: Range, scale: float = 1.0) -> str | None:
    """The expression where a check would report its value; None where it never would.

    `scale` turns the unit of the thresholds into that of the expression.
    """
    low, high = number(allowed.low * scale), number(allowed.high * scale)
    if allowed.inverted:
        parts = [expression]
        parts += [f">= {low}"] if allowed.low != -math.inf else []
        parts += [f"<= {high}"] if allowed.high != math.inf else []
        return " ".join(parts)
    found = [f"{expression} > {high}"] if allowed.high != math.inf else []
    # Nothing that has thresholds is below 0, but what another rule tells of.
    found += [f"{expression} < {low}"] if allowed.low not in (0, -math.inf) else []
    return " or ".join(found) or None


def number(value: float) -> str:
    """Plain digits."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)
