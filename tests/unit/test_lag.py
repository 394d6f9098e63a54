"""The lag history and what is measured with it: true values are known by construction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.lag import (
    MARKS_MAX,
    Lag,
    LagBound,
    LagHistory,
    LagSource,
    Point,
    Seconds,
    measure,
    reference,
)
from replctl.core.model import ClusterState, Lsn, NodeFacts, Receiver, Sender

PRIMARY = NodeFacts(
    node="pg1",
    server_version_num=150018,
    system_identifier="1",
    in_recovery=False,
    timeline=1,
    write_lsn=Lsn(1000),
    flush_lsn=Lsn(1000),
    received_lsn=None,
    replayed_lsn=None,
    upstream_host=None,
    upstream_port=None,
    upstream_known=True,
    own_application_name=None,
    primary_slot_name=None,
    receiver=None,
)
REPLICA = replace(
    PRIMARY,
    node="pg2",
    in_recovery=True,
    write_lsn=None,
    flush_lsn=None,
    received_lsn=Lsn(1000),
    replayed_lsn=Lsn(1000),
    upstream_host="pg1",
    upstream_port=5432,
    replay_pause="not paused",
)
SENDER = Sender(
    pid=1,
    application_name="pg2",
    client_addr=None,
    state="streaming",
    sync_state="async",
    sent_lsn=None,
    write_lsn=None,
    flush_lsn=None,
    replay_lsn=None,
    replay_lag_s=None,
    reply_age_s=None,
)


def at_lsn(lsn: int) -> NodeFacts:
    return replace(PRIMARY, write_lsn=Lsn(lsn), flush_lsn=Lsn(lsn))


def history(*looks: tuple[float, int]) -> LagHistory:
    made = LagHistory()
    for at, lsn in looks:
        made = made.record(at_lsn(lsn), at, {})
    return made


def test_a_paused_replica_is_as_late_as_the_time_since_the_primary_left_its_position() -> None:
    seen = history((0, 100), (1, 200), (2, 300), (10, 300))

    assert seen.seconds_behind(Lsn(150), 10) == Seconds(9.5, LagSource.HISTORY, LagBound.EXACT)


def test_an_idle_primary_does_not_make_a_caught_up_replica_late() -> None:
    seen = history((0, 100), (60, 100))

    assert seen.seconds_behind(Lsn(100), 60) == Seconds(0.0, LagSource.CAUGHT_UP, LagBound.EXACT)


def test_a_write_after_a_long_silence_does_not_count_the_silence_as_lag() -> None:
    seen = history((0, 100), (60, 100), (120, 200))

    assert seen.seconds_behind(Lsn(100), 120) == Seconds(0.0, LagSource.HISTORY, LagBound.LOWER)


def test_a_replica_that_stood_still_was_passed_half_way_between_two_looks() -> None:
    seen = history((0, 100), (4, 200), (8, 300))

    assert seen.seconds_behind(Lsn(100), 8) == Seconds(6.0, LagSource.HISTORY, LagBound.EXACT)


def test_what_came_just_now_may_be_no_time_old() -> None:
    """The replica is sampled before the primary: what lies between both may be all that it lacks."""
    seen = history((0, 100), (4, 200))

    assert seen.seconds_behind(Lsn(100), 3.99) == Seconds(0.0, LagSource.HISTORY, LagBound.EXACT)


def test_looks_of_different_days_tell_nothing_about_the_time_between_them() -> None:
    seen = history((0, 100), (86400, 300), (86410, 400))

    assert seen.seconds_behind(Lsn(200), 86410) == Seconds(10.0, LagSource.HISTORY, LagBound.LOWER)


def test_a_replica_older_than_the_history_is_at_least_that_late() -> None:
    seen = history((5, 100), (20, 200))

    assert seen.seconds_behind(Lsn(50), 20) == Seconds(15, LagSource.HISTORY, LagBound.LOWER)


def test_an_empty_history_knows_nothing() -> None:
    assert LagHistory().seconds_behind(Lsn(5), 1) == Seconds()


def test_a_new_timeline_drops_the_history() -> None:
    after = history((0, 100), (1, 200)).record(replace(at_lsn(300), timeline=2), 2, {})

    assert [m.lsn for m in after.marks] == [300]
    assert after.origin == ("1", "pg1", 2)


def test_another_primary_drops_the_history() -> None:
    after = history((0, 100)).record(replace(at_lsn(300), node="pg2"), 1, {})

    assert [m.lsn for m in after.marks] == [300]


def test_a_clock_that_went_back_drops_the_history() -> None:
    assert len(history((100, 100), (50, 200)).marks) == 1


def test_a_position_that_went_back_drops_the_history() -> None:
    assert [m.lsn for m in history((0, 200), (1, 100)).marks] == [100]


def test_a_look_that_another_process_overtook_keeps_the_history() -> None:
    overtaken = history((0, 100), (10, 300)).record(at_lsn(200), 9.5, {})
    later_position = history((0, 100), (10, 300)).record(at_lsn(400), 9.999, {})

    assert [(m.last_at, m.lsn) for m in overtaken.marks] == [(0, 100), (10, 300)]
    assert [(m.last_at, m.lsn) for m in later_position.marks] == [(0, 100), (10, 300), (10, 400)]


def test_a_silent_primary_leaves_the_history_as_it_is() -> None:
    before = history((0, 100))

    assert before.record(None, 9, {}).marks == before.marks


def test_the_history_is_bounded_and_keeps_its_ends() -> None:
    seen = history(*((float(i), i + 1) for i in range(3 * MARKS_MAX)))

    assert len(seen.marks) <= MARKS_MAX
    assert seen.marks[0].lsn == 1
    assert seen.marks[-1].lsn == 3 * MARKS_MAX


def test_a_history_at_its_limit_remembers_the_times_when_nothing_happened() -> None:
    seen = history((0, 1), (1, 2), (3601, 2), *((3602.0 + i, i + 3) for i in range(2 * MARKS_MAX)))

    idle = [m for m in seen.marks if m.last_at - m.first_at > 3000]
    assert [(m.first_at, m.last_at, m.lsn) for m in idle] == [(1, 3601, 2)]


def test_a_history_of_nothing_but_pauses_is_bounded_too() -> None:
    made = LagHistory()
    for i in range(MARKS_MAX + 10):
        made = made.record(at_lsn(i + 1), i * 100.0, {}).record(at_lsn(i + 1), i * 100.0 + 50, {})

    assert len(made.marks) <= MARKS_MAX
    assert made.marks[-1].lsn == MARKS_MAX + 10


@given(
    steps=st.lists(st.tuples(st.floats(0.01, 5), st.integers(0, 10_000)), min_size=2, max_size=40),
    behind_s=st.floats(0, 60),
)
def test_seconds_are_within_one_sampling_interval_of_the_truth(
    steps: list[tuple[float, int]], behind_s: float
) -> None:
    looks: list[tuple[float, int]] = [(0.0, 1)]
    for gap_s, grown in steps:
        looks.append((looks[-1][0] + gap_s, looks[-1][1] + grown))
    now = looks[-1][0]
    # The replica replays what the primary had `behind_s` ago; the primary wrote each step at its look.
    truth_at = max(0.0, now - behind_s)
    replayed = max(lsn for at, lsn in looks if at <= truth_at)
    passed_at = next((at for at, lsn in looks if lsn > replayed), now)

    found = history(*looks).seconds_behind(Lsn(replayed), now)

    interval_s = max(gap for gap, _ in steps)
    assert found.value_s is not None
    assert abs(found.value_s - (now - passed_at)) <= interval_s + 1e-6


@given(st.floats(0.1, 5), st.integers(-1000, 1000), st.integers(3, 20))
def test_the_trend_of_a_straight_line_is_its_slope(gap_s: float, per_look: int, looks: int) -> None:
    made = LagHistory()
    for i in range(looks):
        made = made.record(None, i * gap_s, {"pg2": Point(i * gap_s, Lsn(1), 100_000 + i * per_look)})

    trend = made.trend_bytes_per_s("pg2", window_s=1000)

    assert trend is not None
    assert abs(trend - per_look / gap_s) <= 1e-3 * max(1.0, abs(per_look / gap_s))


def test_a_trend_that_turns_is_seen_within_ten_seconds() -> None:
    grows_for_a_minute = [(at, 1000 * at) for at in range(0, 60, 2)]
    then_shrinks = [(at, 58_000 - 5000 * (at - 58)) for at in range(60, 69, 2)]
    made = LagHistory()
    for at, lag in grows_for_a_minute + then_shrinks:
        made = made.record(None, float(at), {"pg2": Point(float(at), Lsn(1), lag)})

    assert made.trend_bytes_per_s("pg2") == pytest.approx(-5000)


def test_the_trend_of_looks_a_minute_apart_is_that_of_the_last_two() -> None:
    made = LagHistory()
    for at, lag in ((0, 0), (60, 600), (120, 0)):
        made = made.record(None, at, {"pg2": Point(at, Lsn(1), lag)})

    assert made.trend_bytes_per_s("pg2") == -10.0
    assert made.record(None, 5000, {"pg2": Point(5000, Lsn(1), 9)}).trend_bytes_per_s("pg2") is None


def test_a_replica_advanced_if_it_did_since_the_last_look_however_long_ago() -> None:
    made = LagHistory().record(None, 0, {"pg2": Point(0, Lsn(7), None)})

    assert made.advanced_since("pg2", Lsn(8), 300, within_s=60) is True
    assert made.advanced_since("pg2", Lsn(7), 300, within_s=60) is False
    assert made.advanced_since("pg3", Lsn(7), 300, within_s=60) is None


def state(*nodes: NodeFacts) -> ClusterState:
    return ClusterState(nodes=nodes)


def lag_of(
    replica: NodeFacts, primary: NodeFacts | None, seen: LagHistory, sender: Sender | None = SENDER
) -> Lag:
    nodes = (replica,) if primary is None else (primary, replica)
    return measure(replica, sender, reference(primary, state(*nodes), seen), seen, 10.0)


def test_the_three_byte_lags_add_up() -> None:
    replica = replace(REPLICA, received_lsn=Lsn(900), replayed_lsn=Lsn(700))

    found = lag_of(replica, PRIMARY, history((10, 1000)))

    assert (found.lag_bytes, found.transport_lag_bytes, found.apply_lag_bytes) == (300, 100, 200)


def test_a_replica_ahead_is_negative_and_has_no_seconds() -> None:
    replica = replace(REPLICA, received_lsn=Lsn(1500), replayed_lsn=Lsn(1500))

    assert lag_of(replica, PRIMARY, history((10, 1000))) == Lag(
        lag_bytes=-500, transport_lag_bytes=-500, apply_lag_bytes=0, seconds=Seconds()
    )


def test_an_unfinished_record_at_a_page_boundary_is_not_lag() -> None:
    primary = at_lsn(8192 * 3)
    replica = replace(REPLICA, received_lsn=Lsn(8192 * 3), replayed_lsn=Lsn(8192 * 3 - 264))

    assert lag_of(replica, primary, history((0, 8192 * 3), (10, 8192 * 3))).seconds == Seconds(
        0.0, LagSource.CAUGHT_UP, LagBound.EXACT
    )


LATE = Seconds(10.0, LagSource.HISTORY, LagBound.LOWER)
CAUGHT_UP = Seconds(0.0, LagSource.CAUGHT_UP, LagBound.EXACT)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"startup_wait_event": "RecoveryWalStream"}, CAUGHT_UP),
        ({"startup_wait_event": "RecoveryWalStream", "replayed_lsn": Lsn(9)}, CAUGHT_UP),  # a huge record
        ({"startup_wait_event": "RecoveryPause"}, LATE),
        ({"startup_wait_event": "RecoveryApplyDelay"}, LATE),
        ({"startup_wait_event": "RecoveryConflictSnapshot"}, LATE),
        ({"replayed_lsn": Lsn(9)}, LATE),  # more than two pages
        ({"replay_pause": "paused"}, LATE),
        ({"replay_pause": None}, LATE),  # not known, so it may be
        ({"apply_delay_s": 60.0}, LATE),
    ],
)
def test_what_was_received_and_not_replayed_is_no_lag_only_where_replay_waits_for_more(
    facts: dict[str, Any], expected: Seconds
) -> None:
    end = 8192 * 3
    seen = history((0, end), (10, end))
    replica = replace(REPLICA, received_lsn=Lsn(end), replayed_lsn=Lsn(end - 264))

    assert lag_of(replace(replica, **facts), at_lsn(end), seen).seconds == expected


def test_what_the_primary_has_not_flushed_is_not_waited_for() -> None:
    primary = replace(at_lsn(8192 * 3), write_lsn=Lsn(8192 * 4))
    replica = replace(
        REPLICA,
        received_lsn=Lsn(8192 * 3),
        replayed_lsn=Lsn(8192 * 3),
        startup_wait_event="RecoveryWalStream",
    )

    assert lag_of(replica, primary, history((0, 8192 * 2), (10, 8192 * 4))).seconds == CAUGHT_UP


def test_the_same_residue_counts_when_the_replica_has_not_received_everything() -> None:
    primary = at_lsn(8192 * 3)
    replica = replace(REPLICA, received_lsn=Lsn(8192 * 3 - 264), replayed_lsn=Lsn(8192 * 3 - 264))
    seen = history((0, 8192 * 2), (4, 8192 * 3), (10, 8192 * 3))

    found = lag_of(replica, primary, seen).seconds

    assert found.source is LagSource.HISTORY
    assert found.value_s is not None
    assert 6 <= found.value_s <= 10


def test_without_history_replay_lag_is_the_least_it_can_be() -> None:
    replica = replace(REPLICA, replayed_lsn=Lsn(700))

    found = lag_of(replica, PRIMARY, history((10, 1000)), replace(SENDER, replay_lag_s=2.5))

    assert found.seconds == Seconds(2.5, LagSource.REPLAY_LAG, LagBound.LOWER)


def test_without_history_and_replay_lag_the_last_transaction_is_the_most_it_can_be() -> None:
    replica = replace(REPLICA, replayed_lsn=Lsn(700), last_replayed_xact_age_s=7.0, clock_skew_s=0.1)

    found = lag_of(replica, PRIMARY, history((10, 1000)))

    assert found.seconds == Seconds(7.0, LagSource.LAST_XACT, LagBound.UPPER)


def test_a_replay_lag_from_worse_times_is_not_believed() -> None:
    """It is as old as the last reply; what was replayed since has a commit that is younger."""
    replica = replace(REPLICA, replayed_lsn=Lsn(700), last_replayed_xact_age_s=0.1, clock_skew_s=0.1)

    found = lag_of(replica, PRIMARY, history((10, 1000)), replace(SENDER, replay_lag_s=9.0))

    assert found.seconds == Seconds(0.1, LagSource.LAST_XACT, LagBound.UPPER)


def test_the_first_look_of_all_knows_no_seconds_where_servers_say_nothing() -> None:
    assert lag_of(replace(REPLICA, replayed_lsn=Lsn(700)), PRIMARY, history((10, 1000))).seconds == Seconds()


def test_clocks_that_differ_make_the_last_transaction_worthless() -> None:
    replica = replace(REPLICA, replayed_lsn=Lsn(700), last_replayed_xact_age_s=7.0, clock_skew_s=30.0)

    assert lag_of(replica, PRIMARY, history((10, 1000))).seconds.source is not LagSource.LAST_XACT


def test_with_the_primary_gone_the_receivers_last_word_counts_and_is_a_lower_bound() -> None:
    receiver = Receiver(
        pid=1,
        status="streaming",
        sender_host=None,
        sender_port=None,
        slot_name=None,
        received_timeline=1,
        written_lsn=None,
        flushed_lsn=None,
        latest_end_lsn=Lsn(1200),
        latest_end_age_s=1.0,
        last_message_age_s=1.0,
    )
    replica = replace(REPLICA, receiver=receiver)

    found = lag_of(replica, None, history((0, 900), (5, 1100)))

    assert found.lag_bytes == 200
    assert found.seconds.bound is LagBound.LOWER


def test_a_replica_that_replayed_nothing_is_unknown_not_zero() -> None:
    assert lag_of(replace(REPLICA, replayed_lsn=None), PRIMARY, history((10, 1000))) == Lag()
