"""Which node serves a need, and why: every reason, every setting, and what a process cannot know."""

from __future__ import annotations

import math

import pytest

from replctl.core.model import FENCE_NAME, Cause, Lsn
from replctl.core.routing import READ, WRITE, Fitness, Reason, Scope, decide, read_after
from replctl.core.routing.writer import SILENT_WRITER_S
from replctl.core.settings import ClusterSettings
from tests.unit.builders import END, primary, replica, trio, unreachable, without_receiver
from tests.unit.routing import MIB, STALE_S, Looks, answer, chosen, fit, position

NAMES = ("pg1", "pg2", "pg3")


def scope(**attributes) -> Scope:
    found = Scope()
    for name, value in attributes.items():
        setattr(found, name, value)
    return found


# ---- reasons


def test_writes_go_to_the_primary_and_reads_to_the_replicas_in_turn():
    snapshot = Looks.of(*NAMES).look(*trio())

    assert answer(snapshot, WRITE) == ("pg1", Reason.WRITE)
    assert [answer(snapshot) for _ in range(3)] == [
        ("pg2", Reason.ROUND_ROBIN),
        ("pg3", Reason.ROUND_ROBIN),
        ("pg2", Reason.ROUND_ROBIN),
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("pg2", Reason.ROUND_ROBIN)),
        ({"forced": True}, ("pg1", Reason.FORCED)),
        ({"writes": 1}, ("pg1", Reason.WROTE)),
        ({"writes": 1, "positioned": 1, "after": position()}, ("pg2", Reason.ROUND_ROBIN)),
        ({"sticky_until_s": 1e9}, ("pg1", Reason.STICKY_WINDOW)),
        ({"sticky_until_s": 1.0}, ("pg2", Reason.ROUND_ROBIN)),
        ({"after": position(END)}, ("pg2", Reason.ROUND_ROBIN)),
        ({"after": position(END + 1)}, ("pg1", Reason.LSN_BEHIND)),
        ({"after": position(system="0" * 10)}, ("pg1", Reason.OTHER_CLUSTER)),
        ({"after": position(timeline=2)}, (None, Reason.TIMELINE_AHEAD)),
        ({"last_read": "pg3"}, ("pg3", Reason.MONOTONIC)),
        ({"last_read": "pg1"}, ("pg1", Reason.MONOTONIC)),
        ({"last_read": "gone"}, ("pg1", Reason.MONOTONIC)),
        ({"last_read": "pg3", "after": position(END + 1)}, ("pg1", Reason.MONOTONIC)),
    ],
)
def test_what_a_unit_of_work_must_see_decides_where_it_reads(given, expected):
    assert answer(Looks.of(*NAMES).look(*trio()), READ, scope(**given)) == expected


def test_a_write_that_must_follow_a_newer_timeline_goes_nowhere():
    snapshot = Looks.of(*NAMES).look(*trio())

    assert answer(snapshot, WRITE, scope(after=position(timeline=2))) == (None, Reason.TIMELINE_AHEAD)
    assert answer(snapshot, WRITE, scope(after=position(timeline=2, system="0" * 10))) == (
        "pg1",
        Reason.WRITE,
    )


def test_a_position_can_be_asked_for_without_a_scope():
    snapshot = Looks.of(*NAMES).look(*trio(pg2=replica("pg2", lsn=END - 8)))

    assert chosen(snapshot, read_after(position(END)), times=9) == {"pg3": 9}
    assert chosen(snapshot, read_after(position(END - 8)), times=8) == {"pg2": 4, "pg3": 4}
    assert read_after(None) is READ


def test_of_two_requirements_the_later_one_holds():
    snapshot = Looks.of(*NAMES).look(*trio(pg2=replica("pg2", lsn=END - 8)))

    for need, held in ((END, END - 8), (END - 8, END)):
        assert chosen(snapshot, read_after(position(need)), scope(after=position(held)), times=4) == {
            "pg3": 4
        }


def test_among_many_replicas_the_few_that_have_it_share_the_reads():
    names = [f"pg{i}" for i in range(2, 66)]
    nodes = [replica(name, lsn=END if name in ("pg40", "pg65") else END - 8) for name in names]
    snapshot = Looks.of("pg1", *names).look(primary("pg1", *names), *nodes)

    found = chosen(snapshot, read_after(position(END)), times=640)
    assert set(found) == {"pg40", "pg65"}
    assert abs(found["pg40"] - 320) < 64


