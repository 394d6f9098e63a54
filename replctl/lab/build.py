"""Builds the servers of a lab: initdb once, roles in single-user mode, copies for the replicas, start.

A replica is a copy of the primary's data directory from before its first start: no pg_basebackup is
needed, which some packages of PostgreSQL lack, and no server has to be started twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from psycopg import sql

from replctl.errors import LabError
from replctl.lab import server
from replctl.lab.account import Account, account_named, give, run
from replctl.lab.layout import Layout, ServerPlan
from replctl.lab.ports import HOST, Reservation
from replctl.pg import grants

REPLICATOR = "replicator"
OPERATOR = "replctl"
APPLICATION = "app"
LEDGER = "replctl_lab_ledger"
# Which role of `replctl grants` each login has.
ROLES = {
    OPERATOR: "operator",
    "replctl_observer": "observer",
    "replctl_fencer": "fencer",
    "replctl_rewind": "rewind",
}
_INITDB_TIMEOUT_S = 120
_COPY_TIMEOUT_S = 120
_STREAMING_TIMEOUT_S = 30.0
_POLL_S = 0.01
# Writers whose commits wait for a replica pile up on a blocked primary: leave room for the operator.
_APPLICATION_CONNECTIONS = 60

_LEDGER_SQL = (
    f"CREATE ROLE {REPLICATOR} LOGIN REPLICATION",
    f"CREATE ROLE {APPLICATION} LOGIN CONNECTION LIMIT {_APPLICATION_CONNECTIONS}",
    f"""CREATE TABLE public.{LEDGER} (
    run text NOT NULL, writer integer NOT NULL, id bigint NOT NULL,
    node text NOT NULL, sent_at timestamptz NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, writer, id))""",
    f"ALTER TABLE public.{LEDGER} OWNER TO {APPLICATION}",
)


def build(layout: Layout, reservation: Reservation, template: Path | None = None) -> None:
    """Build and start every server; returns when all replicas stream. Raises LabError.

    `template` keeps what initdb made of a primary for later labs; they have one system identifier then.
    """
    account = account_named(layout.account)
    primary = next(s for s in layout.servers if s.upstream is None and not s.witness)
    witnesses = [s for s in layout.servers if s.witness]
    replicas = [s for s in layout.servers if s.upstream is not None]
    for plan in layout.servers:
        home = layout.home(plan.name)
        home.mkdir()
        give(home, account, 0o700)
        _write(layout, plan, "node.conf", _node_conf(plan), account)
    made = None if template is None else template / layout.version
    _at_once(lambda p: _initialize(layout, p, account, made if p is primary else None), [primary, *witnesses])
    _at_once(lambda plan: _copy(layout, primary, plan, account), replicas)
    waiting = [primary, *witnesses]
    while waiting:
        _at_once(lambda plan: _start(layout, plan, reservation), waiting)
        started = {plan.name for plan in waiting}
        waiting = [plan for plan in replicas if plan.upstream in started]
    _wait_streaming(layout)


def _at_once(work: Callable[[ServerPlan], None], plans: Iterable[ServerPlan]) -> None:
    """Do it for all of them in parallel; the first error is raised when all have ended."""
    todo = list(plans)
    if not todo:
        return
    with ThreadPoolExecutor(max_workers=len(todo), thread_name_prefix="lab") as pool:
        for future in [pool.submit(work, plan) for plan in todo]:
            future.result()


def _initialize(layout: Layout, plan: ServerPlan, account: Account | None, made: Path | None) -> None:
    """A data directory with roles and settings, or a copy of one that was made before."""
    data = layout.data_directory(plan.name)
    if made is not None and made.exists():
        _copy_files(made, data, account)
    else:
        _initdb(layout, data, account)
        if made is not None:
            give(made.parent, account, 0o700)
            _copy_files(data, made, account)
    with (data / "postgresql.conf").open("a") as file:
        file.write(_shared_conf(layout, witness=plan.witness))


def _initdb(layout: Layout, data: Path, account: Account | None) -> None:
    program = layout.bin_directory
    argv = [str(program / "initdb"), "-D", str(data), "--no-sync", "--no-instructions"]
    argv += ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
    run(argv, account, timeout_s=_INITDB_TIMEOUT_S)
    statements = list(_LEDGER_SQL)
    for name, role in ROLES.items():
        statements += grants.statements(layout.major, role, name)
    # -j: a statement ends at a semicolon and an empty line, not at the end of a line.
    text = "".join(f"{statement.rstrip().rstrip(';')};\n\n" for statement in statements)
    argv = [str(program / "postgres"), "--single", "-j", "-D", str(data)]
    # Before the lab's own settings: this is small, and leaves no shared memory behind where it is killed.
    argv += ["-c", "shared_buffers=16MB", "-c", "dynamic_shared_memory_type=mmap"]
    argv += ["-c", "exit_on_error=true", "-c", "fsync=off", "postgres"]
    run(argv, account, timeout_s=_INITDB_TIMEOUT_S, input_text=text)


def _copy_files(source: Path, target: Path, account: Account | None) -> None:
    run(["cp", "-R", "-p", str(source), str(target)], account, timeout_s=_COPY_TIMEOUT_S)


def _copy(layout: Layout, primary: ServerPlan, plan: ServerPlan, account: Account | None) -> None:
    """Make a replica of the primary, which does not run yet."""
    assert plan.upstream is not None
    target = layout.data_directory(plan.name)
    _copy_files(layout.data_directory(primary.name), target, account)
    conninfo = primary_conninfo(layout, plan.name, plan.upstream)
    with (target / "postgresql.auto.conf").open("a") as file:
        file.write(f"primary_conninfo = '{conninfo}'\nprimary_slot_name = '{plan.name}'\n")
    _write(layout, plan, "data/standby.signal", "", account)


def primary_conninfo(layout: Layout, name: str, upstream: str) -> str:
    """The conninfo by which one node of the lab streams from another."""
    port = layout.server(upstream).port
    return f"host={HOST} port={port} user={REPLICATOR} application_name={name} sslmode=disable"


def _start(layout: Layout, plan: ServerPlan, reservation: Reservation) -> None:
    """Start a server and make the slots that its own replicas are going to use."""
    reservation.starting(plan.port)
    server.start(layout, plan.name)
    with server.connect(layout, plan.name) as connection:
        for replica in layout.servers:
            if replica.upstream == plan.name:
                connection.execute(
                    sql.SQL("SELECT pg_create_physical_replication_slot({}, true)").format(replica.name)
                )


def _wait_streaming(layout: Layout) -> None:
    """Wait until every upstream shows its replicas as streaming."""
    missing = {s.name: s.upstream for s in layout.servers if s.upstream is not None}
    deadline_s = time.monotonic() + _STREAMING_TIMEOUT_S
    for upstream in dict.fromkeys(missing.values()):
        assert upstream is not None
        expected = {name for name, of in missing.items() if of == upstream}
        with server.connect(layout, upstream) as connection:
            while expected:
                query = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
                expected -= {row[0] for row in connection.execute(query)}
                if expected and time.monotonic() > deadline_s:
                    name = min(expected)
                    raise LabError(
                        f"{name} does not stream from {upstream}", hint=f"see {layout.log_file(name)}"
                    )
                time.sleep(_POLL_S if expected else 0)


def _write(layout: Layout, plan: ServerPlan, name: str, text: str, account: Account | None) -> None:
    path = layout.home(plan.name) / name
    path.write_text(text)
    give(path, account, 0o600)


def _node_conf(plan: ServerPlan) -> str:
    """What belongs to this server alone, outside its data directory.

    pg_rewind and pg_basebackup replace the files in a data directory by another node's.
    """
    return f"# This server's own settings.\nport = {plan.port}\ncluster_name = '{plan.name}'\n"


def _shared_conf(layout: Layout, *, witness: bool) -> str:
    """What all nodes have in common; appended to initdb's postgresql.conf."""
    nodes = len([s for s in layout.servers if not s.witness])
    # Room for a receiver and a controller's replication connection per node, and for tools.
    senders = max(10, 2 * nodes + 4)
    settings = {
        "listen_addresses": HOST,
        "unix_socket_directories": "",  # paths of sockets may not be longer than 107 bytes; nobody needs them
        "max_connections": max(100, 4 * nodes + 60),
        "shared_buffers": "16MB",
        "max_wal_size": "256MB",
        "wal_keep_size": "64MB",  # so that pg_rewind finds what it needs
        "wal_level": "replica",
        "hot_standby": "on",
        "wal_log_hints": "on",
        "max_wal_senders": senders,
        "max_replication_slots": senders,
        "synchronous_standby_names": "" if witness else layout.synchronous,
        "fsync": "on" if layout.fsync else "off",
        # In files of the data directory: POSIX shared memory would outlive a killed server.
        "dynamic_shared_memory_type": "mmap",
        "jit": "off",
        "log_line_prefix": "%m [%p] %q%u %a ",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    lines = ["\n# replctl lab\n"]
    lines += [f"{key} = '{str(value).replace(chr(39), chr(39) * 2)}'\n" for key, value in settings.items()]
    lines.append("include_if_exists = '../node.conf'\n")
    return "".join(lines)
