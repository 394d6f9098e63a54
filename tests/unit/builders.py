"""Small clusters for unit tests: a primary and two replicas that are well, to be spoilt with `replace`.

`pg3` is at 10.0.0.3:5432 and calls itself pg3, streams from pg1 by slot pg3, and so for every number.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from replctl.core.lag import LagHistory
from replctl.core.model import (
    Archiver,
    Cause,
    ClusterState,
    Lsn,
    NodeFacts,
    Observation,
    Receiver,
    Sender,
    Slot,
    Unreachable,
)
from replctl.core.settings import ClusterSettings, FailoverSettings, NodeSpec, ReplicationSettings
from replctl.core.status import ClusterStatus, assess

SYSTEM_IDENTIFIER = "7300000000000000001"
END = Lsn.parse("0/5000000")  # where the healthy cluster's WAL ends
NOW = 1_700_000_000.0
VERSION_NUM = 180003

SETTINGS = {
    "archive_mode": "off",
    "data_checksums": "off",
    "full_page_writes": "on",
    "max_connections": "100",
    "max_locks_per_transaction": "64",
    "max_prepared_transactions": "0",
    "max_replication_slots": "10",
    "max_slot_wal_keep_size": "-1",
    "max_wal_senders": "10",
    "max_worker_processes": "8",
    "wal_block_size": "8192",
    "wal_level": "replica",
    "wal_log_hints": "on",
}


def address(name: str) -> str:
    """pg3 → 10.0.0.3"""
    return f"10.0.0.{re.sub('[^0-9]', '', name) or 99}"


def spec(name: str, **keys: Any) -> NodeSpec:
    return NodeSpec(**{"name": name, "host": address(name), "application_name": name} | keys)


def settings(*names: str, failover: dict[str, Any] | None = None, **keys: Any) -> ClusterSettings:
    """An inventory of these nodes (pg1, pg2 and pg3 by default), asynchronous, ready to be failed over."""
    given: dict[str, Any] = {
        "name": "orders",
        "nodes": tuple(spec(name) for name in names or ("pg1", "pg2", "pg3")),
        "slot": "{name}",
        "replication": ReplicationSettings(user="replicator"),
        "failover": FailoverSettings(**{"synchronous": ""} | (failover or {})),
    }
    return ClusterSettings(**given | keys)


def node(name: str, **facts: Any) -> NodeFacts:
    """What any server says, whether primary or replica."""
    given: dict[str, Any] = {
        "node": name,
        "server_version_num": VERSION_NUM,
        "capabilities": frozenset({"sync_wait_from_start"}),
        "system_identifier": SYSTEM_IDENTIFIER,
        "in_recovery": False,
        "timeline": 1,
        "write_lsn": None,
        "flush_lsn": None,
        "received_lsn": None,
        "replayed_lsn": None,
        "upstream_host": None,
        "upstream_port": None,
        "upstream_known": True,
        "own_application_name": None,
        "primary_slot_name": None,
        "receiver": None,
        "synchronous_standby_names": "",
        "settings": SETTINGS,
        "archiver": Archiver(
            configured=False,
            archived_count=0,
            failed_count=0,
            last_archived_age_s=None,
            last_failed_age_s=None,
        ),
        "started_at": NOW - 86400,
        "clock_at": NOW,
        "clock_skew_s": 0.0,
        "round_trip_s": 0.001,
    }
    return NodeFacts(**given | facts)


def primary(name: str = "pg1", *replicas: str, lsn: int = END, **facts: Any) -> NodeFacts:
    """A primary that sends everything to these replicas, each by a slot of its name."""
    given: dict[str, Any] = {
        "write_lsn": Lsn(lsn),
        "flush_lsn": Lsn(lsn),
        "senders": tuple(sender(r, lsn=lsn) for r in replicas),
        "slots": tuple(slot(r) for r in replicas),
    }
    return node(name, **given | facts)


def replica(name: str = "pg2", upstream: str = "pg1", *, lsn: int = END, **facts: Any) -> NodeFacts:
    """A replica that streams from `upstream`, has replayed everything, and uses the slot of its name."""
    given: dict[str, Any] = {
        "in_recovery": True,
        "received_lsn": Lsn(lsn),
        "replayed_lsn": Lsn(lsn),
        "upstream_host": address(upstream),
        "upstream_port": 5432,
        "own_application_name": name,
        "primary_slot_name": name,
        "receiver": receiver(upstream, lsn=lsn),
        "replay_pause": "not paused",
        "apply_delay_s": 0.0,
        "conflicts": {"lock": 0, "snapshot": 0},
    }
    return node(name, **given | facts)


def sender(name: str, *, lsn: int = END, **columns: Any) -> Sender:
    given: dict[str, Any] = {
        "pid": 100 + sum(map(ord, name)),
        "application_name": name,
        "client_addr": address(name),
        "client_port": 40000,
        "state": "streaming",
        "sync_state": "async",
        "sent_lsn": Lsn(lsn),
        "write_lsn": Lsn(lsn),
        "flush_lsn": Lsn(lsn),
        "replay_lsn": Lsn(lsn),
        "replay_lag_s": None,
        "reply_age_s": 1.0,
        "slot_name": name,
    }
    return Sender(**given | columns)


def receiver(upstream: str = "pg1", *, lsn: int = END, **columns: Any) -> Receiver:
    given: dict[str, Any] = {
        "pid": 200,
        "status": "streaming",
        "sender_host": address(upstream),
        "sender_port": 5432,
        "slot_name": None,
        "received_timeline": 1,
        "written_lsn": Lsn(lsn),
        "flushed_lsn": Lsn(lsn),
        "latest_end_lsn": Lsn(lsn),
        "latest_end_age_s": 1.0,
        "last_message_age_s": 1.0,
    }
    return Receiver(**given | columns)


def slot(name: str, **columns: Any) -> Slot:
    given: dict[str, Any] = {
        "name": name,
        "kind": "physical",
        "active": True,
        "active_pid": 100 + sum(map(ord, name)),
        "temporary": False,
        "restart_lsn": END,
        "retained_bytes": 0,
        "wal_status": "reserved",
        "safe_wal_bytes": None,
    }
    return Slot(**given | columns)


def unreachable(name: str, cause: Cause = Cause.REFUSED, message: str = "nobody listens") -> Unreachable:
    return Unreachable(node=name, cause=cause, message=message)


def trio(**spoilt: Observation) -> tuple[Observation, ...]:
    """pg1 with its replicas pg2 and pg3, all well, but for the nodes that are given: `pg2=replica(…)`."""
    well: dict[str, Observation] = {
        "pg1": primary("pg1", "pg2", "pg3"),
        "pg2": replica("pg2"),
        "pg3": replica("pg3"),
    }
    return tuple((well | spoilt).values())


def without_receiver(name: str, **facts: Any) -> NodeFacts:
    """A replica whose upstream is gone."""
    return replica(name, **{"receiver": None} | facts)


def state(*nodes: Observation, **keys: Any) -> ClusterState:
    return ClusterState(nodes=nodes, **{"observed_at": NOW} | keys)


def assessed(
    *nodes: Observation,
    inventory: ClusterSettings | None = None,
    history: LagHistory | None = None,
    **keys: Any,
) -> ClusterStatus:
    """One look, interpreted. The inventory has just these nodes unless another is given."""
    chosen = inventory or settings(*(n.node for n in nodes))
    return assess(state(*nodes, **keys), chosen, history or LagHistory())


def seen_before(*looks: tuple[float, ClusterState], inventory: ClusterSettings | None = None) -> LagHistory:
    """The history after these looks, each so many seconds before NOW."""
    history = LagHistory()
    for ago_s, look in looks:
        chosen = inventory or settings(*(n.node for n in look.nodes))
        history = assess(replace(look, observed_at=NOW - ago_s), chosen, history).history
    return history