def test_a_read_that_no_replica_may_serve_takes_nobodys_turn():
    snapshot = Looks.of(*NAMES).look(*trio())
    found = []
    for _ in range(4):
        found += [answer(snapshot, read_after(position(END + 1)))[0], answer(snapshot)[0]]

    assert found == ["pg1", "pg2", "pg1", "pg3"] * 2


# ---- on_behind


@pytest.mark.parametrize(
    ("on_behind", "expected"),
    [
        ("primary", ("pg1", False, None, 0.0, Reason.LSN_BEHIND)),
        ("wait", ("pg3", True, Lsn(END), 0.2, Reason.LSN_WAIT)),
        ("stale", ("pg3", True, None, 0.0, Reason.LSN_STALE)),
        ("error", (None, False, None, 0.0, Reason.LSN_BEHIND)),
    ],
)
def test_what_happens_when_no_replica_has_it(on_behind, expected):
    looks = Looks.of(*NAMES, on_behind=on_behind)
    nodes = trio(pg2=replica("pg2", lsn=END - 800), pg3=replica("pg3", lsn=END - 8))
    found = decide(read_after(position()), None, looks.look(*nodes), looks.now_s)

    assert (found.node, found.replica, found.wait_lsn, found.wait_s, found.reason) == expected


# ---- on_all_unfit


def late(mib: int, name: str):
    return replica(name, lsn=END - mib * MIB)


@pytest.mark.parametrize(
    ("on_all_unfit", "expected"),
    [("primary", "pg1"), ("least-lag", "pg3"), ("error", None)],
)
def test_what_happens_when_no_replica_is_fit(on_all_unfit, expected):
    looks = Looks.of(*NAMES, on_all_unfit=on_all_unfit)

    assert answer(looks.look(*trio(pg2=late(64, "pg2"), pg3=late(32, "pg3")))) == (expected, Reason.ALL_UNFIT)


def test_least_lag_is_not_a_way_to_read_from_what_is_wrong():
    looks = Looks.of(*NAMES, on_all_unfit="least-lag")
    ahead, silent = replica("pg2", lsn=END + 8192), unreachable("pg3", Cause.TIMEOUT)

    assert answer(looks.look(*trio(pg2=ahead, pg3=silent))) == ("pg1", Reason.ALL_UNFIT)


def test_least_lag_does_not_show_a_user_less_than_his_own_writes():
    looks = Looks.of(*NAMES, on_all_unfit="least-lag")
    snapshot = looks.look(*trio(pg2=late(64, "pg2"), pg3=late(32, "pg3")))

    assert answer(snapshot, read_after(position(END - 32 * MIB))) == ("pg3", Reason.ALL_UNFIT)
    assert answer(snapshot, read_after(position(END))) == ("pg1", Reason.LSN_BEHIND)


def test_a_cluster_without_replicas_reads_from_its_primary():
    assert answer(Looks.of("pg1").look(primary("pg1"))) == ("pg1", Reason.NO_REPLICA)
    assert answer(Looks.of("pg1", on_all_unfit="error").look(primary("pg1"))) == (None, Reason.NO_REPLICA)


def test_an_empty_inventory_leads_nowhere():
    snapshot = Looks(ClusterSettings(name="orders", nodes=())).look()

    assert answer(snapshot, WRITE) == (None, Reason.NO_PRIMARY)
    assert answer(snapshot) == (None, Reason.NO_PRIMARY)
    assert snapshot.write.detail == "the inventory has no nodes"


# ---- time


def test_an_old_snapshot_trusts_no_replica():
    snapshot = Looks.of(*NAMES).look(*trio())

    assert answer(snapshot, later_s=STALE_S)[1] == Reason.ROUND_ROBIN
    assert answer(snapshot, later_s=STALE_S + 0.1) == ("pg1", Reason.SNAPSHOT_STALE)
    assert answer(snapshot, read_after(position(1)), later_s=9) == ("pg1", Reason.SNAPSHOT_STALE)
    assert answer(snapshot, WRITE, later_s=9) == ("pg1", Reason.WRITE)


