"""Reads expressions of Prometheus as far as tests need: which metrics with which labels they ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LISTS = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"(?<![\w:$])([a-zA-Z_:][\w:]*)(?![\w:])(?!\s*\()\s*(?:\{([^}]*)\})?")
_WORDS = {
    "and",
    "or",
    "unless",
    "bool",
    "by",
    "on",
    "ignoring",
    "without",
    "group_left",
    "group_right",
    "offset",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one expression asks for."""

    metrics: tuple[tuple[str, frozenset[str]], ...]  # each with the labels of its matchers
    grouped: frozenset[str]  # labels that it joins or groups by


def asked(expression: str) -> Asked:
    """Take an expression apart."""
    bare = _STRING.sub('""', expression)
    grouped = [label.strip() for found in _LISTS.findall(bare) for label in found.split(",")]
    bare = re.sub(r"\[[^\]]*\]", "", _LISTS.sub(" ", bare))
    metrics = []
    for match in _SELECTOR.finditer(bare):
        if match[1] in _WORDS:
            continue
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", match[2] or "")
        metrics.append((match[1], frozenset(labels)))
    return Asked(metrics=tuple(metrics), grouped=frozenset(filter(None, grouped)))
