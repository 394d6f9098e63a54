"""What is seen of real servers is what a superuser sees there, by one round trip on one connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from replctl.core.model import Cause, NodeFacts, Unreachable
from replctl.core.status import NodeState
from replctl.lab import Lab
from tests.live.looks import HOST, Address, Looks, Wire, addresses, inventory, look, silent_host
from tests.live.truth import TABLE, Writer, cut, paused, set_on, superuser
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live


def value(lab: Lab, node: str, query: str, *values: object) -> Any:
    """One value, as superuser."""
    with superuser(lab, node) as connection:
        row = connection.execute(query.encode(), values).fetchone()
    return None if row is None else row[0]


def row_of(lab: Lab, node: str, query: str, *values: object) -> tuple[Any, ...]:
    with superuser(lab, node) as connection:
        row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return row


def identify_system(lab: Lab, node: str) -> tuple[str, int]:
    """System identifier and timeline as the replication protocol tells them."""
    with psycopg.connect(lab.dsn(node), replication="database", connect_timeout=5) as connection:  # type: ignore[arg-type]
        result = connection.pgconn.exec_(b"IDENTIFY_SYSTEM")
        system_identifier, timeline = (result.get_value(0, column) for column in (0, 1))
    assert system_identifier is not None
    assert timeline is not None
    return system_identifier.decode(), int(timeline)


def repoint(lab: Lab, node: str, upstream: str) -> None:
    """Let a node stream from another one, which gets a slot for it."""
    slot = value(lab, node, "SHOW primary_slot_name")
    value(lab, upstream, "SELECT pg_create_physical_replication_slot(%s, true)", slot)
    before = value(lab, node, "SHOW primary_conninfo")
    ports = {name: str(found.port) for name, found in lab.nodes.items()}
    words = [f"port={ports[upstream]}" if word.startswith("port=") else word for word in before.split()]
    set_on(lab, node, primary_conninfo=" ".join(words))


def promote(lab: Lab, node: str) -> None:
    with superuser(lab, node) as connection:
        connection.execute("SELECT pg_promote()")


# ---- every fact beside the truth


def position(lab: Lab, node: str, name: str) -> str | None:
    found = value(lab, node, f"SELECT {name}()")
    return None if found is None else str(found)


def distance(lab: Lab, one: str | None, other: str | None) -> int:
    return int(value(lab, "pg1", "SELECT %s::pg_lsn - %s::pg_lsn", one, other))


def true_slot(lab: Lab, upstream: str, name: str) -> dict[str, Any]:
    end = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END"
    query = f"SELECT active, {end} - restart_lsn, wal_status FROM pg_replication_slots WHERE slot_name = %s"
    active, retained, wal_status = row_of(lab, upstream, query, name)
    return {"name": name, "active": active, "retained_bytes": int(retained), "wal_status": wal_status}


def true_facts(lab: Lab, node: str) -> dict[str, Any]:
    """What `status -o json` must say of a node, put together with other queries than its own."""
    common = {
        "name": node,
        "host": HOST,
        "port": lab.nodes[node].port,
        "zone": None,
        "reachable": True,
        "error": None,
        "timeline": identify_system(lab, node)[1],
        "server_version": value(lab, node, "SHOW server_version").split()[0],
    }
    if not value(lab, node, "SELECT pg_is_in_recovery()"):
        nothing = ("upstream", "sync_state", "lag_bytes", "transport_lag_bytes", "apply_lag_bytes")
        nothing += ("received_lsn", "replayed_lsn", "replay_paused", "apply_delay_s", "slot")
        written = position(lab, node, "pg_current_wal_lsn")
        return common | dict.fromkeys(nothing) | {"role": "primary", "state": "primary", "write_lsn": written}
    ports = {found.port: name for name, found in lab.nodes.items()}
    upstream = ports[value(lab, node, "SELECT sender_port FROM pg_stat_wal_receiver")]
    sync_state = "SELECT sync_state FROM pg_stat_replication WHERE application_name = %s"
    delay = "SELECT setting::int FROM pg_settings WHERE name = 'recovery_min_apply_delay'"
    received, replayed = (position(lab, node, f"pg_last_wal_{what}_lsn") for what in ("receive", "replay"))
    is_paused = value(lab, node, "SELECT pg_is_wal_replay_paused()")
    written = position(lab, "pg1", "pg_current_wal_lsn")
    return common | {
        "role": "replica",
        "state": "paused" if is_paused else "streaming",
        "upstream": upstream,
        "sync_state": value(lab, upstream, sync_state, node),
        "lag_bytes": distance(lab, written, replayed),
        "transport_lag_bytes": distance(lab, written, received),
        "apply_lag_bytes": distance(lab, received, replayed),
        "write_lsn": None,
        "received_lsn": received,
        "replayed_lsn": replayed,
        "replay_paused": is_paused,
        "apply_delay_s": value(lab, node, delay) / 1000,
        "slot": true_slot(lab, upstream, node),
    }


def positions(lab: Lab) -> list[tuple[Any, ...]]:
    """Everything of a node that moves while somebody writes."""
    end = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"
    slots = "SELECT array_agg(restart_lsn ORDER BY slot_name) FROM pg_replication_slots"
    return [row_of(lab, node, f"SELECT {end}, pg_last_wal_receive_lsn(), ({slots})") for node in lab.nodes]


@pytest.mark.every_pg
@pytest.mark.slow
@pytest.mark.lab(replicas=4, cascade=True, sync="ANY 1", witness=True)
def test_every_fact_of_status_is_what_a_superuser_sees(lab: Lab) -> None:
    """pg2 is delayed, pg3 paused, pg4 well, and pg5 streams from pg4; then nobody writes any more."""
    set_on(lab, "pg2", recovery_min_apply_delay="1h")
    written = f"CREATE TABLE {TABLE} AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)"
    with paused(lab, "pg3"):
        with superuser(lab, "pg1") as connection:
            connection.execute(written.encode())
        seen: dict[str, Any] = {}

        def a_look_while_nothing_moved() -> bool:
            before = positions(lab)
            seen.update(json.loads(replctl("status", "-i", str(lab.inventory_path), "-o", "json").stdout))
            seen["true"] = [true_facts(lab, node) for node in lab.nodes]
            return bool(before == positions(lab) and seen["true"][4]["lag_bytes"] == 0)

        wait_until(a_look_while_nothing_moved, "nothing moves during a look", limit_s=60)

    shown = [{key: node[key] for key in seen["true"][0]} for node in seen["nodes"]]
    assert shown == seen["true"]
    reasons = {node["name"]: node["routing"]["reason"] for node in seen["nodes"]}
    assert reasons == {"pg1": "primary", "pg2": "delayed", "pg3": "paused", "pg4": "fit", "pg5": "fit"}
    assert all(abs(node["clock_skew_s"]) < 1 for node in seen["nodes"])
    assert all(0 < node["round_trip_s"] < 5 for node in seen["nodes"])
    rule = value(lab, "pg1", "SHOW synchronous_standby_names")
    assert (seen["primary"], seen["system_identifier"]) == ("pg1", identify_system(lab, "pg1")[0])
    assert seen["witnesses"] == [{"name": "w1", "reachable": True}]
    assert seen["sync"] == {
        "configured": rule,
        "expected": rule,
        "matches": True,
        # pg2, pg3 and pg4 confirm; of pg2 … pg5, which the rule names, a failover would need all four.
        "tolerated_replica_losses_for_writes": 2,
        "tolerated_replica_losses_for_failover": -1,
    }


def test_walsenders_and_slots_are_those_of_the_views(shared_lab: Lab) -> None:
    seen = look(inventory(addresses(shared_lab)))

    for name in shared_lab.nodes:
        facts = seen[name]
        assert isinstance(facts, NodeFacts)
        with superuser(shared_lab, name) as connection:
            senders = connection.execute(
                "SELECT pid, application_name, host(client_addr), client_port, state, sync_state"
                " FROM pg_stat_replication ORDER BY pid"
            ).fetchall()
            slots = connection.execute(
                "SELECT slot_name, slot_type, active, active_pid, temporary, wal_status, safe_wal_size"
                " FROM pg_replication_slots ORDER BY slot_name"
            ).fetchall()
            settings = dict(
                connection.execute("SELECT name, current_setting(name) FROM pg_settings").fetchall()
            )
        assert senders == [
            (s.pid, s.application_name, s.client_addr, s.client_port, s.state, s.sync_state)
            for s in sorted(facts.senders, key=lambda s: s.pid)
        ]
        assert slots == [
            (s.name, s.kind, s.active, s.active_pid, s.temporary, s.wal_status, s.safe_wal_bytes)
            for s in sorted(facts.slots, key=lambda s: s.name)
        ]
        assert facts.settings == {key: settings[key] for key in facts.settings}
        assert facts.address == HOST
        assert {s.slot_name for s in facts.senders} == ({"pg2", "pg3"} if name == "pg1" else set())


def test_a_node_is_known_by_every_name_of_its_host(shared_lab: Lab) -> None:
    nodes = addresses(shared_lab) | {"pg1": ("localhost", shared_lab.nodes["pg1"].port)}

    with Looks(inventory(nodes)) as looks:
        found = looks.status()

    assert [(n.state, n.upstream) for n in found.nodes] == [
        (NodeState.PRIMARY, None),
        (NodeState.STREAMING, "pg1"),
        (NodeState.STREAMING, "pg1"),
    ]


@pytest.mark.lab(replicas=2)
def test_replicas_of_one_name_are_told_apart_by_their_slots(lab: Lab) -> None:
    for name in ("pg2", "pg3"):
        conninfo = value(lab, name, "SHOW primary_conninfo").replace(f"={name}", "=walreceiver")
        set_on(lab, name, primary_conninfo=conninfo)
    names = "SELECT array_agg(application_name) FROM pg_stat_replication WHERE state = 'streaming'"
    wait_until(lambda: value(lab, "pg1", names) == ["walreceiver"] * 2, "both have the same name")

    with Looks(inventory(addresses(lab))) as looks:
        found = looks.status()
        with cut(lab, "pg3"):
            wait_until(lambda: value(lab, "pg1", names) == ["walreceiver"], "pg3 is cut")
            after = looks.status()

    query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s"
    assert [(n.state, n.sync_state) for n in found.replicas] == [(NodeState.STREAMING, "async")] * 2
    sender = after["pg2"].sender
    assert sender is not None
    assert sender.pid == value(lab, "pg1", query, "pg2")
    assert (after["pg3"].state, after["pg3"].sender) == (NodeState.STALLED, None)


# ---- timelines


@pytest.mark.lab(replicas=3)
def test_the_timeline_is_right_at_once_after_a_promotion_on_both_sides(lab: Lab) -> None:
    """Before any checkpoint, when pg_control_checkpoint() still tells the old one."""
    with Looks(inventory(addresses(lab))) as looks:
        looks.look()
        lab.kill("pg1")
        promote(lab, "pg2")
        first = looks.status()
        repoint(lab, "pg3", "pg2")
        followed: list[Any] = []

        def pg3_follows() -> bool:
            """It streams what it lacks of timeline 1 first."""
            followed[:] = [looks.status()]
            return bool(followed[0]["pg3"].state is NodeState.STREAMING and followed[0]["pg3"].timeline != 1)

        wait_until(pg3_follows, "pg3 follows pg2")
        told = value(lab, "pg3", "SELECT timeline_id FROM pg_control_checkpoint()")

    assert (first.primary, first["pg2"].timeline, first["pg1"].cause) == ("pg2", 2, Cause.REFUSED)
    assert {first[name].timeline for name in ("pg3", "pg4")} == {1}
    found = followed[0]
    assert (found["pg2"].timeline, found["pg3"].timeline) == (2, 2)
    assert (found["pg3"].upstream, found["pg4"].upstream) == ("pg2", "pg1")
    # IDENTIFY_SYSTEM gives the timeline of what is replayed, which comes after what is received.
    wait_until(lambda: identify_system(lab, "pg3")[1] == 2, "pg3 has replayed something of timeline 2")
    assert [identify_system(lab, name)[1] for name in ("pg2", "pg4")] == [2, 1]
    assert told == 1, "the control file told the truth: this test proves nothing"


@pytest.mark.lab(replicas=2)
def test_two_primaries_and_who_follows_which_are_seen(lab: Lab) -> None:
    promote(lab, "pg2")

    with Looks(inventory(addresses(lab))) as looks:
        found = looks.status()

    assert [(n.name, n.state, n.timeline) for n in found.nodes] == [
        ("pg1", NodeState.STALE_PRIMARY, 1),
        ("pg2", NodeState.PRIMARY, 2),
        ("pg3", NodeState.DIVERGED, 1),
    ]


@pytest.mark.lab(replicas=2)
def test_a_replica_that_becomes_primary_between_looks_is_sampled_last_from_then_on(lab: Lab) -> None:
    with Looks(inventory(addresses(lab))) as looks:
        looks.look()
        lab.kill("pg1")
        promote(lab, "pg2")
        repoint(lab, "pg3", "pg2")
        looks.look()
        assert looks.observer.probes["pg2"].is_primary

        with Writer(lab, "pg2", pace_s=0.001):
            wait_until(lambda: looks.status()["pg3"].state is NodeState.STREAMING, "pg3 follows pg2")
            lags = [looks.status()["pg3"].lag.lag_bytes for _ in range(200)]

    assert min(lag for lag in lags if lag is not None) >= 0
    assert None not in lags


# ---- one connection, one round trip


def test_a_look_is_one_round_trip_on_a_connection_that_stays(shared_lab: Lab) -> None:
    with Wire(addresses(shared_lab)["pg2"]) as wire, Looks(inventory({"pg2": wire.address})) as looks:
        looks.look()
        after_the_first = wire.round_trips
        for _ in range(20):
            assert looks.look(with_marks=False).facts

        assert (wire.connections, wire.round_trips - after_the_first) == (1, 20)


def test_every_node_has_one_backend_of_ours_over_many_looks(shared_lab: Lab) -> None:
    query = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'replctl'"
    with Looks(inventory(addresses(shared_lab))) as looks:
        looks.look()
        first = {name: value(shared_lab, name, query) for name in shared_lab.nodes}
        for _ in range(20):
            looks.look()
        last = {name: value(shared_lab, name, query) for name in shared_lab.nodes}

    assert [len(pids) for pids in first.values()] == [1, 1, 1]
    assert last == first
    wait_until(lambda: value(shared_lab, "pg1", query) is None, "our backend has gone when we hung up")


# ---- servers that come and go


@pytest.mark.lab(replicas=1)
def test_a_server_that_was_restarted_between_looks_is_seen_at_the_next(lab: Lab) -> None:
    with Looks(inventory(addresses(lab))) as looks:
        before = looks.look()["pg2"]
        lab.stop("pg2")
        lab.start("pg2")
        after = looks.look()["pg2"]

    assert isinstance(before, NodeFacts)
    assert isinstance(after, NodeFacts)
    assert after.started_at != before.started_at


@pytest.mark.lab(replicas=1)
def test_a_server_that_went_and_came_back_is_seen_going_and_coming(lab: Lab) -> None:
    with Looks(inventory(addresses(lab))) as looks:
        looks.look()
        lab.kill("pg2")
        gone = looks.look()["pg2"]
        still_gone = looks.look()["pg2"]
        lab.start("pg2")
        back = looks.look()["pg2"]

    assert isinstance(gone, Unreachable)
    assert isinstance(still_gone, Unreachable)
    assert (gone.cause, still_gone.cause) == (Cause.REFUSED, Cause.REFUSED)
    assert isinstance(back, NodeFacts)


def test_a_server_of_another_cluster_is_refused_and_nothing_of_it_is_used(shared_lab: Lab, lab: Lab) -> None:
    nodes = addresses(shared_lab) | {"stranger": addresses(lab)["pg1"]}

    with Looks(inventory(nodes)) as looks:
        found = looks.status()

    theirs, ours = identify_system(lab, "pg1")[0], identify_system(shared_lab, "pg1")[0]
    stranger = found["stranger"]
    assert (found.primary, found.system_identifier) == ("pg1", ours)
    assert (stranger.cause, stranger.message, stranger.facts) == (
        Cause.WRONG_CLUSTER,
        f"its system identifier is {theirs}, this cluster's is {ours}",
        None,
    )


# ---- what a role may not see


def test_without_pg_monitor_what_is_hidden_is_unknown_and_what_is_not_is_right(shared_lab: Lab) -> None:
    with Looks(inventory(addresses(shared_lab), user="app")) as looks:
        found = looks.status()

    assert [(n.state, n.role, n.upstream, n.sync_state, n.timeline) for n in found.nodes] == [
        (NodeState.PRIMARY, "primary", None, None, 1),
        (NodeState.NO_PRIVILEGE, "replica", "pg1", None, None),
        (NodeState.NO_PRIVILEGE, "replica", "pg1", None, None),
    ]
    assert all(n.lag.lag_bytes is not None and n.slot is not None for n in found.replicas)
    assert found.sync.tolerated_replica_losses_for_writes is None
    assert found.sync.configured == value(shared_lab, "pg1", "SHOW synchronous_standby_names")


@contextmanager
def revoked(lab: Lab, view: str) -> Iterator[None]:
    """As some hosted services do."""
    with superuser(lab, "pg1") as connection:
        for who in ("PUBLIC", "pg_monitor"):
            statement = sql.SQL("REVOKE SELECT ON {} FROM {}")
            role = sql.SQL(who) if who == "PUBLIC" else sql.Identifier(who)
            connection.execute(statement.format(sql.Identifier(view), role))
        granted = "SELECT has_table_privilege('replctl', %s, 'SELECT')"
        for name in lab.nodes:
            wait_until(lambda name=name: value(lab, name, granted, view) is False, f"{name} knows of it")
        try:
            yield
        finally:
            connection.execute(sql.SQL("GRANT SELECT ON {} TO PUBLIC").format(sql.Identifier(view)))
            for name in lab.nodes:
                wait_until(lambda name=name: value(lab, name, granted, view), f"{name} knows of it")


@pytest.mark.lab(replicas=1)
def test_where_a_view_is_forbidden_altogether_positions_are_still_seen(lab: Lab) -> None:
    with Wire(addresses(lab)["pg2"]) as wire:
        nodes = addresses(lab) | {"pg2": wire.address}
        with Looks(inventory(nodes)) as looks:
            with revoked(lab, "pg_stat_wal_receiver"):
                looks.look()
                spoken = wire.round_trips
                found = looks.status()
                asked = wire.round_trips - spoken
                positions = position(lab, "pg2", "pg_last_wal_replay_lsn")
            lab.stop("pg2")
            lab.start("pg2")
            again = looks.status()

    facts = found["pg2"].facts
    assert facts is not None
    assert not facts.is_complete
    assert (found["pg2"].state, found["pg2"].timeline, found["pg2"].upstream) == (
        NodeState.NO_PRIVILEGE,
        None,
        None,
    )
    assert found["pg2"].lag.lag_bytes is not None
    assert str(found["pg2"].replayed_lsn) <= str(positions)
    assert asked == 1, "what is forbidden is asked for again and again"
    assert again["pg2"].state is not NodeState.NO_PRIVILEGE, "what is granted again is asked for again"


# ---- a slow node does not spoil what is seen of the others


@pytest.fixture
def silent() -> Iterator[Address]:
    with silent_host() as address:
        yield address


def test_a_silent_node_does_not_make_the_others_lag(shared_lab: Lab, silent: Address) -> None:
    """The primary is asked when all others have been; what it wrote meanwhile is not their lag."""
    over = threading.Event()

    def load() -> None:
        with superuser(shared_lab, "pg1") as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS held_up (pad text)")
            while not over.is_set():
                connection.execute("INSERT INTO held_up SELECT repeat('x', 500) FROM generate_series(1, 500)")

    writer = threading.Thread(target=load, daemon=True)
    writer.start()
    try:
        nodes = addresses(shared_lab) | {"silent": silent}
        begin = distance(shared_lab, position(shared_lab, "pg1", "pg_current_wal_lsn"), "0/0")
        with Looks(inventory(nodes, connect_timeout_s=2)) as looks:
            found = looks.status()
        end = distance(shared_lab, position(shared_lab, "pg1", "pg_current_wal_lsn"), "0/0")
    finally:
        over.set()
        writer.join(timeout=10)

    lags = [n.lag.lag_bytes for n in found.replicas]
    assert found.took_s >= 2
    assert all(lag is not None and 0 <= lag < (end - begin) / 3 for lag in lags), (lags, end - begin)


def test_a_silent_node_takes_no_time_from_the_others_in_a_short_run(shared_lab: Lab, silent: Address) -> None:
    nodes = addresses(shared_lab) | {"silent": silent}

    found = look(inventory(nodes, connect_timeout_s=30), limit_s=1.0)

    assert [isinstance(found[name], NodeFacts) for name in nodes] == [True, True, True, False]
    assert found.cut_short == {"silent"}
    assert found.took_s < 3
