"""One failover as it is told: an ID, events with times, and the hooks around it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from replctl.controller.hooks import HookError, run_hook
from replctl.controller.traffic import Traffic
from replctl.core.outcome import Ending, Outcome, StepResult
from replctl.core.plan import Plan, Refusal
from replctl.core.steps import Promote
from replctl.core.units import format_bytes
from replctl.inventory import Inventory

Log = Callable[[str, str, dict[str, object]], None]
"""event, sentence, facts"""


def new_id() -> str:
    """`20300131-120000-3f2a`: when it began, and what tells two of one second apart."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@dataclass
class Incident:
    """A failover that is decided on, or tried."""

    inventory: Inventory
    log: Log
    lost: str | None
    automatic: bool
    since_s: float | None = None  # when the primary was first missed, monotonic; None = not watched
    id: str = field(default_factory=new_id)
    target: str | None = field(default=None, init=False)
    begun: bool = field(default=False, init=False)
    write_path_down_s: float | None = field(default=None, init=False)  # until the promotion
    traffic: Traffic = field(init=False)
    _tries: bool = field(default=False, init=False)  # something beside votes was done

    def __post_init__(self) -> None:
        self.traffic = Traffic(self.inventory, self.tell)

    def begin(self, plan: Plan, why: str | None) -> None:
        """There is a plan, and it is carried out."""
        self.begun, self.target = True, plan.target
        if any(isinstance(s, Promote) for s in plan.steps):
            loss = "none, proven" if plan.loss.proven_zero else _bytes(plan.loss.known_bytes)
            lost = f"{self.lost or 'the primary'} is lost"
            sentence = f"{lost}{f' ({why})' if why else ''}: promoting {plan.target}; expected loss: {loss}"
        else:
            sentence = (
                f"finishing what was left: {plan.target} is the primary, {len(plan.steps)} steps remain"
            )
        self.tell("failover", sentence, node=plan.target)

    def step(self, result: StepResult) -> None:
        """A step was done, or failed."""
        self._tries = True
        if isinstance(result.step, Promote) and result.error is None and self.since_s is not None:
            self.write_path_down_s = round(time.monotonic() - self.since_s, 3)
        sentence = result.error or result.step.describe()
        event = "step_failed" if result.error else "step"
        self.tell(event, sentence, node=result.step.node, took_s=round(result.took_s, 4))

    def found(self, node: str, sentence: str) -> None:
        """What a step is about to erase, for whoever has to put it back by hand."""
        self.tell("found", sentence, node=node)

    async def before(self) -> None:
        """Run the hook that may still prevent it. Raises HookError."""
        await self._hook("before", None)

    async def end(self, outcome: Outcome) -> str | None:
        """Say how it ended and run the hooks for that. Returns what went wrong with them, or with proxies."""
        why, proxies = reason_of(outcome), await self.traffic.end()
        if outcome.ending is Ending.DONE:
            down = self.write_path_down_s
            after = "" if down is None else f", {down:g} s after the first failure was seen"
            self.tell(
                "done",
                f"{outcome.promoted} is the primary{after}",
                node=outcome.promoted,
                write_path_down_s=down,
            )
        else:
            self.tell("ended", f"{outcome.ending}: {why}", node=outcome.promoted)
        problems = [proxies] if proxies else []
        hooks = ["after"] if outcome.promoted is not None and self._tries else []
        hooks += ["on_failure"] if outcome.ending not in (Ending.DONE, Ending.NOTHING) else []
        for name in hooks:
            try:
                await self._hook(name, outcome)
            except HookError as error:
                problems.append(str(error))
                self.tell("hook_failed", str(error))
        return "; ".join(problems) or None

    async def _hook(self, name: str, outcome: Outcome | None) -> None:
        settings = self.inventory.settings.failover
        argv: tuple[str, ...] = getattr(settings.hooks, name)
        document: dict[str, Any] = {
            "cluster": self.inventory.settings.name,
            "inventory": str(self.inventory.path),
            "id": self.id,
            "action": "failover",
            "automatic": self.automatic,
            "lost": self.lost,
            "target": outcome.promoted if outcome is not None else self.target,
            "outcome": None if outcome is None else outcome.ending.value,
            "problem": None if outcome is None else reason_of(outcome) or None,
        }
        started_s = time.monotonic()
        await run_hook(name, argv, document, settings.hook_timeout_s)
        if argv:
            self.tell("hook", f"the {name} hook succeeded", took_s=round(time.monotonic() - started_s, 4))

    def tell(self, event: str, sentence: str, **facts: object) -> None:
        """An event of this failover."""
        self.log(event, sentence, {"id": self.id, **{k: v for k, v in facts.items() if v is not None}})


def _bytes(known: int | None) -> str:
    return "not known" if known is None else f"{format_bytes(known)} known"


def reason_of(outcome: Outcome) -> str:
    """Why it did not end as wanted; empty where it did."""
    if isinstance(outcome.plan, Refusal):
        return "; ".join(f"{r.code}: {r.message}" for r in outcome.plan.reasons)
    return outcome.problem or ""
