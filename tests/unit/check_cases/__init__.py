"""What checks say, as tables: a check, a cluster, everything that the check says of it.

One module for each module of replctl/core/checks, with a list CASES; tests/unit/test_checks.py runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from replctl.core.model import Observation
from replctl.core.results import Status
from tests.unit.builders import primary, receiver, replica, trio

OK, WARNING, CRITICAL, UNKNOWN = Status.OK, Status.WARNING, Status.CRITICAL, Status.UNKNOWN
MIB, GIB = 1024**2, 1024**3

HIDDEN = receiver(status=None, sender_host=None, sender_port=None, received_timeline=None)
# What is left of a node where a hosted service forbids some view.
CORE_ONLY: dict[str, Any] = {
    "settings": {},
    "monitor_privilege": False,
    "upstream_known": False,
    "synchronous_standby_names": None,
    "senders": (),
    "slots": (),
    "receiver": None,
    "archiver": None,
    "conflicts": {},
}

# Status, node (None: the cluster), message, hint.
Said = tuple[Status, str | None, str, str | None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """`inventory` and `look` are what differs from the usual: keys of ClusterSettings and of assessed()."""

    check: str
    nodes: tuple[Observation, ...]
    said: tuple[Said, ...]
    inventory: dict[str, Any]
    look: dict[str, Any]

    def __str__(self) -> str:
        worst = max(self.said, key=lambda said: said[0].rank, default=(OK, None, "nothing", None))
        return f"{self.check}: {worst[2]}"


def case(
    check: str,
    nodes: tuple[Observation, ...],
    *said: Said,
    inventory: dict[str, Any] | None = None,
    **look: Any,
) -> Case:
    """The whole of what a check says: no more results than these, in this order."""
    return Case(check=check, nodes=nodes, said=said, inventory=inventory or {}, look=look)


def ok(node: str | None, message: str) -> Said:
    """A result that is fine: it needs no hint."""
    return (OK, node, message, None)


def of_pg1(**facts: Any) -> tuple[Observation, ...]:
    """The healthy trio but for these facts of its primary."""
    return trio(pg1=primary("pg1", "pg2", "pg3", **facts))


def of_pg2(**facts: Any) -> tuple[Observation, ...]:
    """The healthy trio but for these facts of its first replica."""
    return trio(pg2=replica("pg2", **facts))
