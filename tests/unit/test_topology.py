"""Which node streams from which, and which walsender row is whose, however the DBA has named things."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.model import FENCE_NAME, Cause, Lsn
from replctl.core.topology import current_primary, is_fenced, primaries, sender_for, tree, upstream_of
from tests.unit.builders import (
    primary,
    receiver,
    replica,
    sender,
    settings,
    spec,
    state,
    unreachable,
    without_receiver,
)

THREE = settings("pg1", "pg2", "pg3")
# Made by pg_basebackup -R on servers whose package sets cluster_name: all of them have one name, and no slot.
ALIKE = {"own_application_name": "18/main", "primary_slot_name": None}


def row(name, application_name="18/main", **columns):
    return sender(name, **{"application_name": application_name, "slot_name": None} | columns)


# ---- primaries


def test_the_primary_of_the_newest_history_comes_first():
    old, new = primary("pg1", lsn=900, timeline=1), primary("pg3", lsn=800, timeline=2)

    assert primaries(state(old, replica("pg2"), new)) == (new, old)
    assert current_primary(state(old, replica("pg2"), new)) == new


def test_of_two_primaries_on_one_timeline_neither_is_the_primary():
    assert current_primary(state(primary("pg1"), primary("pg2"))) is None


def test_a_fenced_node_does_not_contend_for_being_the_primary():
    fenced = primary("pg1", timeline=3, synchronous_standby_names=FENCE_NAME)
    free = primary("pg2", timeline=2)

    assert primaries(state(fenced, free)) == (free, fenced)
    assert current_primary(state(fenced, free)) == free
    assert current_primary(state(fenced)) == fenced


def test_a_fenced_node_that_no_replica_follows_is_not_the_primary():
    # A replica without a receiver shows the timeline of its last restart point: it may be on a newer one.
    fenced = primary("pg1", timeline=1, synchronous_standby_names=FENCE_NAME)

    assert current_primary(state(fenced, replica("pg3", timeline=1), unreachable("pg2"))) is None


def test_without_a_node_that_writes_there_is_no_primary():
    assert current_primary(state(unreachable("pg1"), replica("pg2"))) is None


@pytest.mark.parametrize(
    ("names", "fenced"),
    [(None, False), ("", False), ("ANY 1 (pg1, pg2)", False), (f"FIRST 1 ({FENCE_NAME})", True)],
)
def test_a_fence_is_a_synchronous_replica_that_cannot_be(names, fenced):
    assert is_fenced(primary("pg1", synchronous_standby_names=names)) is fenced


# ---- whose row is it


def test_a_row_is_found_by_its_slot_whatever_it_calls_itself():
    mine = row("pg2", "whoever", slot_name="s2")
    upstream = primary("pg1", senders=(mine, row("pg3", slot_name="s3")))

    assert sender_for(upstream, replica("pg2", primary_slot_name="s2"), THREE) == mine


def test_a_row_is_found_by_its_name_where_the_inventory_has_it_once():
    mine = row("pg2", "pg2", client_addr=None)

    assert sender_for(primary("pg1", senders=(mine, row("pg3"))), replica("pg2"), THREE) == mine


def test_rows_of_one_name_are_told_apart_by_their_slots():
    rows = row("pg2", slot_name="s2"), row("pg3", slot_name="s3")
    replicas = [replica(name, **ALIKE | {"primary_slot_name": f"s{name[-1]}"}) for name in ("pg2", "pg3")]

    assert tuple(sender_for(primary("pg1", senders=rows), r, THREE) for r in replicas) == rows


def test_rows_of_one_name_are_told_apart_by_their_addresses():
    rows = row("pg2"), row("pg3")
    replicas = [replica(name, **ALIKE) for name in ("pg2", "pg3")]

    assert tuple(sender_for(primary("pg1", senders=rows), r, THREE) for r in replicas) == rows


def test_where_the_inventory_has_host_names_the_address_that_the_server_sees_counts():
    inventory = settings(
        nodes=(
            spec("pg1", host="one.internal"),
            spec("pg2", host="two.internal", application_name="18/main"),
            spec("pg3", host="three.internal", application_name="18/main"),
        )
    )
    rows = row("pg2"), row("pg3")
    replicas = [replica(f"pg{n}", address=f"10.0.0.{n}", **ALIKE) for n in (2, 3)]

    assert tuple(sender_for(primary("pg1", senders=rows), r, inventory) for r in replicas) == rows


def test_rows_of_one_name_from_one_address_are_nobodys():
    rows = row("pg2", client_addr="10.0.0.2"), row("pg3", client_addr="10.0.0.2")

    assert sender_for(primary("pg1", senders=rows), replica("pg2", **ALIKE), THREE) is None


def test_a_disconnected_replica_does_not_take_its_neighbours_row_for_its_own():
    upstream = primary("pg1", senders=(row("pg3", client_addr="10.0.0.2"),))

    assert sender_for(upstream, without_receiver("pg2", **ALIKE), THREE, streams_from_it=False) is None


def test_a_row_with_another_slot_is_another_replicas():
    upstream = primary("pg1", senders=(row("pg2", "pg2", slot_name="pg3"),))

    assert sender_for(upstream, replica("pg2"), THREE) is None


def test_the_only_row_of_a_shared_name_is_whoevers_upstream_this_is_known_to_be():
    behind_nat = row("pg2", "walreceiver", client_addr="192.168.7.7")
    upstream = primary("pg1", senders=(behind_nat,))
    mine = replica("pg2", own_application_name="walreceiver", primary_slot_name=None)

    assert sender_for(upstream, mine, THREE) is None
    assert sender_for(upstream, mine, THREE, streams_from_it=True) == behind_nat


def test_a_backup_is_no_replica():
    upstream = primary("pg1", senders=(row("pg2", "pg2", state="backup"),))

    assert sender_for(upstream, replica("pg2"), THREE) is None


def test_what_a_replica_calls_itself_outweighs_what_the_inventory_thinks():
    rows = row("pg3", "pg2"), row("pg2", "pg3")
    swapped = replica("pg2", own_application_name="pg3", primary_slot_name=None)

    assert sender_for(primary("pg1", senders=rows), swapped, THREE) == rows[1]


def test_where_the_replicas_own_name_is_hidden_the_inventorys_counts():
    mine = row("pg2", "pg2")
    hidden = replica("pg2", upstream_known=False, **ALIKE)

    assert sender_for(primary("pg1", senders=(mine,)), hidden, THREE) == mine


# ---- who streams from whom


def where(replica_facts, *others, inventory=THREE):
    return upstream_of(replica_facts, state(*others, replica_facts), inventory)


def test_an_upstream_is_found_by_its_address_even_when_it_is_gone():
    assert where(without_receiver("pg2"), unreachable("pg1"), unreachable("pg3", Cause.TIMEOUT)) == "pg1"


def test_an_upstream_is_found_by_the_rows_where_its_address_says_nothing():
    mine = replica("pg2", upstream_host="vip.internal", receiver=receiver(sender_host="vip.internal"))

    assert where(mine, primary("pg1", "pg2", "pg3"), replica("pg3")) == "pg1"


def test_an_upstream_that_is_not_in_the_inventory_is_named_by_its_address():
    away = without_receiver("pg2", upstream_host="10.9.9.9", upstream_port=6000)

    assert where(away, primary("pg1"), replica("pg3")) == "10.9.9.9:6000"


def test_a_replica_fed_from_the_archive_has_no_upstream():
    assert where(without_receiver("pg2", upstream_host=None, upstream_port=None), primary("pg1")) is None


def test_the_receiver_knows_which_of_several_hosts_was_taken():
    moved = replica("pg2", upstream_host="10.0.0.1", receiver=receiver("pg3"))

    assert where(moved, unreachable("pg1"), replica("pg3")) == "pg3"


def test_where_primary_conninfo_is_hidden_the_receiver_or_the_rows_tell():
    hidden = {"upstream_host": None, "upstream_port": None, "upstream_known": False}
    told = replica("pg2", **hidden)
    silent = replica("pg2", receiver=receiver(status=None, sender_host=None, sender_port=None), **hidden)

    assert where(told, unreachable("pg1")) == "pg1"
    assert where(silent, primary("pg1", "pg2", "pg3")) == "pg1"
    assert where(silent, unreachable("pg1")) is None


def test_a_node_is_not_its_own_upstream():
    inventory = settings(nodes=(spec("pg1", host="127.0.0.1"), spec("pg2", host="127.0.0.1")))
    mine = without_receiver("pg2", upstream_host="127.0.0.1")

    assert where(mine, unreachable("pg1"), inventory=inventory) == "pg1"


LOCAL = ["127.0.0.1", "localhost", "LOCALHOST", "::1", "/var/run/postgresql", ""]


@pytest.mark.parametrize("conninfo_host", LOCAL)
@pytest.mark.parametrize("inventory_host", LOCAL)
def test_every_name_of_this_machine_is_the_same(inventory_host, conninfo_host):
    inventory = settings(nodes=(spec("pg1", host=inventory_host), spec("pg2", host="127.0.0.1", port=5433)))
    mine = without_receiver("pg2", upstream_host=conninfo_host)

    assert where(mine, unreachable("pg1"), inventory=inventory) == "pg1"


@pytest.mark.parametrize("conninfo_host", ["127.0.0.1", "localhost", "/tmp"])
def test_a_replicas_loopback_is_its_own_machine_not_ours(conninfo_host):
    nodes = spec("pg1", host="10.0.0.1"), spec("pg2", host="10.0.0.1", port=5433), spec("pg3")
    mine = without_receiver("pg2", upstream_host=conninfo_host)

    assert where(mine, unreachable("pg1"), inventory=settings(nodes=nodes)) == "pg1"


def test_a_port_decides_between_servers_of_one_host():
    nodes = tuple(spec(f"pg{n}", host="10.0.0.1", port=5430 + n) for n in (1, 2, 3))
    mine = without_receiver("pg3", upstream_host="10.0.0.1", upstream_port=5432)

    assert where(mine, unreachable("pg1"), unreachable("pg2"), inventory=settings(nodes=nodes)) == "pg2"


def test_the_address_that_clients_get_is_the_nodes_too():
    nodes = spec("pg1", client_host="pg1.internal"), spec("pg2")
    mine = without_receiver("pg2", upstream_host="pg1.internal")

    assert where(mine, unreachable("pg1"), inventory=settings(nodes=nodes)) == "pg1"


def test_a_cascade_is_followed_node_by_node():
    middle = replica("pg2", senders=(sender("pg3"),))
    leaf = replica("pg3", upstream="pg2", lsn=Lsn(1))
    look = state(primary("pg1", "pg2"), middle, leaf)

    assert [upstream_of(r, look, THREE) for r in (middle, leaf)] == ["pg1", "pg2"]


# ---- the tree


def test_replicas_stand_below_their_upstreams_in_the_inventorys_order():
    inventory = settings("pg4", "pg3", "pg2", "pg1", "pg5")
    upstreams = {"pg1": None, "pg2": "pg1", "pg3": "pg2", "pg4": "pg1", "pg5": "10.9.9.9:5432"}

    assert tree(inventory, upstreams) == [(0, "pg1"), (1, "pg4"), (1, "pg2"), (2, "pg3"), (0, "pg5")]


def test_a_circle_of_replicas_is_shown_once():
    upstreams = {"pg1": None, "pg2": "pg3", "pg3": "pg2"}

    assert tree(THREE, upstreams) == [(0, "pg1"), (0, "pg2"), (1, "pg3")]


NAMES = [f"pg{n}" for n in range(1, 7)]


@given(st.dictionaries(st.sampled_from(NAMES), st.none() | st.sampled_from([*NAMES, "elsewhere:5432"])))
def test_every_node_is_in_the_tree_once_below_its_upstream(upstreams):
    drawn = tree(settings(*NAMES), upstreams)

    assert sorted(name for _, name in drawn) == NAMES
    for place, (depth, name) in enumerate(drawn):
        above = [other for d, other in drawn[:place] if d == depth - 1]
        assert above[-1:] == ([upstreams[name]] if depth else [])
