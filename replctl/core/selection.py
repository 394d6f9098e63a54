"""What a run of `check` was asked for, what it says about that, and what that amounts to.

A run is never fine by having looked at nothing: a check that was named and cannot tell, a node that did
not answer, and a run that was cut short are UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from replctl.core.checks import CHECKS
from replctl.core.report import Report
from replctl.core.results import CheckResult, Status, worst
from replctl.core.status import NodeStatus, Role

_ROLES = {"replica": Role.REPLICA, "primary": Role.PRIMARY}
_PRESENCE = ("reachable", "system-id")  # the checks that say why a node gave no facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Checks by name (none = all), checks left out, and the nodes that alone are of interest (none = all)."""

    names: tuple[str, ...] = ()
    skipped: frozenset[str] = frozenset()
    nodes: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Whether the check of this name was asked for."""
        return name not in self.skipped and (not self.names or name in self.names)

    def covers(self, node: str | None) -> bool:
        """Whether a result about this node (None: the cluster) was asked for."""
        return not self.nodes or node in self.nodes


def select(report: Report, selection: Selection) -> tuple[CheckResult, ...]:
    """The results that were asked for, in the order of the registry, and what could not be told."""
    asked = [r for r in report.results if selection.has(r.name) and selection.covers(r.node)]
    silent = list(_silent(report, selection))
    found = asked + silent
    for name in dict.fromkeys(selection.names):
        if selection.has(name):
            own = [r for r in asked if r.name == name]
            own += (untold := list(_untold(report, selection, name, own)))
            found += untold
            if not own and not silent:
                found.append(_unknown(name, f"nothing to check: {name} is about {_about(name)}"))
    if not found:
        found.append(_unknown("reachable", "nothing to check"))
    order = {name: position for position, name in enumerate(CHECKS)}
    return tuple(sorted(found, key=lambda r: order[r.name]))


def status_of(results: Iterable[CheckResult], report: Report, *, ignore_warnings: bool) -> Status:
    """The status that counts. Of a run that was cut short only what is critical is believed."""
    everything = tuple(results)
    status = worst(r.status for r in everything if not (ignore_warnings and r.status is Status.WARNING))
    cut_short = any(_is_cut_short(report, r) and r.status is Status.UNKNOWN for r in everything)
    return Status.UNKNOWN if cut_short and status is not Status.CRITICAL else status


def _silent(report: Report, selection: Selection) -> Iterator[CheckResult]:
    """Nodes without facts, where no check that was asked for says so.

    One that the run had no time for always counts; the others where a check of nodes was named.
    """
    shown = {r.node for r in report.results if r.name in _PRESENCE and selection.has(r.name)}
    of_nodes = any(selection.has(name) and CHECKS[name].of in ("node", "replica") for name in selection.names)
    for result in report.results:
        if result.name not in _PRESENCE or result.node is None or result.status is Status.OK:
            continue
        if _is_cut_short(report, result):
            wanted = not (selection.has(result.name) and selection.covers(result.node))
        else:
            left_out = result.name in selection.skipped or not selection.covers(result.node)
            wanted = of_nodes and not left_out and result.node not in shown
        if wanted:
            yield replace(result, status=Status.UNKNOWN)


def _is_cut_short(report: Report, result: CheckResult) -> bool:
    return result.name == "reachable" and result.node in report.status.state.cut_short


def _untold(report: Report, selection: Selection, name: str, own: list[CheckResult]) -> Iterator[CheckResult]:
    """What a check that was named does not say about nodes that answer."""
    of = CHECKS[name].of
    for node in report.status.nodes:
        said = any(r.node == node.name for r in own)
        if of == "cluster" or said or not node.reachable or not selection.covers(node.name):
            continue
        if _ROLES.get(of, node.role) is node.role:
            yield _unknown(name, f"{node.name}: {name} cannot be told{_why(node)}", node.name)
        elif selection.nodes:
            # After a switchover this is as it should be: the same service is asked about every node.
            message = f"{node.name} is {_a(node)}: {name} is about {_about(name)}"
            yield CheckResult(name=name, status=Status.OK, message=message, node=node.name)


def _why(node: NodeStatus) -> str:
    return f", it is {node.state}" if node.role is Role.REPLICA else ""


def _a(node: NodeStatus) -> str:
    return "the primary" if node.role is Role.PRIMARY else "a replica"


def _about(name: str) -> str:
    return {
        "cluster": "the cluster as a whole",
        "node": "nodes that answer",
        "replica": "replicas",
        "primary": "the primary",
    }[CHECKS[name].of]


def _unknown(name: str, message: str, node: str | None = None) -> CheckResult:
    hint = "replctl check --list" if node is None else "replctl status -o wide"
    return CheckResult(name=name, status=Status.UNKNOWN, message=message, node=node, hint=hint)
