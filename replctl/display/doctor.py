"""What `doctor` prints: what a failover covers, who votes, what may be lost, and what to mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from replctl.core.coverage import Coverage, Covered, Votes, lacking_now, more_sync, more_votes, votes_of
from replctl.core.readiness import Finding, NodeRights, Surroundings
from replctl.core.report import Report
from replctl.core.results import CheckResult, Status, worst
from replctl.display.plugin import one_line
from replctl.display.serialize import to_csv, to_json, to_yaml

SCHEMA_VERSION = 1
TOPICS = ("failover", "switchover", "rejoin")  # that the cluster has to be ready for


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Everything that was found out about one cluster."""

    report: Report
    coverage: Coverage
    findings: tuple[Finding, ...]
    rights: dict[str, NodeRights]
    around: Surroundings

    @property
    def votes(self) -> Votes:
        """Who has to agree."""
        return votes_of(self.report.status.settings)

    @property
    def is_left_to(self) -> str | None:
        """Who else fails over here."""
        manager = self.report.status.settings.manager
        return manager if manager != "replctl" else None

    @property
    def lacking(self) -> tuple[str, ...]:
        """What a failover would lack right now, though the settings allow it."""
        return () if self.is_left_to or self.coverage.impossible else lacking_now(self.report.status)

    @property
    def stops(self) -> bool:
        """Whether something stops a failover, or is critical already."""
        critical = any(f.severity is Status.CRITICAL for f in self.findings)
        return critical or bool(self.lacking) or self.report.verdict is Status.CRITICAL


def doctor_document(found: Examination) -> dict[str, Any]:
    """The whole examination as one document."""
    status, votes = found.report.status, found.votes
    answers = {n.name: n.reachable for n in status.nodes} | {w.name: w.reachable for w in status.witnesses}
    durable = [r.durable_fence for r in found.rights.values() if r.durable_fence is not None]
    return {
        "schema_version": SCHEMA_VERSION,
        "cluster": status.settings.name,
        "verdict": worst(
            [
                *(f.severity for f in found.findings),
                *(r.status for r in found.report.problems),
                *([Status.CRITICAL] if found.lacking else []),
            ]
        ).name.lower(),
        "ready": {topic: _is_ready(found, topic) for topic in TOPICS},
        "covers": {name: {"yes": c.yes, "reason": c.reason} for name, c in _covered(found.coverage)},
        "lacking_now": list(found.lacking),
        "votes": {
            "voters": [{"name": v, "reachable": answers[v]} for v in votes.voters],
            "majority": votes.majority,
            "may_be_missing": max(votes.may_be_missing, 0),
            "possible": votes.possible,
        },
        "sync": {
            "configured": status.sync.configured,
            "tolerated_replica_losses_for_writes": status.sync.tolerated_replica_losses_for_writes,
            "tolerated_replica_losses_for_failover": status.sync.tolerated_replica_losses_for_failover,
        },
        "fence": {
            "durable": all(right.held for right in durable) if durable else None,
            "commands": sorted(n for n, has in found.around.commands.items() if "fence" in has),
        },
        "findings": [_finding_row(f) for f in found.findings],
        "checks": [
            {"name": r.name, "node": r.node, "status": r.status.name, "message": r.message, "hint": r.hint}
            for r in found.report.problems
        ],
    }


def doctor_text(found: Examination) -> str:
    """The same for people: what is so, then what to mend, then the verdict where the eye is."""
    sections = [_heading(found)]
    if found.is_left_to:
        sections.append([f"Failover, switchover and rejoin are left to {found.is_left_to}."])
    else:
        sections += [_coverage_lines(found), _votes_lines(found), _sync_lines(found), _fence_lines(found)]
    sections += [_finding_lines(found), _verdict_lines(found)]
    return "\n\n".join("\n".join(_printable(line) for line in lines) for lines in sections if lines)


