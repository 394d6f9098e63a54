"""What `doctor` prints: what a failover covers, who votes, what may be lost, and what to mend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from replctl.core.coverage import Coverage, Votes
from replctl.core.readiness import Finding
from replctl.core.report import Report
from replctl.core.results import CheckResult, Status, worst
from replctl.display.serialize import to_json, to_yaml

SCHEMA_VERSION = 1


def doctor_document(
    report: Report, coverage: Coverage, votes: Votes, findings: Sequence[Finding]
) -> dict[str, Any]:
    """The whole examination as one document."""
    sync = report.status.sync
    return {
        "schema_version": SCHEMA_VERSION,
        "cluster": report.status.settings.name,
        "verdict": worst(
            [*(f.severity for f in findings), *(r.status for r in report.problems)]
        ).name.lower(),
        "covers": {name: {"yes": c.yes, "reason": c.reason} for name, c in _covered(coverage)},
        "votes": {
            "voters": list(votes.voters),
            "majority": votes.majority,
            "may_be_missing": max(votes.may_be_missing, 0),
            "possible": votes.possible,
        },
        "sync": {
            "configured": sync.configured,
            "tolerated_replica_losses_for_writes": sync.tolerated_replica_losses_for_writes,
            "tolerated_replica_losses_for_failover": sync.tolerated_replica_losses_for_failover,
        },
        "findings": [
            {
                "topic": f.topic,
                "severity": f.severity.name.lower(),
                "node": f.node,
                "message": f.message,
                "remedy": f.remedy,
            }
            for f in findings
        ],
        "checks": [
            {"name": r.name, "node": r.node, "status": r.status.name, "message": r.message, "hint": r.hint}
            for r in report.problems
        ],
    }


def doctor_text(report: Report, coverage: Coverage, votes: Votes, findings: Sequence[Finding]) -> str:
    """The same for people."""
    lines = [
        f"cluster {report.status.settings.name}",
        "",
        "Automatic failover, while a controller runs, covers:",
    ]
    for name, covered in _covered(coverage):
        lines.append(f"  {'yes' if covered.yes else 'NO ':3}  {name.replace('_', ' '):14} {covered.reason}")
    lines += ["", *_votes_lines(votes), *_sync_lines(report), ""]
    lines += _finding_lines(findings)
    lines += _check_lines(report.problems)
    serious = sum(f.severity is Status.CRITICAL for f in findings)
    if not findings and not report.problems:
        lines.append("Nothing to mend: ready for failover, switchover and rejoin.")
    else:
        lines.append(f"{len(findings) + len(report.problems)} findings, {serious} of them stop a failover.")
    return "\n".join(lines)


def render_documents(documents: Sequence[dict[str, Any]], form: str) -> str:
    """One document, or all of them under `clusters`."""
    whole: Any = (
        documents[0]
        if len(documents) == 1
        else {"schema_version": SCHEMA_VERSION, "clusters": list(documents)}
    )
    return to_json(whole) if form == "json" else to_yaml(whole)


def _covered(coverage: Coverage) -> list[tuple[str, Any]]:
    return [(name, getattr(coverage, name)) for name in ("process_death", "host_death", "partition")]


def _votes_lines(votes: Votes) -> list[str]:
    lines = [f"Votes: {len(votes.voters)} voters ({', '.join(votes.voters)}), majority {votes.majority}."]
    if votes.possible:
        lines.append(f"  Beside the lost primary {votes.may_be_missing} more may be missing.")
    else:
        lines.append("  Without the primary there is no majority.")
    return lines


def _sync_lines(report: Report) -> list[str]:
    sync = report.status.sync
    if sync.configured is None:
        return ["Synchronous replication: not known, no primary answers."]
    if sync.tolerated_replica_losses_for_writes is None:
        return ["Synchronous replication: off. The last commits may be lost with the primary."]
    writes, failover = (
        sync.tolerated_replica_losses_for_writes,
        sync.tolerated_replica_losses_for_failover or 0,
    )
    return [
        f"Synchronous replication: {sync.configured}.",
        f"  {_survive('Writes', writes)} {_survive('A failover without loss', failover)}",
    ]


def _survive(what: str, losses: int) -> str:
    if losses < 0:
        return f"{what}: NOT possible now, {-losses} replica(s) missing."
    return f"{what}: possible, {losses} more replica(s) may be lost."


def _finding_lines(findings: Sequence[Finding]) -> list[str]:
    lines: list[str] = []
    for finding in findings:
        node = f"{finding.node}: " if finding.node else ""
        lines.append(f"{finding.severity.name:8}  {finding.topic}: {node}{finding.message}")
        lines.append(f"          mend: {finding.remedy}")
    return [*lines, ""] if lines else []


def _check_lines(problems: Sequence[CheckResult]) -> list[str]:
    lines: list[str] = []
    for problem in problems:
        lines.append(f"{problem.status.name:8}  {problem.name}: {problem.message}")
        if problem.hint:
            lines.append(f"          mend: {problem.hint}")
    return [*lines, ""] if lines else []
