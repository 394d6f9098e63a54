"""What doctor says of the moment, and how it puts it: the verdict last, each finding with what mends it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replctl.core.coverage import Votes, coverage, lacking_now, more_sync, more_votes
from replctl.core.model import Cause
from replctl.core.readiness import Finding, NodeRights, Right, Surroundings, unexamined
from replctl.core.report import reported
from replctl.core.results import Status
from replctl.core.settings import WitnessSpec
from replctl.display.doctor import Examination, doctor_document, doctor_text, render_examinations
from tests.unit.builders import assessed, primary, replica, sender, settings, trio, unreachable

RULE = "ANY 1 (pg1, pg2, pg3)"
QUORUM = {"synchronous": RULE}
REPLICAS = ("pg2", "pg3")
DOWN = unreachable("pg1", Cause.REFUSED, "Connection refused")


def quorum_trio(**spoilt):
    """pg1 with two replicas that confirm."""
    senders = sender("pg2", sync_state="quorum"), sender("pg3", sync_state="quorum")
    head = primary("pg1", "pg2", "pg3", senders=senders, synchronous_standby_names="ANY 1 (pg1, pg2, pg3)")
    others = {
        name: replica(name, synchronous_standby_names=head.synchronous_standby_names) for name in REPLICAS
    }
    return trio(**{"pg1": head, **others} | spoilt)


def status_of(*nodes, failover=None, **keys):
    return assessed(*nodes, inventory=settings(failover=failover or QUORUM, **keys))


def examined(*nodes, findings=(), durable=False, fences=(), failover=None, **keys) -> Examination:
    status = status_of(*nodes, failover=failover, **keys)
    right = Right(
        what="pg_write_server_files", needed_for="a fence", statement="GRANT it TO him", held=durable
    )
    rights = NodeRights(
        node="pg1",
        user="replctl",
        rights=(),
        state_table=True,
        config_errors=(),
        conninfo_source=None,
        conninfo_file=None,
        alter_system_allowed=True,
        through_pooler=False,
        managers=(),
        durable_fence=right,
    )
    around = Surroundings(
        commands={name: frozenset({"fence"}) for name in fences},
        sslmodes={},
        conninfo_differences={},
        missing_programs=(),
    )
    return Examination(
        report=reported(status),
        coverage=coverage(status.settings, status.sync, frozenset(fences)),
        findings=tuple(findings),
        rights={"pg1": rights},
        around=around,
    )


# ---- what lacks at this moment


def test_nothing_lacks_while_everybody_answers():
    assert lacking_now(status_of(*quorum_trio())) == ()


def test_a_lost_primary_is_no_lack_of_a_failover():
    assert lacking_now(status_of(*quorum_trio(pg1=DOWN))) == ()


def test_a_replica_that_does_not_answer_lacks_to_the_votes_and_to_the_proof():
    assert lacking_now(status_of(*quorum_trio(pg3=unreachable("pg3")))) == (
        "only 1 (pg2) of the 2 votes that are needed without the primary",
        "only 1 (pg2) of the 2 replicas that prove together that nothing is lost",
    )


def test_when_nobody_answers_nobody_can_vote():
    nodes = [unreachable(name) for name in ("pg1", "pg2", "pg3")]

    assert [said.partition(" of ")[0] for said in lacking_now(status_of(*nodes))] == ["none", "none"]


def test_a_witness_votes_but_proves_nothing():
    voter = replace(replica("w1"), node="w1")
    nodes = quorum_trio(pg3=unreachable("pg3"))
    inventory = settings(failover=QUORUM, witnesses=(WitnessSpec(name="w1", host="10.0.1.1"),))

    found = lacking_now(assessed(*nodes, inventory=inventory, witnesses=(voter,)))

    assert found == (
        "only 2 (pg2, w1) of the 3 votes that are needed without the primary",
        "only 1 (pg2) of the 2 replicas that prove together that nothing is lost",
    )


def test_with_a_larger_quorum_a_replica_may_be_missing():
    rule = {"synchronous": "ANY 2 (pg1, pg2, pg3)", "votes": "replicas"}

    assert [s[:6] for s in lacking_now(status_of(*quorum_trio(pg3=unreachable("pg3")), failover=rule))] == [
        "only 1"
    ]


def test_asynchronous_replication_proves_nothing_and_lacks_no_proof():
    found = lacking_now(status_of(*trio(pg3=unreachable("pg3")), failover={"synchronous": ""}))

    assert found == ("only 1 (pg2) of the 2 votes that are needed without the primary",)


# ---- what would be better


@pytest.mark.parametrize(("voters", "count"), [(3, 2), (4, 1), (5, 2)])
def test_how_many_more_voters_would_help(voters, count):
    votes = Votes(voters=tuple("abcdefg"[:voters]), majority=voters // 2 + 1, may_be_missing=0)

    assert more_votes(votes).startswith(f"{count} more [[witnesses]]")


@pytest.mark.parametrize(
    ("configured", "value", "writes"),
    [
        ("", "ANY 1 (pg1, pg2, pg3)", "one loss"),
        ("ANY 1 (pg1, pg2, pg3)", "ANY 2 (pg1, pg2, pg3)", "no loss"),
    ],
)
def test_the_rule_that_survives_one_loss_more(configured, value, writes):
    status = status_of(*trio(pg1=primary("pg1", "pg2", "pg3", synchronous_standby_names=configured)))

    assert more_sync(status) == (
        f"{value[:5]}, also in [failover] synchronous; writes then survive {writes}",
        f"ALTER SYSTEM SET synchronous_standby_names = '{value}'; SELECT pg_reload_conf();",
    )


def test_when_every_replica_has_to_confirm_only_another_one_helps():
    rule = "ANY 2 (pg1, pg2, pg3)"
    status = status_of(*trio(pg1=primary("pg1", "pg2", "pg3", synchronous_standby_names=rule)))

    assert more_sync(status) == ("another replica, which the rule names too", None)


@pytest.mark.parametrize("nodes", [trio(pg1=DOWN), trio(pg1=primary(synchronous_standby_names="ANY ("))])
def test_of_a_rule_that_is_not_known_nothing_better_is(nodes):
    assert more_sync(status_of(*nodes)) is None


# ---- the whole examination


def test_a_cluster_that_is_ready():
    found = examined(*quorum_trio(), durable=True, fences=("pg1", "pg2", "pg3"))

    assert not found.stops
    assert (
        doctor_text(found)
        == """\
