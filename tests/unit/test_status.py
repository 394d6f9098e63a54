"""From observations to what `status` tells: one word per node, and what synchronous replication tolerates."""

from dataclasses import replace

import pytest

from replctl.core.lag import LagBound, LagSource, Seconds
from replctl.core.model import FENCE_NAME, Cause, Lsn
from replctl.core.settings import RoutingSettings
from replctl.core.status import NodeState, Role, SyncStatus, WitnessStatus
from tests.unit.builders import (
    END,
    NOW,
    SETTINGS,
    SYSTEM_IDENTIFIER,
    assessed,
    primary,
    receiver,
    replica,
    seen_before,
    sender,
    settings,
    slot,
    spec,
    state,
    trio,
    unreachable,
    without_receiver,
)

MIB = 1024 * 1024
RESTORES = {"settings": SETTINGS | {"restore_command": "cp /archive/%f %p"}}
ARCHIVE_ONLY = {"upstream_host": None, "upstream_port": None, **RESTORES}


def state_of(pg2, *, pg1=None, history=None):
    nodes = trio(pg2=pg2) if pg1 is None else trio(pg1=pg1, pg2=pg2)
    return assessed(*nodes, history=history)["pg2"].state


# ---- the state of a primary


def test_the_primary_of_a_healthy_cluster():
    found = assessed(*trio())

    assert (found.primary, found.system_identifier) == ("pg1", SYSTEM_IDENTIFIER)
    assert [(n.name, n.role, n.state, n.upstream, n.in_pool, n.routing_reason) for n in found.nodes] == [
        ("pg1", Role.PRIMARY, NodeState.PRIMARY, None, False, "primary"),
        ("pg2", Role.REPLICA, NodeState.STREAMING, "pg1", True, "fit"),
        ("pg3", Role.REPLICA, NodeState.STREAMING, "pg1", True, "fit"),
    ]


def test_a_primary_on_an_older_timeline_is_stale():
    found = assessed(primary("pg1", lsn=9 * END), primary("pg2", timeline=2), replica("pg3", "pg2"))

    assert (found.primary, found["pg1"].state, found["pg2"].state) == ("pg2", "stale_primary", "primary")
    assert found["pg1"].routing_reason == "stale_primary"


def test_two_primaries_on_one_timeline_are_both_primaries_and_neither_is_the_primary():
    found = assessed(primary("pg1"), primary("pg2"))

    assert (found.primary, found["pg1"].state, found["pg2"].state) == (None, "primary", "primary")


def test_a_fenced_primary_is_fenced_and_makes_no_other_stale():
    fenced = primary("pg1", timeline=2, synchronous_standby_names=FENCE_NAME)

    assert assessed(fenced, replica("pg2"))["pg1"].state is NodeState.FENCED
    assert [n.state for n in assessed(fenced, primary("pg2", timeline=2)).nodes] == ["fenced", "primary"]
    assert [n.state for n in assessed(fenced, primary("pg2", timeline=1)).nodes] == ["fenced", "primary"]


# ---- the state of a replica


def test_a_replica_whose_receiver_streams_is_streaming():
    assert state_of(replica("pg2")) is NodeState.STREAMING


@pytest.mark.parametrize("sender_state", ["catchup", "startup", "stopping"])
def test_a_replica_whose_upstream_is_not_done_catches_up(sender_state):
    upstream = primary("pg1", senders=(sender("pg2", state=sender_state), sender("pg3")))

    assert state_of(replica("pg2"), pg1=upstream) is NodeState.CATCHUP


@pytest.mark.parametrize("status", ["starting", "waiting", "restarting"])
def test_a_replica_whose_receiver_does_not_stream_yet_catches_up(status):
    assert state_of(replica("pg2", receiver=receiver(status=status))) is NodeState.CATCHUP


def test_a_replica_that_streams_from_an_unknown_upstream_is_streaming():
    away = replica("pg2", upstream_host="10.9.9.9", receiver=receiver(sender_host="10.9.9.9"))

    found = assessed(primary("pg1"), away)["pg2"]

    assert (found.state, found.upstream, found.sync_state) == (NodeState.STREAMING, "10.9.9.9:5432", None)


def test_a_replica_without_a_receiver_is_stalled():
    assert state_of(without_receiver("pg2")) is NodeState.STALLED


def test_a_replica_whose_receiver_stopped_is_stalled():
    assert state_of(replica("pg2", receiver=receiver(status="stopped"))) is NodeState.STALLED


