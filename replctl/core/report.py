"""One look at a cluster, all of it: the facts interpreted, the diagnosis, the checks, the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from replctl.core.checks import evaluate
from replctl.core.diagnose import Diagnosis, diagnose
from replctl.core.lag import LagHistory
from replctl.core.model import ClusterState
from replctl.core.results import CheckResult, Status, worst
from replctl.core.settings import ClusterSettings
from replctl.core.status import ClusterStatus, assess


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
