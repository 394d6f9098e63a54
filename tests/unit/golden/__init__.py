"""Screens as they are meant to look, and the clusters they show.

To see what a change does to them: `REPLCTL_TEST_REWRITE=1 pytest tests/unit`, then `git diff`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from replctl.core.diagnose import Code, Diagnosis
from replctl.core.lag import LagHistory
from replctl.core.model import Cause, ClusterState, Lsn, Observation
from replctl.core.report import Report
from replctl.core.results import CheckResult, Status
from replctl.core.settings import WitnessSpec
from replctl.core.status import ClusterStatus, assess
from tests.support import same_as_file
from tests.unit.builders import (
    END,
    NOW,
    node,
    primary,
    replica,
    sender,
    settings,
    slot,
    spec,
    state,
    unreachable,
)

DIRECTORY = Path(__file__).parent
GIB = 1 << 30


def matches(name: str, text: str) -> bool:
    """Whether the text is that of the golden file of this name. Shows the difference when it is not."""
    same_as_file(DIRECTORY / f"{name}.txt", text)
    return True


INVENTORY = settings(
    failover={"synchronous": "ANY 1 (pg2, pg3)"},
    nodes=(
        spec("pg1", zone="eu-1a"),
        spec("pg2", zone="eu-1b"),
        spec("pg3", zone="eu-1c"),
        spec("pg4"),
        spec("pg5"),
    ),
    witnesses=(WitnessSpec(name="w1", host="10.0.0.9"),),
)


def _look(at: float, *nodes: Observation, **keys: Any) -> ClusterState:
    """Every node sampled at this time; our monotonic clock began at NOW."""
    sampled = tuple(replace(n, sampled_at_s=at - NOW) for n in nodes)
    return state(*sampled, observed_at=at, observed_at_s=at - NOW, **keys)


def healthy_status(at: float = NOW, history: LagHistory | None = None) -> ClusterStatus:
    """pg1 with pg2 and pg3, which confirm; pg4 and pg5 behind pg3."""
    confirming = tuple(sender(name, sync_state="quorum") for name in ("pg2", "pg3"))
    look = _look(
        at,
        primary("pg1", "pg2", "pg3", senders=confirming, synchronous_standby_names="ANY 1 (pg2, pg3)"),
        replica("pg2"),
        replica("pg3", senders=(sender("pg4"), sender("pg5")), slots=(slot("pg4"), slot("pg5"))),
        replica("pg4", "pg3"),
        replica("pg5", "pg3"),
        took_s=0.012,
        witnesses=(node("w1"),),
    )
    return assess(look, INVENTORY, history or LagHistory())


def healthy_report(at: float = NOW, history: LagHistory | None = None) -> Report:
    """All is well."""
    diagnosis = Diagnosis(code=Code.HEALTHY, evidence=("pg1 is the primary", "4 replica(s) follow"))
    ok = CheckResult(name="primary", status=Status.OK, message="pg1 is the primary")
    return Report(status=healthy_status(at, history), diagnosis=diagnosis, results=(ok,))


def troubled_report(at: float = NOW, history: LagHistory | None = None) -> Report:
    """pg3 is paused and far behind, pg4 lags with it, pg5 is silent; the witness too."""
    behind = Lsn(END + 2 * GIB)
    confirming = tuple(
        sender(name, lsn=behind, sync_state="quorum", replay_lag_s=4.2) for name in ("pg2", "pg3")
    )
    look = _look(
        at,
        primary(
            "pg1",
            senders=confirming,
            slots=(slot("pg2"), slot("pg3", wal_status="extended", retained_bytes=GIB)),
            lsn=behind,
            synchronous_standby_names="ANY 1 (pg2, pg3)",
        ),
        replica("pg2", lsn=behind),
        replica(
            "pg3",
            lsn=behind,
            replayed_lsn=Lsn(behind - GIB),
            replay_pause="paused",
            senders=(replace(sender("pg4"), replay_lag_s=7.0),),
            slots=(slot("pg4"), slot("pg5", active=False, retained_bytes=3 * GIB)),
        ),
        replica("pg4", "pg3", lsn=Lsn(behind - GIB)),
        unreachable("pg5", Cause.TIMEOUT, "no answer within 2 s\x1b[31m\r\nred"),
        took_s=2.003,
        witnesses=(unreachable("w1"),),
    )
    results = (
        CheckResult(name="replay-paused", status=Status.WARNING, message="pg3 replay is paused", node="pg3"),
        CheckResult(
            name="reachable",
            status=Status.CRITICAL,
            message="pg5 unreachable: timeout (no answer within 2 s\x1b[31m\r\nred)",
            node="pg5",
            hint="replctl status -o wide",
        ),
        CheckResult(
            name="lag-bytes",
            status=Status.CRITICAL,
            message="pg3 is 1.0 GiB behind",
            node="pg3",
            hint="replctl status --watch",
        ),
        CheckResult(
            name="lag-bytes",
            status=Status.CRITICAL,
            message="pg4 is 1.0 GiB behind",
            node="pg4",
            hint="replctl status --watch",
        ),
        CheckResult(name="primary", status=Status.OK, message="pg1 is the primary", node="pg1"),
    )
    diagnosis = Diagnosis(
        code=Code.REPLICA_DETACHED, evidence=("pg5 does not answer: timeout (no answer within 2 s)",)
    )
    status = assess(look, INVENTORY, history or LagHistory())
    return Report(status=status, diagnosis=diagnosis, results=results)
