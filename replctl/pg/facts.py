"""One row of the sample query → NodeFacts: names, units, and what a NULL means."""

from __future__ import annotations

import re
from typing import Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from replctl.core.model import Archiver, ControllerSession, Lsn, NodeFacts, Receiver, Sender, Slot
from replctl.pg.queries import capabilities

Row = dict[str, Any]

SECRETS = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
"""Keywords of a connection string whose values are never shown."""

_TIME_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_CONTROLLER = re.compile(r"replctl controller (\S+) (\d{1,10})")
_AMOUNT = re.compile(r"(-?\d+(?:\.\d+)?)\s*([a-z]*)")


def node_facts(
    node: str,
    row: Row,
    *,
    server_version_num: int,
    asked_at: float,
    round_trip_s: float,
    sampled_at_s: float,
) -> NodeFacts:
    """Build the facts. `asked_at` is our Unix time at the middle of the round trip (clock skew)."""
    conninfo = _conninfo(row["primary_conninfo"])
    settings: dict[str, str] = {k: v for k, v in (row["settings"] or {}).items() if v is not None}
    in_recovery: bool = row["in_recovery"]
    receiver = _receiver(row["receiver"])
    processes: Row = row["recovery_processes"] or {}
    clock_at: float = row["clock_at"]
    return NodeFacts(
        node=node,
        server_version_num=server_version_num,
        address=row["address"],
        capabilities=capabilities(server_version_num),
        system_identifier=row["system_identifier"],
        in_recovery=in_recovery,
        timeline=_timeline(row, receiver),
        write_lsn=_lsn(row["write_lsn"]),
        flush_lsn=_lsn(row["flush_lsn"]),
        received_lsn=_lsn(row["received_lsn"]),
        replayed_lsn=_lsn(row["replayed_lsn"]),
        upstream_host=_first(conninfo.get("host") or conninfo.get("hostaddr")) if in_recovery else None,
        upstream_port=_port(conninfo) if in_recovery and conninfo else None,
        upstream_known=row["primary_conninfo"] is not None,
        conninfo={k: str(v) for k, v in conninfo.items()} if in_recovery else {},
        own_application_name=_own_name(conninfo, settings) if in_recovery else None,
        primary_slot_name=row["primary_slot_name"],
        receiver=receiver if in_recovery else None,
        senders=tuple(_sender(s) for s in row["senders"] or ()),
        slots=tuple(_slot(s) for s in row["slots"] or ()),
        replay_pause=row["replay_pause"],
        apply_delay_s=_setting_s(settings.get("recovery_min_apply_delay")) if in_recovery else None,
        last_replayed_xact_age_s=row["last_replayed_xact_age_s"],
        receive_lsn_known=row["receive_lsn_known"],
        receiver_processes=processes.get("receivers"),
        checkpoint_timeline=row["checkpoint_timeline"],
        startup_wait_event=processes.get("startup_wait_event"),
        synchronous_standby_names=row["synchronous_standby_names"],
        monitor_privilege=row["monitor_privilege"],
        settings=settings,
        archiver=_archiver(row["archiver"], settings),
        conflicts={k: int(v) for k, v in (row["conflicts"] or {}).items() if v is not None},
        controllers=tuple(filter(None, map(_controller, row["controllers"] or ()))),
        state_table=row["state_table"],
        started_at=row["started_at"],
        clock_at=clock_at,
        clock_skew_s=clock_at - asked_at,
        round_trip_s=round_trip_s,
        sampled_at_s=sampled_at_s,
    )


def _lsn(value: int | None) -> Lsn | None:
    return None if value is None else Lsn(value)


def _timeline(row: Row, receiver: Receiver | None) -> int | None:
    """A primary's from its WAL file name; a replica's the newest of what receiver, control and WAL files say.

    A receiver whose columns are hidden may be on a newer timeline than the control file: unknown then.
    """
    if not row["in_recovery"]:
        return int(row["wal_timeline"])
    if receiver is not None and receiver.received_timeline is None:
        return None
    received = receiver and receiver.received_timeline
    own = (row["checkpoint_timeline"], row["recovery_timeline"], row["wal_timeline"], received)
    known = [t for t in own if t]
    return max(known, default=None)


def _conninfo(text: str | None) -> dict[str, Any]:
    """primary_conninfo without the secrets; empty when it is empty, hidden or unreadable."""
    try:
        parts = conninfo_to_dict(text or "")
    except ProgrammingError:
        return {}
    return {k: v for k, v in parts.items() if k not in SECRETS}


def _first(value: object) -> str | None:
    return str(value).split(",")[0] if value else None


def _port(conninfo: dict[str, Any]) -> int:
    first = _first(conninfo.get("port"))
    return int(first) if first and first.isdecimal() else 5432


def _own_name(conninfo: dict[str, Any], settings: dict[str, str]) -> str:
    """How the replica appears in its upstream's pg_stat_replication (libpqrcv_connect's fallback)."""
    return str(conninfo.get("application_name") or settings.get("cluster_name") or "walreceiver")


def _setting_s(text: str | None) -> float | None:
    """A time as SHOW prints it (`5min`; a bare number is milliseconds) in seconds."""
    match = _AMOUNT.fullmatch(text or "")
    if match is None:
        return None
    return float(match[1]) * _TIME_UNITS_S.get(match[2] or "ms", 1e-3)


def _receiver(item: Row | None) -> Receiver | None:
    if item is None:
        return None
    return Receiver(
        pid=item["pid"],
        status=item["status"],
        sender_host=item["sender_host"],
        sender_port=item["sender_port"],
        slot_name=item["slot_name"],
        received_timeline=item["received_timeline"],
        written_lsn=_lsn(item["written_lsn"]),
        flushed_lsn=_lsn(item["flushed_lsn"]),
        latest_end_lsn=_lsn(item["latest_end_lsn"]),
        latest_end_age_s=item["latest_end_age_s"],
        last_message_age_s=item["last_message_age_s"],
    )


def _sender(item: Row) -> Sender:
    positions = {k: _lsn(item[k]) for k in ("sent_lsn", "write_lsn", "flush_lsn", "replay_lsn")}
    return Sender(**{**item, **positions})


def _slot(item: Row) -> Slot:
    positions = {key: _lsn(item[key]) for key in ("restart_lsn", "confirmed_flush_lsn")}
    return Slot(**{**item, **positions, "synced": bool(item.get("synced"))})


def _controller(item: Row) -> ControllerSession | None:
    """`replctl controller HOST PID`; another program may use that beginning for itself."""
    match = _CONTROLLER.fullmatch(item["name"])
    return match and ControllerSession(host=match[1], pid=int(match[2]), since_at=item["since_at"])


def _archiver(item: Row | None, settings: dict[str, str]) -> Archiver | None:
    if item is None:
        return None
    mode = settings.get("archive_mode")
    return Archiver(configured=None if mode is None else mode != "off", **item)
