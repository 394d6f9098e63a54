"""What one run notices of another: each change once, in order, whatever is broken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replctl.core.status import ClusterStatus
from replctl.journal import EVENTS_LIMIT_BYTES, events_path, read_events
from replctl.noticed import failovers_seen, leave_changes
from tests.unit.builders import NOW, assessed, primary, replica, trio, unreachable, without_receiver


def look(after_s: float, **spoilt: Any) -> ClusterStatus:
    return assessed(*trio(**spoilt), observed_at=NOW + after_s)


TAKEN_OVER = {
    "pg1": unreachable("pg1"),
    "pg2": primary("pg2", "pg3", timeline=2),
    "pg3": replica("pg3", "pg2", timeline=2),
}


def told(directory: Path) -> list[tuple[float, str, str, str]]:
    return [(e["at"] - NOW, e["event"], e["node"], e["message"]) for e in read_events("orders", directory)]


def test_a_first_look_notices_nothing_and_counts_from_0(tmp_path: Path) -> None:
    assert failovers_seen("orders", tmp_path) is None
    assert leave_changes(look(0), tmp_path) == 0
    assert (told(tmp_path), failovers_seen("orders", tmp_path)) == ([], 0)


def test_a_takeover_is_told_with_all_that_changed_and_counted(tmp_path: Path) -> None:
    leave_changes(look(0), tmp_path)
    assert leave_changes(look(5, **TAKEN_OVER), tmp_path) == 1
    assert told(tmp_path) == [
        (5.0, "primary", "pg2", "pg2 is the primary now, pg1 was"),
        (5.0, "state", "pg1", "pg1: state primary → unreachable"),
        (5.0, "state", "pg2", "pg2: state streaming → primary"),
        (5.0, "role", "pg2", "pg2: role replica → primary"),
        (5.0, "timeline", "pg2", "pg2: timeline 1 → 2"),
        (5.0, "timeline", "pg3", "pg3: timeline 1 → 2"),
        (5.0, "upstream", "pg3", "pg3: upstream pg1 → pg2"),
    ]


def test_the_same_again_is_no_event_and_nothing_is_written(tmp_path: Path) -> None:
    leave_changes(look(0), tmp_path)
    before = (tmp_path / "orders.seen.json").stat().st_mtime_ns
    for after_s in range(1, 5):
        assert leave_changes(look(after_s), tmp_path) == 0
    assert (tmp_path / "orders.seen.json").stat().st_mtime_ns == before
    assert told(tmp_path) == []


def test_what_a_silent_node_was_stays_known(tmp_path: Path) -> None:
    for after_s, spoilt in enumerate(({}, {"pg3": unreachable("pg3")}, {})):
        leave_changes(look(after_s, **spoilt), tmp_path)
    assert told(tmp_path) == [
        (1.0, "state", "pg3", "pg3: state streaming → unreachable"),
        (2.0, "state", "pg3", "pg3: state unreachable → streaming"),
    ]


def test_a_primary_that_comes_back_is_no_failover(tmp_path: Path) -> None:
    gone = {"pg1": unreachable("pg1"), "pg2": without_receiver("pg2"), "pg3": without_receiver("pg3")}
    for after_s, spoilt in enumerate(({}, gone, {})):
        leave_changes(look(after_s, **spoilt), tmp_path)
    assert failovers_seen("orders", tmp_path) == 0
    assert not [one for one in told(tmp_path) if one[1] == "primary"]


def test_an_older_look_that_took_longer_takes_nothing_back(tmp_path: Path) -> None:
    leave_changes(look(0), tmp_path)
    leave_changes(look(5, **TAKEN_OVER), tmp_path)
    count = len(told(tmp_path))
    assert leave_changes(look(3), tmp_path) == 1
    assert len(told(tmp_path)) == count


def test_other_servers_under_the_same_names_have_changed_nothing(tmp_path: Path) -> None:
    """A lab that is built anew, after one that ended with another primary."""
    leave_changes(look(0), tmp_path)
    leave_changes(look(5, **TAKEN_OVER), tmp_path)
    count = len(told(tmp_path))
    built_anew = [replace(node, system_identifier="7000000000000000009") for node in trio()]
    assert leave_changes(assessed(*built_anew, observed_at=NOW + 60), tmp_path) == 1
    assert len(told(tmp_path)) == count


def test_a_machine_that_reaches_nobody_saw_nothing(tmp_path: Path) -> None:
    leave_changes(look(0), tmp_path)
    cut_off = {name: unreachable(name) for name in ("pg1", "pg2", "pg3")}
    assert leave_changes(look(1, **cut_off), tmp_path) == 0
    assert told(tmp_path) == []


def test_a_node_that_there_was_no_time_for_has_not_changed(tmp_path: Path) -> None:
    leave_changes(look(0), tmp_path)
    nodes = trio(pg3=unreachable("pg3"))
    leave_changes(assessed(*nodes, observed_at=NOW + 1, cut_short=frozenset({"pg3"})), tmp_path)
    assert told(tmp_path) == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"format":1}',
        '{"format":1,"at":"x","primary":1,"failovers":0,"nodes":{}}',
        '{"format":1,"at":4000000000,"primary":null,"failovers":0,"nodes":{}}',
        '{"format":1,"at":1700000000,"primary":null,"failovers":-1,"nodes":{"pg1":3}}',
    ],
)
def test_a_memory_that_cannot_be_used_begins_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "orders.seen.json").write_text(content)
    assert leave_changes(look(0), tmp_path) == 0
    assert leave_changes(look(1, **TAKEN_OVER), tmp_path) == 1


def test_where_nothing_can_be_kept_nothing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    file = tmp_path / "no directory"
    file.write_text("")
    assert leave_changes(look(0), file) is None
    assert leave_changes(look(1, **TAKEN_OVER), file) is None


def test_events_are_rotated_and_never_more_than_twice_the_limit(tmp_path: Path) -> None:
    path = events_path("orders", tmp_path)
    leave_changes(look(0), tmp_path)
    line = json.dumps({"at": NOW, "event": "state", "message": "x" * 1000}) + "\n"
    path.write_text(line * (EVENTS_LIMIT_BYTES // len(line) + 2))
    leave_changes(look(5, **TAKEN_OVER), tmp_path)
    assert path.stat().st_size < 10_000
    assert path.with_suffix(".1.jsonl").stat().st_size > EVENTS_LIMIT_BYTES
    assert [e["event"] for e in read_events("orders", tmp_path)][-1] == "upstream"
