"""The step laws, over many situations; and what each refusal is for."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from replctl.core.detector import Word
from replctl.core.model import Cause, ClusterState, Unreachable
from replctl.core.plan import Plan, Refusal, plan_failover
from replctl.core.situation import Request, Situation
from replctl.core.steps import Checkpoint, CreateSlot, Cut, Promote, Repoint, TakeVotes
from tests.unit.builders import END, replica, settings


def lost(name: str = "pg1", cause: Cause = Cause.REFUSED) -> Unreachable:
    return Unreachable(node=name, cause=cause, message="")


def detached(name: str, **facts: object) -> object:
    """A replica whose upstream is gone: no receiver, still set to follow it."""
    return replica(name, **{"receiver": None, "receiver_processes": 0, **facts})


def situation(*nodes: object, sync: str = "ANY 1 (pg1, pg2, pg3)", **keys: object) -> Situation:
    names = tuple(n.node for n in nodes)  # type: ignore[attr-defined]
    given = {
        "settings": settings(*names, failover={"synchronous": sync}),
        "state": ClusterState(nodes=nodes),  # type: ignore[arg-type]
        "request": Request(lost="pg1"),
        "word": Word.REFUSED,
    }
    return Situation(**given | keys)  # type: ignore[arg-type]


DEAD = situation(lost(), detached("pg2"), detached("pg3", lsn=END - 100))


def steps_of(plan: Plan | Refusal) -> list[object]:
    assert isinstance(plan, Plan), plan
    return list(plan.steps)


def test_a_dead_primary_is_replaced_by_the_most_advanced_replica() -> None:
    assert steps_of(plan_failover(DEAD)) == [
        TakeVotes(),
        Cut("pg2"),
        Cut("pg3"),
        Promote("pg2"),
        CreateSlot("pg2", "pg3"),
        Repoint("pg3", "pg2"),
        Checkpoint("pg2"),
    ]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    count = draw(st.integers(2, 6))
    nodes: list[object] = [lost()]
    for i in range(2, count + 1):
        name = f"pg{i}"
        if draw(st.booleans()) and draw(st.booleans()):
            nodes.append(lost(name, draw(st.sampled_from([Cause.REFUSED, Cause.TIMEOUT]))))
            continue
        upstream = draw(st.sampled_from([f"pg{k}" for k in range(1, i)]))
        facts: dict[str, object] = {
            "lsn": END - draw(st.integers(0, 5)),
            "receiver": None,
            "receiver_processes": 0,
            "replay_pause": draw(st.sampled_from(["not paused", "paused"])),
            "apply_delay_s": draw(st.sampled_from([0.0, 0.0, 600.0])),
            "capabilities": draw(st.sampled_from([frozenset(), frozenset({"wal_receiver_timeout_cut"})])),
        }
        nodes.append(replica(name, upstream, **facts))
    k = draw(st.integers(0, 2))
    names = ", ".join(f"pg{i}" for i in range(1, count + 1))
    return situation(
        *nodes,
        sync=f"ANY {k} ({names})" if k else "",
        request=Request(
            lost="pg1",
            to=draw(st.sampled_from([None, None, "pg2"])),
            allow_unknown_loss=draw(st.booleans()),
            fenced=frozenset({"pg1"}) if draw(st.booleans()) else frozenset(),
        ),
    )


@given(situations())
def test_planning_again_after_any_step_gives_exactly_the_remaining_steps(now: Situation) -> None:
    plan = plan_failover(now)
    if isinstance(plan, Refusal):
        return
    for k, step in enumerate(plan.steps):
        assert not step.done(now), f"a step already done is planned: {step}"
        now = step.project(now)
        assert step.done(now), f"after {step} nothing proves it"
        again = plan_failover(now)
        assert isinstance(again, Plan), again
        assert again.steps == plan.steps[k + 1 :]


@given(situations())
def test_what_is_promoted_is_never_behind_another_cut_node(now: Situation) -> None:
    plan = plan_failover(now)
    if isinstance(plan, Refusal):
        return
    for step in plan.steps:
        if isinstance(step, Promote):
            lsns = {name: position.lsn for name, position in now.positions.items()}
            assert all(lsns[step.node] >= other for other in lsns.values())
            if now.rule is not None and not now.request.allow_unknown_loss:
                assert len([m for m in now.members if m in lsns]) >= now.cuts_needed
        now = step.project(now)


@given(situations())
def test_every_follower_of_the_lost_primary_ends_up_following_the_new_one(now: Situation) -> None:
    plan = plan_failover(now)
    if isinstance(plan, Refusal):
        return
    end = now
    for step in plan.steps:
        end = step.project(end)
    assert end.promoted is not None
    assert plan_failover(end) == replace(
        plan, steps=(), target=plan.target, loss=plan_failover(end).loss, ranking=plan_failover(end).ranking
    )  # type: ignore[union-attr]
