"""What stands around the table: the cluster's header, its problems; and the whole of a printed status."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from replctl.core.automation import Automation, automation
from replctl.core.diagnose import Code
from replctl.core.report import Report
from replctl.core.results import CheckResult, Status
from replctl.core.status import NodeState, SyncStatus
from replctl.core.units import format_duration
from replctl.display.columns import Row
from replctl.display.style import (
    BOLD,
    CYAN,
    DIM,
    PLAIN,
    SEVERITY_STYLE,
    Glyphs,
    Line,
    Medium,
    Span,
    flowed,
    line_width,
    render,
    wrapped,
)
from replctl.display.table import table, tree_order

EVIDENCE_MAX = 3  # sentences; the problems below the table say it all

# Where no check speaks of a node, its state alone decides how its row looks.
_STATE_SEVERITY = {
    NodeState.UNREACHABLE: Status.CRITICAL,
    NodeState.DIVERGED: Status.CRITICAL,
    NodeState.STALE_PRIMARY: Status.CRITICAL,
    NodeState.STALLED: Status.CRITICAL,
    NodeState.FENCED: Status.WARNING,
    NodeState.PAUSED: Status.WARNING,
    NodeState.NO_PRIVILEGE: Status.UNKNOWN,
}


def severities(report: Report) -> dict[str, Status]:
    """How bad each node's row is: its worst check, else what its state says."""
    found: dict[str | None, Status] = {}
    for problem in report.problems:  # worst first
        found.setdefault(problem.node, problem.status)
    nodes = report.status.nodes
    writable = [n.name for n in nodes if n.state in (NodeState.PRIMARY, NodeState.STALE_PRIMARY)]
    if len(writable) > 1:  # a problem of the cluster, that shows in these rows
        found |= dict.fromkeys(writable, Status.CRITICAL)
    return {n.name: found.get(n.name) or _STATE_SEVERITY.get(n.state, Status.OK) for n in nodes}


def rows_of(report: Report, glyphs: Glyphs, *, as_tree: bool = False) -> list[Row]:
    """The rows of a report in the inventory's order, or as a tree."""
    status = report.status
    names = [(node.name, "") for node in status.nodes]
    if as_tree:
        names = tree_order(status.settings, {n.name: n.upstream for n in status.nodes}, glyphs)
    nodes, severity = {node.name: node for node in status.nodes}, severities(report)
    return [
        Row(
            node=nodes[name],
            severity=severity[name],
            glyphs=glyphs,
            stem=stem,
            bytes_at_least=status.primary is None,
        )
        for name, stem in names
    ]


def verdict_span(report: Report, glyphs: Glyphs) -> Span:
    """The verdict: sign, word, colour."""
    verdict = report.verdict
    return Span(glyphs.signed(verdict, verdict.name), SEVERITY_STYLE[verdict])