def test_a_replica_that_lost_its_upstream_and_moves_is_fed_from_the_archive():
    before = seen_before((20, state(*trio(pg2=without_receiver("pg2", lsn=END - 32 * MIB, **RESTORES)))))

    moved = without_receiver("pg2", lsn=END - 16 * MIB, **RESTORES)

    assert state_of(moved, history=before) is NodeState.ARCHIVE


def test_a_replica_without_an_archive_only_replays_what_it_had_when_it_moves():
    before = seen_before((20, state(*trio(pg2=without_receiver("pg2", lsn=END - 32 * MIB)))))

    assert state_of(without_receiver("pg2", lsn=END - 16 * MIB), history=before) is NodeState.STALLED


def test_a_replica_without_a_receiver_that_has_not_moved_for_a_minute_is_stalled():
    still = without_receiver("pg2", lsn=END - 16 * MIB, **RESTORES)

    assert state_of(still, history=seen_before((20, state(*trio(pg2=still))))) is NodeState.STALLED


def test_a_replica_set_up_for_the_archive_alone_is_fed_from_it_while_it_is_near():
    near = without_receiver("pg2", lsn=END - 16 * MIB, **ARCHIVE_ONLY)
    far = without_receiver("pg2", lsn=END - 64 * MIB, **ARCHIVE_ONLY)

    assert state_of(near, history=seen_before((20, state(*trio(pg2=near))))) is NodeState.ARCHIVE
    assert state_of(far, history=seen_before((20, state(*trio(pg2=far))))) is NodeState.STALLED
    assert state_of(far) is NodeState.ARCHIVE  # with nothing to compare it gets the benefit of the doubt


@pytest.mark.parametrize("pause", ["paused", "pause requested"])
def test_a_replica_whose_replay_is_paused_is_paused_whether_it_receives_or_not(pause):
    assert state_of(replica("pg2", replay_pause=pause)) is NodeState.PAUSED
    assert state_of(without_receiver("pg2", replay_pause=pause)) is NodeState.PAUSED


def test_a_replica_ahead_of_the_primary_has_diverged():
    found = assessed(*trio(pg2=replica("pg2", lsn=END + 5000)))["pg2"]

    assert (found.state, found.lag.lag_bytes, found.lag_s) == (NodeState.DIVERGED, -5000, None)


def test_a_replica_on_a_newer_timeline_has_diverged():
    assert state_of(replica("pg2", timeline=2)) is NodeState.DIVERGED


def test_a_replica_that_waits_at_a_fork_has_diverged():
    new = primary("pg1", "pg3", timeline=2)

    assert state_of(replica("pg2", receiver=receiver(status="waiting")), pg1=new) is NodeState.DIVERGED


def test_a_replica_that_follows_the_new_primary_through_the_old_timeline_catches_up():
    new = primary("pg1", "pg3", timeline=2, senders=(sender("pg2", state="catchup"), sender("pg3")))

    assert state_of(replica("pg2", lsn=END - 100), pg1=new) is NodeState.CATCHUP


def test_replicas_of_a_stale_primary_have_diverged_cascades_included():
    nodes = (
        primary("pg1", "pg3", lsn=END - 10),
        primary("pg2", timeline=2),
        replica("pg3", "pg1", lsn=END - 10, senders=(sender("pg4"),)),
        replica("pg4", "pg3", lsn=END - 10),
    )

    found = assessed(*nodes)

    assert [n.state for n in found.nodes] == ["stale_primary", "primary", "diverged", "diverged"]
    assert [n.in_pool for n in found.nodes] == [False] * 4


def test_without_a_primary_nothing_is_known_to_have_diverged():
    nodes = unreachable("pg1"), replica("pg2", lsn=END + 5000), replica("pg3")

    assert [n.state for n in assessed(*nodes).replicas] == [NodeState.STREAMING, NodeState.STREAMING]


def test_a_receiver_whose_columns_are_hidden_is_a_state_of_its_own():
    hidden = receiver(status=None, sender_host=None, sender_port=None, received_timeline=None)

    assert state_of(replica("pg2", receiver=hidden, timeline=None)) is NodeState.NO_PRIVILEGE


def test_a_replica_that_may_tell_its_positions_only_is_not_called_stalled():
    core_only = without_receiver("pg2", settings={}, upstream_known=False, upstream_host=None)

    assert state_of(core_only) is NodeState.NO_PRIVILEGE


