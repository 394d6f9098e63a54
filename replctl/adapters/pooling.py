"""What sync and async pools share: which node a block gets, and when a node's pool is given up.

Each node has up to two pools, opened when first used: one for what goes to it as the primary, one for what
it is read for as a replica, whose sessions are read-only. A pool is never mended. One whose node has changed
its role, or can no longer be connected to, is retired: its idle connections are closed, those in use when
they come back, whoever waits for one is told at once, and the next use makes another. Where another node has
taken over the writes, those in use are cut, since the old primary may never answer.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any

import psycopg

from replctl.adapters.guard import is_pooled, parameters, refuses_writes, shut
from replctl.adapters.metrics import RouteMetrics
from replctl.core.model import Lsn
from replctl.core.routing import (
    READ,
    WRITE,
    Decision,
    Fitness,
    KeyRing,
    Need,
    Position,
    Reason,
    Scope,
    Snapshot,
    current_scope,
    decide,
    read_after,
)
from replctl.core.routing.token import later
from replctl.errors import NoPrimary, ObserveError, PoolsClosed, RefusedError
from replctl.pg.monitor import Monitor, refusal

TIMEOUT_S = 30.0
CLOSE_LIMIT_S = 1.0
ANSWER_LIMIT_S = 2.0  # of a query of our own, beyond what it has to wait for
# Of a node in one of these, a pool for reading it as a replica is of no use.
_NO_REPLICA = {Fitness.PRIMARY, Fitness.STALE_PRIMARY, Fitness.FENCED, Fitness.UNREACHABLE}


class Unavailable(Exception):  # noqa: N818 - never leaves the adapter
    """A node gives no connection of the kind that is wanted."""


class Home:
    """One node's pool, and how its connections are made and judged."""

    def __init__(self, pools: PoolsShared, node: str, *, replica: bool) -> None:
        self.node = node
        self.replica = replica
        self.pool: Any = None
        self.opened = False  # async pools are opened by the first who takes a connection
        self.error: BaseException | None = None
        self._pools = pools
        self.pooled = pools.is_pooled(node)
        self.is_read_only = replica and not self.pooled  # every session of it is, by default
        self._living: weakref.WeakSet[Any] = weakref.WeakSet()

    def parameters(self) -> dict[str, Any]:
        """What psycopg.connect is given. May block for a password_command. Raises ObserveError."""
        own = self._pools.connect_options
        return parameters(self._pools.inventory, self.node, own, read_only=self.is_read_only)

    def connected(self, connection: Any) -> None:
        """A new connection: watch it."""
        connection.watched(pooled=self.pooled, connected_s=time.monotonic())
        self._living.add(connection)
        self.error = None

    def judge(self, connection: Any, row: Any = None) -> str | None:
        """Why this connection is not what is wanted; None = it is. `row` is ROLE_SQL's, behind a pooler."""
        if row is None:
            wrong = refuses_writes(connection) if not self.replica else not is_still_replica(connection)
        else:
            wrong = any(row) if not self.replica else not row[0]
        if not wrong:
            return None
        return f"{self.node} {'is no replica any more' if self.replica else 'takes no writes'}"

    def failed(self, error: BaseException) -> None:
        """A connection could not be made. Without any that lives, nobody shall wait for one."""
        self.error = error
        if "authentication" in str(error):  # a failed connection has no SQLSTATE
            self._pools.inventory.connections[self.node].forget_password()
        if all(living.closed for living in list(self._living)):
            self._pools.retire(self)

    def cut(self) -> None:
        """Another node takes the writes: who waits for this one, which may be frozen, shall not."""
        for living in list(self._living):
            shut(living)

    def wrong(self, why: str) -> Unavailable:
        """The node has another role: give the pool up."""
        self.error = Unavailable(why)
        self._pools.retire(self)
        return Unavailable(why)

    def gone(self) -> Unavailable:
        """The pool was given up while one waited for it."""
        said = str(self.error).strip().partition("\n")[0] if self.error else "its pool was closed"
        return Unavailable(f"{self.node}: {said}")


def is_still_replica(connection: Any) -> bool:
    """By what the server last reported."""
    return bool(connection.pgconn.parameter_status(b"in_hot_standby") == b"on")


