"""What automatic failover is in, in one word, and which controllers run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replctl.core.automation import Controller, State, automation
from replctl.core.coverage import Covered
from replctl.core.marks import Mark, Marks
from replctl.core.model import ControllerSession
from tests.unit.builders import NOW, assessed, primary, replica, settings, trio

BUSY = ControllerSession(host="ops1", pid=4711, since_at=NOW - 60)
OTHER = ControllerSession(host="ops2", pid=42)


def watched(**keys: object):
    """A cluster that one controller watches."""
    nodes = trio(
        pg1=primary("pg1", "pg2", "pg3", controllers=(BUSY,)), pg2=replica("pg2", controllers=(BUSY,))
    )
    return automation(assessed(*nodes, **keys))


def until(seconds: float | None) -> Mark:
    return Mark(
        reason="work on the disks", since_at=NOW - 5, until_at=None if seconds is None else NOW + seconds
    )


def test_a_running_controller_is_on_and_counted_once():
    found = watched()

    assert (found.state, found.reason, found.until_at) == (State.ON, "ops1 pid 4711", None)
    assert found.controllers == (Controller(host="ops1", pid=4711, node="pg1", since_at=NOW - 60),)
    assert found.covers.process_death.yes


def test_two_controllers_are_told_apart_and_sorted():
    nodes = trio(pg1=primary("pg1", "pg2", "pg3", controllers=(OTHER, BUSY)))

    assert automation(assessed(*nodes)).reason == "ops1 pid 4711, ops2 pid 42"


def test_without_a_controller_it_is_off_and_covers_nothing():
    found = automation(assessed(*trio()))

    assert (found.state, found.reason, found.controllers) == (State.OFF, "no controller is running", ())
    nothing = Covered(False, "no controller is running")
    assert (found.covers.process_death, found.covers.host_death, found.covers.partition) == (nothing,) * 3


@pytest.mark.parametrize(
    ("marks", "state", "until_at"),
    [
        (Marks(pause=until(60)), State.PAUSED, NOW + 60),
        (Marks(pause=until(None)), State.PAUSED, None),
        (Marks(block=until(3600)), State.BLOCKED, NOW + 3600),
        (Marks(pause=until(60), block=until(3600)), State.PAUSED, NOW + 60),
        (Marks(pause=until(-1), block=until(3600)), State.BLOCKED, NOW + 3600),
    ],
)
def test_a_mark_that_holds_is_the_state(marks: Marks, state: State, until_at: float | None):
    found = watched(marks=marks)

    assert (found.state, found.reason, found.until_at) == (state, "work on the disks", until_at)
    assert not found.covers.process_death.yes


def test_marks_that_are_over_change_nothing():
    assert watched(marks=Marks(pause=until(-1), block=until(-1))).state is State.ON


def test_what_can_never_work_is_said_before_everything_else():
    nodes = trio(pg1=primary("pg1", "pg2", "pg3", controllers=(BUSY,)))
    inventory = replace(settings(), manager="patroni")
    found = automation(assessed(*nodes, inventory=inventory, marks=Marks(pause=until(60))))

    assert (found.state, found.reason) == (State.IMPOSSIBLE, "patroni manages this cluster")
