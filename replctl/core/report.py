"""One look at a cluster, all of it: the facts interpreted, the diagnosis, the checks, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from replctl.core.checks import evaluate
from replctl.core.diagnose import Diagnosis, diagnose
from replctl.core.lag import LagHistory
from replctl.core.model import ClusterState
from replctl.core.results import CheckResult, Status, worst
from replctl.core.settings import ClusterSettings
from replctl.core.status import ClusterStatus, NodeState, assess


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What every screen, document and exit code is made from."""

    status: ClusterStatus
    diagnosis: Diagnosis
    results: tuple[CheckResult, ...]

    @property
    def verdict(self) -> Status:
        """The worst result of all checks."""
        return worst(r.status for r in self.results)

    @property
    def problems(self) -> tuple[CheckResult, ...]:
        """The results that are not OK, worst first."""
        found = [r for r in self.results if r.status is not Status.OK]
        return tuple(sorted(found, key=lambda r: -r.status.rank))


def report(state: ClusterState, settings: ClusterSettings, history: LagHistory) -> Report:
    """Interpret one look at a cluster. `status.history` of the result is the history to go on with."""
    return reported(assess(state, settings, history))


def reported(status: ClusterStatus) -> Report:
    """Diagnose and check what has been interpreted."""
    return Report(status=status, diagnosis=diagnose(status), results=evaluate(status))


def with_disbelief(report: Report, timelines: Mapping[str, int]) -> Report:
    """The report, with a problem where another node has shown a newer timeline than the primary's.

    `timelines` = the newest that each node has shown. Routing believes no such primary.
    """
    node = report.status.primary_node
    newest = max(timelines.values(), default=0)
    if node is None or node.state is not NodeState.PRIMARY or (node.timeline or 0) >= newest:
        return report
    others = ", ".join(sorted(name for name, timeline in timelines.items() if timeline == newest))
    problem = CheckResult(
        name="primary",
        status=Status.CRITICAL,
        message=f"{node.name} is on timeline {node.timeline}, and {others} was seen on {newest}: "
        "it is not given out for writes, nor its replicas for reads",
        hint=f"if {others} is right, start it and replctl fence {node.name}; if not, copy it anew from "
        f"{node.name}; where that cannot be, see docs/serve.md, An older timeline",
    )
    return replace(report, results=(*report.results, problem))