def _printable(line: str) -> str:
    """The line as it is, but for what could move a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in line)


def render_examinations(found: Sequence[Examination], form: str) -> str:
    """The whole output in one of the formats: text, documents, one finding a line, or what is not ready."""
    if form in ("table", "wide"):
        return "\n\n".join(doctor_text(one) for one in found)
    if form == "csv":
        rows = [
            {"cluster": one.report.status.settings.name, **_finding_row(f)}
            for one in found
            for f in _to_mend(one)
        ]
        return to_csv(rows, ["cluster", "topic", "severity", "node", "message", "remedy"])
    if form == "name":
        ours = [one for one in found if not one.is_left_to]
        unready = [topic for topic in TOPICS if not all(_is_ready(one, topic) for one in ours)]
        return "\n".join(unready)
    documents = [doctor_document(one) for one in found]
    whole: Any = (
        documents[0] if len(documents) == 1 else {"schema_version": SCHEMA_VERSION, "clusters": documents}
    )
    return to_json(whole) if form == "json" else to_yaml(whole)


def _heading(found: Examination) -> list[str]:
    status = found.report.status
    versions = dict.fromkeys(v for n in status.nodes if (v := n.server_version))
    replicas = ", ".join(n.name for n in status.replicas) or "none"
    silent = [n.name for n in status.nodes if not n.reachable]
    what = [f"primary {status.primary or 'not known'}", f"replicas {replicas}"]
    what += [f"no answer from {', '.join(silent)}"] if silent else []
    what += [f"PostgreSQL {', '.join(versions)}"] if versions else []
    return [f"cluster {status.settings.name}: {'; '.join(what)}"]


def _covered(coverage: Coverage) -> list[tuple[str, Covered]]:
    return [(name, getattr(coverage, name)) for name in ("process_death", "host_death", "partition")]


def _coverage_lines(found: Examination) -> list[str]:
    lines = ["Automatic failover, while a controller runs, covers"]
    losses: dict[Covered, list[str]] = {}
    for name, covered in _covered(found.coverage):
        losses.setdefault(covered, []).append(name.replace("_", " "))
    for covered, names in losses.items():
        lines.append(f"  {'yes' if covered.yes else 'NO ':3}  {', '.join(names)}")
        lines.append(f"       {covered.reason}")
    lines += [f"  NOT NOW  {lack}" for lack in found.lacking]
    if found.coverage.impossible is None and not found.coverage.host_death.yes:
        more = '[nodes.commands] fence = ["fence_ipmilan", "-a", "{host}", "-o", "off"] on every node'
        if found.report.status.settings.failover.fencing == "auto":
            more += ", or synchronous replication"
        lines += _more("to cover more", more)
    return lines


def _more(what: str, how: str, statement: str | None = None) -> list[str]:
    lines = [f"  {what}: {how}"]
    return [*lines, f"       {statement}"] if statement else lines


def _votes_lines(found: Examination) -> list[str]:
    votes, status = found.votes, found.report.status
    kinds = {n.name: "node" for n in status.nodes} | {w.name: "witness" for w in status.witnesses}
    silent = {n.name for n in status.nodes if not n.reachable}
    silent |= {w.name for w in status.witnesses if not w.reachable}
    left = "without the primary there is no majority"
    if votes.possible:
        others = votes.may_be_missing or "no"
        left = f"besides a lost primary {others} other{'' if others == 1 else 's'} may be missing"
    lines = [f"Votes: {votes.majority} of {len(votes.voters)} voters have to agree; {left}"]
    for voter in votes.voters:
        role = "primary" if voter == status.primary else kinds[voter]
        lines.append(f"  {voter:14} {role:8} {'does NOT answer' if voter in silent else 'answers'}")
    return [*lines, *_more("to need fewer of them", more_votes(votes))]


def _sync_lines(found: Examination) -> list[str]:
    status = found.report.status
    sync = status.sync
    if sync.configured is None:
        return ["Synchronous replication: not known, no primary answers"]
    more = more_sync(status)
    writes, failover = (
        sync.tolerated_replica_losses_for_writes,
        sync.tolerated_replica_losses_for_failover,
    )
    if writes is None or failover is None:
        mend = _more("to lose nothing", *more) if more else []
        return ["Synchronous replication: off; the last commits may be lost with the primary", *mend]
    return [
        f"Synchronous replication: {sync.configured}",
        f"  writes go on              {_survives(writes)}",
        f"  a failover loses nothing  {_survives(failover)}",
        *(_more("to survive one more", *more) if more else []),
    ]


def _survives(losses: int) -> str:
    if losses < 0:
        return f"NOT NOW: {_replicas(-losses)} missing"
    if losses == 0:
        return "while no replica is lost"
    return f"also when {_replicas(losses)} {'is' if losses == 1 else 'are'} lost"


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"


def _fence_lines(found: Examination) -> list[str]:
    """What keeps an old primary from writing when it comes back."""
    durable = [r.durable_fence for r in found.rights.values() if r.durable_fence is not None]
    lines = ["Fencing an old primary"]
    if durable and all(right.held for right in durable):
        lines.append("  by SQL         for good: it comes back as a replica")
    elif durable:
        lines.append("  by SQL         until it is restarted; for good it takes")
        lines.append(f"                 {durable[0].statement};")
    fenced = sorted(n for n, has in found.around.commands.items() if "fence" in has)
    lines.append(f"  by a command   {', '.join(fenced) or 'none: [nodes.commands] fence = […]'}")
    return lines


def _to_mend(found: Examination) -> list[Finding]:
    """Everything to mend, the most serious first: findings, and what checks say beside them."""
    said = {f.message for f in found.findings}
    checks = [
        Finding(
            topic="check",
            severity=r.status,
            node=r.node,
            message=f"{r.name}: {r.message}",
            remedy="" if r.hint in (None, "replctl doctor") else r.hint,
        )
        for r in found.report.problems
        if r.message not in said
    ]
    return sorted([*found.findings, *checks], key=lambda finding: -finding.severity.rank)


def _finding_lines(found: Examination) -> list[str]:
    findings = _to_mend(found)
    lines = ["Findings"] if findings else []
    for one in findings:
        # A check's message has the node's name already.
        message = f"{one.node}: {one.message}" if one.node and one.topic != "check" else one.message
        lines.append(f"  {one.severity.name:8}  {one.topic:10}  {one_line(message)}")
        if one.remedy:
            lines.append(f"            mend:       {one_line(one.remedy)}")
    return lines


def _finding_row(finding: Finding) -> dict[str, Any]:
    return {
        "topic": finding.topic,
        "severity": finding.severity.name.lower(),
        "node": finding.node,
        "message": finding.message,
        "remedy": finding.remedy or None,
    }


# Checks that stop it although nothing was found about it: which data is right, a person has to say.
_STOPPING = frozenset({"split-brain", "system-id"})


def _is_ready(found: Examination, topic: str) -> bool:
    """Whether it could be done now. A failover does not need the primary, the others do."""
    if any(f.severity is Status.CRITICAL for f in found.findings if f.topic in (topic, "failover")):
        return False
    critical = {r.name for r in found.report.problems if r.status is Status.CRITICAL}
    if topic == "failover":
        return not found.lacking and not critical & _STOPPING
    if topic == "switchover":
        return not found.lacking and not critical
    return found.report.status.primary is not None and not critical & _STOPPING


def _verdict_lines(found: Examination) -> list[str]:
    lines = []
    for topic in TOPICS if not found.is_left_to else ():
        findings = [f for f in found.findings if f.topic == topic]
        ready = "ready" if _is_ready(found, topic) else "NOT ready"
        lines.append(f"{topic:11} {ready:10} {_counted(findings)}".rstrip())
    problems: Sequence[CheckResult] = found.report.problems
    return [*lines, f"{'checks':11} {found.report.verdict.name:10} {_counted(problems)}".rstrip()]


def _counted(found: Sequence[object]) -> str:
    return "" if not found else "1 finding" if len(found) == 1 else f"{len(found)} findings"
