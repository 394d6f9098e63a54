"""doctor: every finding once, with what mends it, and none where all is ready."""

from dataclasses import replace

import pytest

from replctl.core.readiness import Finding, NodeRights, Right, Surroundings, readiness
from replctl.core.results import Status
from replctl.core.settings import WitnessSpec
from tests.unit.builders import (
    SETTINGS,
    assessed,
    primary,
    replica,
    sender,
    settings,
    spec,
    trio,
    unreachable,
)

COMMANDS = frozenset({"stop", "start", "run"})


def nodes(**keys):
    return tuple(spec(f"pg{n}", **{"data_directory": "/data"} | keys) for n in (1, 2, 3))


def rights_of(name, **keys):
    ready = {
        "node": name,
        "user": "replctl",
        "rights": (
            Right(what="pg_promote", needed_for="promotion", statement="GRANT p", held=True),
            Right(what="pg_monitor", needed_for="looking", statement="GRANT m", held=True),
        ),
        "state_table": True,
        "config_errors": (),
        "conninfo_source": "configuration file",
        "conninfo_file": "/data/postgresql.auto.conf",
        "alter_system_allowed": True,
        "through_pooler": False,
        "managers": (),
    }
    return NodeRights(**ready | keys)


def surroundings(**keys):
    ready = {
        "commands": dict.fromkeys(("pg1", "pg2", "pg3"), COMMANDS),
        "sslmodes": dict.fromkeys(("pg1", "pg2", "pg3"), "verify-full"),
        "conninfo_differences": {},
        "missing_programs": (),
    }
    return Surroundings(**ready | keys)


def findings(looked_at=None, *, inventory=None, rights=None, **around):
    """What is found in a cluster that is ready but for what is given."""
    chosen = inventory or settings(nodes=nodes())
    held = [rights_of("pg1"), rights_of("pg2"), rights_of("pg3")] if rights is None else rights
    status = assessed(*(looked_at or trio()), inventory=chosen)
    return readiness(status, {r.node: r for r in held}, surroundings(**around))


def finding(topic, severity, message, remedy, node=None):
    return (Finding(topic=topic, severity=severity, message=message, remedy=remedy, node=node),)


def test_a_cluster_that_is_ready_has_no_findings():
    assert findings() == ()


# ---- the inventory


def test_an_inventory_without_replication_cannot_repoint():
    inventory = settings(nodes=nodes(), replication=None)

    assert findings(inventory=inventory) == finding(
        "failover",
        Status.CRITICAL,
        "the inventory has no [replication]: no replica can be repointed",
        'add [replication] with user = "…" (replctl init fills it from the running replicas)',
    )


def test_an_inventory_has_to_say_whether_replication_is_synchronous():
    inventory = settings(nodes=nodes(), failover={"synchronous": None})

    assert findings(inventory=inventory) == finding(
        "failover",
        Status.CRITICAL,
        "the inventory does not say what synchronous_standby_names must be",
        '[failover] synchronous = "ANY 1 (…)", or "" for asynchronous replication',
    )


@pytest.mark.parametrize(
    ("synchronous", "severity"), [("", Status.WARNING), ("ANY 1 (18main)", Status.CRITICAL)]
)
def test_names_that_are_shared_matter_most_to_a_quorum(synchronous, severity):
    inventory = settings(nodes=nodes(application_name="18main"), failover={"synchronous": synchronous})

    found = [f for f in findings(inventory=inventory) if "call themselves" in f.message]

    assert tuple(found) == finding(
        "failover",
        severity,
        "several nodes call themselves '18main': a quorum cannot tell them apart",
        "give each node an application_name of its own, in its primary_conninfo and here",
    )


def test_two_voters_can_never_fail_over():
    inventory = settings(nodes=nodes()[:2])

    found = findings((primary("pg1", "pg2"), replica("pg2")), inventory=inventory, rights=[rights_of("pg1")])

    assert found == finding(
        "failover",
        Status.CRITICAL,
        "2 voters need 2; without the primary 1 are left",
        'add [[witnesses]] with any third server, or votes = "replicas" with one controller',
    )


def test_an_even_number_of_voters_gains_nothing():
    inventory = settings(nodes=nodes(), witnesses=(WitnessSpec(name="w1", host="10.0.1.1"),))

    assert findings(inventory=inventory) == finding(
        "failover",
        Status.WARNING,
        "4 voters tolerate no more losses than 3 would",
        "add a witness to make their number odd",
    )


# ---- synchronous replication


def synchronous(rule, expected, *, names=("pg2", "pg3"), **keys):
    senders = tuple(sender(name, sync_state="quorum") for name in names)
    looked_at = trio(pg1=primary("pg1", *names, synchronous_standby_names=rule, senders=senders), **keys)
    inventory = settings(nodes=nodes(), failover={"synchronous": expected})
    return findings(looked_at, inventory=inventory)


