"""One code for the whole cluster, with what led to it; the most serious condition wins."""

import pytest

from replctl.core.diagnose import Code, Diagnosis, diagnose
from replctl.core.model import FENCE_NAME, Cause
from tests.unit.builders import (
    END,
    assessed,
    primary,
    receiver,
    replica,
    sender,
    settings,
    spec,
    trio,
    unreachable,
    without_receiver,
)

MIB = 1024 * 1024
DOWN = unreachable("pg1", Cause.REFUSED, "connection refused")
DOWN2 = unreachable("pg2", Cause.REFUSED, "connection refused")
SILENT = unreachable("pg1", Cause.TIMEOUT, "no answer within 2 s")


def diagnosis(*nodes, **keys):
    return diagnose(assessed(*nodes, **keys))


def found(code, *evidence):
    return Diagnosis(code=code, evidence=evidence)


def test_a_healthy_cluster():
    assert diagnosis(*trio()) == found(Code.HEALTHY, "pg1 is the primary", "2 replica(s) follow")


def test_when_no_node_answers_nothing_is_known():
    nodes = SILENT, unreachable("pg2", Cause.DNS, "no such name")

    assert diagnosis(*nodes) == found(
        Code.UNKNOWN,
        "pg1 does not answer: timeout (no answer within 2 s)",
        "pg2 does not answer: dns (no such name)",
    )


def test_two_nodes_that_write_on_one_timeline_are_a_split_brain():
    assert diagnosis(primary("pg1"), primary("pg2"), replica("pg3")) == found(
        Code.SPLIT_BRAIN, "pg1 accepts writes on timeline 1", "pg2 accepts writes on timeline 1"
    )


def test_a_second_node_that_writes_on_an_older_timeline_is_a_stale_primary():
    assert diagnosis(primary("pg1"), primary("pg2", "pg3", timeline=2), replica("pg3", "pg2")) == found(
        Code.STALE_PRIMARY,
        "pg1 accepts writes on the older timeline 1",
        "pg2 is the primary on timeline 2",
    )


def test_a_fenced_old_primary_is_no_stale_primary():
    fenced = primary("pg1", synchronous_standby_names=FENCE_NAME)
    new = primary("pg2", "pg3", timeline=2)

    assert diagnosis(fenced, new, replica("pg3", "pg2", timeline=2)) == found(
        Code.REPLICA_DETACHED, "pg1 is fenced"
    )


def test_without_a_node_that_writes_there_is_no_primary():
    assert diagnosis(replica("pg1"), replica("pg2", "pg3"), replica("pg3", "pg2")) == found(
        Code.NO_PRIMARY, "pg1 is a replica", "pg2 is a replica", "pg3 is a replica"
    )


def test_a_primary_that_is_fenced_is_none():
    fenced = primary("pg1", synchronous_standby_names=FENCE_NAME)

    assert diagnosis(fenced, replica("pg2")) == found(Code.NO_PRIMARY, "pg1 is fenced", "pg2 is a replica")


def test_a_server_of_another_cluster_is_not_taken_for_the_lost_primary():
    stranger = unreachable("pg1", Cause.WRONG_CLUSTER, "its system identifier is 1")

    assert diagnosis(stranger, replica("pg2", "pg3"), replica("pg3", "pg2")) == found(
        Code.NO_PRIMARY,
        "pg1 does not answer: wrong_cluster (its system identifier is 1)",
        "pg2 is a replica",
        "pg3 is a replica",
    )


@pytest.mark.parametrize("cause", [Cause.REFUSED, Cause.STARTING_UP])
def test_a_primary_is_down_when_its_port_is_closed_and_its_replicas_lost_it(cause):
    nodes = unreachable("pg1", cause, "gone"), without_receiver("pg2"), without_receiver("pg3")

    assert diagnosis(*nodes) == found(
        Code.PRIMARY_DOWN,
        f"pg1 does not answer: {cause} (gone)",
        "pg2 has no connection to pg1",
        "pg3 has no connection to pg1",
    )


