"""The marks of replctl.state: paused, blocked, and what cannot be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.marks import Mark, Marks, parse_marks
from tests.unit.builders import NOW

GIVEN = {"reason": "index rebuild", "since_at": NOW, "until_at": NOW + 60}
UNREADABLE = Mark(reason="a mark that cannot be read", since_at=0.0, until_at=None)


def test_a_mark_holds_until_its_time_is_over():
    mark = Mark(reason="", since_at=NOW, until_at=NOW + 60)

    assert [mark.holds(at) for at in (NOW, NOW + 59.9, NOW + 60, NOW + 61)] == [True, True, False, False]


def test_a_mark_without_an_end_holds_until_it_is_taken_away():
    assert Mark(reason="", since_at=NOW, until_at=None).holds(NOW + 1e9)


def test_every_row_is_read():
    assert parse_marks({"pause": GIVEN, "sync": {"since_at": 1, "until_at": None}}) == Marks(
        pause=Mark(reason="index rebuild", since_at=NOW, until_at=NOW + 60),
        block=None,
        sync=Mark(reason="no reason given", since_at=1.0, until_at=None),
    )


def test_no_row_is_no_objection():
    assert parse_marks({}).objection(NOW) is None


def test_a_pause_is_an_objection_before_a_block():
    paused = parse_marks({"pause": GIVEN, "block": GIVEN})

    assert paused.objection(NOW) == "paused: index rebuild"


def test_a_block_is_an_objection_while_it_holds():
    blocked = parse_marks({"block": GIVEN | {"reason": "pg1 was replaced by pg2"}})

    assert blocked.objection(NOW) == "blocked after a failover: pg1 was replaced by pg2"
    assert blocked.objection(NOW + 61) is None


def test_lowered_synchronous_replication_alone_is_no_objection():
    assert parse_marks({"sync": GIVEN}).objection(NOW) is None


@pytest.mark.parametrize(
    "row", ["on", 1, [], {}, {"since_at": "yesterday", "until_at": None}, {"since_at": 1}, {"until_at": 1}]
)
def test_what_cannot_be_read_holds_for_ever(row: object):
    assert parse_marks({"pause": row}) == Marks(pause=UNREADABLE)


odd = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.sampled_from(["reason", "since_at", "until_at"]), inner),
)


@given(odd)
def test_whatever_stands_there_is_read_as_a_mark_or_as_none_at_all(row: object):
    marks = parse_marks({"block": row})

    assert (marks.block is None) == (row is None)
