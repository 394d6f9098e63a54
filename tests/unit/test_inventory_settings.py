"""What an inventory means: settings, connections, commands, and where each value comes from."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from replctl.core.settings import (
    PROFILES,
    CheckSettings,
    ClusterSettings,
    FailoverSettings,
    Hooks,
    NodeSpec,
    ReplicationSettings,
    RoutingSettings,
    Thresholds,
    WitnessSpec,
)
from replctl.inventory import Connection, Inventory, NodeCommands, parse

SMALL = """
[cluster]
name = "orders"
[[nodes]]
name = "pg1"
host = "10.0.0.1"
"""


def read(text: str, env: dict[str, str] | None = None, path: str = "/nowhere/orders.toml") -> Inventory:
    """An inventory from text."""
    return parse(tomllib.loads(text), Path(path), env)


def test_a_small_inventory_has_the_product_s_defaults():
    inventory = read(SMALL)

    assert inventory.settings == ClusterSettings(
        name="orders", nodes=(NodeSpec(name="pg1", host="10.0.0.1", application_name="pg1"),)
    )
    assert inventory.connections == {"pg1": Connection(host="10.0.0.1")}
    assert inventory.commands == {"pg1": NodeCommands()}
    assert (inventory.replication, inventory.pgbouncer, inventory.haproxy) == (None, None, None)
    assert inventory.warnings == ()


def test_every_table_is_understood():
    inventory = read(
        """
        schema = 1
        [cluster]
        name = "orders"
        manager = "patroni"
        [connection]
        user = "replctl"
        connect_timeout_s = "500ms"
        [replication]
        user = "replicator"
        sslmode = "require"
        slot = "{name}"
        [[nodes]]
        name = "PG-1"
        application_name = "one"
        host = "10.0.0.1"
        port = 5433
        zone = "eu-1a"
        promote = "prefer"
        weight = 0
        client_host = "pg1.internal"
        client_port = 6432
        data_directory = "/data"
        user = "other"
        [nodes.commands]
        stop = ["ssh", "{host}", "-p", "{port}", "{name}", "{data_directory}", "{{}}"]
        [nodes.checks]
        lag_s = [60, "never"]
        unreachable = "unknown"
        [[witnesses]]
        name = "w1"
        host = "10.0.0.9"
        [routing]
        policy = "zone"
        max_lag_bytes = "1MiB"
        [checks]
        lag_bytes = ["1MiB", "@1:2MiB"]
        heartbeat_s = 2
        [failover]
        profile = "fast"
        failures = 7
        synchronous = "FIRST 1 (one)"
        block_s = "2h"
        [failover.hooks]
        after = ["notify", "{literally}"]
        [pgbouncer]
        databases = ["app"]
        """
    )

    node_checks = CheckSettings(
        thresholds={"lag_s": Thresholds(warning="60", critical="never")}, unreachable="unknown"
    )
    node = NodeSpec(
        name="PG-1",
        application_name="one",
        host="10.0.0.1",
        port=5433,
        zone="eu-1a",
        promote="prefer",
        weight=0,
        client_host="pg1.internal",
        client_port=6432,
        data_directory="/data",
        checks=node_checks,
    )
    timings = PROFILES["fast"] | {"failures": 7}
    assert inventory.settings == ClusterSettings(
        name="orders",
        manager="patroni",
        nodes=(node,),
        witnesses=(WitnessSpec(name="w1", host="10.0.0.9"),),
        slot="{name}",
        replication=ReplicationSettings(user="replicator", sslmode="require"),
        routing=RoutingSettings(policy="zone", max_lag_bytes=1024**2, readmit_lag_bytes=1024**2 // 4),
        checks=CheckSettings(
            thresholds={"lag_bytes": Thresholds(warning="1MiB", critical="@1:2MiB")}, heartbeat_s=2.0
        ),
        failover=FailoverSettings(
            profile="fast",
            interval_s=timings["interval_s"],
            probe_timeout_s=timings["probe_timeout_s"],
            burst_interval_s=timings["burst_interval_s"],
            failures=7,
            restart_grace_s=timings["restart_grace_s"],
            stop_grace_s=timings["stop_grace_s"],
            synchronous="FIRST 1 (one)",
            block_s=7200.0,
            hooks=Hooks(after=("notify", "{literally}")),
        ),
    )
    assert inventory.connections == {
        "PG-1": Connection(host="10.0.0.1", port=5433, user="other", connect_timeout_s=0.5),
        "w1": Connection(host="10.0.0.9", user="replctl", connect_timeout_s=0.5),
    }
    stop = ("ssh", "10.0.0.1", "-p", "5433", "PG-1", "/data", "{}")
    assert inventory.commands == {"PG-1": NodeCommands(stop=stop)}
    assert inventory.pgbouncer is not None
    assert inventory.pgbouncer["databases"] == ("app",)
    assert inventory.pgbouncer["read_alias"] == "{database}_ro"


def test_the_defaults_of_the_schema_are_those_of_the_core():
    inventory = read(SMALL + "[routing]\n[failover]\n[checks]\n")

    assert inventory.settings.routing == RoutingSettings()
    assert inventory.settings.failover == FailoverSettings()
    assert inventory.settings.checks == CheckSettings()


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_gives_the_timings(profile):
    settings = read(SMALL + f'[failover]\nprofile = "{profile}"').settings.failover

    assert {name: getattr(settings, name) for name in PROFILES[profile]} == PROFILES[profile]


def test_every_value_has_its_origin():
    origins = read(
        SMALL + '[failover]\nprofile = "fast"\nfailures = 9\n[connection]\ndbname = "postgres"',
        {"PGUSER": "me", "PGDATABASE": "elsewhere"},
    ).origins

    expected = {
        "schema": "default",
        "cluster.name": "file",
        "cluster.manager": "default",
        "connection.user": "environment PGUSER",
        "connection.dbname": "file",
        "failover.profile": "file",
        "failover.failures": "file",
        "failover.interval_s": "profile fast",
        "failover.block_s": "default",
        "nodes.pg1.host": "file",
        "nodes.pg1.port": "default",
    }
    assert {path: origins[path] for path in expected} == expected


def test_libpq_s_environment_is_shown_but_left_to_libpq():
    inventory = read(SMALL, {"PGUSER": "me", "PGDATABASE": "elsewhere", "PGSSLMODE": "require"})
    shown = {entry.path: entry.value for entry in inventory.entries}

    assert (shown["connection.user"], shown["connection.sslmode"]) == ("me", "require")
    assert shown["connection.dbname"] == "postgres"
    assert inventory.connections["pg1"].parameters() == {
        "host": "10.0.0.1",
        "port": "5432",
        "dbname": "postgres",
    }


def test_a_service_keeps_its_own_database():
    text = SMALL + '[connection]\nservice = "orders"\n'

    assert read(text).connections["pg1"].parameters() == {
        "host": "10.0.0.1",
        "port": "5432",
        "service": "orders",
    }
    assert read(text).origins["connection.dbname"] == "service"
    assert read(text + 'dbname = "app"').connections["pg1"].parameters()["dbname"] == "app"


def test_files_of_the_connection_count_from_the_inventory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    text = SMALL + (
        '[connection]\npassfile = "secrets/pgpass"\nsslkey = "~/key"\n'
        'sslcert = "/etc/crt"\nsslrootcert = "system"\n'
        '[replication]\nuser = "r"\npassfile = "~/.pgpass"\n'
    )
    inventory = read(text, path="/etc/replctl/orders.toml")

    connection = inventory.connections["pg1"]
    files = (connection.passfile, connection.sslkey, connection.sslcert, connection.sslrootcert)
    assert files == ("/etc/replctl/secrets/pgpass", "/home/me/key", "/etc/crt", "system")
    assert inventory.replication == ReplicationSettings(user="r", passfile="~/.pgpass")


def test_a_lower_limit_for_leaving_lowers_the_one_for_returning():
    routing = read(SMALL + '[routing]\nmax_lag_bytes = "1MiB"\nmax_lag_s = 2').settings.routing

    assert (routing.readmit_lag_bytes, routing.readmit_lag_s) == (1024**2 // 4, 0.5)


def test_asynchronous_by_statement_is_not_the_same_as_no_statement():
    assert read(SMALL).settings.failover.synchronous is None
    assert read(SMALL + '[failover]\nsynchronous = ""').settings.failover.synchronous == ""


def test_synchronous_members_are_application_names():
    text = SMALL + 'application_name = "one"\n[failover]\nsynchronous = \'ANY 1 ("ONE")\'\n'

    assert read(text).settings.failover.synchronous == 'ANY 1 ("ONE")'


def test_slots_are_named_after_nodes():
    settings = read(SMALL.replace("pg1", "PG-1.eu") + '[replication]\nuser = "r"\nslot = "s_{name}"').settings

    assert settings.slot_name("PG-1.eu") == "s_pg_1_eu"
    assert read(SMALL).settings.slot_name("pg1") is None


def test_thresholds_come_from_the_node_the_cluster_or_the_default():
    settings = read(
        SMALL
        + '[nodes.checks]\nlag_s = [1, 2]\n[[nodes]]\nname = "pg2"\nhost = "b"\n[checks]\nlag_s = [3, 4]'
    ).settings

    assert settings.thresholds("lag_s", "pg1") == Thresholds(warning="1", critical="2")
    assert settings.thresholds("lag_s", "pg2") == Thresholds(warning="3", critical="4")
    assert settings.thresholds("lag_s") == Thresholds(warning="3", critical="4")
    assert settings.thresholds("lag_bytes", "pg1") == Thresholds(warning="16MiB", critical="1GiB")


def test_a_node_that_does_not_answer_is_critical_unless_said_otherwise():
    settings = read(
        SMALL + '[nodes.checks]\nunreachable = "critical"\n[[nodes]]\nname = "pg2"\nhost = "b"\n'
        '[checks]\nunreachable = "unknown"'
    ).settings

    assert (settings.unreachable("pg1"), settings.unreachable("pg2")) == ("critical", "unknown")
    assert read(SMALL).settings.unreachable("pg1") == "critical"


def test_a_shared_application_name_is_worth_a_warning():
    text = SMALL + 'application_name = "walreceiver"\n' + SMALL.split('"orders"')[1].replace("1", "2")
    inventory = read(text + 'application_name = "walreceiver"\n')

    assert inventory.warnings == (
        '/nowhere/orders.toml: application_name "walreceiver" is shared by 2 nodes: '
        "a synchronous quorum over it proves nothing",
    )


def test_a_password_command_is_never_shown():
    inventory = read(SMALL + '[connection]\npassword_command = ["echo", "hunter2"]')

    assert inventory.connections["pg1"].password_command == ("echo", "hunter2")
    assert "hunter2" not in repr(inventory)
    shown = {entry.path: entry.shown for entry in inventory.entries}
    assert shown["connection.password_command"] == "(not shown)"