@pytest.mark.parametrize(
    "pg2",
    [
        replica("pg2"),
        replica("pg2", receiver=receiver(status="waiting")),
        replica("pg2", replay_pause="paused"),
        replica("pg2", receiver=receiver(status=None)),
    ],
    ids=["streaming", "waiting", "paused", "hidden"],
)
def test_a_primary_that_still_feeds_a_replica_is_alive(pg2):
    nodes = SILENT, pg2, without_receiver("pg3")

    assert diagnosis(*nodes) == found(
        Code.PRIMARY_UNREACHABLE_BUT_ALIVE,
        "pg1 does not answer: timeout (no answer within 2 s)",
        "pg2 still streams from pg1",
    )


def test_silence_alone_does_not_tell_whether_the_primary_is_down():
    assert diagnosis(SILENT, without_receiver("pg2")) == found(
        Code.PRIMARY_STATE_UNKNOWN,
        "pg1 does not answer: timeout (no answer within 2 s)",
        "pg2 has no connection to pg1",
    )


@pytest.mark.parametrize("cause", [Cause.DNS, Cause.TLS, Cause.NOT_POSTGRES, Cause.OTHER])
def test_causes_that_say_nothing_about_the_primary_leave_it_unknown(cause):
    nodes = unreachable("pg1", cause, "no"), without_receiver("pg2")

    assert diagnosis(*nodes).code is Code.PRIMARY_STATE_UNKNOWN


def test_a_closed_port_that_nobody_streamed_from_is_no_proof():
    nodes = DOWN, without_receiver("pg2", upstream_host="10.9.9.9")

    assert diagnosis(*nodes) == found(
        Code.PRIMARY_STATE_UNKNOWN, "pg1 does not answer: refused (connection refused)"
    )


def test_of_several_silent_nodes_the_one_that_is_followed_is_the_suspect():
    nodes = DOWN, without_receiver("pg2"), unreachable("pg3", Cause.TIMEOUT, "no answer")

    assert diagnosis(*nodes) == found(
        Code.PRIMARY_DOWN,
        "pg1 does not answer: refused (connection refused)",
        "pg2 has no connection to pg1",
    )


@pytest.mark.parametrize("silent", [SILENT, DOWN])
def test_a_replica_that_may_not_tell_its_receiver_is_no_evidence(silent):
    core_only = without_receiver("pg2", settings={})

    assert diagnosis(silent, core_only) == found(
        Code.PRIMARY_STATE_UNKNOWN, f"pg1 does not answer: {silent.cause} ({silent.message})"
    )


@pytest.mark.parametrize("cause", [Cause.AUTH, Cause.TOO_MANY_CONNECTIONS, Cause.PRIVILEGE])
def test_a_primary_that_says_no_is_alive(cause):
    nodes = unreachable("pg1", cause, "no"), without_receiver("pg2")

    assert diagnosis(*nodes) == found(
        Code.PRIMARY_UNREACHABLE_BUT_ALIVE,
        f"pg1 does not answer: {cause} (no)",
    )


def test_a_connection_that_carries_nothing_is_no_sign_of_life():
    quiet = replica("pg2", receiver=receiver(last_message_age_s=20.0))

    assert diagnosis(SILENT, quiet) == found(
        Code.PRIMARY_STATE_UNKNOWN,
        "pg1 does not answer: timeout (no answer within 2 s)",
        "pg2 is connected to pg1, and has heard nothing for 20 s",
    )


def test_when_a_majority_is_silent_it_may_be_we_who_are_cut_off():
    nodes = SILENT, unreachable("pg2", Cause.TIMEOUT, "no answer within 2 s"), replica("pg3")

    assert diagnosis(*nodes) == found(
        Code.CONTROLLER_ISOLATED,
        "1 of 3 voters answer, 2 are a majority",
        "pg1 does not answer: timeout (no answer within 2 s)",
        "pg2 does not answer: timeout (no answer within 2 s)",
    )


def test_a_lost_primary_whose_replicas_are_never_promoted_has_no_candidate():
    nodes = tuple(spec(name, promote="never") for name in ("pg1", "pg2"))

    assert diagnosis(DOWN, without_receiver("pg2"), inventory=settings(nodes=nodes)) == found(
        Code.NO_CANDIDATE,
        "pg1 does not answer: refused (connection refused)",
        'pg2 has promote = "never"',
    )


