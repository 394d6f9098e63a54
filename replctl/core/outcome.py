"""What became of a plan: step by step, and in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from replctl.core.plan import Plan, Refusal
from replctl.core.steps import Step


class Ending(StrEnum):
    """How a run ended."""

    DONE = "done"
    NOTHING = "nothing"  # there was nothing to do
    REFUSED = "refused"  # nothing was changed, or all was restored
    NOT_RESTORED = "not_restored"  # stopped before the promotion, and not everything is as it was
    PARTIAL = "partial"  # promoted, but a follow-up failed


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One step, how long it took, and what went wrong."""

    step: Step
    took_s: float
    error: str | None = None
    begun: bool = True  # False: it failed before anything was changed


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run did."""

    ending: Ending
    plan: Plan | Refusal
    results: list[StepResult] = field(default_factory=list)
    promoted: str | None = None
    problem: str | None = None
    left_cut: tuple[str, ...] = ()