def test_a_setting_that_is_not_the_expected_one_is_mended_by_a_statement():
    assert synchronous("ANY 1 (pg2, pg3)", "ANY 1 (pg1, pg2, pg3)") == finding(
        "failover",
        Status.CRITICAL,
        "synchronous_standby_names is 'ANY 1 (pg2, pg3)', expected 'ANY 1 (pg1, pg2, pg3)'",
        "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (pg1, pg2, pg3)'; SELECT pg_reload_conf();",
        "pg1",
    )


@pytest.mark.parametrize(
    ("rule", "who"), [("ANY 1 (*)", "any name"), ("ANY 1 (pg2, barman, x)", "barman, x")]
)
def test_whoever_confirms_commits_must_be_in_the_inventory(rule, who):
    assert synchronous(rule, rule) == finding(
        "failover",
        Status.CRITICAL,
        f"{who} may confirm commits without being in the inventory: zero loss cannot be proven",
        "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (pg1, pg2, pg3)'; SELECT pg_reload_conf();",
        "pg1",
    )


def test_a_suggested_setting_is_one_that_the_server_takes():
    inventory = settings(nodes=tuple(spec(f"pg-{n}", data_directory="/data") for n in (1, 2, 3)))
    pg1 = primary("pg-1", "pg-2", "pg-3", synchronous_standby_names="*")
    inventory = replace(inventory, failover=replace(inventory.failover, synchronous="*"))
    looked_at = pg1, replica("pg-2", "pg-1"), replica("pg-3", "pg-1")
    commands = dict.fromkeys(("pg-1", "pg-2", "pg-3"), COMMANDS)

    [found] = findings(
        looked_at,
        inventory=inventory,
        rights=[],
        commands=commands,
        sslmodes=dict.fromkeys(commands, "verify-full"),
    )

    assert found.remedy == (
        """ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ("pg-1", "pg-2", "pg-3")';"""
        " SELECT pg_reload_conf();"
    )


def test_a_delayed_replica_should_not_confirm_commits():
    rule = "ANY 1 (pg1, pg2, pg3)"

    assert synchronous(rule, rule, pg2=replica("pg2", apply_delay_s=3600.0)) == finding(
        "failover",
        Status.WARNING,
        "pg2 is delayed and confirms commits: before PostgreSQL 16 it cannot be cut",
        "leave pg2 out of synchronous_standby_names",
        "pg2",
    )


# ---- the role


def lacking(*names):
    return tuple(
        Right(what=name, needed_for="promotion", statement=f"GRANT {name}", held=False) for name in names
    )


def test_a_right_that_lacks_is_said_once_for_all_nodes():
    rights = [rights_of(name, rights=lacking("pg_promote")) for name in ("pg1", "pg2", "pg3")]

    assert findings(rights=rights) == finding(
        "failover",
        Status.CRITICAL,
        "role replctl lacks pg_promote (for promotion)",
        "GRANT pg_promote;",
    )


def test_many_rights_that_lack_are_one_finding():
    rights = [rights_of(name, rights=lacking("a", "b", "c", "d")) for name in ("pg1", "pg2")]

    assert findings(rights=rights) == finding(
        "failover",
        Status.CRITICAL,
        "role replctl lacks 4 rights: a, b, c, d",
        "replctl grants --pg 18 --role operator --name replctl",
    )


def test_two_roles_are_told_apart():
    rights = [rights_of("pg1", rights=lacking("a")), rights_of("pg2", user="other", rights=lacking("a"))]

    assert [f.message for f in findings(rights=rights)] == [
        "role replctl lacks a (for promotion)",
        "role other lacks a (for promotion)",
    ]


def test_without_the_state_table_nothing_can_be_kept_in_the_cluster():
    rights = [rights_of(name, state_table=False) for name in ("pg1", "pg2", "pg3")]

    assert findings(rights=rights) == finding(
        "failover",
        Status.WARNING,
        "there is no table replctl.state: pause, block and drain cannot be kept in the cluster",
        "replctl grants --pg 18 --role operator --name replctl",
    )


# ---- each node


@pytest.mark.parametrize(
    ("keys", "message", "remedy"),
    [
        (
            {"config_errors": ("/data/postgresql.conf:7: syntax error",)},
            "a syntax error makes it ignore every reload: /data/postgresql.conf:7: syntax error",
            "correct the file, then SELECT pg_reload_conf();",
        ),
        (
            {"alter_system_allowed": False},
            "allow_alter_system is off: it can be neither cut nor repointed",
            "set allow_alter_system = on in postgresql.conf; SELECT pg_reload_conf();",
        ),
        (
            {"conninfo_source": "command line"},
            "primary_conninfo was given on the command line: ALTER SYSTEM does not change it",
            "move it to postgresql.auto.conf and restart the server",
        ),
        (
            {"through_pooler": True},
            "this address leads through a connection pooler: votes need a direct connection",
            "put the server's own host and port into the inventory",
        ),
        (
            {"managers": ("Patroni heartbeat",)},
            "another manager is connected: Patroni heartbeat",
            'let one of them go, or set manager = "patroni" in [cluster] to only look',
        ),
    ],
)
def test_what_stands_in_the_way_on_one_node(keys, message, remedy):
    rights = [rights_of("pg1"), rights_of("pg2", **keys), rights_of("pg3")]

    assert findings(rights=rights) == finding("failover", Status.CRITICAL, message, remedy, "pg2")