def test_a_node_that_gave_no_facts_keeps_its_cause_and_message():
    found = assessed(*trio(pg3=unreachable("pg3", Cause.AUTH, "password authentication failed")))["pg3"]

    assert (found.state, found.reachable, found.cause, found.message, found.role, found.routing_reason) == (
        NodeState.UNREACHABLE,
        False,
        Cause.AUTH,
        "password authentication failed",
        None,
        "unreachable",
    )


# ---- may it serve reads


@pytest.mark.parametrize(
    ("pg2", "reason"),
    [
        (replica("pg2"), "fit"),
        (without_receiver("pg2"), "stalled"),
        (replica("pg2", replay_pause="paused"), "paused"),
        (replica("pg2", apply_delay_s=3600.0), "delayed"),
        (replica("pg2", replayed_lsn=None), "lag unknown"),
        (replica("pg2", lsn=END - 17 * MIB), "lag_bytes over the limit"),
    ],
)
def test_a_replica_leaves_the_read_pool_with_its_reason(pg2, reason):
    found = assessed(*trio(pg2=pg2))["pg2"]

    assert (found.in_pool, found.routing_reason) == (reason == "fit", reason)


def test_a_replica_of_weight_zero_serves_no_reads():
    inventory = settings(nodes=(spec("pg1"), spec("pg2", weight=0), spec("pg3")))

    assert assessed(*trio(), inventory=inventory)["pg2"].routing_reason == "weight is 0"


def test_seconds_over_the_limit_count_unless_they_are_only_the_most_it_can_be():
    late = replica("pg2", lsn=END - 100)
    before = seen_before((30, state(*trio(pg1=primary("pg1", lsn=END - 200)))), (20, state(*trio())))
    guessed = replace(late, last_replayed_xact_age_s=60.0)

    assert assessed(*trio(pg2=late), history=before)["pg2"].routing_reason == "lag_s over the limit"
    found = assessed(*trio(pg2=guessed))["pg2"]
    assert (found.lag_s, found.lag_bound, found.routing_reason) == (60.0, LagBound.UPPER, "fit")


def test_the_limits_of_routing_are_the_inventorys():
    inventory = settings("pg1", "pg2", "pg3", routing=RoutingSettings(max_lag_bytes=50))

    found = assessed(*trio(pg2=replica("pg2", lsn=END - 51)), inventory=inventory)["pg2"]

    assert found.routing_reason == "lag_bytes over the limit"


# ---- what a row has besides


def test_the_slot_of_a_replica_is_its_upstreams():
    kept = slot("pg2", retained_bytes=4096)
    found = assessed(*trio(pg1=primary("pg1", "pg2", "pg3", slots=(kept, slot("pg3")))))

    assert (found["pg2"].slot, found["pg1"].slot) == (kept, None)


def test_the_three_lags_of_a_cascade_are_measured_against_the_primary():
    middle = replica("pg2", lsn=END - 100, senders=(sender("pg3"),))
    leaf = replica("pg3", "pg2", lsn=END - 300, replayed_lsn=Lsn(END - 350))

    found = assessed(primary("pg1", "pg2"), middle, leaf)["pg3"]

    assert (found.lag.lag_bytes, found.lag.transport_lag_bytes, found.lag.apply_lag_bytes) == (350, 300, 50)


def test_a_shrinking_lag_has_an_end_in_sight():
    before = seen_before(*((ago, state(*trio(pg2=replica("pg2", lsn=END - 100 * ago)))) for ago in (9, 6)))
    found = assessed(*trio(pg2=replica("pg2", lsn=END - 300)), history=before)["pg2"]

    assert found.lag_trend_bytes_per_s == pytest.approx(-600 / 9, rel=0.5)
    assert found.catch_up_eta_s == pytest.approx(300 / -found.lag_trend_bytes_per_s)


def test_a_lag_that_grows_or_stands_has_no_end_in_sight():
    still = replica("pg2", lsn=END - 300)
    before = seen_before((6, state(*trio(pg2=still))), (3, state(*trio(pg2=still))))

    assert assessed(*trio(pg2=still), history=before)["pg2"].catch_up_eta_s is None


def test_seconds_that_were_found_out_otherwise_take_the_place_of_those_measured():
    probed = Seconds(0.25, LagSource.PROBE, LagBound.EXACT)
    found = assessed(*trio()).with_seconds({"pg3": probed})

    assert (found["pg3"].lag_s, found["pg3"].lag_source, found["pg3"].lag_bound) == (0.25, "probe", "exact")
    assert found["pg2"].lag_source is LagSource.CAUGHT_UP


