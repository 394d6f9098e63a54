"""The least-privilege SQL: what each role of replctl may do on a server of each version, and no more.

Run them once, as a superuser, on the primary: roles, rights and rights on parameters are in catalogs
that reach every replica by WAL. Every statement may be run again.
https://www.postgresql.org/docs/current/predefined-roles.html
"""

from __future__ import annotations

from dataclasses import dataclass

from replctl.pg.queries import FIRST_SUPPORTED

ROLES = {
    "observer": "sees everything that status, check and metrics show",
    "operator": "also fails over, switches over, repoints and fences",
    "fencer": "the operator, who may also make a fence survive a restart (pg_write_server_files)",
    "rewind": "what pg_rewind needs of the server that it reads from",
}

# Each list by the first version it is for: a server gets those of its own version and of all before.
_OPERATOR_FUNCTIONS = (
    "pg_promote(boolean, integer)",
    "pg_reload_conf()",
    "pg_wal_replay_pause()",
    "pg_wal_replay_resume()",
    "pg_switch_wal()",
    "pg_create_restore_point(text)",
    "pg_show_all_file_settings()",
)
_REWIND_FUNCTIONS = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)
_OPERATOR_ROLES: dict[int, tuple[str, ...]] = {
    14: ("pg_signal_backend",),
    15: ("pg_checkpoint",),
    16: ("pg_use_reserved_connections",),
}
_OPERATOR_PARAMETERS: dict[int, tuple[str, ...]] = {
    15: (
        "primary_conninfo",
        "primary_slot_name",
        "synchronous_standby_names",
        "wal_receiver_timeout",
        "recovery_min_apply_delay",
        "default_transaction_read_only",
        "hot_standby_feedback",
    ),
    17: ("sync_replication_slots", "synchronized_standby_slots"),
}
_LIMITS: dict[int, tuple[str, ...]] = {
    14: (
        "Before PostgreSQL 15 only a superuser may run ALTER SYSTEM and CHECKPOINT: with these rights "
        "replctl observes and promotes, but it cannot cut, repoint or fence a node.",
    ),
}


