"""What runs remember for each other: it survives, it is merged, and whatever breaks it costs history only."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.alerting import Bad, Memory, Settled
from replctl.core.lag import MARKS_MAX, LagHistory, Mark, Point
from replctl.core.model import Lsn
from replctl.core.results import Status
from replctl.journal import (
    FILE_LIMIT_BYTES,
    StateFile,
    load_history,
    save_history,
    settle_remembering,
    state_directory,
)
from tests.support import wait_until
from tests.unit.builders import primary

NOW = 1_700_000_000.0
ORIGIN = ("7300000000000000001", "pg1", 1)


def history(*looks: tuple[float, int], origin: tuple[str, str, int] = ORIGIN, **keys: Any) -> LagHistory:
    """The primary seen at these moments (seconds after NOW) at these positions."""
    marks = tuple(Mark(NOW + at, NOW + at, Lsn(lsn)) for at, lsn in looks)
    return LagHistory(origin=origin, marks=marks, **keys)


def positions(kept: LagHistory) -> list[tuple[float, float, int]]:
    return [(round(m.first_at - NOW, 3), round(m.last_at - NOW, 3), int(m.lsn)) for m in kept.marks]


# ---- where


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"REPLCTL_STATE_DIR": "/a", "XDG_STATE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_STATE_HOME": "/b", "HOME": "/c"}, "/b/replctl"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/c"}, "/c/.local/state/replctl"),
        ({"HOME": "/c"}, "/c/.local/state/replctl"),
    ],
)
def test_the_state_directory_is_the_one_that_was_named_first(
    environment: dict[str, str], expected: str
) -> None:
    assert state_directory(environment) == Path(expected)


def test_only_its_owner_may_read_what_is_remembered(tmp_path: Path) -> None:
    assert save_history("orders", history((0, 1)), tmp_path / "state")

    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "state", *(tmp_path / "state").iterdir())}
    assert modes == {"state": 0o700, "orders.lag.json": 0o600, "orders.lag.lock": 0o600}


# ---- what survives


@given(
    steps=st.lists(st.tuples(st.floats(0.01, 500), st.integers(1, 2**40)), max_size=30),
    points=st.dictionaries(
        st.text(max_size=5),
        st.lists(
            st.tuples(st.floats(0, 1e9), st.integers(0, 2**64 - 1), st.none() | st.integers()), max_size=5
        ),
        max_size=3,
    ),
)
def test_a_history_comes_back_as_it_was_to_the_millisecond(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[float, int]],
    points: dict[str, list[tuple[float, int, int | None]]],
) -> None:
    looks = [(0.0, 0)]
    for gap_s, grown in steps:
        looks.append((looks[-1][0] + gap_s, looks[-1][1] + grown))
    kept = {name: tuple(Point(at, Lsn(lsn), lag) for at, lsn, lag in found) for name, found in points.items()}
    saved = history(*looks, points=kept)
    directory = tmp_path_factory.mktemp("state")

    assert save_history("orders", saved, directory)
    found = load_history("orders", directory)

    assert (found.origin, [m.lsn for m in found.marks]) == (saved.origin, [m.lsn for m in saved.marks])
    assert all(
        abs(a.first_at - b.first_at) <= 0.001 and abs(a.last_at - b.last_at) <= 0.001
        for a, b in zip(found.marks, saved.marks, strict=True)
    )
    assert {n: [(p.replayed_lsn, p.lag_bytes) for p in f] for n, f in found.points.items()} == {
        n: [(p.replayed_lsn, p.lag_bytes) for p in f] for n, f in kept.items()
    }


def test_what_another_run_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    save_history("orders", history((0, 10), (60, 20), (90, 25)), tmp_path)

    assert save_history("orders", history((0, 10), (70, 20), (120, 30)), tmp_path)

    assert positions(load_history("orders", tmp_path)) == [
        (0, 0, 10),
        (60, 70, 20),
        (90, 90, 25),
        (120, 120, 30),
    ]


def test_another_primary_or_timeline_drops_what_was_remembered(tmp_path: Path) -> None:
    save_history("orders", history((0, 10), (60, 20)), tmp_path)

    assert save_history("orders", history((90, 25), origin=("7300000000000000001", "pg2", 2)), tmp_path)

    assert load_history("orders", tmp_path).origin == ("7300000000000000001", "pg2", 2)
    assert positions(load_history("orders", tmp_path)) == [(90, 90, 25)]


def test_two_long_histories_become_one_that_is_bounded_and_goes_as_far_back(tmp_path: Path) -> None:
    by_cron = history(*((60.0 * i, 1 + 6000 * i) for i in range(1500)))
    by_a_dashboard = history(*((80_000.0 + i, 8_000_000 + 100 * i) for i in range(1900)))
    save_history("orders", by_cron, tmp_path)

    assert save_history("orders", by_a_dashboard, tmp_path)

    kept = load_history("orders", tmp_path)
    assert len(kept.marks) < MARKS_MAX
    assert (kept.marks[0], kept.marks[-1].lsn) == (by_cron.marks[0], by_cron.marks[-1].lsn)


def test_runs_at_the_same_time_lose_nothing_of_each_other(tmp_path: Path) -> None:
    def run(number: int) -> None:
        for i in range(10):
            look = number + 10 * i
            made = history((look, 1000 + look))
            # On a busy machine the lock may be out of reach for its second: then it is tried again.
            wait_until(partial(save_history, "orders", made, tmp_path), "it is saved", limit_s=30)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {lsn for _, _, lsn in positions(load_history("orders", tmp_path))} <= {
        1000 + i for i in range(100)
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["orders.lag.json", "orders.lag.lock"]


def test_a_clock_that_was_wrong_does_not_spoil_the_history_for_good(tmp_path: Path) -> None:
    """Marks from a time that is still to come would be newer than any look for as long."""
    ahead_s = time.time() + 86400 - NOW
    save_history("orders", history((ahead_s, 10), (ahead_s + 60, 20)), tmp_path)

    assert load_history("orders", tmp_path) == LagHistory()
    save_history("orders", history((0, 30)), tmp_path)
    assert positions(load_history("orders", tmp_path)) == [(0, 0, 30)]


# ---- what cannot be used

SOUND: dict[str, Any] = {
    "format": 1,
    "origin": list(ORIGIN),
    "marks": [[NOW, NOW, 10], [NOW + 1, NOW + 5, 20]],
    "points": {"pg2": [[NOW, 5, 5]]},
}


def written(directory: Path, document: Any) -> LagHistory:
    text = document if isinstance(document, str) else json.dumps(document)
    (directory / "orders.lag.json").write_text(text)
    return load_history("orders", directory)


def test_a_sound_file_is_used(tmp_path: Path) -> None:
    assert positions(written(tmp_path, SOUND)) == [(0, 0, 10), (1, 5, 20)]


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "[" * 100_000,
        {**SOUND, "format": 2},
        {k: v for k, v in SOUND.items() if k != "points"},
        {**SOUND, "origin": ["only one"]},
        {**SOUND, "origin": 7},
        {**SOUND, "marks": {"a": 1}},
        {**SOUND, "marks": [[NOW, NOW]]},
        {**SOUND, "marks": [[NOW + 1, NOW, 10]]},
        {**SOUND, "marks": [[NOW, NOW, 20], [NOW + 1, NOW + 1, 10]]},
        {**SOUND, "marks": [[NOW, NOW + 5, 10], [NOW + 1, NOW + 6, 20]]},
        {**SOUND, "marks": [[NOW, NOW, -10]]},
        {**SOUND, "marks": [[float("nan"), float("nan"), 10]]},
        {**SOUND, "marks": [[NOW, float("inf"), 10]]},
        {**SOUND, "marks": [[float("-inf"), NOW, 10]]},
        {**SOUND, "marks": [[NOW, NOW, float("inf")]]},
        {**SOUND, "marks": [["yesterday", NOW, 10]]},
        {**SOUND, "points": [1]},
        {**SOUND, "points": {"pg2": [[NOW, 5]]}},
        {**SOUND, "points": {"pg2": [[float("nan"), 5, 5]]}},
        {**SOUND, "points": {"pg2": [[NOW, 5, float("inf")]]}},
    ],
    ids=lambda broken: (broken if isinstance(broken, str) else json.dumps(broken))[:60],
)
def test_a_file_that_is_not_ours_is_an_empty_history(tmp_path: Path, broken: Any) -> None:
    assert written(tmp_path, broken) == LagHistory()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(
    document=st.fixed_dictionaries(
        {"format": st.just(1)},
        optional={"origin": json_values, "marks": json_values, "points": json_values, "views": json_values},
    )
)
def test_no_content_of_a_file_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    directory = tmp_path_factory.mktemp("state")
    for kind in ("lag", "alerts"):
        (directory / f"orders.{kind}.json").write_text(json.dumps(document))

    found = load_history("orders", directory).record(primary(), NOW, {})
    settled, kept = settle_remembering("orders", "view", settled_with, directory)

    assert found.marks[-1].lsn == primary().write_lsn
    assert (settled.memory, kept) == (MEMORY, True)


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "orders.lag.json").open("wb") as file:
        file.truncate(FILE_LIMIT_BYTES + 1)

    assert load_history("orders", tmp_path) == LagHistory()


def test_bytes_that_are_no_text_are_an_empty_history(tmp_path: Path) -> None:
    (tmp_path / "orders.lag.json").write_bytes(b"\xff\xfe\x00")

    assert load_history("orders", tmp_path) == LagHistory()


# ---- what cannot be written


def test_a_lock_that_cannot_be_had_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    save_history("orders", history((0, 10)), tmp_path)
    with (tmp_path / "orders.lag.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        started_s = time.monotonic()

        assert not save_history("orders", history((0, 10), (1, 20)), tmp_path)

    assert 0.9 < time.monotonic() - started_s < 2
    assert positions(load_history("orders", tmp_path)) == [(0, 0, 10)]


def test_a_directory_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert not save_history("orders", history((0, 10)), tmp_path / "file" / "state")


def test_what_a_killed_run_left_behind_is_gone_after_the_next(tmp_path: Path) -> None:
    file = StateFile("orders", "lag", tmp_path)
    file.path.with_name(f"{file.path.name}.new").write_text('{"format": 1, "mar')

    assert save_history("orders", history((0, 10)), tmp_path)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["orders.lag.json", "orders.lag.lock"]


# ---- the memory of alerts

MEMORY = Memory(findings={("a", "pg1", ""): Bad(2, Status.WARNING)}, said={}, said_at=5.0)


def settled_with(before: Memory | None) -> Settled:
    return Settled(results=(), is_news=before is None, memory=MEMORY)


def test_what_an_earlier_run_settled_is_given_to_the_next(tmp_path: Path) -> None:
    given_to_runs: list[Memory | None] = []

    def settle(before: Memory | None) -> Settled:
        given_to_runs.append(before)
        return settled_with(before)

    for view in ("one", "one", "other"):
        assert settle_remembering("orders", view, settle, tmp_path)[1]

    assert given_to_runs == [None, MEMORY, None]


def test_a_memory_that_cannot_be_updated_is_forgotten_so_that_it_silences_nothing(tmp_path: Path) -> None:
    settle_remembering("orders", "view", settled_with, tmp_path)
    with (tmp_path / "orders.alerts.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        settled, kept = settle_remembering("orders", "view", settled_with, tmp_path)

    assert (settled.is_news, kept) == (True, False)
    assert settle_remembering("orders", "view", settled_with, tmp_path)[0].is_news
