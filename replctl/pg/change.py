"""Changing a server: one statement, settings that are read back, a fence.

pg_reload_conf() says true also when a syntax error elsewhere makes the server ignore the reload: so every
change is read back. Every wait has a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from replctl.core.model import FENCE_NAME
from replctl.errors import ReplctlError
from replctl.inventory import Inventory
from replctl.pg.connect import NodeError, connect, query
from replctl.pg.locks import Ballot
from replctl.pg.statements import END_SESSIONS, FENCE, READ_ONLY, alter_system, literal

QUERY_LIMIT_S = 2.0
POLL_S = 0.003
NOT_DONE = ("0A", "22", "42")  # SQLSTATE classes of a refused statement: no right, not allowed
MAY_WRITE_FILES = (
    "SELECT pg_has_role('pg_write_server_files', 'USAGE') AS may, current_setting('data_directory') AS place"
)
IS_FENCED = f"SELECT current_setting('synchronous_standby_names') LIKE '%{FENCE_NAME}%' AS fenced"


class StepError(ReplctlError):
    """A step did not lead to what proves it."""


@dataclass
class Editor:
    """Changes servers, on the connections that hold their votes where there are such."""

    inventory: Inventory
    ballot: Ballot
    altered: set[str] = field(default_factory=set)  # nodes whose settings were changed, or may have been

    async def connection(self, node: str) -> AsyncConnection[DictRow]:
        """The connection that holds the node's vote, or one of its own where it does not vote."""
        found = self.ballot.connections.get(node)
        if found is None or found.closed:
            found = await connect(self.inventory.connections[node])
            self.ballot.connections[node] = found
        return found

    async def run(self, node: str, text: str, *, limit_s: float = QUERY_LIMIT_S) -> list[DictRow]:
        """One statement on one node."""
        return await query(await self.connection(node), text, timeout_s=limit_s, prepare=False)

    async def set(self, node: str, changes: dict[str, str | None]) -> None:
        """ALTER SYSTEM, reload, and read every value back. None = RESET. Raises StepError."""
        for name, value in changes.items():
            try:
                await self.run(node, alter_system(name, value))
            except psycopg.Error as error:
                if (error.sqlstate or "")[:2] not in NOT_DONE:
                    self.altered.add(node)
                raise
            self.altered.add(node)
        await self.run(node, "SELECT pg_reload_conf()")
        until_s = time.monotonic() + QUERY_LIMIT_S
        for name, value in changes.items():
            while value is not None:
                rows = await self.run(node, f"SELECT current_setting({literal(name)}) AS value")
                if rows[0]["value"] == value:
                    break
                if time.monotonic() > until_s:
                    raise StepError(
                        f"{node} did not take {name}",
                        why="a reload was ignored",
                        hint="replctl doctor shows syntax errors in its configuration",
                    )
                await asyncio.sleep(POLL_S)

    async def run_fence(self, node: str) -> None:
        """The inventory's fence command: exit code 0 = the node is provably off."""
        argv = self.inventory.commands[node].fence
        limit_s = self.inventory.settings.failover.fence_timeout_s
        if argv is None:
            raise StepError(f"{node} has no fence command")
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            why = f"{argv[0]}: {error.strerror}"
            raise StepError(f"the fence command of {node} cannot be started", why=why) from None
        try:
            code = await asyncio.wait_for(process.wait(), limit_s)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise StepError(f"the fence command of {node} did not end", why=f"within {limit_s:g} s") from None
        if code != 0:
            raise StepError(f"the fence command of {node} failed", why=f"exit code {code}")

    async def fence(self, node: str) -> bool:
        """Make writing on a reachable old primary impossible: the ladder, as far as the role may climb.

        Commits wait for a replica that does not exist, sessions are read-only by default, those that are
        open end; and where the role may write server files, the next start is as a replica. Returns whether
        that last rung was reached. Raises StepError.
        """
        with told(f"fence {node}"):
            await self.set(node, FENCE)
            await self.run(node, END_SESSIONS)
            return await self._leave_signal(node)

    async def _leave_signal(self, node: str) -> bool:
        """Leave a standby.signal file, which outlives a restart and a change of settings."""
        try:
            rows = await self.run(node, MAY_WRITE_FILES)
            if not rows[0]["may"]:
                return False
            signal = literal(rows[0]["place"] + "/standby.signal")
            await self.run(node, f"COPY (SELECT 1 WHERE false) TO {signal}")
        except psycopg.Error:
            return False
        return True

    async def unfence(self, node: str, synchronous: str | None) -> None:
        """Take the fence away; `synchronous` = what synchronous_standby_names was. Raises StepError."""
        with told(f"unfence {node}"):
            await self.set(node, {"synchronous_standby_names": synchronous, READ_ONLY: None})
            until_s = time.monotonic() + QUERY_LIMIT_S
            while (await self.run(node, IS_FENCED))[0]["fenced"]:
                if time.monotonic() > until_s:
                    raise StepError(
                        f"{node} is still fenced",
                        why="its configuration files say so, or a reload was ignored",
                        hint="look for replctl_fenced in pg_file_settings",
                    )
                await asyncio.sleep(POLL_S)

    async def set_synchronous(self, node: str, names: str) -> None:
        """Change whom commits wait for. Raises StepError."""
        with told(f"set synchronous_standby_names of {node}"):
            await self.set(node, {"synchronous_standby_names": names})

    async def close(self) -> None:
        """Give the votes back and hang up."""
        await self.ballot.release()


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Every failure as a StepError."""
    try:
        yield
    except NodeError as error:
        raise StepError(what, why=f"{error.cause}: {error.message}") from None
    except psycopg.Error as error:
        raise StepError(what, why=str(error).splitlines()[0]) from None