def statements(version: int, role: str, name: str = "replctl") -> tuple[str, ...]:
    """The SQL that makes login `name` a `role` (see ROLES) on servers of this major version.

    Without semicolons at the end; psql runs them joined by `;` and a newline. Raises ValueError for a role
    or a version that is not known.
    """
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}: expected {', '.join(ROLES)}")
    if version < FIRST_SUPPORTED:
        raise ValueError(f"PostgreSQL {version} is not supported; {FIRST_SUPPORTED} is the first that is")
    user = _identifier(name)
    login = (_create_role(name), _connect(name))
    if role == "rewind":
        return (*login, *(_execute(function, user) for function in _REWIND_FUNCTIONS))
    observer = (*login, f"GRANT pg_monitor TO {user}", *_state_table(user, "SELECT"))
    if role == "observer":
        return observer
    operator = (*observer, *_operator(version, user))
    if role == "operator":
        return operator
    return (*operator, f"GRANT pg_write_server_files TO {user}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One right of the operator: how to ask for it without using it, and the statement that gives it."""

    what: str
    needed_for: str
    test: str  # a boolean SQL expression
    statement: str


def operator_rights(version: int, name: str) -> tuple[Wanted, ...]:
    """Every right that acting needs on this major version, for the role of this name."""
    user = _identifier(name)
    found = [
        _membership("pg_monitor", "seeing the state of replication", user),
        Wanted(
            "REPLICATION",
            "reading positions over a replication connection, and slots",
            "(SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)",
            f"ALTER ROLE {user} REPLICATION",
        ),
    ]
    for first, names in _OPERATOR_ROLES.items():
        if first <= version:
            found += [_membership(role, _ROLE_USES[role], user) for role in names]
    for function in _OPERATOR_FUNCTIONS:
        test = f"pg_catalog.has_function_privilege({_literal('pg_catalog.' + function)}, 'EXECUTE')"
        found.append(Wanted(function, "promoting, cutting and repointing", test, _execute(function, user)))
    found.append(
        Wanted(
            "SELECT on pg_file_settings",
            "noticing that a server ignores a reload",
            "pg_catalog.has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')",
            f"GRANT SELECT ON pg_catalog.pg_file_settings TO {user}",
        )
    )
    found += _state_rights(user)
    for first, names in _OPERATOR_PARAMETERS.items():
        if first <= version:
            found += [_parameter(parameter, user) for parameter in names]
    if version < 15:
        test = "(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)"
        found.append(Wanted("ALTER SYSTEM", "cutting and repointing", test, f"ALTER ROLE {user} SUPERUSER"))
    return tuple(found)


def _state_rights(user: str) -> list[Wanted]:
    """By the catalogs: where the table or the schema is missing, that is another finding."""
    schema = "SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'replctl'"
    table = (
        "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'replctl' AND c.relname = 'state'"
    )
    every = " AND ".join(
        f"pg_catalog.has_table_privilege(({table}), '{right}')"
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
    )
    use = "keeping pause, block and fences in the cluster"
    return [
        Wanted(
            "USAGE on schema replctl",
            use,
            f"coalesce(pg_catalog.has_schema_privilege(({schema}), 'USAGE'), true)",
            f"GRANT USAGE ON SCHEMA replctl TO {user}",
        ),
        Wanted(
            "reading and writing replctl.state",
            use,
            f"coalesce({every}, true)",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON replctl.state TO {user}",
        ),
    ]


def fencer_right(name: str) -> Wanted:
    """What makes a fence outlive the restart of the fenced server."""
    return _membership("pg_write_server_files", "a fence that survives a restart", _identifier(name))


_ROLE_USES = {
    "pg_signal_backend": "ending sessions on a fenced primary",
    "pg_checkpoint": "the checkpoint before a switchover and a rejoin",
    "pg_use_reserved_connections": "connecting when all other slots are taken",
}


def _membership(role: str, needed_for: str, user: str) -> Wanted:
    test = f"pg_catalog.pg_has_role(current_user, {_literal(role)}, 'USAGE')"
    return Wanted(role, needed_for, test, f"GRANT {role} TO {user}")


def _parameter(parameter: str, user: str) -> Wanted:
    test = f"pg_catalog.has_parameter_privilege({_literal(parameter)}, 'ALTER SYSTEM')"
    statement = f"GRANT ALTER SYSTEM ON PARAMETER {parameter} TO {user}"
    return Wanted(f"ALTER SYSTEM {parameter}", "cutting, repointing and fencing", test, statement)


def limits(version: int, role: str) -> tuple[str, ...]:
    """What cannot be granted to this role on this version, one sentence each."""
    if role not in ("operator", "fencer"):
        return ()
    return _LIMITS.get(version, ())


def _operator(version: int, user: str) -> tuple[str, ...]:
    predefined = [name for first, names in _OPERATOR_ROLES.items() if first <= version for name in names]
    parameters = [name for first, names in _OPERATOR_PARAMETERS.items() if first <= version for name in names]
    found = [f"ALTER ROLE {user} REPLICATION"]
    found += [f"GRANT {name} TO {user}" for name in predefined]
    found += [_execute(function, user) for function in _OPERATOR_FUNCTIONS]
    found.append(f"GRANT SELECT ON pg_catalog.pg_file_settings TO {user}")
    if parameters:
        found.append(f"GRANT ALTER SYSTEM ON PARAMETER {', '.join(parameters)} TO {user}")
    found.append(f"GRANT INSERT, UPDATE, DELETE ON replctl.state TO {user}")
    return tuple(found)


def _create_role(name: str) -> str:
    # There is no CREATE ROLE IF NOT EXISTS.
    return f"""DO $replctl$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {_literal(name)}) THEN
        CREATE ROLE {_identifier(name)} LOGIN;
    END IF;
END
$replctl$"""


def _connect(name: str) -> str:
    """Everybody may connect unless that was revoked; the database's name is not known here."""
    return f"""DO $replctl$
BEGIN
    EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), {_literal(name)});
END
$replctl$"""


def _state_table(user: str, right: str) -> tuple[str, ...]:
    """What must hold for every controller: pause, block, marks of drained and fenced nodes."""
    return (
        "CREATE SCHEMA IF NOT EXISTS replctl",
        """CREATE TABLE IF NOT EXISTS replctl.state (
    key text PRIMARY KEY,
    value jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
)""",
        f"GRANT USAGE ON SCHEMA replctl TO {user}",
        f"GRANT {right} ON replctl.state TO {user}",
    )


def state_table(name: str) -> tuple[str, ...]:
    """What the table of common marks takes, by itself: the table, and the operator's rights on it."""
    user = _identifier(name)
    return (*_state_table(user, "SELECT, INSERT, UPDATE, DELETE"),)


def _execute(function: str, user: str) -> str:
    return f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {user}"


def _identifier(name: str) -> str:
    if not name or not name.isprintable() or "$replctl$" in name or len(name.encode()) > 63:
        raise ValueError(f"not a role name: {name!r} (expected 1 to 63 printable bytes)")
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    # E'' so that a backslash means the same whatever standard_conforming_strings is.
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
