"""The laws of steps and plans (docs/design.md), asserted of one situation."""

from __future__ import annotations

from copy import deepcopy

from replctl.core.plan import Plan, Refusal, plan_failover
from replctl.core.situation import Situation
from replctl.core.steps import Promote


def assert_step_laws(situation: Situation) -> Plan | Refusal:
    """A step not done is planned, done after it, and planning again gives the rest, down to nothing.

    Planning changes nothing of what it looks at. Returns what is planned.
    """
    before = deepcopy(situation)
    plan = plan_failover(situation)
    assert situation == before, "planning changed the situation"
    if isinstance(plan, Refusal):
        assert all(reason.message and reason.remedy for reason in plan.reasons)
        assert plan.reasons
        return plan
    now = situation
    for number, step in enumerate(plan.steps):
        assert not step.done(now), f"a step already done is planned: {step}"
        now = step.project(now)
        assert step.done(now), f"nothing proves {step}"
        again = plan_failover(now)
        assert isinstance(again, Plan), f"after {step}: {again.reasons}"
        assert again.steps == plan.steps[number + 1 :]
    assert sum(isinstance(step, Promote) for step in plan.steps) <= 1
    return plan
