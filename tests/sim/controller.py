"""The controller of the simulation: `failover --auto` as far as the core is concerned.

It detects with the product's detector, runs the product's `carry_out`, finishes what was left, and fences
stale primaries. What it remembers is lost when it dies, and another of its name begins anew.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replctl.controller import run
from replctl.core.detector import Detector, Tick, Verdict, Word, advance
from replctl.core.model import FENCE_NAME, ClusterState, NodeFacts
from replctl.core.outcome import Ending, Outcome, StepResult
from replctl.core.plan import Plan, Refusal
from replctl.core.settings import FailoverSettings
from replctl.core.situation import Request, Situation, is_stale, lost_primary
from replctl.core.steps import FastForward
from replctl.core.topology import upstream_of
from replctl.errors import ReplctlError
from tests.sim.looks import Memory, remember
from tests.sim.world import SimWorld

if TYPE_CHECKING:
    from tests.sim.story import Story

TIMINGS = FailoverSettings(
    interval_s=0.2,
    probe_timeout_s=0.3,
    burst_interval_s=0.05,
    failures=3,
    restart_grace_s=0.5,
    stop_grace_s=0.5,
)


@dataclass(eq=False)
class Controller:
    """One controller of the story, until it dies."""

    story: Story
    name: str
    detector: Detector = field(default_factory=Detector)
    primary: str | None = None
    memory: Memory = field(default_factory=Memory)
    uneasy: int = 0
    turns: int = 0

    async def run(self) -> None:
        """Watch and act until cancelled."""
        rng = self.story.rng
        await asyncio.sleep(rng.uniform(0.0, 0.2))
        while True:
            watch = self._world(self.primary)
            self.turns += 1
            if self.turns % 4 and not self.detector.failures and await self._all_is_well(watch):
                await asyncio.sleep(TIMINGS.interval_s * rng.uniform(0.7, 1.3))
                continue
            situation = await watch.observe()
            self._learn(situation.state)
            await self._fence_stale(watch, situation)
            verdict = self._judge(situation)
            self.story.cluster.counts[f"judged {verdict}"] += 1
            if verdict in (Verdict.DEAD, Verdict.SILENT):
                await self.carry_out(self.primary)
            elif verdict is Verdict.ALIVE:
                lost = lost_primary(situation.state, self.story.settings)
                self.uneasy = self.uneasy + 1 if lost != self.primary else 0
                if self.uneasy >= 3:  # not what another run is in the middle of
                    await self.carry_out(lost)
            busy = self.detector.failures > 0 and verdict is not Verdict.ISOLATED
            await asyncio.sleep(
                TIMINGS.burst_interval_s if busy else TIMINGS.interval_s * rng.uniform(0.7, 1.3)
            )

    async def _all_is_well(self, watch: SimWorld) -> bool:
        """Between looks, a probe of the primary is all."""
        return self.uneasy == 0 and await watch.probe(self.primary) is Word.ANSWERED

    def _world(self, lost: str | None) -> SimWorld:
        story = self.story
        return SimWorld(
            cluster=story.cluster,
            settings=story.settings,
            controller=self.name,
            request=Request(lost=lost, automatic=True),
            memory=self.memory,
            fence_commands=story.fence_commands,
            on_touch=story.checkers.touch,
            on_fence=story.checkers.fenced_is_stale,
        )

    def _learn(self, state: ClusterState) -> None:
        """Who is the primary: the one on the newest timeline that answers; else whom the replicas follow."""
        remember(self.memory, state)
        replicas = [f for f in state.facts if f.in_recovery]
        newest = max((f.timeline or 0 for f in replicas), default=0)
        writable = [f for f in state.facts if not f.in_recovery and (f.timeline or 0) >= newest]
        found = max(writable, key=lambda f: f.timeline or 0, default=None)
        name = found.node if found is not None else (self.primary or lost_primary(state, self.story.settings))
        if name != self.primary:
            self.primary, self.detector, self.memory = name, Detector(), Memory()
            remember(self.memory, state)
        if found is not None:
            self.memory.timeline = found.timeline

    async def _fence_stale(self, watch: SimWorld, situation: Situation) -> None:
        """Whoever writes on an older timeline than another's is fenced whenever it is seen."""
        facts = situation.state.facts
        others = tuple(f for f in facts if f.in_recovery or f.node == self.primary)
        for stale in facts:
            fenced = stale.synchronous_standby_names == FENCE_NAME
            if not stale.in_recovery and not fenced and is_stale(stale, others):
                try:
                    await watch.fence(stale.node)
                except ReplctlError:
                    continue

    def _judge(self, situation: Situation) -> Verdict:
        if self.primary is None or situation.request.lost != self.primary:
            return Verdict.SUSPECT
        state, now_s = situation.state, self.story.cluster.now_s
        followers = [
            f
            for f in state.facts
            if f.receiver is not None and upstream_of(f, state, self.story.settings) == self.primary
        ]
        first_s = self.detector.first_failure_s
        tick = Tick(
            at_s=now_s,
            word=situation.word,
            streaming=tuple(f.node for f in followers if _heard_since(f, first_s)),
            connected=tuple(f.node for f in followers),
            voters_reached=len(state.facts) + sum(isinstance(w, NodeFacts) for w in state.witnesses),
            majority=situation.majority,
        )
        self.detector, finding = advance(self.detector, tick, TIMINGS)
        return finding.verdict

    async def carry_out(self, lost: str | None) -> None:
        """Run the failover of this primary, and rest."""
        story = self.story
        world = self._world(lost)
        story.begin_run(self.name, world)
        try:
            outcome = await run.carry_out(world, story.teller(self.name), _go_on)
            story.end_run(self.name, world, outcome)
        finally:
            world.close()
            story.running.discard(self.name)
        self.uneasy = 0
        self.detector = Detector()
        if outcome.promoted not in (None, self.primary):
            self.primary, self.memory = outcome.promoted, Memory(timeline=self.memory.timeline)
            self.memory.timeline = None if self.memory.timeline is None else self.memory.timeline + 1
        await asyncio.sleep(story.rng.uniform(0.2, 1.2))


async def _go_on(plan: Plan) -> bool:
    return True


def _heard_since(facts: NodeFacts, first_s: float | None) -> bool:
    """Whether a replica was told anything by the primary since the first failure."""
    receiver = facts.receiver
    if first_s is None or receiver is None or receiver.status != "streaming":
        return False
    return facts.sampled_at_s - (receiver.last_message_age_s or 0.0) > first_s


def said_of(outcome: Outcome) -> str:
    """An outcome in a line."""
    if isinstance(outcome.plan, Refusal):
        return "; ".join(f"{r.code}: {r.message}" for r in outcome.plan.reasons)
    left = f", left cut: {', '.join(outcome.left_cut)}" if outcome.left_cut else ""
    return f"{outcome.problem or outcome.promoted or ''}{left}"


def counted(outcome: Outcome) -> list[str]:
    """What an outcome adds to the statistics of a story."""
    found = [f"run {outcome.ending}"]
    if isinstance(outcome.plan, Refusal):
        found += [f"refused {r.code}" for r in outcome.plan.reasons]
    if outcome.ending is Ending.REFUSED and outcome.results:
        found.append("run stopped and restored")
    found += ["fast-forwarded" for r in outcome.results if isinstance(r.step, FastForward) and not r.error]
    return found


def said_of_step(result: StepResult) -> str:
    """A step in a line."""
    said = result.step.describe()
    return f"{said}: {result.error}" if result.error else said
