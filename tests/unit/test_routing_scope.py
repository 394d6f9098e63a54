"""One unit of work: what it must see, what it tells the next one, and who shares it."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading

import pytest

from replctl.core.routing import Claim, Position, Scope, current_scope, entered
from tests.unit.builders import END, NOW
from tests.unit.routing import SYSTEM, position

NOW_S = 100.0


def scope_of(claim: Claim | None, *, window_s: float = 5.0, **keys) -> Scope:
    return Scope.of(claim, window_s=window_s, now_at=NOW, now_s=NOW_S, **keys)


def spelled(found: Position | None) -> str:
    return "written" if found is None else f"at {found.lsn}"


# ---- what it must see


def test_without_a_token_nothing_must_be_seen():
    scope = scope_of(None)

    assert (scope.after, scope.sticky_until_s, scope.is_dirty, scope.token) == (None, -math.inf, False, None)


def test_a_position_must_be_seen_and_makes_no_window():
    scope = scope_of(Claim(SYSTEM, position(), NOW))

    assert (scope.after, scope.sticky_until_s) == (position(), -math.inf)


@pytest.mark.parametrize(
    ("written_ago_s", "window_s", "until_s"),
    [(0, 5, 105), (2, 5, 103), (9, 5, 96), (9, 20, 111), (-86400, 5, 105)],
    ids=["now", "some time ago", "before the window", "measured lag", "a clock that is ahead"],
)
def test_a_window_counts_from_the_write_and_is_never_longer_than_from_now(written_ago_s, window_s, until_s):
    scope = scope_of(Claim(SYSTEM, None, NOW - written_ago_s), window_s=window_s)

    assert scope.sticky_until_s == until_s


def test_a_write_is_unknown_until_its_position_is():
    scope = Scope()
    scope.note_write()
    assert scope.is_dirty

    scope.note_position(position(), scope.writes)
    assert (scope.is_dirty, scope.after) == (False, position())


def test_a_position_that_was_asked_for_before_another_write_does_not_include_it():
    scope = Scope()
    scope.note_write()
    asked = scope.writes
    scope.note_write()
    scope.note_position(position(), asked)

    assert (scope.is_dirty, scope.after) == (True, position())


def test_positions_only_go_forward():
    scope = scope_of(Claim(SYSTEM, position(END + 8), NOW))
    scope.note_position(position(END), 0)

    assert scope.after == position(END + 8)


# ---- what it tells the next one


def test_a_scope_that_wrote_nothing_hands_on_what_it_got():
    scope = scope_of(Claim(SYSTEM, position(), NOW), received="v1...", issue=spelled)

    assert (scope.token, scope.has_changed) == ("v1...", False)


def test_a_scope_that_wrote_tells_where_to_or_that_it_did():
    scope = scope_of(Claim(SYSTEM, position(), NOW), received="v1...", issue=spelled)
    scope.note_write()
    assert (scope.token, scope.has_changed) == ("written", True)

    scope.note_position(position(END + 8), scope.writes)
    assert (scope.token, scope.has_changed) == ("at 0/5000008", True)


def test_reads_matter_only_where_they_are_to_be_monotonic():
    plain, monotonic = Scope(issue=spelled), Scope(monotonic=True, issue=spelled)
    for scope in (plain, monotonic):
        scope.note_read("pg2")
    assert (plain.last_read, monotonic.last_read) == (None, "pg2")

    for scope in (plain, monotonic):
        scope.note_read("pg2", position())
    assert (plain.token, plain.after) == (None, None)
    assert (monotonic.token, monotonic.after, monotonic.last_read) == ("at 0/5000000", position(), None)


# ---- who shares it


def test_a_scope_is_of_one_cluster_and_ends_with_its_block():
    orders, bills = Scope(), Scope()
    with entered("orders", orders), entered("bills", bills):
        assert (current_scope("orders"), current_scope("bills")) == (orders, bills)
    assert (current_scope("orders"), current_scope("bills")) == (None, None)


def test_a_scope_within_a_scope_gives_way_to_it_also_after_an_error():
    outer = Scope()
    with entered("orders", outer):
        with pytest.raises(ZeroDivisionError), entered("orders", Scope()):
            raise ZeroDivisionError
        assert current_scope("orders") is outer


def test_tasks_and_threads_that_the_unit_of_work_starts_write_into_its_scope():
    async def work() -> Scope:
        async def write() -> None:
            found = current_scope("orders")
            assert found is not None
            found.note_write()

        with entered("orders", Scope()) as scope:
            await asyncio.gather(write(), write())
            await asyncio.to_thread(lambda: asyncio.run(write()))
        return scope

    assert asyncio.run(work()).writes == 3


def test_units_of_work_side_by_side_do_not_see_each_other():
    async def unit() -> bool:
        with entered("orders", Scope()) as scope:
            await asyncio.sleep(0)
            return current_scope("orders") is scope

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(unit() for _ in range(20)))

    assert asyncio.run(all_of_them()) == [True] * 20


def test_a_thread_of_a_pool_keeps_nothing_of_the_unit_of_work_before():
    seen: list[Scope | None] = []

    def worker() -> None:
        for _ in range(2):
            seen.append(current_scope("orders"))
            with entered("orders", Scope()):
                pass

    thread = threading.Thread(target=worker)
    thread.start()
    thread.join()

    assert seen == [None, None]


def test_a_block_may_end_in_another_context_than_it_began_in():
    block = entered("orders", Scope())
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)

    assert current_scope("orders") is None
