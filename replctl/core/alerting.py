"""From results to alerts: how often in a row something was bad, and what has been said already.

Cron has no soft states, no retries and no reminders, so `check` brings its own. What is remembered may
get lost at any time; without it a result counts as if it had been bad long enough, and is said: a lost
memory must never silence an alert.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from replctl.core.results import CheckResult, Status, worst

Key = tuple[str, str, str]
"""Check, node and subject of a finding; empty where it has none."""


@dataclass(frozen=True, slots=True)
class Bad:
    """One finding over several runs."""

    runs: int  # consecutive runs in which it was bad
    status: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What earlier runs left."""

    findings: dict[Key, Bad]
    said: dict[Key, Status]  # what the last message that was printed held
    said_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The results as they count now, whether there is something new to say, and what to remember."""

    results: tuple[CheckResult, ...]
    is_news: bool
    memory: Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What makes an alert: so many bad runs in a row, and not merely a warning where those are ignored."""

    runs: int = 1
    remind_s: float | None = None  # say again what has not changed
    ignore_warnings: bool = False


def settle(
    results: Iterable[CheckResult], memory: Memory | None, *, now: float, patience: Patience
) -> Settled:
    """Let a finding count only after enough bad runs in a row, and tell news from what was said before.

    `memory` None = nothing is remembered: everything bad counts, and is news.
    """
    everything = tuple(results)
    findings: dict[Key, Bad] = {}
    for key, status in _bad(everything, patience).items():
        before = memory.findings.get(key) if memory is not None else None
        count = before.runs + 1 if before is not None else (1 if memory is not None else patience.runs)
        findings[key] = Bad(min(count, patience.runs), status)
    counted = tuple(_counted(r, findings, patience.runs) for r in everything)
    saying = _bad(counted, patience)
    is_news = memory is None or saying != memory.said or _is_due(memory, now, patience)
    said_at = now if is_news or memory is None else memory.said_at
    return Settled(
        results=counted,
        is_news=is_news,
        memory=Memory(findings=findings, said=saying, said_at=said_at),
    )


def _is_due(memory: Memory, now: float, patience: Patience) -> bool:
    """Whether to say the same again. A moment in the future is no reason to be silent until then."""
    if patience.remind_s is None or not memory.said:
        return False
    return not 0 <= now - memory.said_at < patience.remind_s


def _key(result: CheckResult) -> Key:
    return (result.name, result.node or "", result.subject or "")


def _bad(results: Iterable[CheckResult], patience: Patience) -> dict[Key, Status]:
    """The worst status of every finding that would be an alert."""
    found: dict[Key, Status] = {}
    for result in results:
        ignored = patience.ignore_warnings and result.status is Status.WARNING
        if result.status is not Status.OK and not ignored:
            found[_key(result)] = worst((found.get(_key(result), Status.OK), result.status))
    return found


def _counted(result: CheckResult, findings: dict[Key, Bad], runs: int) -> CheckResult:
    """The result, or OK while the finding is too young to count."""
    finding = findings.get(_key(result))
    if result.status is Status.OK or finding is None or finding.runs >= runs:
        return result
    message = f"{result.message} ({result.status.name} in {finding.runs} of {runs} runs)"
    return replace(result, status=Status.OK, message=message, hint=None)