def test_an_old_snapshot_does_not_lead_to_the_primary_where_that_is_refused():
    snapshot = Looks.of(*NAMES, on_all_unfit="error").look(*trio())

    assert answer(snapshot, later_s=9) == (None, Reason.SNAPSHOT_STALE)


@pytest.mark.parametrize("jump_s", [-1e6, -5.0, 1e6, math.inf])
def test_a_clock_that_jumps_leads_to_no_wrong_node(jump_s):
    snapshot = Looks.of(*NAMES).look(*trio(pg2=late(64, "pg2")))

    assert answer(snapshot, later_s=jump_s)[0] in ("pg1", "pg3")
    assert answer(snapshot, WRITE, later_s=jump_s)[0] == "pg1"
    assert answer(snapshot, read_after(position(END + 8)), later_s=jump_s)[0] == "pg1"


def test_the_sticky_window_is_as_long_as_the_replicas_are_behind():
    looks = Looks.of(*NAMES, max_lag_s=60, sticky_s=5)
    assert looks.look(*trio()).sticky_s == 5

    for second in range(11):
        lsn = END + 1024 * second
        snapshot = looks.look(primary("pg1", lsn=lsn), replica("pg2"), replica("pg3", lsn=lsn))
    assert snapshot.sticky_s == pytest.approx(20, abs=2)


# ---- who takes writes


PROMOTED = primary("pg2", "pg3", timeline=2, lsn=END + 100)
FOLLOWER = replica("pg3", "pg2", timeline=2, lsn=END + 100)


def test_after_a_failover_the_new_primary_takes_writes_and_the_rest_is_judged_anew():
    looks = Looks.of(*NAMES)
    looks.look(*trio())
    found = looks.look(unreachable("pg1"), PROMOTED, FOLLOWER)

    assert answer(found, WRITE) == ("pg2", Reason.WRITE)
    assert fit(found) == {"pg3"}


def test_an_old_primary_that_is_seen_alone_takes_no_writes():
    looks = Looks.of(*NAMES)
    looks.look(unreachable("pg1"), PROMOTED, FOLLOWER)
    found = looks.look(primary("pg1"), unreachable("pg2"), unreachable("pg3"))

    assert answer(found, WRITE) == (None, Reason.STALE_PRIMARY)
    assert answer(found) == (None, Reason.STALE_PRIMARY)


def test_a_replica_of_a_newer_timeline_is_enough_to_know_that_a_primary_is_old():
    looks = Looks.of(*NAMES)
    found = looks.look(primary("pg1"), unreachable("pg2"), FOLLOWER)

    assert answer(found, WRITE) == (None, Reason.STALE_PRIMARY)


def test_of_two_primaries_the_newer_one_must_have_gone_on():
    looks = Looks.of(*NAMES)
    old, copy = primary("pg1", lsn=END + MIB), primary("pg2", timeline=2, lsn=END)

    assert answer(looks.look(old, copy, replica("pg3")), WRITE) == (None, Reason.TWO_PRIMARIES)
    assert answer(looks.look(old, copy, replica("pg3")), WRITE) == (None, Reason.TWO_PRIMARIES)
    went_on = primary("pg2", timeline=2, lsn=END + 8)
    assert answer(looks.look(old, went_on, replica("pg3")), WRITE) == ("pg2", Reason.WRITE)


def test_a_primary_that_was_seen_to_take_over_keeps_writing_when_the_old_one_comes_back():
    looks = Looks.of(*NAMES)
    looks.look(*trio())
    looks.look(unreachable("pg1"), PROMOTED, FOLLOWER)

    assert answer(looks.look(primary("pg1"), PROMOTED, FOLLOWER), WRITE) == ("pg2", Reason.WRITE)


def test_two_primaries_on_one_timeline_take_no_writes():
    found = Looks.of(*NAMES).look(primary("pg1"), primary("pg2", lsn=END + MIB), replica("pg3"))

    assert answer(found, WRITE) == (None, Reason.TWO_PRIMARIES)
    assert "pg1 is the primary" in found.write.detail