class PoolsShared:
    """The part of Pools and AsyncPools that waits for nothing."""

    def __init__(
        self,
        monitor: Monitor,
        connect: dict[str, Any] | None,
        *,
        keys: KeyRing | None,
        timeout_s: float,
        pooler: bool | None,
        metrics: RouteMetrics | None,
        pool: dict[str, Any],
    ) -> None:
        if clash := {"conninfo", "kwargs", "connection_class", "open", "name", "timeout"} & set(pool):
            raise TypeError(f"{', '.join(sorted(clash))}: the pools set this themselves")
        self.monitor = monitor
        self.inventory = monitor.inventory
        self.connect_options = dict(connect or {})
        self.timeout_s = timeout_s
        self.pool_options = {"min_size": 1, "max_size": 10, "num_workers": 2, **pool}
        self._keys = keys
        self._pooler = pooler
        self._metrics = metrics
        self._homes: dict[tuple[str, bool], Home] = {}
        self._closed = False
        self._lock = threading.Lock()
        monitor.listeners.append(self._heard)
        _all.add(self)

    def is_pooled(self, node: str) -> bool:
        """Whether connections to this node go through a pooler."""
        return is_pooled(self.inventory, node) if self._pooler is None else self._pooler

    # ---- which node

    def need(
        self, read: bool, after: str | Position | None, scope: Scope | None
    ) -> tuple[Need, Scope | None]:
        """What is asked for, and the scope that it is asked in."""
        if scope is None:
            scope = current_scope(self.monitor.cluster)
        if not isinstance(after, str):
            return (read_after(after) if read else WRITE), scope
        if self._keys is None:
            raise ValueError("a token needs the keys that it was signed with: Pools(keys=KeyRing(…))")
        told = self.monitor.new_scope(after, keys=self._keys)
        if not read:
            return WRITE, scope
        if told.sticky_until_s > time.monotonic():
            told.after = later(None if scope is None else scope.after, told.after)
            return READ, told
        return read_after(told.after), scope

    def choose(
        self, need: Need, scope: Scope | None, snapshot: Snapshot, tried: set[str], *, behind: bool
    ) -> Decision:
        """Where to, without the replicas that were `tried` and could not be connected to.

        `behind`: one was waited for in vain, so that this read goes to the primary.
        """
        if behind:
            return snapshot.primary[Reason.LSN_BEHIND]
        decision = decide(need, scope, snapshot, time.monotonic())
        if decision.node not in tried:
            return decision
        if decision.replica and decision.reason is not Reason.MONOTONIC:
            for _ in snapshot.wheel:
                decision = decide(need, scope, snapshot, time.monotonic())
                if decision.node not in tried:
                    return decision
        if snapshot.on_unfit.node is None and snapshot.on_unfit.reason is not Reason.NO_PRIMARY:
            detail = f"{snapshot.on_unfit.detail}; not connected to: {', '.join(sorted(tried))}"
            return Decision(None, Reason.ALL_UNFIT, detail=detail)
        return snapshot.primary[Reason.ALL_UNFIT]

    def refuse(self, decision: Decision, left_s: float, last: str | None) -> float:
        """How long to wait for a look that knows better. Raises NoReplica at once, NoPrimary in the end."""
        error: RefusedError = refusal(decision)
        if not isinstance(error, NoPrimary) or left_s <= 0:
            error.why = "; ".join(filter(None, (error.why, last)))
            raise error
        return left_s

    def unreached(self, node: str, why: str) -> NoPrimary:
        """The primary of the snapshot gave no connection until the time was over."""
        what = f"{node} takes writes as far as is known, but gives no connection"
        return NoPrimary(what, why=why, hint="replctl status")

    def condition(
        self, need: Need, scope: Scope | None, snapshot: Snapshot, decision: Decision, connected_s: float
    ) -> tuple[Lsn | None, float]:
        """How far this connection's node must have replayed, and how long to wait for it; None = no question.

        One that was connected to since the look may have restarted, and be where it was before.
        """
        if decision.wait_lsn is not None:
            return decision.wait_lsn, decision.wait_s
        after = later(need.after, None if scope is None else scope.after)
        unasked = after is None or connected_s < snapshot.taken_s or not decision.replica
        if after is None or unasked or decision.reason is Reason.LSN_STALE:
            return None, 0.0
        required = snapshot.required(after)
        return (None if required is None else Lsn(required)), snapshot.wait_s

    def count(self, need: Need, decision: Decision, scope: Scope | None) -> None:
        """A block got its connection by this decision."""
        if need.write:
            return
        if self._metrics is not None:
            self._metrics.count(decision)
        if scope is not None and decision.node is not None:
            scope.note_read(decision.node)

    # ---- pools that come and go

    def home(self, node: str, *, replica: bool) -> Home:
        """The node's pool. Raises PoolsClosed."""
        found = self._homes.get((node, replica))
        if found is not None:
            return found
        with self._lock:
            self.refuse_if_closed()
            found = self._homes.get((node, replica))
            if found is None:
                found = Home(self, node, replica=replica)
                found.pool = self._new_pool(found)
                self._homes[node, replica] = found
            return found

    def retire(self, home: Home) -> None:
        """Give this pool up, without waiting."""
        with self._lock:
            if self._homes.get((home.node, home.replica)) is not home:
                return
            del self._homes[home.node, home.replica]
        self._close_pool(home.pool)

    def refuse_if_closed(self) -> None:
        """Raise PoolsClosed if they are."""
        if self._closed:
            raise PoolsClosed(f"{self.monitor.cluster}: the pools were closed", hint="make others")

    def _end(self) -> list[Any]:
        """No more from now on; the pools that are left to be closed."""
        if self._heard in self.monitor.listeners:
            self.monitor.listeners.remove(self._heard)
        with self._lock:
            self._closed = True
            homes, self._homes = list(self._homes.values()), {}
        return [home.pool for home in homes]

    def _heard(self, _before: Snapshot | None, after: Snapshot) -> None:
        """Roles have changed."""
        fitness = {view.name: view.fitness for view in after.nodes}
        for home in list(self._homes.values()):
            if home.replica:
                useless = home.node == after.writer or fitness.get(home.node) in _NO_REPLICA
            else:
                useless = after.writer not in (None, home.node)
            if useless:
                self.retire(home)
                if not home.replica:
                    home.cut()

    def forget_parent(self) -> None:
        """In a forked child: the connections are the parent's. They are neither used nor closed here."""
        self._lock = threading.Lock()
        homes, self._homes = list(self._homes.values()), {}
        for home in homes:
            home.pool._closed = True  # else its end would wait for threads, and locks, of the parent
        _of_the_parent.extend(homes)

    def _new_pool(self, home: Home) -> Any:
        raise NotImplementedError

    def _close_pool(self, pool: Any) -> None:
        raise NotImplementedError


CONNECT_ERRORS = (psycopg.Error, ObserveError, OSError)
_of_the_parent: list[Home] = []
_all: weakref.WeakSet[PoolsShared] = weakref.WeakSet()


def _forget_parents() -> None:
    for pools in list(_all):
        pools.forget_parent()


os.register_at_fork(after_in_child=_forget_parents)
