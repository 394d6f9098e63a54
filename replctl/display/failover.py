"""A failover for people and programs: the plan, why it is refused, what was done."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from replctl.core.candidates import Ranking
from replctl.core.outcome import Outcome, StepResult
from replctl.core.plan import Plan, Refusal
from replctl.core.steps import FenceCommand, Step
from replctl.core.units import format_bytes, format_duration

SCHEMA_VERSION = 1
Statements = Callable[[Step], list[str]]


def plan_document(cluster: str, plan: Plan | Refusal, statements: Statements) -> dict[str, Any]:
    """The plan, or its refusal, as the contract's document."""
    refused = isinstance(plan, Refusal)
    steps: Sequence[Step] = () if isinstance(plan, Refusal) else plan.steps
    return {
        "schema_version": SCHEMA_VERSION,
        "cluster": cluster,
        "action": "failover",
        "decision": "refused" if refused else ("plan" if steps else "nothing"),
        "target": None if isinstance(plan, Refusal) else plan.target,
        "loss": None
        if isinstance(plan, Refusal)
        else {
            "proven_zero": plan.loss.proven_zero,
            "known_bytes": plan.loss.known_bytes,
            "observed_age_s": plan.loss.observed_age_s,
            "basis": plan.loss.basis,
        },
        "steps": [
            {
                "n": n,
                "kind": kind_of(step),
                "node": step.node,
                "describe": step.describe(),
                "sql": None if isinstance(step, FenceCommand) else statements(step),
                "command": statements(step) if isinstance(step, FenceCommand) else None,
            }
            for n, step in enumerate(steps, 1)
        ],
        "ranking": _ranking(plan.ranking),
        "refusals": [
            {"code": r.code, "message": r.message, "remedy": r.remedy}
            for r in (plan.reasons if isinstance(plan, Refusal) else ())
        ],
        "warnings": list(() if isinstance(plan, Refusal) else plan.warnings),
    }


def outcome_document(cluster: str, outcome: Outcome, statements: Statements) -> dict[str, Any]:
    """What was done, step by step, on top of the plan."""
    document = plan_document(cluster, outcome.plan, statements)
    done = {r.step: r for r in outcome.results}
    if isinstance(outcome.plan, Plan):
        for item, step in zip(document["steps"], outcome.plan.steps, strict=True):
            result = done.get(step)
            item["took_s"] = None if result is None else round(result.took_s, 4)
            item["result"] = None if result is None else (result.error or "done")
    document["outcome"] = outcome.ending.value
    document["write_path_down_s"] = None
    return document


def kind_of(step: Step) -> str:
    """`TakeVotes` → `take_votes`."""
    name = type(step).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def plan_text(plan: Plan | Refusal, statements: Statements, *, with_sql: bool = False) -> str:
    """The plan as sentences."""
    lines = [ranking_text(plan.ranking), ""]
    if isinstance(plan, Refusal):
        for reason in plan.reasons:
            lines += [f"Refused ({reason.code}): {reason.message}.", f"hint: {reason.remedy}"]
        return "\n".join(lines)
    if not plan.steps:
        if not plan.warnings:
            return "Nothing to do: a primary writes, and every replica follows it."
        done = f"Nothing that a failover could do: {plan.target} is the primary."
        return "\n".join([done, *(f"Left to do: {warning}." for warning in plan.warnings)])
    lines.append("Plan:")
    for n, step in enumerate(plan.steps, 1):
        lines.append(f"  {n}. {step.describe()}")
        if with_sql:
            lines += [f"     {line}" for line in _printed(step, statements(step))]
    loss = plan.loss
    lines.append("")
    if loss.proven_zero:
        lines.append(f"Loss: none, proven ({loss.basis}).")
    elif loss.known_bytes is None:
        lines.append(f"Loss: not known ({loss.basis}).")
    else:
        age = "" if loss.observed_age_s is None else f", {format_duration(loss.observed_age_s)} old"
        least = f"at least {format_bytes(loss.known_bytes)}" if loss.known_bytes else "none that is known of"
        lines.append(f"Loss: {least} ({loss.basis}{age}).")
    lines += [f"Afterwards: {warning}." for warning in plan.warnings]
    return "\n".join(lines)


def _printed(step: Step, found: list[str]) -> list[str]:
    """Statements one by one, a command as a shell would take it."""
    return [shlex.join(found)] if isinstance(step, FenceCommand) else found


def ranking_text(ranking: Ranking) -> str:
    """Who may be promoted, the best first, and why the others may not."""
    return "\n".join(["Ranking:", *(f"  {line}" for line in _ranking_lines(ranking))])


def result_line(result: StepResult) -> str:
    """One step that was tried."""
    took = format_duration(result.took_s)
    return f"  {'FAILED' if result.error else 'done':6}  {took:>8}  {result.error or result.step.describe()}"


def _ranking(ranking: Ranking) -> list[dict[str, Any]]:
    return [
        {
            "node": c.node,
            "eligible": c.eligible,
            "reason": c.reason,
            "timeline": c.timeline,
            "received_lsn": None if c.received_lsn is None else str(c.received_lsn),
        }
        for c in ranking.candidates
    ]


def _ranking_lines(ranking: Ranking) -> list[str]:
    width = max((len(c.node) for c in ranking.candidates), default=0)
    return [
        f"{c.node:{width}}  {c.received_lsn or '-'!s:>12}  {'' if c.eligible else 'not eligible: '}{c.reason}"
        for c in ranking.candidates
    ]
