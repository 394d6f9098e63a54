"""One seed, one story: a cluster, its controllers, and what befalls them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace

from replctl.controller.run import carry_out
from replctl.core.detector import Detector, Tick, Verdict, Word, advance
from replctl.core.model import ClusterState, NodeFacts
from replctl.core.outcome import Ending, Outcome, StepResult
from replctl.core.plan import Plan
from replctl.core.settings import ClusterSettings, FailoverSettings, ReplicationSettings, WitnessSpec
from replctl.core.situation import Request, Situation, lost_primary
from replctl.core.topology import upstream_of
from tests.sim import clock
from tests.sim.checkers import Checkers
from tests.sim.cluster import Cluster, Node
from tests.sim.world import Memory, SimWorld, remember
from tests.unit.builders import spec

TROUBLE_ENDS_S = 3.0
END_S = 14.0
TIMINGS = FailoverSettings(
    interval_s=0.2,
    probe_timeout_s=0.3,
    burst_interval_s=0.05,
    failures=3,
    restart_grace_s=0.5,
    stop_grace_s=0.5,
)


@dataclass(eq=False)
class Story:
    """Everything about one run of the simulator."""

    seed: int
    rng: random.Random
    cluster: Cluster
    settings: ClusterSettings
    checkers: Checkers
    fence_commands: frozenset[str] = frozenset()
    outcomes: list[Outcome] = field(default_factory=list)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)

    @property
    def violations(self) -> list[str]:
        return self.cluster.violations


# ---- the controller of the simulation


@dataclass(eq=False)
class Controller:
    """`failover --auto` as far as the core is concerned: detect, run, and finish what was left."""

    story: Story
    name: str
    detector: Detector = field(default_factory=Detector)
    primary: str | None = None
    memory: Memory = field(default_factory=Memory)
    uneasy: int = 0
    turns: int = 0

    async def run(self) -> None:
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
            verdict = self._judge(situation)
            if verdict in (Verdict.DEAD, Verdict.SILENT):
                await self._carry_out(self.primary)
            elif verdict is Verdict.ALIVE:
                lost = lost_primary(situation.state, self.story.settings)
                self.uneasy = self.uneasy + 1 if lost != self.primary else 0
                if self.uneasy >= 3:  # not what another run is in the middle of
                    await self._carry_out(lost)
            busy = self.detector.failures > 0
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

    def _judge(self, situation: Situation) -> Verdict:
        if self.primary is None or situation.request.lost != self.primary:
            return Verdict.SUSPECT
        state = situation.state
        followers = [
            f
            for f in state.facts
            if f.receiver is not None and upstream_of(f, state, self.story.settings) == self.primary
        ]
        tick = Tick(
            at_s=self.story.cluster.now_s,
            word=situation.word,
            streaming=(),  # an idle primary's receivers say nothing for long: the forced proof decides
            connected=tuple(f.node for f in followers),
            voters_reached=len(state.facts) + sum(isinstance(w, NodeFacts) for w in state.witnesses),
            majority=situation.majority,
        )
        self.detector, finding = advance(self.detector, tick, TIMINGS)
        return finding.verdict

    async def _carry_out(self, lost: str | None) -> None:
        story = self.story
        world = self._world(lost)
        story.checkers.worlds[self.name] = world
        story.cluster.say(self.name, f"runs a failover of {lost}")
        story.running.add(self.name)

        def tell(result: StepResult) -> None:
            story.cluster.say(self.name, f"{result.error or 'done'}: {result.step}")

        async def go_on(plan: Plan) -> bool:
            return True

        try:
            outcome = await carry_out(world, tell, go_on)
        finally:
            world.close()
            story.running.discard(self.name)
        story.cluster.say(self.name, f"{outcome.ending}: {outcome.problem or ''} {outcome.left_cut or ''}")
        if outcome.ending is Ending.REFUSED and not outcome.results:
            story.cluster.say(self.name, str(outcome.plan.reasons))  # type: ignore[union-attr]
        story.outcomes.append(outcome)
        story.checkers.outcome(world, outcome)
        self.uneasy = 0
        self.detector = Detector()
        await asyncio.sleep(story.rng.uniform(0.2, 1.2))


# ---- making one up


def build(seed: int) -> Story:
    """A cluster from a seed."""
    rng = random.Random(seed)
    count = rng.choice((2, 3, 3, 3, 3, 4, 4, 5))
    names = [f"pg{i}" for i in range(1, count + 1)]
    replicas = names[1:]
    confirmations = min(len(replicas), rng.choice((1, 1, 2, 2, 3)))
    method = rng.choice(("ANY", "ANY", "FIRST"))
    sync = f"{method} {confirmations} ({', '.join(names)})" if rng.random() < 0.85 else ""
    nodes = [Node("pg1", in_recovery=False, sync=sync)]
    specs = [spec("pg1")]
    for name in replicas:
        upstream = "pg1"
        if rng.random() < 0.12 and len(nodes) > 1:
            upstream = rng.choice(nodes[1:]).name
        odd = rng.random()
        nodes.append(
            Node(
                name,
                upstream=upstream,
                receiver=upstream,
                delayed=odd < 0.06,
                paused=0.06 <= odd < 0.11,
                deaf=0.11 <= odd < 0.13,
                timeout_cut=rng.random() < 0.7,
            )
        )
        promote = rng.choices(("neutral", "prefer", "avoid", "never"), (74, 14, 7, 5))[0]
        specs.append(spec(name, promote=promote))
    witnesses = tuple(
        WitnessSpec(name=n, host=f"10.0.1.{i}")
        for i, n in enumerate(("w1", "w2")[: (1 if count == 2 else rng.choice((0, 0, 1, 2)))])
    )
    nodes += [Node(w.name, in_recovery=False, is_witness=True) for w in witnesses]
    failover = replace(
        TIMINGS,
        synchronous=sync,
        fencing=rng.choices(("auto", "none", "required"), (80, 15 if sync else 0, 5))[0],
        allow_replay_changes=rng.random() < 0.3,
    )
    settings = ClusterSettings(
        name="orders",
        nodes=tuple(specs),
        witnesses=witnesses,
        slot=rng.choice((None, "{name}")),
        replication=ReplicationSettings(user="replicator"),
        failover=failover,
    )
    cluster = Cluster(rng, nodes, sync)
    fences = frozenset(names if rng.random() < 0.15 else ())
    return Story(seed, rng, cluster, settings, Checkers(cluster, quorum=bool(sync)), fences)


async def play(story: Story) -> None:
    """Let it happen, then heal everything, and see what has become of it."""
    cluster, rng = story.cluster, story.rng
    for name in ["c1", "c2", "c3"][: rng.choice((1, 1, 2, 2, 3))]:
        start_controller(story, name)
    life = asyncio.create_task(cluster.live(END_S))
    await asyncio.sleep(rng.uniform(0.4, 0.9))
    _misfortune(story, main=True)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 4))):
        await asyncio.sleep(rng.choice((rng.uniform(0.0, 0.1), rng.uniform(0.1, 0.6))))
        _misfortune(story, main=False)
    await asyncio.sleep(max(0.0, TROUBLE_ENDS_S - cluster.now_s))
    _heal(story)
    await asyncio.sleep(0.5)
    while not life.done() and (  # noqa: ASYNC110  the clock is the simulation's
        story.checkers.unsettled() or story.running or _awaited(story)
    ):
        await asyncio.sleep(0.2)
    for task in story.tasks.values():
        if task.done() and not task.cancelled():
            task.result()  # a controller never fails
    story.checkers.end()


def _awaited(story: Story) -> bool:
    """Whether a failover may still come: there is no primary, and the controllers have had little time."""
    return not story.checkers.newest().works and story.cluster.now_s < TROUBLE_ENDS_S + 4.0


def start_controller(story: Story, name: str) -> None:
    story.tasks[name] = asyncio.create_task(Controller(story, name).run())


def _misfortune(story: Story, *, main: bool) -> None:
    """Something happens: to the primary first, then to anybody."""
    cluster, rng = story.cluster, story.rng
    loop = asyncio.get_running_loop()
    primary = max(
        (n for n in cluster.nodes.values() if not n.in_recovery and not n.is_witness),
        key=lambda n: n.timeline,
    ).name
    anybody = primary if main else rng.choice(list(cluster.nodes))
    controllers = list(story.tasks)
    what = rng.choice(MISFORTUNES[:6] if main else MISFORTUNES)
    if what == "crash":
        cluster.crash(anybody)
    elif what == "vanish":
        cluster.crash(anybody, reset_heard=False)
    elif what == "freeze":
        cluster.freeze(anybody)
        loop.call_later(rng.uniform(0.3, 6.0), cluster.thaw, anybody)
    elif what == "restart":
        cluster.crash(anybody)
        loop.call_later(rng.uniform(0.05, 2.0), cluster.start, anybody)
    elif what == "cut off from controllers":
        for controller in controllers:
            if rng.random() < 0.8:
                if rng.random() < 0.3:
                    cluster.rejected.add((controller, anybody))
                    cluster.say("net", f"{controller} → {anybody} is rejected by a firewall")
                else:
                    cluster.block(controller, anybody, one_way=rng.random() < 0.3)
    elif what == "split":
        everybody = [*cluster.nodes, *controllers]
        ours = {anybody, *(n for n in everybody if rng.random() < 0.35)}
        for one in ours:
            for other in set(everybody) - ours:
                cluster.block(one, other)
    elif what == "heal":
        cluster.heal()
    elif what == "pause":
        cluster.nodes[anybody].paused = cluster.nodes[anybody].in_recovery
        cluster.say(anybody, "replay is paused")
    elif what == "return":
        for name in list(cluster.nodes):
            cluster.start(name)
    elif what == "controller dies" and controllers:
        name = rng.choice(controllers)
        story.tasks[name].cancel()
        cluster.say(name, "dies")
        loop.call_later(rng.uniform(0.1, 2.0), start_controller, story, name)


MISFORTUNES = (
    "crash",
    "vanish",
    "freeze",
    "restart",
    "cut off from controllers",
    "split",
    "heal",
    "pause",
    "return",
    "controller dies",
    "controller dies",
    "restart",
)


def _heal(story: Story) -> None:
    """The network is whole, every replica runs, and an operator resumed what was paused."""
    cluster = story.cluster
    cluster.heal()
    for node in cluster.nodes.values():
        cluster.thaw(node.name)
        node.paused = False
        if node.in_recovery or node.is_witness:
            cluster.start(node.name)


def tell(seed: int) -> Story:
    """Play the story of a seed to its end."""
    story = build(seed)
    clock.run(play(story))
    return story
