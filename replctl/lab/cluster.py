"""A lab as a whole: built, opened, broken, mended, removed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psycopg

from replctl.core.quorum import parse_sync_rule
from replctl.errors import LabError, RefusedError, UsageError
from replctl.lab import binaries, inventory_file, layout, processes, server, streaming
from replctl.lab.account import account_named, run, server_account
from replctl.lab.build import build
from replctl.lab.layout import INVENTORY, MARKER, Layout, ServerPlan
from replctl.lab.ports import HOST, Reservation
from replctl.lab.removal import remove, remove_all

MAX_REPLICAS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class LabNode:
    """One server of a lab at this moment. `pid` is the postmaster's, None when it does not run."""

    name: str
    role: server.Role
    state: server.State
    host: str
    port: int
    pid: int | None
    data_directory: Path
    log_file: Path


class Lab:
    """A real cluster in one directory. Use it as a context manager to have it removed at the end."""

    def __init__(self, plan: Layout) -> None:
        self._layout = plan

    @classmethod
    def up(
        cls,
        directory: Path,
        *,
        replicas: int = 2,
        sync: str | None = None,
        base_port: int | None = None,
        pg_bin: Path | None = None,
        witness: bool = False,
        cascade: bool = False,
        fsync: bool = True,
        template: Path | None = None,
    ) -> Lab:
        """Build a lab and return when all replicas stream; on any failure nothing is left of it.

        `sync`: `ANY 1` or `FIRST 2` among all nodes, or a whole synchronous_standby_names. `template`: a
        directory that saves later labs the second that initdb takes; they have one system identifier then.
        Raises UsageError, RefusedError (the directory is in use) or LabError.
        """
        servers = _plan_servers(replicas, witness=witness, cascade=cascade)
        synchronous = _synchronous(sync, servers)
        target = layout.resolved(directory)
        source = binaries.find(pg_bin)
        made = _make_directory(target)
        with layout.locked(target):
            if (target / MARKER).exists():
                raise _in_use(target)
            plan = Layout(
                directory=target,
                servers=servers,
                version="",
                bin_directory=source,
                account=None,
                fsync=fsync,
                synchronous=synchronous,
                made_directory=made,
            )
            try:
                _build(plan, base_port, template)
            except BaseException:
                remove_all(plan)
                raise
        return cls(plan)

    @classmethod
    def open(cls, directory: Path) -> Lab:
        """The lab in this directory. Raises RefusedError when there is none or it was not finished."""
        plan = layout.load(directory)
        if not plan.complete:
            raise RefusedError(
                f"the lab in {plan.directory} was not finished",
                hint=f"replctl lab down{layout.option(plan.directory)}",
            )
        return cls(plan)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.down()

    @property
    def directory(self) -> Path:
        """Where everything of this lab is."""
        return self._layout.directory

    @property
    def inventory_path(self) -> Path:
        """The inventory of this cluster, for `replctl -i`."""
        return self.directory / INVENTORY

    @property
    def server_version(self) -> str:
        """Such as `15.18`."""
        return self._layout.version

    @property
    def major(self) -> int:
        """Such as 15."""
        return self._layout.major

    @property
    def bin_directory(self) -> Path:
        """Where the servers' programs are, as the servers' account reaches them."""
        return self._layout.bin_directory

    @property
    def synchronous(self) -> str:
        """synchronous_standby_names as built; empty = asynchronous."""
        return self._layout.synchronous

    @property
    def nodes(self) -> dict[str, LabNode]:
        """The nodes of the cluster as they are now, by name, without witnesses."""
        return {s.name: self._look(s) for s in self._layout.servers if not s.witness}

    @property
    def witnesses(self) -> dict[str, LabNode]:
        """The witnesses as they are now, by name."""
        return {s.name: self._look(s) for s in self._layout.servers if s.witness}

    def _look(self, plan: ServerPlan) -> LabNode:
        state, pid = server.process(self._layout, plan.name)
        return LabNode(
            name=plan.name,
            role=server.role(self._layout, plan.name),
            state=state,
            host=HOST,
            port=plan.port,
            pid=pid,
            data_directory=self._layout.data_directory(plan.name),
            log_file=self._layout.log_file(plan.name),
        )

    def dsn(self, name: str, user: str = "postgres", dbname: str = "postgres") -> str:
        """A libpq connection string for one server."""
        return server.dsn(self._layout, name, user, dbname)

    def primary(self) -> str | None:
        """The running node that is not in recovery; of several, the one on the newest timeline."""
        found = []
        for node in self.nodes.values():
            if node.state != "running" or node.role != "primary":
                continue
            with contextlib.suppress(psycopg.Error), server.connect(self._layout, node.name) as connection:
                row = connection.execute(
                    "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_current_wal_lsn() - '0/0'::pg_lsn"
                    " WHERE NOT pg_is_in_recovery()"
                ).fetchone()
                if row is not None:
                    found.append((int(row[0][:8], 16), row[1], node.name))
        return max(found)[2] if found else None

    def start(self, name: str) -> bool:
        """Start a server, waiting until it accepts connections. False when it ran already."""
        return server.start(self._layout, self._known(name))

    def stop(self, name: str) -> bool:
        """Shut a server down in order (fast). False when it did not run."""
        return server.stop(self._layout, self._known(name))

    def kill(self, name: str) -> bool:
        """SIGKILL a server's postmaster and all its children. False when it did not run."""
        data = self._layout.data_directory(self._known(name))
        if not processes.family(data):
            return False
        processes.kill(data)
        return True

    def freeze(self, name: str) -> bool:
        """SIGSTOP a whole server: the kernel still accepts connections, nobody answers. False if frozen."""
        before = server.state(self._layout, self._known(name))
        if before == "stopped":
            raise RefusedError(f"{name} does not run", hint=f"replctl lab start {name}{self._option}")
        processes.freeze(self._layout.data_directory(name))
        return before != "frozen"

    def thaw(self, name: str) -> bool:
        """SIGCONT a frozen server. False when it was not frozen."""
        if server.state(self._layout, self._known(name)) != "frozen":
            return False
        processes.thaw(self._layout.data_directory(name))
        return True

    def cut(self, name: str) -> bool:
        """Make it impossible for a replica to reach its upstream. False when it was cut before."""
        self._known(name)
        return streaming.cut(self._layout, name)

    def mend(self, name: str) -> bool:
        """Undo a cut, waiting until the replica streams if its upstream runs. False if it was not cut."""
        self._known(name)
        return streaming.mend(self._layout, name)

    def down(self) -> None:
        """Remove the lab: no process and no file is left, whatever state it is in."""
        remove(self.directory)

    @property
    def _option(self) -> str:
        return layout.option(self.directory)

    def check(self, name: str) -> None:
        """Raise UsageError, naming those there are, when the lab has no server of this name."""
        self._layout.server(name)

    def _known(self, name: str) -> str:
        self.check(name)
        return name


