"""The statements that act, as text: what a step runs is what --print-sql shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replctl.core.model import FENCE_NAME
from replctl.core.situation import PROMOTE_WITHIN_S
from replctl.core.steps import (
    Checkpoint,
    CreateSlot,
    Cut,
    FastForward,
    FenceCommand,
    Promote,
    ProveSilence,
    Repoint,
    SetSynchronous,
    Step,
    TakeVotes,
)
from replctl.pg.facts import SECRETS

if TYPE_CHECKING:
    from replctl.pg.act import Hands

READ_ONLY = "default_transaction_read_only"
FENCE: dict[str, str | None] = {"synchronous_standby_names": FENCE_NAME, READ_ONLY: "on"}
END_SESSIONS = (
    "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = a.usename "
    "WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() AND NOT r.rolsuper "
    "AND a.application_name NOT LIKE 'replctl%'"
)
# What a query of theirs sees is what replay waits for; a superuser's cannot be ended.
END_READERS = (
    "SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a JOIN pg_roles r "
    "ON r.rolname = a.usename WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() "
    "AND NOT r.rolsuper AND a.backend_xmin IS NOT NULL"
)
WRITE_SOMETHING = (
    "SELECT set_config('synchronous_commit', 'local', true), "
    "pg_logical_emit_message(true, 'replctl', 'promoted')"
)
"""One small transaction that waits for no replica: none follows yet."""
BLOCKING_READERS = (
    f"{END_READERS} AND EXISTS (SELECT FROM pg_stat_activity s "
    "WHERE s.backend_type = 'startup' AND s.wait_event LIKE 'RecoveryConflict%')"
)


def literal(text: str) -> str:
    """An SQL literal."""
    return sql.Literal(text).as_string(None)


def alter_system(name: str, value: str | None) -> str:
    """ALTER SYSTEM for one parameter; the name is one of ours."""
    if value is None:
        return f"ALTER SYSTEM RESET {name}"
    return f"ALTER SYSTEM SET {name} = {literal(value)}"


def statements(step: Step, hands: Hands) -> list[str]:
    """What a step runs, as it would be typed in psql; secrets are left out."""
    match step:
        case TakeVotes():
            return [f"{' '.join(hands.ballot.take_text.split())};"]
        case Cut():
            found = [f"{alter_system('primary_conninfo', '')};", "SELECT pg_reload_conf();"]
            if step.means == "timeout":
                found.insert(1, f"{alter_system('wal_receiver_timeout', '1ms')};")
            if step.means == "replay":
                found.insert(1, f"{alter_system('recovery_min_apply_delay', '0')};")
                found += ["SELECT pg_wal_replay_resume();", f"{END_READERS};"]
            return found
        case SetSynchronous():
            changed = alter_system("synchronous_standby_names", step.names)
            return [f"{changed};", "SELECT pg_reload_conf();"]
        case Promote():
            within = f"(now that the votes are shown, and {PROMOTE_WITHIN_S:g} s)"
            promote = f"SELECT pg_promote(wait => false) WHERE clock_timestamp() < {within};"
            return [promote, f"{WRITE_SOMETHING};"]
        case CreateSlot():
            return [f"SELECT pg_create_physical_replication_slot({literal(step.slot)}, true);"]
        case Repoint():
            found = [f"{alter_system('primary_conninfo', shown(hands.conninfo(step.node, step.upstream)))};"]
            slot = hands.inventory.settings.slot_name(step.node)
            if slot is not None:
                found.append(f"{alter_system('primary_slot_name', slot)};")
            return [*found, "SELECT pg_reload_conf();"]
        case Checkpoint():
            return ["CHECKPOINT;"]
        case ProveSilence():
            what_it_has = "(what it has)"
            return [
                f"{alter_system('primary_conninfo', f'{what_it_has} keepalives_idle=60')};",
                "SELECT pg_reload_conf();",
                f"{alter_system('primary_conninfo', what_it_has)};",
                "SELECT pg_reload_conf();",
            ]
        case FastForward():
            return [
                f"{alter_system('primary_conninfo', shown(hands.conninfo(step.node, step.source)))};",
                "SELECT pg_reload_conf();",
                f"{alter_system('primary_conninfo', '')};",
                "SELECT pg_reload_conf();",
            ]
        case FenceCommand():
            return list(hands.inventory.commands[step.node].fence or ())


def shown(conninfo: str) -> str:
    """The same without a password."""
    parts = conninfo_to_dict(conninfo)
    return make_conninfo("", **{k: v for k, v in parts.items() if k not in SECRETS})


def fence_statements() -> list[str]:
    """What a fence runs, as it would be typed in psql."""
    settings = [f"{alter_system(name, value)};" for name, value in FENCE.items()]
    signal = "COPY (SELECT 1 WHERE false) TO '(data_directory)/standby.signal';  -- where the role may"
    return [*settings, "SELECT pg_reload_conf();", f"{END_SESSIONS};", signal]


def unfence_statements(synchronous: str | None) -> list[str]:
    """What taking it away runs."""
    changes = {"synchronous_standby_names": synchronous, READ_ONLY: None}
    return [*(f"{alter_system(n, v)};" for n, v in changes.items()), "SELECT pg_reload_conf();"]