def clock(unix_s: float) -> str:
    """The time of day, UTC: what the servers' logs of different places have in common."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%H:%M:%S")


def header(report: Report, medium: Medium) -> list[Line]:
    """Who this is and how it is: the first lines of every screen."""
    status, glyphs = report.status, medium.glyphs
    primary = "no primary"
    if status.primary is not None:
        primary = f"primary {status.primary}, timeline {_known(status[status.primary].timeline)}"
    answering = sum(n.reachable for n in status.nodes)
    first: list[Line] = [
        (Span(status.settings.name, BOLD), Span("  "), verdict_span(report, glyphs)),
        (Span(str(report.diagnosis.code)),),
        (Span(primary, PLAIN if status.primary is not None else BOLD),),
        (Span(f"{answering} of {len(status.nodes)} nodes answer"),),
        (Span(f"at {clock(status.observed_at)} UTC, took {format_duration(status.took_s)}", DIM),),
    ]
    second: list[Line] = [
        (Span(automatic_failover_sentence(automation(status))),),
        (Span(sync_sentence(status.sync)),),
        (Span(f"system {_known(status.system_identifier)}", DIM),),
    ]
    silent = [w.name for w in status.witnesses if not w.reachable]
    if status.witnesses:
        answer = f"{', '.join(silent)} silent" if silent else "all answer"
        second.append((Span(f"witnesses: {answer}"),))
    return [*flowed(first, medium.width), *flowed(second, medium.width), *evidence(report, medium)]


def automatic_failover_sentence(now: Automation) -> str:
    """`automatic failover paused until 12:00:00 UTC (maintenance)`."""
    until = "" if now.until_at is None else f" until {clock(now.until_at)} UTC"
    return f"automatic failover {now.state}{until} ({now.reason})"


def evidence(report: Report, medium: Medium) -> list[Line]:
    """What the diagnosis rests on, unless all is well."""
    if report.diagnosis.code is Code.HEALTHY:
        return []
    found = [e for e in report.diagnosis.evidence if e]
    text = f"{report.diagnosis.code}: {'; '.join(found[:EVIDENCE_MAX])}"
    if len(found) > EVIDENCE_MAX:
        text += f"; and {len(found) - EVIDENCE_MAX} more"
    return wrapped(text, medium.width)


def sync_sentence(sync: SyncStatus) -> str:
    """Synchronous replication in a sentence: what is set, and what may still be lost."""
    if sync.configured is None:
        return "sync unknown"
    if not sync.configured.strip():
        return "sync off: a failover may lose commits"
    writes, failover = sync.tolerated_replica_losses_for_writes, sync.tolerated_replica_losses_for_failover
    if writes is None or failover is None:
        return f"sync {sync.configured}"
    if writes < 0:
        return f"sync {sync.configured}: writes wait for {_replicas(-writes)} more"
    tolerate = f"writes tolerate losing {_replicas(writes)}"
    if failover < 0:
        return f"sync {sync.configured}: {tolerate}; a lossless failover needs {_replicas(-failover)} more"
    return f"sync {sync.configured}: {tolerate}, a lossless failover {_replicas(failover)}"


def _replicas(count: int) -> str:
    return "none" if count == 0 else "1 replica" if count == 1 else f"{count} replicas"


def _known(value: object) -> str:
    return "?" if value is None else str(value)


def problem_lines(problems: Sequence[CheckResult], medium: Medium) -> list[Line]:
    """Each problem with its hint, in the order given; a hint that several share is said once, after them."""
    lines: list[Line] = []
    words = max((len(p.status.name) for p in problems), default=0)
    names = max((len(p.name) for p in problems), default=0)
    for i, problem in enumerate(problems):
        word = medium.glyphs.signed(problem.status, f"{problem.status.name:<{words}}")
        head: Line = (
            Span(word, SEVERITY_STYLE[problem.status]),
            Span(f"  {problem.name:<{names}}  "),
        )
        lines += _hanging(head, problem.message, medium.width)
        following = problems[i + 1] if i + 1 < len(problems) else None
        if problem.hint and (following is None or following.hint != problem.hint):
            lines += _hanging((Span(" " * line_width(head)),), f"hint: {problem.hint}", medium.width, CYAN)
    return lines


def _hanging(head: Line, text: str, cells: int | None, style: str = PLAIN) -> list[Line]:
    """A text beside its head, wrapped to the right of it, or below it where that leaves too little room."""
    indent = line_width(head)
    if cells is not None and cells - indent < 24:
        indent = 2
        rest = wrapped(text, max(8, cells - indent), style)
        below: list[Line] = [(Span("  "), *line) for line in rest]
        return [head, *below] if any(s.text.strip() for s in head) else below
    first, *more = wrapped(text, None if cells is None else cells - indent, style)
    return [(*head, *first), *((Span(" " * indent), *line) for line in more)]


def status_lines(report: Report, medium: Medium, *, wide: bool = False, as_tree: bool = False) -> list[Line]:
    """All that `replctl status` prints of one cluster."""
    rows = rows_of(report, medium.glyphs, as_tree=as_tree)
    found = table(rows, medium.width, wide=wide)
    lines: list[Line] = [*header(report, medium), (), found.heading, *found.rows]
    if report.problems:
        lines += [(), *problem_lines(report.problems, medium)]
    return lines


def status_text(
    reports: Sequence[Report], medium: Medium, *, wide: bool = False, as_tree: bool = False
) -> str:
    """All that `replctl status` prints: every cluster, an empty line between two."""
    blocks = [status_lines(report, medium, wide=wide, as_tree=as_tree) for report in reports]
    return "\n\n".join("\n".join(render(line, medium.color) for line in block) for block in blocks) + "\n"