cluster orders: primary pg1; replicas pg2, pg3; PostgreSQL 18.3

Automatic failover, while a controller runs, covers
  yes  process death, host death, partition
       ANY 1 (pg1, pg2, pg3): no acknowledged commit is lost, every other member must be reachable

Votes: 2 of 3 voters have to agree; besides a lost primary no others may be missing
  pg1            primary  answers
  pg2            node     answers
  pg3            node     answers
  to need fewer of them: 2 more [[witnesses]] would let one more of them be missing

Synchronous replication: ANY 1 (pg1, pg2, pg3)
  writes go on              also when 1 replica is lost
  a failover loses nothing  while no replica is lost
  to survive one more: ANY 2, also in [failover] synchronous; writes then survive no loss
       ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (pg1, pg2, pg3)'; SELECT pg_reload_conf();

Fencing an old primary
  by SQL         for good: it comes back as a replica
  by a command   pg1, pg2, pg3

failover    ready
switchover  ready
rejoin      ready
checks      OK"""
    )


def test_what_is_not_covered_says_what_would_cover_it():
    text = doctor_text(examined(*trio(), failover={"synchronous": ""}))

    assert "  NO   host death, partition\n" in text
    assert "\n  to cover more: [nodes.commands] fence = " in text
    assert "\nSynchronous replication: off; the last commits may be lost with the primary\n" in text


def test_findings_stand_worst_first_with_what_mends_them():
    findings = [
        Finding(
            topic="rejoin", severity=Status.WARNING, message="no command", remedy="write one", node="pg2"
        ),
        Finding(topic="failover", severity=Status.CRITICAL, message="no right", remedy="GRANT it;"),
    ]

    text = doctor_text(
        examined(
            *quorum_trio(pg2=replica("pg2", replay_pause="paused", synchronous_standby_names=RULE)),
            findings=findings,
        )
    )

    assert (
        text[text.index("Findings") :]
        == """\