def test_the_history_goes_on_from_look_to_look():
    first = assessed(*trio(), observed_at=NOW - 5)
    second = assessed(*trio(pg1=primary("pg1", "pg2", "pg3", lsn=END + 800)), history=first.history)

    assert [(m.first_at, m.lsn) for m in second.history.marks] == [(NOW - 5, END), (NOW, END + 800)]
    assert second["pg2"].lag_s == 0.0
    assert [p.at for p in second.history.points["pg2"]] == [NOW - 5, NOW]


def test_witnesses_are_reachable_or_say_why_not():
    found = assessed(*trio(), witnesses=(primary("w1"), unreachable("w2", Cause.TIMEOUT, "no answer")))

    assert found.witnesses == (
        WitnessStatus(name="w1", reachable=True),
        WitnessStatus(name="w2", reachable=False, message="no answer"),
    )


# ---- synchronous replication


def sync_of(configured, *senders, expected="", **facts):
    pg1 = primary("pg1", synchronous_standby_names=configured, senders=senders, **facts)
    nodes = trio(pg1=pg1)
    names = (n.node for n in nodes)
    return assessed(*nodes, inventory=settings(*names, failover={"synchronous": expected})).sync


def quorum(name, **columns):
    return sender(name, sync_state="quorum", **columns)


def test_the_tolerance_counts_the_replicas_that_confirm_not_the_primary_itself():
    rule = "ANY 1 (pg1, pg2, pg3)"

    assert sync_of(rule, quorum("pg2"), quorum("pg3"), expected="any 1 (pg3,pg2,pg1)") == SyncStatus(
        configured=rule,
        expected="any 1 (pg3,pg2,pg1)",
        matches=True,
        tolerated_replica_losses_for_writes=1,
        tolerated_replica_losses_for_failover=0,
    )


@pytest.mark.parametrize(
    ("configured", "senders", "tolerated"),
    [
        ("", (sender("pg2"), sender("pg3")), (None, None)),
        ("ANY 1 (pg2, pg3)", (quorum("pg2"), quorum("pg3")), (1, 0)),
        ("ANY 1 (pg2, pg3)", (quorum("pg2"),), (0, -1)),
        ("ANY 1 (pg2, pg3)", (), (-1, -2)),
        ("ANY 1 (pg2, pg3)", (quorum("pg2"), quorum("pg3", state="catchup")), (0, -1)),
        ("ANY 2 (pg2, pg3)", (quorum("pg2"), quorum("pg3")), (0, 1)),
        ("ANY 1 (*)", (quorum("pg2"), quorum("pg3")), (1, 0)),
        ("ANY 1 (PG2, Pg3)", (quorum("pg2"), quorum("pg3")), (1, 0)),
        ("pg2, pg3", (sender("pg2", sync_state="sync"), sender("pg3", sync_state="potential")), (1, 0)),
        ("ANY 1 (pg2, pg3)", (quorum("pg2"), quorum("pg_receivewal")), (0, -1)),
    ],
)
def test_the_tolerance_of_what_is_connected(configured, senders, tolerated):
    found = sync_of(configured, *senders)

    assert (
        found.tolerated_replica_losses_for_writes,
        found.tolerated_replica_losses_for_failover,
    ) == tolerated


def test_who_confirms_is_unknown_where_the_server_hides_it():
    hidden = sender("pg2", state=None, sync_state=None), sender("pg3", state=None, sync_state=None)

    found = sync_of("ANY 1 (pg2, pg3)", *hidden, monitor_privilege=False)

    assert found == SyncStatus(configured="ANY 1 (pg2, pg3)", expected="", matches=False)


def test_without_a_primary_nothing_is_known_of_its_setting():
    inventory = settings("pg1", "pg2", failover={"synchronous": "ANY 1 (pg1, pg2)"})

    found = assessed(unreachable("pg1"), replica("pg2"), inventory=inventory).sync

    assert found == SyncStatus(expected="ANY 1 (pg1, pg2)")


def test_the_history_of_another_cluster_of_the_same_name_says_nothing():
    earlier = tuple(
        replace(n, system_identifier="7000000000000000000") for n in trio(pg1=primary(lsn=END * 2))
    )
    history = seen_before((60, state(*earlier)))

    found = assessed(*trio(pg1=unreachable("pg1")), history=history)

    assert (found["pg2"].lag.lag_bytes, found["pg2"].lag_s, found.history.marks) == (0, 0.0, ())
