"""A node that showed a newer timeline: no older primary is believed until that node follows it again."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from replctl.core.lag import LagHistory
from replctl.core.model import FENCE_NAME, Observation
from replctl.core.report import report, with_disbelief
from replctl.core.results import Status
from replctl.core.routing import WRITE, Reason
from tests.unit.builders import (
    END,
    primary,
    receiver,
    replica,
    settings,
    state,
    trio,
    unreachable,
    without_receiver,
)
from tests.unit.routing import Looks, answer, pool

NAMES = ("pg1", "pg2", "pg3")
BY_ACCIDENT = trio(pg3=primary("pg3", timeline=2, lsn=END + 8))
LOCKED = (None, Reason.STALE_PRIMARY)


def on(timeline: int, name: str, upstream: str, **facts: Any) -> Observation:
    """A replica that streams this timeline."""
    received = receiver(upstream, received_timeline=timeline)
    return replica(name, upstream, timeline=timeline, **{"receiver": received, **facts})


def after_an_accident() -> Looks:
    """pg3 was promoted beside pg1 and is gone again."""
    looks = Looks.of(*NAMES, readmit_after=1, hold_s=0)
    looks.look(*trio())
    looks.look(*BY_ACCIDENT)
    assert answer(looks.look(*trio(pg3=unreachable("pg3"))), WRITE) == LOCKED
    return looks


def test_the_primary_is_believed_again_once_the_other_was_copied_anew_and_follows_it():
    looks = after_an_accident()
    found = looks.look(*trio())

    assert answer(found, WRITE) == ("pg1", Reason.WRITE)
    assert pool(looks.look(*trio())) == {"pg1": "primary", "pg2": "fit", "pg3": "fit"}


def test_it_may_follow_through_another_replica():
    looks = after_an_accident()

    assert looks.look(*trio(pg3=on(1, "pg3", "pg2"))).writer == "pg1"


DOUBTFUL = {
    "it is silent": unreachable("pg3"),
    "it has no receiver": without_receiver("pg3"),
    "it waits": replica("pg3", receiver=receiver(status="waiting")),
    "what it receives is hidden": replica("pg3", receiver=receiver(received_timeline=None)),
    "its own files are of the newer one": replica("pg3", timeline=2),
    "its timeline is hidden": replica("pg3", timeline=None),
    "it follows a server that is not in the inventory": on(1, "pg3", "pg9"),
    "it follows a node that is silent": on(1, "pg3", "pg2"),
    "it follows itself": on(1, "pg3", "pg3"),
}


@pytest.mark.parametrize("node", DOUBTFUL.values(), ids=DOUBTFUL)
def test_less_than_that_is_no_proof(node: Observation):
    looks = after_an_accident()

    first = primary("pg1")
    assert answer(looks.look(first, unreachable("pg2"), node), WRITE) == LOCKED
    assert looks.look(*trio()).writer == "pg1"


def test_replicas_that_follow_each_other_prove_nothing():
    looks = after_an_accident()

    assert looks.look(primary("pg1"), on(1, "pg2", "pg3"), on(1, "pg3", "pg2")).writer is None


def test_a_fenced_primary_is_followed_in_vain():
    looks = after_an_accident()
    fenced = primary("pg1", "pg2", "pg3", synchronous_standby_names=FENCE_NAME)

    assert looks.look(*trio(pg1=fenced)).writer is None
    assert looks.memory.newest == 2


def test_every_node_that_showed_it_must_go_back_the_successor_first_of_all():
    looks = Looks.of(*NAMES)
    looks.look(*trio())
    looks.look(unreachable("pg1"), primary("pg2", "pg3", timeline=2, lsn=END + 8), on(2, "pg3", "pg2"))
    old = primary("pg1", "pg3")

    # pg2 goes on behind a broken network; pg3 was copied from the old primary by mistake.
    assert answer(looks.look(old, unreachable("pg2"), replica("pg3")), WRITE) == LOCKED
    assert looks.look(*trio(pg3=unreachable("pg3"))).writer == "pg1"  # now pg2 was, too


def test_what_was_known_before_the_accident_still_holds_after_it():
    looks = Looks.of(*NAMES)
    looks.look(unreachable("pg1"), primary("pg2", timeline=2, lsn=END + 8), without_receiver("pg3"))
    looks.look(unreachable("pg1"), unreachable("pg2"), primary("pg3", timeline=3, lsn=END + 8))
    assert looks.memory.newest == 3
    found = looks.look(primary("pg1", "pg3"), unreachable("pg2"), replica("pg3"))

    assert (answer(found, WRITE), looks.memory.newest) == (LOCKED, 2)


def test_a_replica_that_passes_through_the_older_timeline_on_its_way_proves_nothing():
    looks = Looks.of(*NAMES)
    looks.look(unreachable("pg1"), primary("pg2", "pg3", timeline=2, lsn=END + 8), on(2, "pg3", "pg2"))
    looks.look(unreachable("pg1"), primary("pg2", "pg3", timeline=2, lsn=END + 8), on(1, "pg3", "pg2"))

    assert looks.memory.timelines == {"pg2": 2, "pg3": 2}


def test_a_timeline_that_is_begun_again_after_an_accident_has_its_own_beginning():
    looks = after_an_accident()
    looks.look(*trio())
    later = END + 1024
    found = looks.look(
        unreachable("pg1"), primary("pg2", timeline=2, lsn=later), unreachable("pg3"), after_s=60
    )

    assert (found.writer, found.began_by) == ("pg2", later)


def test_no_story_gives_writes_to_an_old_primary_while_the_successor_may_be_alive(seed: int):
    """pg2 has taken over; nobody but pg2 itself can make pg1 be believed again."""
    draw = random.Random(seed)
    for _ in range(300):
        looks = Looks.of(*NAMES)
        looks.look(unreachable("pg1"), primary("pg2", timeline=2, lsn=END + 8), on(2, "pg3", "pg2"))
        for _ in range(8):
            firsts = (primary("pg1"), primary("pg1", "pg3"), unreachable("pg1"))
            seconds = (
                unreachable("pg2"),
                primary("pg2", timeline=2, lsn=END + 16),
                replica("pg2", timeline=2),
            )
            thirds = (*DOUBTFUL.values(), replica("pg3"), on(2, "pg3", "pg2"), primary("pg3"))
            assert looks.look(draw.choice(firsts), draw.choice(seconds), draw.choice(thirds)).writer != "pg1"


def test_a_primary_that_is_not_believed_is_a_critical_problem_with_the_node_that_is_to_blame():
    seen = report(state(*trio()), settings(), LagHistory())
    found = with_disbelief(seen, {"pg1": 1, "pg2": 1, "pg3": 2})

    assert (seen.verdict, found.verdict) == (Status.OK, Status.CRITICAL)
    (problem,) = found.problems
    assert (problem.name, problem.message, problem.hint) == (
        "primary",
        "pg1 is on timeline 1, and pg3 was seen on 2: it is not given out for writes, nor its replicas for "
        "reads",
        "if pg3 is right, start it and replctl fence pg1; if not, copy it anew from pg1; where that cannot "
        "be, see docs/serve.md, An older timeline",
    )
    assert with_disbelief(seen, {"pg1": 1, "pg2": 1}) is seen
    lost = replace(seen, status=replace(seen.status, primary=None))
    assert with_disbelief(lost, {"pg3": 2}) is lost
