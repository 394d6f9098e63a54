"""What a controller sees of the simulated servers and does to them: late, in any order, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from replctl.core.detector import Word
from replctl.core.model import Cause, ClusterState, Observation, Unreachable
from replctl.core.settings import ClusterSettings
from replctl.core.situation import (
    FRESH_VOTER_S,
    PROMOTE_WITHIN_S,
    Position,
    Request,
    Situation,
    Vote,
    is_cut,
)
from replctl.core.steps import (
    Checkpoint,
    CreateSlot,
    Cut,
    FastForward,
    FenceCommand,
    Promote,
    ProveSilence,
    Repoint,
    SetSynchronous,
    Step,
    TakeVotes,
)
from replctl.errors import ReplctlError
from tests.sim.cluster import Cluster, Node, Session, lsn
from tests.sim.looks import Memory, complete, facts_of, forks_of, identify, known, remember, shown

T = TypeVar("T")
ANSWER_LIMIT_S = 0.15
CUT_LIMIT_S = 0.4
FOLLOW_LIMIT_S = 0.6
PROMOTE_LIMIT_S = 1.5
PROOF_S = 0.3
SCALE = 0.5  # a simulated second costs real time: promotions and fresh voters are given less of it
LOCK_KEPT_S = 0.5  # how long a server keeps the lock of a client that it hears nothing from


class NoAnswerError(ReplctlError):
    """The node refused or was silent."""

    def __init__(self, node: str, cause: Cause) -> None:
        super().__init__(f"{node} does not answer", why=str(cause))
        self.node, self.cause = node, cause


class NotDoneError(ReplctlError):
    """A step did not lead to what proves it."""


@dataclass(eq=False)
class SimWorld:
    """The World of `carry_out` for one run of one controller."""

    cluster: Cluster
    settings: ClusterSettings
    controller: str
    request: Request
    memory: Memory = field(default_factory=Memory)
    fence_commands: frozenset[str] = frozenset()
    sessions: dict[str, Session] = field(default_factory=dict)
    votes: dict[str, Vote] = field(default_factory=dict)
    voted: bool = False  # a majority was ours once
    silence_proven: bool = False
    restoring: bool = False  # what is done now puts back what was
    found: dict[str, str | None] = field(default_factory=dict)
    proven_s: float = -1000.0
    touched: set[str] = field(default_factory=set)  # nodes that this run wrote anything to
    seen: Situation | None = None
    on_touch: Callable[[SimWorld, str, str], None] | None = None
    on_fence: Callable[[Node], None] | None = None
    on_moment: Callable[[SimWorld, str, str | None], None] | None = None  # something may befall us just then

    # ---- calls over the network

    async def call(self, name: str, do: Callable[[Node], T], *, vote: bool = True) -> T:
        """Run something on a node: later, perhaps without an answer, or not at all. Raises NoAnswerError."""
        rng, cluster, node = self.cluster.rng, self.cluster, self.cluster.nodes[name]
        slow = rng.random() < cluster.slow_share
        await asyncio.sleep(rng.uniform(0.001, 0.25 if slow else 0.006))
        await self._stall()
        if (self.controller, name) in cluster.rejected:
            self.hang_up(name)
            raise NoAnswerError(name, Cause.REFUSED)
        if not cluster.linked(self.controller, name) or node.frozen or not (node.up or node.reset_heard):
            came_through = (self.controller, name) not in cluster.blocked and node.works
            if came_through and rng.random() < 0.5:
                do(node)  # it arrives, and the answer does not
            elif vote and name in self.sessions and rng.random() < 0.3:
                delay_s = rng.uniform(0.1, 1.5)  # it is on its way, and arrives when nobody waits any more
                asyncio.get_running_loop().call_later(delay_s, self._arrive_late, node, node.boot, do)
            await asyncio.sleep(ANSWER_LIMIT_S)
            self.hang_up(name)
            raise NoAnswerError(name, Cause.TIMEOUT)
        if not node.up:
            self.hang_up(name)
            raise NoAnswerError(name, Cause.REFUSED)
        session = self.sessions.get(name)
        if vote and (session is None or session.boot != node.boot):
            self.sessions[name] = Session(self.controller, name, node.boot)
        answer, boot = do(node), node.boot
        await asyncio.sleep(rng.uniform(0.001, 0.15 if slow else 0.004))
        await self._stall()
        if not node.works or node.boot != boot or not cluster.linked(self.controller, name):
            self.hang_up(name)
            raise NoAnswerError(name, Cause.TIMEOUT)
        return answer

    async def _stall(self) -> None:
        """Whoever was stopped goes on as if no time had passed."""
        stalled_until_s = self.cluster.stalled_until_s
        while (until_s := stalled_until_s.get(self.controller, 0.0)) > self.cluster.now_s:  # noqa: ASYNC110
            await asyncio.sleep(min(0.02, until_s - self.cluster.now_s))  # it may be shortened meanwhile

    def _arrive_late(self, node: Node, boot: int, do: Callable[[Node], Any]) -> None:
        if node.works and node.boot == boot and (self.controller, node.name) not in self.cluster.blocked:
            self.cluster.counts["message arrived late"] += 1
            do(node)

    def hang_up(self, name: str) -> None:
        """Close our end. The server notices in its own time, and keeps the lock until then."""
        session = self.sessions.pop(name, None)
        if self.votes.get(name) is Vote.HELD:
            self.votes[name] = Vote.UNREACHABLE
        if session is not None:
            asyncio.get_running_loop().call_later(LOCK_KEPT_S, self._release, name, session)

    def _release(self, name: str, session: Session) -> None:
        if self.cluster.nodes[name].vote is session:
            self.cluster.nodes[name].vote = None

    def close(self) -> None:
        """The process ends: every server that hears of it gives its vote back at once."""
        for name, session in list(self.sessions.items()):
            if self.cluster.linked(self.controller, name) and not self.cluster.nodes[name].frozen:
                self._release(name, session)
            else:
                asyncio.get_running_loop().call_later(LOCK_KEPT_S, self._release, name, session)
        self.sessions.clear()

    # ---- looking

    async def observe(self) -> Situation:
        """One look at everything, each node at its own moment, and a probe of the lost primary."""
        names = [n.name for n in self.settings.nodes]
        witnesses = [w.name for w in self.settings.witnesses]
        probing = asyncio.create_task(self.probe(self.request.lost))
        looks = await asyncio.gather(*(self._look(n) for n in (*names, *witnesses)))
        state = ClusterState(nodes=tuple(looks[: len(names)]), witnesses=tuple(looks[len(names) :]))
        word = await probing
        remember(self.memory, state)
        cut = [f.node for f in state.facts if f.in_recovery and is_cut(f)]
        self._now("looking", None)
        answers = await asyncio.gather(*(self._position(n) for n in cut))
        positions = {n: p for n, p in zip(cut, answers, strict=True) if p is not None}
        situation = Situation(
            settings=self.settings,
            state=state,
            request=self.request,
            word=word,
            votes=dict(self.votes),
            positions={n: complete(state, n, p) for n, p in positions.items()},
            histories={f.node: forks_of(self.cluster.nodes[f.node]) for f in state.facts if f.in_recovery},
            silence_proven=self.silence_proven,
            lost_timeline=self.memory.timeline,
            known_lsn=known(self.memory),
            last_known_lsns={
                n: at for n, at in self.memory.replicas.items() if all(f.node != n for f in state.facts)
            },
            fence_commands=self.fence_commands,
        )
        if situation.promoted is not None:
            situation = replace(situation, forks=forks_of(self.cluster.nodes[situation.promoted.node]))
        self.seen = situation
        return situation

    async def _position(self, name: str) -> Position | None:
        try:
            return await self.call(name, identify, vote=False)
        except NoAnswerError:
            return None

    async def _look(self, name: str) -> Observation:
        try:
            return await self.call(name, lambda node: facts_of(self.cluster, node), vote=False)
        except NoAnswerError as error:
            return Unreachable(node=name, cause=error.cause, message="")

    async def probe(self, name: str | None) -> Word:
        """A new connection and a real query."""
        if name is None:
            return Word.UNCLEAR
        try:
            await self.call(name, lambda node: None, vote=False)
        except NoAnswerError as error:
            return Word.REFUSED if error.cause is Cause.REFUSED else Word.SILENT
        return Word.ANSWERED

    # ---- acting

    async def prove(self, situation: Situation) -> None:
        """One round over all votes and all cuts, with what befalls the run just before."""
        self._now("proving", None)
        await self._prove(situation)

    async def _prove(self, situation: Situation) -> None:
        started_s = self.cluster.now_s
        cut = [f.node for f in situation.replicas if is_cut(f)]
        await asyncio.gather(*(self._until_cut(n) for n in cut), *(self._still_ours(v) for v in self.votes))
        held = [v for v in situation.voters if self.votes.get(v) is Vote.HELD]
        if len(held) < situation.majority:
            raise NotDoneError("votes were lost before the promotion")
        self.proven_s = started_s

    async def _still_ours(self, name: str) -> None:
        session = self.sessions.get(name)
        if self.votes.get(name) is not Vote.HELD:
            return
        try:
            ours = await self.call(name, lambda node: node.vote is session and session is not None)
        except NoAnswerError:
            ours = False
        self.votes[name] = Vote.HELD if ours else Vote.UNREACHABLE

    async def apply(self, step: Step, situation: Situation) -> None:
        """Do one step, with what befalls the run just before and just after."""
        self._now(f"before {type(step).__name__}", step.node)
        await asyncio.sleep(self.cluster.rng.uniform(0.0, 0.003))
        await self._stall()
        await self._apply(step, situation)
        self._now(f"after {type(step).__name__}", step.node)

    def _now(self, moment: str, node: str | None) -> None:
        if self.on_moment is not None:
            self.on_moment(self, moment, node)

    async def _apply(self, step: Step, situation: Situation) -> None:
        match step:
            case TakeVotes():
                await self._take_all(situation)
            case ProveSilence():
                await self._prove_silence(step.node)
            case FenceCommand():
                self.cluster.crash(step.node)
                self.request = replace(self.request, fenced=self.request.fenced | {step.node})
            case Cut():
                await self._cut(step.node, step.means)
            case FastForward():
                await self._fast_forward(step)
            case SetSynchronous():
                await self._write(step.node, lambda n: setattr(n, "sync", step.names))
            case Promote():
                await self._promote(step.node)
            case CreateSlot():
                await self._write(step.node, lambda n: n.slots.add(step.slot))
            case Repoint():
                await self._repoint(step)
            case Checkpoint():
                await self._write(step.node, lambda n: setattr(n, "checkpoint_timeline", n.timeline))

    async def _write(self, name: str, do: Callable[[Node], Any]) -> None:
        self.touched.add(name)
        await self.call(name, do)

    async def _take_all(self, situation: Situation) -> None:
        """Voters that have just started are waited for where there is no majority without them."""
        until_s = self.cluster.now_s + fresh_voter_s()
        while True:
            await asyncio.gather(*(self._take(v) for v in situation.voters))
            held = [v for v in situation.voters if self.votes.get(v) is Vote.HELD]
            fresh = [v for v in situation.voters if self.votes.get(v) is Vote.FREE]
            self.voted = self.voted or len(held) >= situation.majority
            if self.voted or not fresh or self.cluster.now_s > until_s:
                return
            await asyncio.sleep(0.05)

    async def _take(self, name: str) -> None:
        if self.votes.get(name) is Vote.HELD:
            return

        def lock(node: Node) -> Vote:
            session = self.sessions.get(name)
            if session is None:
                return Vote.UNREACHABLE  # we have hung up in the meantime
            if self.cluster.now_s - node.started_s < fresh_voter_s():
                return Vote.FREE  # it may have forgotten a vote that still counts
            if node.vote is not None and node.vote is not session:
                return Vote.TAKEN
            node.vote = session
            return Vote.HELD

        try:
            self.votes[name] = await self.call(name, lock)
        except NoAnswerError:
            self.votes[name] = Vote.UNREACHABLE

    async def fence(self, name: str) -> None:
        """What is done to a stale primary: its commits wait for nobody that exists."""

        def fence(node: Node) -> bool:
            if not node.in_recovery and not node.fenced and not node.deaf:
                self.cluster.counts["stale primary fenced"] += 1
                self.cluster.say(self.controller, f"fences {name}")
            node.fenced = not node.in_recovery and not node.deaf
            if self.on_fence is not None:
                self.on_fence(node)
            return node.fenced

        await self.call(name, fence, vote=False)

    async def _set_upstream(self, name: str, upstream: str | None) -> None:
        """ALTER SYSTEM, reload, read back."""

        def alter(node: Node) -> bool:
            if not node.in_recovery or node.deaf:
                return False
            node.upstream = upstream
            node.short_timeout = False
            self.cluster.say(self.controller, f"{name}: upstream = {upstream or 'none'}")
            return True

        self.touched.add(name)
        if self.on_touch is not None:
            self.on_touch(self, name, "none" if upstream is None else upstream)
        if not await self.call(name, alter):
            raise NotDoneError(f"{name} did not take primary_conninfo")

    async def _cut(self, name: str, means: str) -> None:
        if name not in self.found:
            self.found[name] = await self.call(name, lambda n: n.upstream)
        await self._set_upstream(name, None)

        def let_go(node: Node) -> None:
            if means == "replay":
                node.paused = node.delayed = node.in_conflict = False
            node.short_timeout = means == "timeout" and node.timeout_cut

        if means != "plain":
            self.cluster.counts[f"cut by {means}"] += 1
            await self.call(name, let_go)
        await self._until_cut(name)

    async def _until_cut(self, name: str) -> None:
        """Two good rounds, 20 ms apart."""
        until_s, good = self.cluster.now_s + CUT_LIMIT_S, 0
        while good < 2:
            try:
                cut = await self.call(name, lambda n: is_cut(facts_of(self.cluster, n)))
            except NoAnswerError as error:
                raise NotDoneError(f"{name} is not shown to be cut") from error
            good = good + 1 if cut else 0
            if not good and self.cluster.now_s > until_s:
                raise NotDoneError(f"{name} did not let go of its upstream")
            await asyncio.sleep(0.02)

    async def _prove_silence(self, name: str) -> None:
        """Only a receiver that was let go of can come back, and only from a primary that lives."""

        def reconnect(node: Node) -> str | None:
            if node.holds_on:
                return None
            node.receiver = None
            return node.upstream

        upstream = await self.call(name, reconnect)
        until_s = self.cluster.now_s + PROOF_S
        while self.cluster.now_s < until_s:
            if await self.call(name, lambda n: n.receiver is not None and n.receiver == upstream):
                self.cluster.counts["shown to live by a reconnection"] += 1
                raise NotDoneError("the primary lives", why=f"{name} reconnected to it at once")
            await asyncio.sleep(0.02)
        self.silence_proven = True

    async def _fast_forward(self, step: FastForward) -> None:
        await self._set_upstream(step.node, step.source)
        until_s = self.cluster.now_s + FOLLOW_LIMIT_S
        while await self.call(step.node, lambda n: lsn(shown(n))) < step.until_lsn:
            if self.cluster.now_s > until_s:
                raise NotDoneError(step.describe())
            await asyncio.sleep(0.02)
        await self._cut(step.node, "plain")

    async def _promote(self, name: str) -> None:
        """The server itself compares its clock with the time that the proof is good for; then it goes on."""
        deadline_s = self.proven_s + SCALE * PROMOTE_WITHIN_S

        def promote(node: Node) -> bool:
            if not node.in_recovery:
                return True
            if self.cluster.now_s > deadline_s:
                return False
            self.cluster.promote(name, self.controller, self.request.lost)
            return True

        self.touched.add(name)
        if not await self.call(name, promote):
            self.cluster.counts["promoted too late"] += 1
            raise NotDoneError("the votes were shown too long ago")
        until_s = self.cluster.now_s + PROMOTE_LIMIT_S
        while await self.call(name, lambda n: n.in_recovery):
            if self.cluster.now_s > until_s:
                raise NotDoneError(f"{name} is still in recovery")
            await asyncio.sleep(0.02)

    async def _repoint(self, step: Repoint) -> None:
        await self._set_upstream(step.node, step.upstream)
        timeline = self.cluster.nodes[step.upstream].timeline
        until_s = self.cluster.now_s + FOLLOW_LIMIT_S

        def follows(node: Node) -> bool:
            streams = node.receiver == step.upstream and not node.waiting and node.timeline == timeline
            return streams or node.holds_on  # it asks for WAL only when its replay goes on

        while not await self.call(step.node, follows):
            if self.cluster.now_s > until_s:
                raise NotDoneError(f"{step.node} does not stream")
            await asyncio.sleep(0.02)

    async def restore(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        """Give upstreams back, if the votes are still ours."""
        self._now("restoring", None)
        situation = Situation(settings=self.settings, state=ClusterState(nodes=()), request=self.request)
        await asyncio.gather(*(self._still_ours(v) for v in self.votes))
        if len([v for v in situation.voters if self.votes.get(v) is Vote.HELD]) < situation.majority:
            return nodes
        self.restoring = True

        async def one(name: str) -> str | None:
            before = self.found.get(name) or self.request.lost
            try:
                if before is None:
                    return name
                await self._set_upstream(name, before)
            except ReplctlError:
                return name
            return None

        return tuple(n for n in await asyncio.gather(*(one(n) for n in nodes)) if n is not None)


def fresh_voter_s() -> float:
    """How long a server must have run before its vote counts."""
    return SCALE * FRESH_VOTER_S
