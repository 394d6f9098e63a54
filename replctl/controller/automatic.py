"""The controller: watches a primary, decides, acts. What `replctl failover --auto` runs.

It remembers nothing that safety needs: what must hold for every controller is in the cluster itself, and
a controller that is started again sees what there is to do. Any number may run side by side; votes see to
it that one acts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from replctl.controller.incident import Incident, Log, reason_of
from replctl.controller.patience import Patience
from replctl.controller.run import carry_out
from replctl.controller.sync import SyncMinder
from replctl.controller.traffic import Traffic
from replctl.controller.upkeep import block_mark, disputing, stale_primaries, unfinished
from replctl.controller.voice import Voice
from replctl.core.coverage import coverage, votes_of
from replctl.core.detector import Detector, Finding, Tick, Verdict, Word, advance
from replctl.core.diagnose import diagnose
from replctl.core.lag import LagHistory
from replctl.core.marks import Marks
from replctl.core.model import Lsn, NodeFacts
from replctl.core.outcome import Ending, Outcome
from replctl.core.plan import Plan
from replctl.core.quorum import same_rule
from replctl.core.situation import Request, Vote, lost_primary
from replctl.core.status import ClusterStatus, NodeState, SyncStatus, assess
from replctl.core.steps import ProveSilence, TakeVotes
from replctl.errors import ReplctlError
from replctl.inventory import Inventory
from replctl.pg.change import Editor
from replctl.pg.locks import Ballot
from replctl.pg.observe import Observer
from replctl.pg.watch import PrimaryWatch
from replctl.pg.world import Servers

LOOK_EVERY_S = 2.0  # while all is well; under suspicion with every probe
RETRY_S = 1.0  # after a refusal; twice as long after each run that was begun and stopped
RETRY_MAX_S = 60.0  # a living replica is made to reconnect at most this often
FINISH_APART_S = 30.0
UNCLEAR_LIMIT_S = 5.0  # what `once` adds to its window for a primary of which nothing is known


@dataclass
class Controller:
    """One controller for one cluster. `once` = end with the first decision."""

    inventory: Inventory
    log: Log
    history: LagHistory
    once: bool = False
    sync_before: str | None = None  # what an earlier controller saw: the primary may be gone already
    remember_sync: Callable[[str], object] | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    detector: Detector = field(default_factory=Detector, init=False)
    primary: str | None = field(default=None, init=False)
    verdict: Verdict | None = field(default=None, init=False)
    outcome: Outcome | None = field(default=None, init=False)  # of the last failover that was tried
    objection: str | None = field(default=None, init=False)  # why the last one was not tried
    follow_up: str | None = field(default=None, init=False)  # what went wrong with hooks or proxies
    _led: bool = field(default=False, init=False)  # looked where the proxies lead, at the start
    _acting: bool = field(default=False, init=False)
    _voice: Voice = field(init=False)
    _minder: SyncMinder = field(init=False)
    _sync: SyncStatus = field(default_factory=SyncStatus, init=False)
    _timeline: int | None = field(default=None, init=False)  # of the primary, when it was last seen
    _received: dict[str, Lsn] = field(default_factory=dict, init=False)
    _patience: Patience = field(default_factory=Patience, init=False)
    _not_before_s: dict[str, float] = field(default_factory=dict, init=False)
    _stopped: int = field(default=0, init=False)  # runs in a row that were begun and stopped

    def __post_init__(self) -> None:
        self._voice = Voice(self.log)
        self._minder = SyncMinder(self.inventory, self._voice, self._patience)
        expected, before = self.inventory.settings.failover.synchronous, self.sync_before
        self._sync = SyncStatus(configured=before, expected=expected, matches=same_rule(before, expected))

    async def run(self) -> None:
        """Watch until told to stop; with `once`, until there is a decision.

        Told to stop in the midst of a failover, it is undone before the promotion, finished after it.
        """
        watching = asyncio.create_task(self._watch())
        told = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({watching, told}, return_when=asyncio.FIRST_COMPLETED)
            if not watching.done() and not self._acting:
                watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        finally:
            told.cancel()
            if not watching.done():
                watching.cancel()

    async def _watch(self) -> None:
        ballot = Ballot(self.inventory, votes_of(self.inventory.settings).voters, kind="controller")
        watch = PrimaryWatch(self.inventory)
        async with Observer(self.inventory) as observer:
            try:
                await self._turns(observer, ballot, watch)
            finally:
                await watch.close()
                await ballot.release()

    async def _turns(self, observer: Observer, ballot: Ballot, watch: PrimaryWatch) -> None:
        settings = self.inventory.settings.failover
        seen, looked_s = await self._look(observer, ballot), time.monotonic()
        began_s = looked_s
        self._voice.introduce(seen)
        while not self.stopping.is_set():
            word_wanted = asyncio.create_task(self._word(watch))
            try:
                if self.detector.failures or time.monotonic() - looked_s >= LOOK_EVERY_S:
                    seen, looked_s = await self._look(observer, ballot), time.monotonic()
                finding = self._judge(await word_wanted, seen)
            finally:
                word_wanted.cancel()
            if finding.verdict in (Verdict.DEAD, Verdict.SILENT):
                acted = await self._fail_over(observer, ballot, finding, seen)
            else:
                acted = await self._upkeep(observer, ballot, finding, seen)
            if acted:
                looked_s = 0.0
            decided = acted or finding.verdict in (Verdict.ALIVE, Verdict.VETOED, Verdict.ISOLATED)
            if self.once and (decided or time.monotonic() - began_s > self._window_s):
                return
            pause_s = settings.burst_interval_s if self.detector.failures else settings.interval_s
            await watch.wait(pause_s, self.stopping)

    @property
    def _window_s(self) -> float:
        """How long `once` waits for a decision: until every grace is over and the failures are counted."""
        timings = self.inventory.settings.failover
        confirming_s = (timings.failures + 1) * (timings.probe_timeout_s * 2 + timings.interval_s)
        return timings.restart_grace_s + timings.stop_grace_s + confirming_s + UNCLEAR_LIMIT_S

    async def _look(self, observer: Observer, ballot: Ballot) -> ClusterStatus:
        """Observe, interpret, and remember who the primary is and how far everybody was."""
        # A silent node holds nobody up for longer than a probe may take.
        state = await observer.observe(limit_s=self.inventory.settings.failover.probe_timeout_s)
        seen = assess(state, self.inventory.settings, self.history)
        self.history = seen.history
        if seen.primary is not None and seen.primary != self.primary:
            self._voice.tell("primary", f"the primary is {seen.primary}", node=seen.primary)
            self.primary = seen.primary
            self.detector = Detector()
            self._timeline = None
        elif self.primary is None or (seen.primary is None and _is_replaced(seen, self.primary)):
            self._lose(lost_primary(state, self.inventory.settings))
        if seen.sync.configured is not None and seen.primary == self.primary:
            if self.remember_sync is not None and seen.sync.configured != self._sync.configured:
                self.remember_sync(seen.sync.configured)
            self._sync = seen.sync  # what the primary had when it was last seen
        if seen.primary_node is not None and seen.primary == self.primary:
            self._timeline = seen.primary_node.timeline
        self._received |= {f.node: f.received_lsn for f in state.facts if f.received_lsn is not None}
        diagnosis = diagnose(seen)
        self._voice.once("diagnosis", f"{diagnosis.code}: {'; '.join(diagnosis.evidence)}")
        self._voice.marks(state.marks)
        if not self.detector.failures:
            answering = {f.node for f in state.facts} | {
                w.node for w in state.witnesses if isinstance(w, NodeFacts)
            }
            await ballot.open(frozenset(ballot.voters) - answering)
        return seen

    def _lose(self, node: str | None) -> None:
        """The primary is one that was not seen as such: whom the replicas were made to follow."""
        if node != self.primary:
            self.primary, self.detector, self._timeline = node, Detector(), None

    async def _word(self, watch: PrimaryWatch) -> Word:
        """What one probe on a new connection comes back with."""
        return Word.UNCLEAR if self.primary is None else await watch.probe(self.primary)

    def _judge(self, word: Word, seen: ClusterStatus) -> Finding:
        """What the detector makes of a probe and of what the others see."""
        if self.primary is None:
            finding = Finding(Verdict.SUSPECT, "it is not known which node is the primary")
        else:
            tick = self._tick(word, seen)
            self.detector, finding = advance(self.detector, tick, self.inventory.settings.failover)
        self.verdict = finding.verdict
        self._voice.once("verdict", f"{finding.verdict}: {finding.evidence}")
        return finding

    def _tick(self, word: Word, seen: ClusterStatus) -> Tick:
        reached = [n.name for n in seen.nodes if n.reachable]
        reached += [w.name for w in seen.witnesses if w.reachable]
        followers = [n for n in seen.replicas if n.upstream == self.primary and n.facts and n.facts.receiver]
        first_s = self.detector.first_failure_s
        return Tick(
            at_s=time.monotonic(),
            word=word,
            streaming=tuple(n.name for n in followers if _heard_since(n.facts, first_s)),
            connected=tuple(n.name for n in followers),
            voters_reached=len(reached),
            majority=votes_of(self.inventory.settings).majority,
        )

    async def _fail_over(
        self, observer: Observer, ballot: Ballot, finding: Finding, seen: ClusterStatus
    ) -> bool:
        """Decide once more from everything, then do it. Whether there was a decision."""
        kind = "silent" if finding.verdict is Verdict.SILENT else "dead"
        if time.monotonic() < self._not_before_s.get(kind, 0.0):
            return False
        self.objection = self._objection(seen)
        if self.objection is not None:
            self._voice.once("refused", f"automatic failover is not done: {self.objection}")
            self._not_before_s[kind] = time.monotonic() + RETRY_S
            return True
        request = Request(lost=self.primary, automatic=True)
        outcome = await self._carry_out(observer, ballot, request, finding.evidence)
        if outcome.ending is Ending.DONE:
            self._stopped = 0
        elif outcome.ending is not Ending.NOTHING:
            # Refused before anything but votes, it costs nothing to look again; begun and stopped, it does.
            self._stopped += any(not isinstance(r.step, TakeVotes) for r in outcome.results)
            proof_failed = any(isinstance(r.step, ProveSilence) and r.error for r in outcome.results)
            pause_s = RETRY_MAX_S if proof_failed else min(RETRY_MAX_S, RETRY_S * 2**self._stopped)
            # Not in step with another controller that was refused for our sake.
            self._not_before_s[kind] = time.monotonic() + pause_s * random.SystemRandom().uniform(0.5, 1.0)
        return True

    async def _carry_out(
        self, observer: Observer, ballot: Ballot, request: Request, why: str | None
    ) -> Outcome:
        """Run the plan that the situation calls for, and tell of it."""
        incident = Incident(
            self.inventory, self.log, request.lost, automatic=True, since_s=self.detector.first_failure_s
        )
        world = Servers(
            self.inventory,
            observer,
            request,
            self.history,
            ballot,
            word=self.detector.last_word if request.lost == self.primary else None,
            sync_seen=self._sync.configured,
            lost_timeline=self._timeline if request.lost == self.primary else None,
            last_known_lsns=dict(self._received),
            before=incident.before,
            note=incident.found,
            promoted=incident.traffic.move,
            block=block_mark(request.lost, self.inventory.settings.failover.block_s),
            halt=self.stopping,
        )

        async def go_on(plan: Plan) -> bool:
            incident.begin(plan, why)
            return True

        self._acting = True
        try:
            outcome = await carry_out(world, incident.step, go_on)
            if world.block_problem is not None:
                incident.tell(
                    "block_failed", f"the next automatic failover is not blocked: {world.block_problem}"
                )
            await self._after(outcome, incident)
            await ballot.give_back()
        finally:
            await world.hang_up()
            self._acting = False
        return outcome

    async def _after(self, outcome: Outcome, incident: Incident) -> None:
        """Say how it ended, run the hooks."""
        self.outcome = outcome
        if outcome.promoted is not None and outcome.promoted != self.primary:
            self.primary, self.detector = outcome.promoted, Detector()
            self._timeline = None if self._timeline is None else self._timeline + 1
        sentence = f"{outcome.ending}: {reason_of(outcome)}"
        refused_anew = outcome.ending is Ending.REFUSED and self._voice.said.get("ended") != sentence
        if incident.begun or refused_anew:  # a refusal once for each reason: it is tried again and again
            self._voice.said["ended"] = sentence
            self.follow_up = await incident.end(outcome)

    def _objection(self, seen: ClusterStatus) -> str | None:
        """Pause, block, or an inventory that allows no automatic failover."""
        settings = self.inventory.settings
        impossible = coverage(settings, self._sync, settings.fence_commands).impossible
        if impossible is not None:
            return impossible
        marks = seen.state.marks
        if marks is None:
            kept = [f.node for f in seen.state.facts if f.state_table]
            return f"replctl.state of {', '.join(kept)} could not be read" if kept else None
        return marks.objection(time.time())

    async def _upkeep(
        self, observer: Observer, ballot: Ballot, finding: Finding, seen: ClusterStatus
    ) -> bool:
        """While the primary answers: fence stale ones, finish what was left, mind sync. Whether it acted."""
        acted = False
        if self.inventory.settings.manager != "replctl":
            return acted
        for node in stale_primaries(seen):
            acted = await self._fence(ballot, node) or acted
        if disputed := disputing(seen):
            older = " and ".join(disputed)
            self._voice.once(
                "disputed",
                f"{older} and {seen.primary} accept writes, and replicas follow {older}: nothing is changed;"
                " replctl fence the one that is wrong",
            )
            return acted
        if finding.verdict is not Verdict.ALIVE or self.primary is None or seen.primary != self.primary:
            return acted
        state, now_s = seen.state, time.monotonic()
        left = unfinished(state, self.inventory.settings, self.primary)
        ripe = self._patience.has_lasted("unfinished", left, now_s) or (left and self.once)
        if ripe and now_s >= self._not_before_s.get("finish", 0.0):
            self._not_before_s["finish"] = now_s + FINISH_APART_S
            acted = await self._finish(observer, ballot, seen) or acted
        if not (acted or left or self._led):
            self._led = True
            acted = await self._lead(observer, ballot, seen)
        if not acted:
            await self._minder.mind(ballot, seen)
        return acted

    async def _finish(self, observer: Observer, ballot: Ballot, seen: ClusterStatus) -> bool:
        """Repoint what a run that ended in the midst left behind; only with the votes, so nobody is at it."""
        settings, state = self.inventory.settings, seen.state
        if state.marks is not None and _paused(state.marks):
            return False
        votes = await ballot.take(needed=votes_of(settings).majority)
        if sum(vote is Vote.HELD for vote in votes.values()) < votes_of(settings).majority:
            await ballot.give_back()
            return False
        request = Request(lost=lost_primary(state, settings), automatic=True, finish=True)
        await self._carry_out(observer, ballot, request, "a failover was left unfinished")
        return True

    async def _lead(self, observer: Observer, ballot: Ballot, seen: ClusterStatus) -> bool:
        """Once, at the start: move writes that an interrupted failover left elsewhere. With the votes."""
        primary, state, settings = self.primary, seen.state, self.inventory.settings
        if primary is None or (state.marks is not None and _paused(state.marks)):
            return False
        lost = lost_primary(state, settings)
        lost = None if lost == primary else lost
        traffic = Traffic(self.inventory, self._voice.tell)
        if not await traffic.astray(primary, state, lost):
            return False
        votes = await ballot.take(needed=votes_of(settings).majority)
        try:
            if sum(vote is Vote.HELD for vote in votes.values()) < votes_of(settings).majority:
                self._led = False  # somebody is at it, perhaps; another look tells
                return False
            seen = await self._look(observer, ballot)  # later than the files were read
            if seen.primary != primary or disputing(seen):
                return False
            traffic.begin(primary, seen.state, lost)
            self.follow_up = await traffic.end()
        finally:
            await ballot.give_back()
        return True

    async def _fence(self, ballot: Ballot, node: str) -> bool:
        """Make writing impossible on an old primary that shows itself."""
        try:
            try:
                await Editor(self.inventory, ballot).fence(node)
            except ReplctlError:  # on a connection from before it was gone, perhaps
                await Editor(self.inventory, ballot).fence(node)
        except ReplctlError as error:
            self._voice.once(f"fence_failed {node}", f"{node} could not be fenced: {error}")
            return False
        self._voice.tell("fenced", f"{node} came back on an old timeline: fenced", node=node)
        return True


def exit_code(controller: Controller) -> int:
    """The exit code of `once`: 0 nothing to do or failed over, 1 not known, 3 refused, 4 done in part."""
    outcome, done = controller.outcome, 4 if controller.follow_up is not None else 0
    if outcome is not None:
        return {Ending.REFUSED: 3, Ending.NOT_RESTORED: 4, Ending.PARTIAL: 4}.get(outcome.ending, done)
    if controller.objection is not None or controller.verdict is Verdict.ISOLATED:
        return 3
    return done if controller.verdict in (Verdict.ALIVE, Verdict.VETOED) else 1


def _is_replaced(seen: ClusterStatus, node: str) -> bool:
    """Whether it answers, and is no primary any more: the one that has replaced it does not answer now."""
    facts = seen[node].facts
    return facts is not None and (
        facts.in_recovery or seen[node].state in (NodeState.STALE_PRIMARY, NodeState.FENCED)
    )


def _paused(marks: Marks) -> bool:
    return marks.pause is not None and marks.pause.holds(time.time())


def _heard_since(facts: NodeFacts | None, first_s: float | None) -> bool:
    """Whether a replica heard from its upstream after the first failure (monotonic).

    Silence there is no evidence, an idle primary sends a keepalive only every half wal_sender_timeout; but
    a message is proof of life.
    """
    receiver = facts.receiver if facts is not None else None
    if facts is None or receiver is None or receiver.status != "streaming":
        return False
    if first_s is None or receiver.last_message_age_s is None:
        return False
    return facts.sampled_at_s - receiver.last_message_age_s > first_s  # as old as it was when it was asked
