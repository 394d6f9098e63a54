"""One loop of looks for each cluster, which everybody who asks shares: ten scrapers cost one look.

Who asks says how old the look may be that the answer is made from. Where the newest one is older, the next
one is taken at once and all who want it wait for the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable
from functools import cached_property

from replctl.core.model import ClusterState
from replctl.core.report import Report, reported, with_disbelief
from replctl.core.routing import Memory, Snapshot, advance, choose_writer, make_snapshot, went_back
from replctl.core.status import ClusterStatus, assess
from replctl.inventory import Inventory
from replctl.journal import Background, StateFile, load_history, redacted, save_history
from replctl.noticed import leave_changes
from replctl.pg.observe import Observer
from replctl.server.curves import Curves

INTERVAL_S = 1.0
LOOK_LIMIT_S = 3.0  # more than a node has to answer by default, so that the reason is its own
RECENT_S = INTERVAL_S + LOOK_LIMIT_S  # how old a look gets, at the default interval, while a node is silent
RECENT_LIMIT_S = 0.5  # less than any load balancer waits
FIRST_LOOK_LIMIT_S = 5.0
GAP_MIN_S = 0.25  # between two looks, however fresh they are asked for
SAVE_EVERY_S = 60.0
TIMELINES = "timelines"  # the file of the newest timeline that each node has shown
LEFT_MAX = 100  # looks that wait to be written down

Log = Callable[[str], object]


class Seen:
    """What one look has shown, and what follows from it and from those before it."""

    def __init__(self, status: ClusterStatus, snapshot: Snapshot, memory: Memory) -> None:
        self.status = status
        self.snapshot = snapshot
        self.memory = memory
        self.began_s = status.state.observed_at_s  # monotonic clock

    @cached_property
    def report(self) -> Report:
        """Diagnosis and checks, and what only earlier looks can tell: made when first asked for, once."""
        return with_disbelief(reported(self.status), self.memory.timelines)

    def age_s(self) -> float:
        """Since the look began, so never less than the age of any fact in it."""
        return time.monotonic() - self.began_s


class Watch:
    """Looks at one cluster again and again, and keeps the newest look. `run` it in the loop that asks."""

    def __init__(self, inventory: Inventory, *, interval_s: float = INTERVAL_S, log: Log) -> None:
        self.inventory = inventory
        self.interval_s = interval_s
        self.newest: Seen | None = None
        self.curves = Curves()
        self.failovers: int | None = None
        """How often another node was seen to have taken over the writes, by this and earlier runs here."""
        self.looks = 0
        self._log = log
        self._history = load_history(self.name)
        self._timelines = StateFile(self.name, TIMELINES)
        self._memory = _remembered(self._timelines)
        self._wanted = asyncio.Event()
        self._news = asyncio.Event()
        self._disk = Background(self._remember)
        self._left: deque[ClusterStatus] = deque(maxlen=LEFT_MAX)
        self._saved_s = time.monotonic()
        self._last: tuple[object, ...] = ()
        self._told: str | None = None

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.inventory.settings.name

    @property
    def stale_after_s(self) -> float:
        """From this age on a look says of no node that it is fit for anything.

        A silent node can make a look take its limit, and the next one too: the first is that old by then.
        Looks that are seldom by choice are no reason to believe them for longer: who asks has one taken.
        """
        return 2 * (min(self.interval_s, INTERVAL_S) + LOOK_LIMIT_S)

    @property
    def current(self) -> Seen | None:
        """The newest look, unless it is stale."""
        seen = self.newest
        return seen if seen is not None and seen.age_s() <= self.stale_after_s else None

    async def recent(self) -> Seen | None:
        """The look that a load balancer is answered from: a new one where that can be had soon.

        Else the newest one; where that is stale, a whole look is waited for, and None is what is left.
        """
        limit_s = RECENT_LIMIT_S + (LOOK_LIMIT_S if self.current is None else 0.0)
        return await self.fresh(RECENT_S, limit_s) or self.current

    async def fresh(self, max_age_s: float, limit_s: float) -> Seen | None:
        """A look that began at most `max_age_s` before this call; None where none came within `limit_s`."""
        since_s = time.monotonic() - max_age_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self.newest is None or self.newest.began_s < since_s:
                    self._wanted.set()
                    await self._news.wait()
                return self.newest
        return None

    async def run(self) -> None:
        """Look until cancelled. What goes wrong inside is told, and the next look tried."""
        try:
            async with Observer(self.inventory) as observer:
                while True:
                    began_s = time.monotonic()
                    self._wanted.clear()
                    limit_s = LOOK_LIMIT_S if self.newest else FIRST_LOOK_LIMIT_S
                    try:
                        self.learn(await observer.observe(limit_s=limit_s))
                    except Exception as error:
                        self._tell(redacted(f"a look failed: {type(error).__name__}: {error}"))
                    await self._pause(time.monotonic() - began_s)
        finally:
            self._leave()
            self._disk.close()

    async def _pause(self, took_s: float) -> None:
        await asyncio.sleep(GAP_MIN_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), max(0.0, self.interval_s - took_s - GAP_MIN_S))

    def learn(self, state: ClusterState) -> None:
        """Make it the newest look, with all that follows from it; whoever waits for one goes on."""
        status = assess(state, self.inventory.settings, self._history)
        now_s = state.observed_at_s
        self._history = status.history
        memory = advance(self._memory, status, now_s, state.observed_at)
        self._memory, write = choose_writer(memory, status, now_s)
        snapshot = make_snapshot(
            self._memory,
            status,
            write,
            turns=itertools.count(),
            taken_s=now_s,
            stale_at_s=now_s + self.stale_after_s,
        )
        self.curves.add(state.observed_at, {n.name: n.lag.lag_bytes for n in status.replicas})
        self.newest = Seen(status, snapshot, self._memory)
        self.looks += 1
        last, self._last = self._last, _gist(status)
        if last != self._last or time.monotonic() - self._saved_s >= SAVE_EVERY_S:
            self._leave()
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _leave(self) -> None:
        """Have the newest look written down: the disk may hang, which is nothing to wait for here."""
        if self.newest is not None:
            self._saved_s = time.monotonic()
            self._left.append(self.newest.status)
            self._disk.leave("")

    def _remember(self, _: str) -> None:
        if not self._left:  # dropped while the disk hung
            return
        status = self._left.popleft()
        _keep_timelines(self._timelines, self._memory, status)
        failovers = leave_changes(status)
        self.failovers = self.failovers if failovers is None else failovers
        if save_history(self.name, status.history):
            self._told = None
        else:
            self._tell("what was seen cannot be saved: is the state directory writable, and not full?")

    def _tell(self, sentence: str) -> None:
        """The same thing once, until it is another."""
        if sentence != self._told:
            self._told = sentence
            self._log(f"{self.name}: {sentence}")


def _gist(status: ClusterStatus) -> tuple[object, ...]:
    """What makes a look worth writing down at once when it is another."""
    nodes = tuple((node.role, node.state, node.timeline, node.upstream) for node in status.nodes)
    return nodes, status.state.cut_short


def _remembered(file: StateFile) -> Memory:
    """What earlier runs saw: a primary on an older timeline than that is not believed."""
    document = file.read()
    system, timelines = document.get("system"), document.get("timelines")
    if not isinstance(system, str) or not isinstance(timelines, dict):
        return Memory()
    return Memory(system=system, timelines={n: t for n, t in timelines.items() if isinstance(t, int)})


def _keep_timelines(file: StateFile, memory: Memory, status: ClusterStatus) -> None:
    """Leave for later runs what each node has shown. What others have seen holds, but for what went back."""
    if memory.system is None:
        return
    back = {node.name for node in status.nodes if went_back(node, status)}
    with file.locked() as held:
        before = _remembered(file)
        kept = dict(before.timelines) if before.system == memory.system else {}
        for name, timeline in memory.timelines.items():
            kept[name] = timeline if name in back else max(timeline, kept.get(name, 0))
        if held and (before.system, before.timelines) != (memory.system, kept):
            file.write({"system": memory.system, "timelines": kept})
