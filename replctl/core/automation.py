"""What acts by itself on a cluster: running controllers, what holds them back, what they would cover."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from replctl.core.coverage import Coverage, Covered, coverage
from replctl.core.status import ClusterStatus


class State(StrEnum):
    """Automatic failover in one word."""

    OFF = "off"  # no controller runs
    ON = "on"
    PAUSED = "paused"
    BLOCKED = "blocked"  # after a failover, until `ack`
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """A running controller. `node` = where it was seen first; `since_at` by that node's clock."""

    host: str
    pid: int
    node: str
    since_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Automation:
    """Whether automatic failover works, until when not, and why."""

    state: State
    reason: str
    until_at: float | None  # Unix time; None = not limited
    controllers: tuple[Controller, ...]
    covers: Coverage


def automation(status: ClusterStatus) -> Automation:
    """What one look tells about it."""
    controllers = running_controllers(status)
    covers = coverage(status.settings, status.sync, status.settings.fence_commands)
    marks, now = status.state.marks, status.observed_at
    state, reason, until_at = State.OFF, "no controller is running", None
    if covers.impossible is not None:
        state, reason = State.IMPOSSIBLE, covers.impossible
    elif marks is not None and marks.pause is not None and marks.pause.holds(now):
        state, reason, until_at = State.PAUSED, marks.pause.reason, marks.pause.until_at
    elif marks is not None and marks.block is not None and marks.block.holds(now):
        state, reason, until_at = State.BLOCKED, marks.block.reason, marks.block.until_at
    elif controllers:
        state, reason = State.ON, ", ".join(f"{c.host} pid {c.pid}" for c in controllers)
    if state is not State.ON:
        nothing = Covered(False, reason)  # whatever the settings would allow
        covers = replace(covers, process_death=nothing, host_death=nothing, partition=nothing)
    return Automation(state=state, reason=reason, until_at=until_at, controllers=controllers, covers=covers)


def running_controllers(status: ClusterStatus) -> tuple[Controller, ...]:
    """Each controller once: it is connected to every voter that it reaches."""
    found: dict[tuple[str, int], Controller] = {}
    for facts in status.state.facts:
        for seen in facts.controllers:
            key = (seen.host, seen.pid)
            if key not in found:
                found[key] = Controller(host=seen.host, pid=seen.pid, node=facts.node, since_at=seen.since_at)
    return tuple(found[key] for key in sorted(found))