def test_what_may_not_be_asked_is_no_finding():
    assert findings(rights=[rights_of("pg1", config_errors=None)]) == ()


@pytest.mark.parametrize("name", ["max_wal_senders", "max_replication_slots"])
def test_a_replica_needs_room_for_all_the_others(name):
    cramped = replica("pg2", settings=SETTINGS | {name: "1"})

    assert findings(trio(pg2=cramped)) == finding(
        "failover",
        Status.CRITICAL,
        f"{name} is 1: as primary it could not feed 2 replicas",
        f"ALTER SYSTEM SET {name} = 7; then restart pg2",
        "pg2",
    )


def test_without_slots_in_the_inventory_no_room_for_them_is_needed():
    cramped = replica("pg2", settings=SETTINGS | {"max_replication_slots": "0"})

    assert findings(trio(pg2=cramped), inventory=settings(nodes=nodes(), slot=None)) == ()


def test_a_replica_without_the_slot_that_the_inventory_wants():
    assert findings(trio(pg3=replica("pg3", primary_slot_name=None))) == finding(
        "failover",
        Status.WARNING,
        "it uses no slot, though [replication] slot is set: WAL may go before it is read",
        "create slot pg3 on its upstream, then ALTER SYSTEM SET primary_slot_name = 'pg3'; "
        "SELECT pg_reload_conf();",
        "pg3",
    )


# ---- what the inventory and this machine give


@pytest.mark.parametrize("has", [{"run"}, {"run", "stop"}, {"run", "start", "fence"}])
def test_without_stop_and_start_a_switchover_ends_in_a_rewind(has):
    commands = {"pg1": COMMANDS, "pg2": frozenset(has), "pg3": COMMANDS}

    assert findings(commands=commands) == finding(
        "switchover",
        Status.WARNING,
        "no stop and start commands: after a switchover it would need pg_rewind to come back",
        '[nodes.commands] stop = ["ssh", "{host}", …], start = […]',
        "pg2",
    )


REWIND = finding(
    "rejoin",
    Status.WARNING,
    "pg_rewind cannot be run on it: no run command, or no data_directory",
    'data_directory and [nodes.commands] run = ["ssh", "{host}", "sudo", "-u", "postgres", "--"]',
    "pg1",
)


def test_pg_rewind_needs_a_command_and_a_directory():
    without_run = {"pg1": COMMANDS - {"run"}, "pg2": COMMANDS, "pg3": COMMANDS}
    without_directory = settings(nodes=(spec("pg1"), *nodes()[1:]))

    assert findings(commands=without_run) == REWIND
    assert findings(inventory=without_directory) == REWIND


@pytest.mark.parametrize(("sslmode", "shown"), [(None, "prefer"), ("require", "require")])
def test_a_connection_that_does_not_know_the_server_is_open_to_impostors(sslmode, shown):
    sslmodes = {"pg1": "verify-full", "pg2": sslmode, "pg3": "verify-ca"}

    assert findings(sslmodes=sslmodes) == finding(
        "security",
        Status.WARNING,
        f"sslmode {shown} does not protect against an impostor",
        'sslmode = "verify-full" in [connection]',
        "pg2",
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "/var/run/postgresql"])
def test_on_this_machine_there_are_no_impostors(host):
    inventory = settings(nodes=tuple(replace(n, host=host, port=5430 + int(n.name[2:])) for n in nodes()))
    looked_at = trio()
    quiet = [f for f in findings(looked_at, inventory=inventory, sslmodes={}) if f.topic == "security"]

    assert quiet == []


def test_a_live_conninfo_that_is_not_what_a_repoint_would_write():
    assert findings(conninfo_differences={"pg3": ("user", "sslmode")}) == finding(
        "failover",
        Status.WARNING,
        "its primary_conninfo differs from [replication] in user, sslmode",
        "correct [replication]: that is what a repointed replica gets",
        "pg3",
    )


def test_a_program_that_is_not_there_cannot_be_run():
    assert findings(missing_programs=("fence_ipmilan",)) == finding(
        "failover",
        Status.CRITICAL,
        "fence_ipmilan cannot be run here",
        "install it, or correct the hook or command",
    )


def test_the_findings_that_stop_a_failover_come_first():
    found = findings(sslmodes={}, missing_programs=("x",), conninfo_differences={"pg2": ("user",)})

    assert [f.severity for f in found] == [Status.CRITICAL] + [Status.WARNING] * 4


def test_nodes_that_do_not_answer_are_left_to_the_checks():
    assert findings((unreachable("pg1"), replica("pg2"), replica("pg3")), rights=[rights_of("pg2")]) == ()
