"""The thread behind a monitor: looks at the nodes again and again, learns from it, publishes snapshots."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from replctl.core.lag import LagHistory
from replctl.core.model import Cause, ClusterState, Unreachable
from replctl.core.routing import Memory, advance, choose_writer, is_blind, make_snapshot
from replctl.core.status import assess
from replctl.pg.observe import Observer

if TYPE_CHECKING:
    from replctl.pg.monitor import Monitor

JITTER = 0.25  # of the interval, either way: processes started together do not look together
FIRST_LOOK_LIMIT_S = 5.0
LOOK_LIMIT_S = 2.0
# After a look at which a node was silent: the next primary is not to be waited for as long as the lost one.
# Every so many looks it has the whole time again, as a node that is just far away needs.
SILENT_LOOK_LIMIT_S = 0.8
PATIENT_LOOK_EVERY = 4
GAP_MIN_S = 0.25  # between two looks, however often somebody asks for one
STALE_INTERVALS = 3  # a snapshot is stale after so many intervals without a look, and the limit of one
STOP_LIMIT_S = 2.0
FIRST_TURN_MAX = 1 << 20

_log = logging.getLogger("replctl.monitor")


class Worker:
    """The thread of one monitor: looks, learns, publishes."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._inventory = monitor.inventory
        self._memory = Memory()
        self._history = LagHistory()
        self._turns: Iterator[int] = itertools.count(random.randrange(FIRST_TURN_MAX))  # noqa: S311
        self._looked = False
        self._silent_looks = 0  # so many in a row, up to the last, had a silent node
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._wanted: asyncio.Event | None = None
        self._stopping = False
        name = f"replctl monitor {monitor.cluster}"
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def nudge(self) -> None:
        """Another look soon."""
        if self._loop is not None and self._wanted is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._wanted.set)

    def stop(self) -> None:
        """End the thread, and wait for that a little."""
        self._stopping = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        if self.thread is not threading.current_thread():
            self.thread.join(STOP_LIMIT_S)

    def _run(self) -> None:
        try:
            # The loop of asyncio itself, whatever the application has set for its own.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._watch())
        except asyncio.CancelledError:
            pass
        except Exception:
            _log.exception("%s: observation ended; the next use starts it again", self._monitor.cluster)
        finally:
            self._monitor.ended(self)

    async def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._wanted = asyncio.Event()
        async with Observer(self._inventory) as observer:
            while not self._stopping:
                started_s = time.monotonic()
                state = await observer.observe(limit_s=self._limit_s)
                self._looked = True
                silent = any(isinstance(n, Unreachable) and n.cause is Cause.TIMEOUT for n in state.nodes)
                self._silent_looks = self._silent_looks + 1 if silent else 0
                self._learn(state)
                await self._pause(time.monotonic() - started_s)

    @property
    def _limit_s(self) -> float:
        """How long the next look may take."""
        if not self._looked:
            return FIRST_LOOK_LIMIT_S
        return SILENT_LOOK_LIMIT_S if self._silent_looks % PATIENT_LOOK_EVERY else LOOK_LIMIT_S

    async def _pause(self, took_s: float) -> None:
        """Until the next look is due; sooner where somebody asks for it, or nobody takes writes."""
        assert self._wanted is not None
        await asyncio.sleep(GAP_MIN_S)
        snapshot = self._monitor.snapshot
        share = 1.0 if snapshot is not None and snapshot.writer is not None else 0.5
        jittered_s = self._monitor.interval_s * share * (1 + random.uniform(-JITTER, JITTER))  # noqa: S311
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), max(0.0, jittered_s - took_s - GAP_MIN_S))
        self._wanted.clear()

    def _learn(self, state: ClusterState) -> None:
        """Publish what this look adds. One at which nobody answered adds nothing: the snapshot grows old."""
        now_s, now_at = state.observed_at_s, state.observed_at
        # Lag is measured on the monotonic clock: ours may be set while we run.
        status = assess(replace(state, observed_at=now_s), self._inventory.settings, self._history)
        if is_blind(status) and self._memory.system is not None:
            return
        self._history = status.history
        memory = advance(self._memory, status, now_s, now_at)
        self._memory, write = choose_writer(memory, status, now_s)
        snapshot = make_snapshot(
            self._memory,
            status,
            write,
            turns=self._turns,
            taken_s=now_s,
            stale_at_s=now_s + STALE_INTERVALS * self._monitor.interval_s + LOOK_LIMIT_S,
            zone=self._monitor.zone,
        )
        if not self._stopping:
            self._monitor.publish(snapshot)