def test_a_fenced_primary_takes_no_writes_and_does_not_stand_in_the_way():
    fenced = primary("pg1", synchronous_standby_names=FENCE_NAME)
    looks = Looks.of(*NAMES)

    assert answer(looks.look(fenced, replica("pg2"), replica("pg3")), WRITE) == (None, Reason.NO_PRIMARY)
    assert answer(looks.look(fenced, PROMOTED, FOLLOWER), WRITE) == ("pg2", Reason.WRITE)


@pytest.mark.parametrize(
    ("cause", "writer"),
    [
        (Cause.TIMEOUT, "pg1"),
        (Cause.TOO_MANY_CONNECTIONS, "pg1"),
        (Cause.REFUSED, None),
        (Cause.STARTING_UP, None),
        (Cause.WRONG_CLUSTER, None),
    ],
)
def test_a_primary_that_just_does_not_answer_is_still_written_to_for_a_while(cause, writer):
    looks = Looks.of(*NAMES)
    looks.look(*trio())
    silent = trio(pg1=unreachable("pg1", cause))

    assert looks.look(*silent).writer == writer
    assert looks.look(*silent, after_s=SILENT_WRITER_S).writer is None


def test_a_silent_primary_is_given_up_as_soon_as_somebody_shows_a_newer_timeline():
    looks = Looks.of(*NAMES)
    looks.look(*trio())
    silent = trio(pg1=unreachable("pg1", Cause.TIMEOUT), pg3=replica("pg3", "pg2", timeline=2))

    assert looks.look(*silent).writer is None


def test_nowhere_says_what_each_node_had_to_say():
    found = Looks.of(*NAMES).look(unreachable("pg1"), without_receiver("pg2"), unreachable("pg3", Cause.DNS))

    assert decide(WRITE, None, found, 0.0).detail == (
        "pg1 does not answer: refused (nobody listens); "
        "pg2 has not been seen streaming and replaying for longer than max_lag_s; "
        "pg3 does not answer: dns (nobody listens)"
    )


# ---- timelines of tokens


@pytest.mark.parametrize(
    ("asked", "follower", "expected"),
    [
        (position(END - 8), END, "pg3"),  # it was there before the failover
        (position(END + 10**9), END - 8, "pg2"),  # lost, and the replica has not even come to where it parted
        (position(END + 10**9), END, "pg3"),  # lost, and the replica has all that is left
        (position(END + 50, timeline=2), END + 40, "pg2"),
        (position(END + 50, timeline=2), END + 50, "pg3"),
    ],
)
def test_a_token_from_before_a_failover_asks_for_no_more_than_is_left(asked, follower, expected):
    looks = Looks.of(*NAMES, readmit_after=1, hold_s=0, max_lag_s=9999, readmit_lag_s=9999)
    looks.look(*trio())
    looks.look(unreachable("pg1"), primary("pg2", timeline=2, lsn=END), replica("pg3"))
    nodes = (primary("pg2", timeline=2, lsn=END + 100), replica("pg3", "pg2", timeline=2, lsn=follower))
    snapshot = looks.look(unreachable("pg1"), *nodes)

    assert fit(snapshot) == {"pg3"}
    assert answer(snapshot, read_after(asked))[0] == expected


def test_a_process_that_did_not_see_the_failover_asks_for_the_whole_position():
    looks = Looks.of(*NAMES)
    nodes = (primary("pg2", timeline=2, lsn=END + 100), replica("pg3", "pg2", timeline=2, lsn=END + 100))
    snapshot = looks.look(unreachable("pg1"), *nodes)

    # Where the timeline began is not known exactly: no later than where its primary is now.
    assert answer(snapshot, read_after(position(END)))[0] == "pg3"
    assert answer(snapshot, read_after(position(END + 50)))[0] == "pg3"
    assert answer(snapshot, read_after(position(END + 10**9)))[0] == "pg3"
    behind = (primary("pg2", timeline=2, lsn=END + 100), replica("pg3", "pg2", timeline=2, lsn=END + 40))
    snapshot = Looks.of(*NAMES).look(unreachable("pg1"), *behind)
    assert answer(snapshot, read_after(position(END + 50)))[0] == "pg2"


def test_every_reason_says_something_of_its_own():
    assert len({reason.sentence for reason in Reason}) == len(Reason)
    assert len({fitness.sentence for fitness in Fitness}) == len(Fitness)
