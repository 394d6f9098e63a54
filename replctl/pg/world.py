"""The servers as a failover run sees them: the observer's looks, the votes, the positions of cut nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import psycopg

from replctl.core.candidates import incomplete
from replctl.core.detector import Word
from replctl.core.lag import LagHistory
from replctl.core.model import ClusterState, Lsn, NodeFacts
from replctl.core.refusals import Reason, RefusalCode
from replctl.core.situation import (
    PROMOTE_WITHIN_S,
    KnownLsn,
    Position,
    Request,
    Situation,
    Vote,
    is_cut,
    is_held,
)
from replctl.core.steps import FenceCommand, Promote, ProveSilence, Step, TakeVotes
from replctl.errors import ReplctlError
from replctl.inventory import Inventory
from replctl.pg.act import Hands, Note
from replctl.pg.change import StepError, told
from replctl.pg.connect import NodeError, query
from replctl.pg.locks import Ballot
from replctl.pg.marks import write_mark
from replctl.pg.observe import Observer
from replctl.pg.queries import MANAGERS
from replctl.pg.watch import probe

LOOK_LIMIT_S = 5.0
PROBE_EVERY_S = 0.1


@dataclass
class Servers:
    """The World of `controller.carry_out` on real servers. Close it when done."""

    inventory: Inventory
    observer: Observer
    request: Request
    history: LagHistory
    ballot: Ballot | None = None  # of a controller that keeps its connections
    word: Word | None = None  # what a probe said just before; None = not probed yet
    sync_seen: str | None = None  # synchronous_standby_names of the lost primary when it was last seen
    lost_timeline: int | None = None  # of the lost primary when it was last seen
    last_known_lsns: dict[str, Lsn] = field(default_factory=dict)  # received, when last seen
    before: Callable[[], Awaitable[None]] | None = None  # run once when the votes are ours; may raise
    block: dict[str, object] | None = None  # the mark to write on the new primary
    block_problem: str | None = field(default=None, init=False)
    halt: asyncio.Event = field(default_factory=asyncio.Event)  # set = stop before the promotion
    note: Note | None = None  # is told what a cut erases, before it does
    promoted: Callable[[str, Situation], object] | None = None  # told at once; again with each step
    hands: Hands = field(init=False)
    _proven_s: float = field(default=0.0, init=False)  # monotonic
    _word_s: float = field(default=0.0, init=False)  # when the probe began that `word` is of (monotonic)
    _histories: dict[tuple[str, int], dict[int, Lsn]] = field(default_factory=dict, init=False)
    _silence_proven: bool = field(default=False, init=False)
    _sync_lowered: str | None = field(default=None, init=False)
    _probing: asyncio.Task[None] | None = field(default=None, init=False)
    _state: ClusterState | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        situation = Situation(
            settings=self.inventory.settings, state=ClusterState(nodes=()), request=self.request
        )
        ballot = self.ballot or Ballot(self.inventory, situation.voters)
        self.hands = Hands(self.inventory, ballot, halt=self.halt, note=self.note)
        self._word_s = time.monotonic()

    @property
    def _empty(self) -> Situation:
        """A situation in which nothing is known but who votes."""
        state = ClusterState(nodes=())
        return Situation(settings=self.inventory.settings, state=state, request=self.request)

    def _facts(self, node: str) -> NodeFacts | None:
        """Of the last look."""
        known = self._state.facts if self._state is not None else ()
        return next((f for f in known if f.node == node), None)

    async def observe(self) -> Situation:
        """One look at everything, beside a probe of the lost primary that never holds it up."""
        if self.word is None:
            await self._probe()
        if self._probing is None:
            self._probing = asyncio.create_task(self._keep_probing())
        state = await self.observer.observe(limit_s=LOOK_LIMIT_S, with_marks=self._state is None)
        if state.marks is not None and state.marks.sync is not None:
            self._sync_lowered = state.marks.sync.reason
        alone = [f.node for f in state.facts if f.in_recovery and f.receiver is None]
        ends = await self.hands.ends.positions(alone)
        self._state = state = with_timelines(state, ends)
        positions = {f.node: ends[f.node] for f in state.facts if f.node in ends and is_cut(f)}
        histories = await self._read_histories(state)
        situation = Situation(
            settings=self.inventory.settings,
            state=state,
            request=self.request,
            word=self.word or Word.UNCLEAR,
            votes=dict(self.hands.ballot.votes),
            positions={n: self._complete(state, n, p) for n, p in positions.items()},
            silence_proven=self._silence_proven,
            known_lsn=known_lsn(state, self.history),
            histories=histories,
            last_known_lsns=self._last_known(state),
            sync_seen=self.sync_seen,
            sync_lowered=self._sync_lowered,
            lost_timeline=self.lost_timeline,
            fence_commands=self.inventory.settings.fence_commands,
        )
        promoted = situation.promoted
        if promoted is None or promoted.timeline is None:
            return situation
        return replace(situation, forks=await self.hands.ends.forks(promoted.node, promoted.timeline) or {})

    def _complete(self, state: ClusterState, node: str, position: Position) -> Position:
        """Mark a position behind which the node may have flushed more than any function tells."""
        facts = next(f for f in state.facts if f.node == node)
        return replace(position, incomplete=incomplete(facts, position.lsn))

    async def _read_histories(self, state: ClusterState) -> dict[str, dict[int, Lsn]]:
        """The history of each replica's timeline, read once per run; without those that do not tell."""

        async def read(node: str, timeline: int) -> None:
            found = await self.hands.ends.forks(node, timeline)
            if found is not None:
                self._histories[node, timeline] = found

        wanted = {f.node: f.timeline for f in state.facts if f.in_recovery and f.timeline is not None}
        await asyncio.gather(*(read(*key) for key in wanted.items() if key not in self._histories))
        return {node: self._histories[node, t] for node, t in wanted.items() if (node, t) in self._histories}

    def _last_known(self, state: ClusterState) -> dict[str, Lsn]:
        """What replicas that do not answer now are known to have had."""
        answering = {f.node for f in state.facts}
        known = {node: points[-1].replayed_lsn for node, points in self.history.points.items() if points}
        for node, lsn in self.last_known_lsns.items():
            known[node] = max(lsn, known.get(node, lsn))
        return {node: lsn for node, lsn in known.items() if node not in answering}

    async def _probe(self) -> None:
        """Ask the lost primary for a word."""
        lost, began_s = self.request.lost, time.monotonic()
        word = Word.UNCLEAR if lost is None else await probe(self.inventory, lost)
        self.word, self._word_s = word, began_s

    async def _keep_probing(self) -> None:
        """Whether it answers after all: until the promotion that stops everything."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            await self._probe()

    async def _last_word(self) -> None:
        """What the lost primary says, not long ago: we may have been stopped. Raises StepError."""
        lasts_s = 2 * (PROBE_EVERY_S + self.inventory.settings.failover.probe_timeout_s)
        if time.monotonic() - self._word_s > lasts_s:
            await self._probe()
        if self.word is Word.ANSWERED:
            raise StepError("the primary answers again")

    async def apply(self, step: Step, situation: Situation) -> None:
        """Do one step."""
        if self.halt.is_set() and situation.promoted is None:
            raise StepError("told to stop before the promotion")
        if isinstance(step, Promote) and time.monotonic() - self._proven_s > PROMOTE_WITHIN_S:
            raise StepError("the votes were shown too long ago", hint="run the command again")
        if situation.promoted is not None and not isinstance(step, TakeVotes):
            # By a run before this one, perhaps, that did not come as far as telling.
            self._tell_promoted(situation.promoted.node, situation)
        await self.hands.apply(step, situation)
        if isinstance(step, Promote):
            self._tell_promoted(step.node, situation)
        if isinstance(step, TakeVotes):
            if (reason := await self.rival(situation.state)) is not None:
                raise StepError(f"{reason.code}: {reason.message}", hint=reason.remedy)
            await self._run_before(situation)
        if isinstance(step, Promote):
            await self._write_block(step.node)
        if isinstance(step, ProveSilence):
            self._silence_proven = True
        if isinstance(step, FenceCommand):
            self.request = replace(self.request, fenced=self.request.fenced | {step.node})

    def _tell_promoted(self, node: str, situation: Situation) -> None:
        if self.promoted is not None:
            self.promoted(node, situation)

    async def rival(self, state: ClusterState) -> Reason | None:
        """Whether another program that fails over by itself is connected to a node, by its name."""

        async def found_on(node: str) -> list[str]:
            connection = self.observer.probes[node].connection
            if connection is None:
                return []
            try:
                text = MANAGERS.for_version(connection.info.server_version)
                rows = await query(connection, text, timeout_s=LOOK_LIMIT_S)
            except (NodeError, psycopg.Error):
                return []
            return [f"{row['manager']} is connected to {node}" for row in rows]

        asked = await asyncio.gather(*(found_on(f.node) for f in state.facts))
        rivals = [sentence for found in asked for sentence in found]
        if not rivals:
            return None
        return Reason(
            code=RefusalCode.FOREIGN_MANAGER,
            message="; ".join(rivals),
            remedy="stop it, or leave the failover to it",
        )

    async def _run_before(self, situation: Situation) -> None:
        """The hook, once, when a majority is ours and nothing has been changed yet."""
        held = [v for v in situation.voters if self.hands.ballot.votes.get(v) is Vote.HELD]
        if self.before is None or len(held) < situation.majority:
            return
        before, self.before = self.before, None
        hook, halted = asyncio.ensure_future(before()), asyncio.ensure_future(self.halt.wait())
        try:
            await asyncio.wait({hook, halted}, return_when=asyncio.FIRST_COMPLETED)
            if not hook.done():
                raise StepError("told to stop before the promotion")
            await hook
        finally:
            for task in (hook, halted):
                task.cancel()
            await asyncio.gather(hook, halted, return_exceptions=True)
        if self.word is Word.ANSWERED:
            raise StepError("the primary answers again")

    async def _write_block(self, node: str) -> None:
        """Its first write: no other automatic failover is to follow at once, whatever becomes of us."""
        if self.block is None:
            return
        mark = self.block | {"reason": f"{self.block['reason']} by {node}"}
        try:
            await write_mark(await self.hands.connection(node), "block", mark)
        except (ReplctlError, NodeError) as error:
            self.block_problem = str(error)

    async def prove(self, situation: Situation) -> None:
        """One round over every vote and cut. Raises StepError where one is gone, or the primary is back."""
        started_s = time.monotonic()
        cut = [f.node for f in situation.replicas if is_cut(f)]
        checks = asyncio.gather(*(self.hands.until_cut(node, started_s) for node in cut))
        with told("show that the votes and the cuts still hold"):
            votes, _ = await asyncio.gather(self.hands.ballot.verify(), checks)
        held = [v for v in situation.voters if votes.get(v) is Vote.HELD]
        if len(held) < situation.majority:
            raise StepError(
                "votes were lost before the promotion",
                why=f"{len(held)} of {situation.majority} needed are still held",
                hint="run the command again",
            )
        await self._last_word()
        self._proven_s = started_s

    async def restore(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        """Give cut nodes their upstream back; returns those that did not take it.

        None of them without a majority: another controller may count on these cuts.
        """
        shown_s = time.monotonic()
        votes = await self.hands.ballot.verify()
        now = self._empty
        if sum(votes.get(v) is Vote.HELD for v in now.voters) < now.majority:
            return nodes

        async def one(node: str) -> str | None:
            try:
                await self.hands.restore(node, self.request.lost, shown_s)
                facts = self._facts(node)
                if self.word is Word.ANSWERED and facts is not None and not is_held(facts):
                    await self.hands.until_streaming(node, None)
            except (ReplctlError, NodeError, psycopg.Error):
                return node
            return None

        return tuple(n for n in await asyncio.gather(*(one(node) for node in nodes)) if n is not None)

    async def hang_up(self) -> None:
        """Close what belongs to this run alone; the ballot stays as it is."""
        if self._probing is not None:
            self._probing.cancel()
        await self.hands.hang_up()

    async def close(self) -> None:
        """Give the votes back and hang up."""
        await self.hang_up()
        await self.hands.close()


def with_timelines(state: ClusterState, ends: dict[str, Position]) -> ClusterState:
    """The state with the timelines that replicas without a receiver are really on.

    Their control files know of a new one only after a restartpoint.
    """
    nodes = tuple(
        replace(n, timeline=ends[n.node].timeline) if isinstance(n, NodeFacts) and n.node in ends else n
        for n in state.nodes
    )
    return replace(state, nodes=nodes)


def known_lsn(state: ClusterState, history: LagHistory) -> KnownLsn | None:
    """The greatest position of the lost primary that anybody knows of, and how old the knowledge is."""
    known: list[KnownLsn] = []
    if history.marks:
        mark = history.marks[-1]
        age_s = max(0.0, time.time() - mark.last_at)
        known.append(KnownLsn(lsn=mark.lsn, age_s=age_s, source="the last look at the primary"))
    for facts in state.facts:
        receiver = facts.receiver
        if receiver is not None and receiver.latest_end_lsn is not None:
            source = f"what {facts.node} was told last"
            known.append(
                KnownLsn(lsn=receiver.latest_end_lsn, age_s=receiver.latest_end_age_s or 0.0, source=source)
            )
    return max(known, key=lambda k: k.lsn, default=None)