def _plan_servers(replicas: int, *, witness: bool, cascade: bool) -> list[ServerPlan]:
    """pg1 and its replicas; ports are not known yet."""
    if not 0 <= replicas <= MAX_REPLICAS:
        raise UsageError(f"a lab has between 0 and {MAX_REPLICAS} replicas, not {replicas}")
    if cascade and replicas < 2:
        raise UsageError("a cascade needs at least 2 replicas", hint="--replicas 2 --cascade")
    servers = [ServerPlan("pg1", 0)]
    servers += [ServerPlan(f"pg{number}", 0, upstream="pg1") for number in range(2, replicas + 2)]
    if cascade:
        servers[-1].upstream = servers[-2].name
    if witness:
        servers.append(ServerPlan("w1", 0, witness=True))
    return servers


def _synchronous(sync: str | None, servers: list[ServerPlan]) -> str:
    """The value of synchronous_standby_names. All nodes are named: a primary's own name never matches."""
    if sync is None or not sync.strip():
        return ""
    names = [s.name for s in servers if not s.witness]
    value = sync.strip() if "(" in sync or "," in sync else f"{sync.strip()} ({', '.join(names)})"
    hint = '--sync "ANY 1", --sync "FIRST 1", or a whole synchronous_standby_names'
    try:
        rule = parse_sync_rule(value)
    except ValueError as error:
        raise UsageError(f"cannot read --sync {sync!r}", why=str(error), hint=hint) from None
    direct = [s.name for s in servers if s.upstream == "pg1"]
    if rule is not None and _able(rule.members, direct) < rule.confirmations:
        raise UsageError(
            f"--sync {sync!r} could never be satisfied",
            why=f"{rule.confirmations} replicas must confirm and {len(direct)} stream from pg1",
            hint=f"--replicas {rule.confirmations + 1}",
        )
    return value


def _able(members: Sequence[str], replicas: list[str]) -> int:
    """How many of these replicas the rule counts."""
    return len(replicas) if "*" in members else len([name for name in replicas if name in members])


def _make_directory(target: Path) -> bool:
    """Make the lab's directory; False when it was there, empty and ours. Raises RefusedError otherwise."""
    try:
        target.mkdir(mode=0o755)
    except FileExistsError:
        if not target.is_dir():
            raise UsageError(f"{target} is not a directory") from None
    except OSError as error:
        raise LabError(f"cannot make {target}", why=error.strerror, hint="choose another --dir") from None
    else:
        target.chmod(0o755)  # whatever the umask: the servers' account has to pass
        return True
    if (target / MARKER).exists():
        raise _in_use(target)
    if not layout.is_empty(target):
        raise RefusedError(
            f"{target} is not empty",
            why="a lab removes its whole directory in the end",
            hint="choose another --dir",
        )
    if target.stat().st_uid == os.geteuid():
        target.chmod(0o755)
    layout.check_owner(target)
    return False


def _in_use(target: Path) -> RefusedError:
    option = layout.option(target)
    return RefusedError(
        f"there is a lab in {target} already",
        hint=f"replctl lab status{option}, replctl lab down{option}, or another --dir",
    )


def _build(plan: Layout, base_port: int | None, template: Path | None) -> None:
    """Everything that a lab consists of, lab.json first."""
    account = server_account()
    plan.account = None if account is None else account.name
    with Reservation(len(plan.servers), base_port) as reservation:
        for planned, port in zip(plan.servers, reservation.ports, strict=True):
            planned.port = port
        plan.save()
        _check_passage(plan)
        found = binaries.reachable(plan.bin_directory, account, plan.directory / "server")
        plan.bin_directory, plan.version = found.bin_directory, found.version
        plan.save()
        build(plan, reservation, template)
    inventory_file.write(plan)
    plan.complete = True
    plan.save()


def _check_passage(plan: Layout) -> None:
    """Raise LabError where the servers' account could not even get to the lab's directory."""
    try:
        run(["ls", "-d", f"{plan.directory}/."], account_named(plan.account), timeout_s=10)
    except LabError:
        raise LabError(
            f"user {plan.account}, whom PostgreSQL has to run as, cannot enter {plan.directory}",
            why="it or a directory above is closed to others",
            hint="choose a --dir below a directory that every user may pass, such as /tmp",
        ) from None