def test_an_old_primary_alone_with_replicas_of_a_newer_timeline_is_stale():
    nodes = primary("pg1"), DOWN2, without_receiver("pg3", upstream="pg2", timeline=2)

    assert diagnosis(*nodes) == found(
        Code.STALE_PRIMARY,
        "pg1 accepts writes on the older timeline 1",
        "pg2 does not answer: refused (connection refused)",
    )


def test_a_receiver_that_stopped_has_no_connection():
    assert diagnosis(DOWN, replica("pg2", receiver=receiver(status="stopped"))).code is Code.PRIMARY_DOWN


SYNC = "ANY 1 (pg1, pg2, pg3)"


def synchronous(*senders, configured=SYNC, expected=SYNC, **spoilt):
    pg1 = primary("pg1", synchronous_standby_names=configured, senders=senders)
    inventory = settings("pg1", "pg2", "pg3", failover={"synchronous": expected})
    return diagnosis(*trio(pg1=pg1, **spoilt), inventory=inventory)


def test_a_primary_without_enough_replicas_to_confirm_is_blocked():
    lost = {"pg2": without_receiver("pg2"), "pg3": without_receiver("pg3")}

    assert synchronous(**lost) == found(
        Code.SYNC_BLOCKED, f"pg1 waits for '{SYNC}'", "1 more replica(s) must stream first"
    )


def test_a_synchronous_setting_that_is_not_the_expected_one():
    senders = sender("pg2", sync_state="quorum"), sender("pg3", sync_state="quorum")

    assert synchronous(*senders, expected="ANY 2 (pg1, pg2, pg3)") == found(
        Code.SYNC_MISMATCH, f"pg1 has '{SYNC}'", "the inventory expects 'ANY 2 (pg1, pg2, pg3)'"
    )


def test_a_setting_that_the_inventory_says_nothing_about_is_no_mismatch():
    senders = sender("pg2", sync_state="quorum"), sender("pg3", sync_state="quorum")

    assert synchronous(*senders, expected=None).code is Code.HEALTHY


@pytest.mark.parametrize(
    ("pg2", "evidence"),
    [
        (without_receiver("pg2"), "pg2 is stalled"),
        (replica("pg2", lsn=END + 1), "pg2 is diverged"),
        (
            unreachable("pg2", Cause.TOO_MANY_CONNECTIONS, "too many clients already"),
            "pg2 does not answer: too_many_connections (too many clients already)",
        ),
        (unreachable("pg2", Cause.WRONG_CLUSTER, "x"), "pg2 does not answer: wrong_cluster (x)"),
    ],
)
def test_a_replica_that_does_not_follow_is_detached(pg2, evidence):
    assert diagnosis(*trio(pg2=pg2)) == found(Code.REPLICA_DETACHED, evidence)


def test_a_replica_over_the_limit_of_routing_lags():
    assert diagnosis(*trio(pg2=replica("pg2", lsn=END - 17 * MIB))) == found(
        Code.REPLICA_LAGGING, "pg2 is streaming, 17825792 bytes behind"
    )


def test_a_paused_replica_lags_even_before_it_is_behind():
    assert diagnosis(*trio(pg2=replica("pg2", replay_pause="paused"))) == found(
        Code.REPLICA_LAGGING, "pg2 is paused, 0 bytes behind"
    )


def test_a_delayed_replica_is_behind_by_design():
    assert diagnosis(*trio(pg2=replica("pg2", lsn=END - 17 * MIB, apply_delay_s=3600.0))).code is Code.HEALTHY


def test_a_replica_whose_columns_are_hidden_is_not_called_detached():
    assert diagnosis(*trio(pg2=replica("pg2", receiver=receiver(status=None)))).code is Code.HEALTHY


def test_a_single_server_is_healthy():
    assert diagnosis(primary("pg1")) == found(Code.HEALTHY, "pg1 is the primary", "0 replica(s) follow")
