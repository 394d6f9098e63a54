"""Observation in the background of an application: one loop per process, whose newest snapshot decides.

    monitor = Monitor(inventory)            # no thread and no connection yet
    monitor.ensure()                        # at first use: waits, once, for the first look
    decision = monitor.decide(READ, scope)  # never waits, never asks a server

A thread of its own runs an event loop of its own on its own connections, so that it and the application
are never in each other's way. A forked child starts its own at first use. The thread ends with the process.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace

from replctl.core.routing import (
    NO_SYSTEM,
    Decision,
    KeyRing,
    Need,
    Position,
    Reason,
    Scope,
    Snapshot,
    decide,
)
from replctl.errors import MonitorClosed, NoPrimary, NoReplica, RefusedError
from replctl.inventory import Inventory
from replctl.pg.background import FIRST_LOOK_LIMIT_S, GAP_MIN_S, Worker

INTERVAL_S = 1.0
PATIENCE_S = 5.0
"""How long what begins during a failover waits for the new primary; when all is well, one takes a second."""

_log = logging.getLogger("replctl.monitor")
_NO_REPLICA = {Reason.ALL_UNFIT, Reason.NO_REPLICA, Reason.LSN_BEHIND, Reason.SNAPSHOT_STALE}
_NOT_OBSERVED = Decision(None, Reason.NOT_OBSERVED, detail=Reason.NOT_OBSERVED.sentence)

Listener = Callable[[Snapshot | None, Snapshot], object]


class Monitor:
    """Watches one cluster and decides where reads and writes go. Ends with `close`, or with the process."""

    def __init__(
        self, inventory: Inventory, *, zone: str | None = None, interval_s: float = INTERVAL_S
    ) -> None:
        self.inventory = _nodes_only(inventory)
        self.zone = zone
        self.interval_s = interval_s
        self.listeners: list[Listener] = []
        """Called in the monitor's thread with the old and the new snapshot, whenever the writer or the
        replicas that serve reads have changed. They must not block."""
        self._closed = False
        self._snapshot: Snapshot | None = None
        self._worker: Worker | None = None
        self._started_s = -INTERVAL_S
        self._fresh_locks()
        _monitors.add(self)

    def _fresh_locks(self) -> None:
        self._lock = threading.Lock()
        self._news = threading.Condition()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def cluster(self) -> str:
        """The cluster's name: also that of its scopes."""
        return self.inventory.settings.name

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest snapshot; None before the first look."""
        return self._snapshot

    # ---- deciding: no waiting, no lock

    def decide(self, need: Need, scope: Scope | None = None) -> Decision:
        """Where this need goes now; `node` None = nowhere. Raises MonitorClosed, and nothing else."""
        if self._worker is None:
            self.start()
        snapshot = self._snapshot
        if snapshot is None:
            return _NOT_OBSERVED
        return decide(need, scope, snapshot, time.monotonic())

    def route(self, need: Need, scope: Scope | None = None) -> Decision:
        """The same, always somewhere. Raises NoPrimary or NoReplica, with what each node had to say."""
        decision = self.decide(need, scope)
        if decision.node is None:
            raise refusal(decision)
        return decision

    def route_soon(self, need: Need, scope: Scope | None, limit_s: float) -> Decision:
        """The same; while nobody takes writes, waits so long (seconds) for a look that knows better."""
        until_s = time.monotonic() + limit_s
        while (decision := self.decide(need, scope)).node is None:
            self.wait(self._snapshot, _left_s(decision, until_s))
        return decision

    async def route_soon_async(self, need: Need, scope: Scope | None, limit_s: float) -> Decision:
        """The same for a task; blocks no event loop."""
        until_s = time.monotonic() + limit_s
        while (decision := self.decide(need, scope)).node is None:
            await self.wait_async(self._snapshot, _left_s(decision, until_s))
        return decision

    # ---- scopes and tokens

    def new_scope(
        self, token: str | None = None, *, keys: KeyRing | None = None, monotonic: bool = False
    ) -> Scope:
        """The scope of a unit of work that came with this token. One that is not ours is as good as none."""
        if keys is None:
            return Scope(monotonic=monotonic)
        snapshot, now_at = self._snapshot, time.time()
        claim = keys.verify(token, now_at)
        return Scope.of(
            claim,
            window_s=self.inventory.settings.routing.sticky_s if snapshot is None else snapshot.sticky_s,
            now_at=now_at,
            now_s=time.monotonic(),
            received=None if claim is None else token,
            monotonic=monotonic,
            issue=lambda position: self._issue(keys, position),
        )

    def _issue(self, keys: KeyRing, position: Position | None) -> str:
        if position is not None:
            return keys.issue(position, time.time())
        return keys.issue_window(NO_SYSTEM if self._snapshot is None else self._snapshot.system, time.time())

    # ---- waiting: for the first look, and for what a refresh brings

    def ensure(self, timeout_s: float = FIRST_LOOK_LIMIT_S) -> Snapshot:
        """The newest snapshot; at first use, waits for the first look.

        Raises NoPrimary where none comes in time, MonitorClosed.
        """
        self.start()
        return self._snapshot or self._or_refused(self.wait(None, timeout_s))

    async def ensure_async(self, timeout_s: float = FIRST_LOOK_LIMIT_S) -> Snapshot:
        """The same for a task; blocks no event loop."""
        self.start()
        return self._snapshot or self._or_refused(await self.wait_async(None, timeout_s))

    def refresh(self) -> None:
        """Look again soon, because something does not go as the snapshot says. Does not wait."""
        self.start()
        worker = self._worker
        if worker is not None:
            worker.nudge()

    def wait(self, than: Snapshot | None, timeout_s: float) -> Snapshot | None:
        """Ask for a snapshot newer `than` this one and wait for it. None when none came in time."""
        self.refresh()
        with self._news:
            self._news.wait_for(lambda: self._closed or self._snapshot is not than, timeout_s)
        return None if self._snapshot is than else self._snapshot

    async def wait_async(self, than: Snapshot | None, timeout_s: float) -> Snapshot | None:
        """The same for a task; blocks no event loop."""
        loop = asyncio.get_running_loop()
        news: asyncio.Future[None] = loop.create_future()
        entry = (loop, news)
        with self._news:
            self._waiting.append(entry)
        try:
            self.refresh()
            if self._snapshot is than:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news, timeout_s)
        finally:
            with self._news, contextlib.suppress(ValueError):
                self._waiting.remove(entry)
        return None if self._snapshot is than else self._snapshot

    def _or_refused(self, snapshot: Snapshot | None) -> Snapshot:
        if snapshot is None:
            self._refuse_if_closed()
            raise refusal(_NOT_OBSERVED)
        return snapshot

    # ---- the thread

    def start(self) -> None:
        """Start the thread where none runs; `decide` does it too. Raises MonitorClosed."""
        self._refuse_if_closed()
        if self._worker is not None:
            return
        with self._lock:
            now_s = time.monotonic()
            # One that ended by an error is not started again by every request.
            if self._worker is None and now_s - self._started_s >= GAP_MIN_S:
                self._started_s = now_s
                self._worker = Worker(self)
                self._worker.thread.start()

    def close(self) -> None:
        """End the thread and its connections, within two seconds."""
        self._closed = True
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()
        self._tell()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise MonitorClosed(f"{self.cluster}: the monitor was closed", hint="make another one")

    def publish(self, snapshot: Snapshot) -> None:
        """Make it the newest snapshot. For the worker."""
        before, self._snapshot = self._snapshot, snapshot
        self._tell()
        if before is None or _roles(before) != _roles(snapshot):
            for listener in tuple(self.listeners):
                try:
                    listener(before, snapshot)
                except Exception:
                    _log.exception("%s: a listener failed", self.cluster)

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            with contextlib.suppress(RuntimeError):  # that loop has been closed
                loop.call_soon_threadsafe(_done, future)

    def ended(self, worker: Worker) -> None:
        """The worker has ended, whatever the reason: the next use starts another."""
        if self._worker is worker:
            self._worker = None

    def forget_parent(self) -> None:
        """In a forked child: the parent's thread is not here, and its locks may be held for ever.

        Its snapshot stays: it is data, and grows stale like any other. Its connections are left alone.
        """
        self._worker = None
        self._started_s = -INTERVAL_S
        self._fresh_locks()


def refusal(decision: Decision) -> RefusedError:
    """The error that says why a decision leads nowhere."""
    kind = NoReplica if decision.reason in _NO_REPLICA else NoPrimary
    return kind(decision.reason.sentence, why=decision.detail or None, hint="replctl route --explain")


def _left_s(decision: Decision, until_s: float) -> float:
    """How long to wait on. Raises NoReplica at once, NoPrimary in the end."""
    error, left_s = refusal(decision), until_s - time.monotonic()
    if not isinstance(error, NoPrimary) or left_s <= 0:
        raise error
    return left_s


def _roles(snapshot: Snapshot) -> tuple[object, ...]:
    return (snapshot.writer, *(view.name for view in snapshot.nodes if view.fit))


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _nodes_only(inventory: Inventory) -> Inventory:
    """Without what is not for applications: witnesses, and the heartbeat, which one writer is enough for."""
    settings = inventory.settings
    names = {node.name for node in settings.nodes}
    return replace(
        inventory,
        settings=replace(settings, witnesses=(), checks=replace(settings.checks, heartbeat_s=None)),
        connections={name: c for name, c in inventory.connections.items() if name in names},
    )


_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _forget_parents() -> None:
    for monitor in list(_monitors):
        monitor.forget_parent()


def _close_all() -> None:
    for monitor in list(_monitors):
        monitor.close()


os.register_at_fork(after_in_child=_forget_parents)
atexit.register(_close_all)