Findings
  CRITICAL  failover    no right
            mend:       GRANT it;
  WARNING   rejoin      pg2: no command
            mend:       write one
  WARNING   check       replay-paused: pg2 replay is paused
            mend:       on pg2: SELECT pg_wal_replay_resume();

failover    NOT ready  1 finding
switchover  NOT ready
rejoin      NOT ready  1 finding
checks      WARNING    1 finding"""
    )


def test_a_lost_primary_leaves_the_cluster_ready_for_a_failover_alone():
    found = examined(*quorum_trio(pg1=DOWN))

    assert found.stops
    assert doctor_document(found)["ready"] == {"failover": True, "switchover": False, "rejoin": False}


def test_two_primaries_are_no_case_for_a_failover():
    found = examined(*quorum_trio(pg2=primary("pg2", timeline=2)))

    assert doctor_document(found)["ready"] == {"failover": False, "switchover": False, "rejoin": False}


def test_what_another_manager_does_is_left_to_it():
    text = doctor_text(examined(*quorum_trio(), manager="patroni"))

    assert (
        text
        == """\
cluster orders: primary pg1; replicas pg2, pg3; PostgreSQL 18.3

Failover, switchover and rejoin are left to patroni.

checks      OK"""
    )


def test_a_node_that_would_not_tell_is_a_finding():
    assert unexamined({"pg2": "permission denied"}) == (
        Finding(
            topic="failover",
            severity=Status.UNKNOWN,
            node="pg2",
            message="what the role may do there is not known: permission denied",
            remedy="replctl doctor --timeout 30s",
        ),
    )


FINDINGS = (
    Finding(topic="rejoin", severity=Status.WARNING, message="no command", remedy="write one", node="pg2"),
    Finding(topic="switchover", severity=Status.CRITICAL, message="no slot", remedy="make it, here"),
)


def test_as_csv_each_thing_to_mend_is_a_line_worst_first():
    paused = replica("pg3", replay_pause="paused", synchronous_standby_names=RULE)

    text = render_examinations([examined(*quorum_trio(pg3=paused), findings=FINDINGS)], "csv")

    assert text.split("\n") == [
        "cluster,topic,severity,node,message,remedy",
        'orders,switchover,critical,,no slot,"make it, here"',
        "orders,rejoin,warning,pg2,no command,write one",
        "orders,check,warning,pg3,replay-paused: pg3 replay is paused,on pg3: SELECT pg_wal_replay_resume();",
    ]


def test_by_name_are_what_a_cluster_is_not_ready_for():
    well, ill = examined(*quorum_trio()), examined(*quorum_trio(), findings=FINDINGS)
    managed = examined(*quorum_trio(pg1=DOWN), manager="patroni")

    assert [render_examinations(found, "name") for found in ([well], [ill], [well, ill], [managed])] == [
        "",
        "switchover",
        "switchover",
        "",
    ]


@pytest.mark.parametrize("form", ["table", "wide"])
def test_of_several_clusters_each_is_told(form):
    one, other = examined(*quorum_trio()), examined(*quorum_trio(), findings=FINDINGS)

    assert render_examinations([one, other], form) == f"{doctor_text(one)}\n\n{doctor_text(other)}"


def test_the_document_has_every_key_also_when_nobody_answers():
    well = doctor_document(examined(*quorum_trio()))
    gone = doctor_document(examined(*(unreachable(name) for name in ("pg1", "pg2", "pg3"))))

    assert list(well) == list(gone)
    assert (gone["verdict"], gone["sync"]["configured"]) == ("critical", None)
