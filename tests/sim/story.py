"""One seed, one story: a cluster, its controllers, and what befalls them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from replctl.controller.run import carry_out
from replctl.core.outcome import Ending, Outcome, StepResult
from replctl.core.plan import Plan
from replctl.core.settings import ClusterSettings, ReplicationSettings, WitnessSpec
from replctl.core.situation import Request
from tests.sim import clock
from tests.sim.checkers import Checkers
from tests.sim.cluster import Cluster, Node
from tests.sim.controller import TIMINGS, Controller, counted, said_of, said_of_step
from tests.sim.misfortune import Ambush, befall, lay_ambushes, spring
from tests.sim.themes import THEMES, Theme, prepare
from tests.sim.world import SimWorld
from tests.unit.builders import spec

TROUBLE_ENDS_S = 4.5
END_S = 16.0


@dataclass(eq=False)
class Story:
    """Everything about one run of the simulator."""

    seed: int
    rng: random.Random
    cluster: Cluster
    settings: ClusterSettings
    checkers: Checkers
    fence_commands: frozenset[str]
    ambushes: list[Ambush]
    theme: Theme | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    is_over: bool = False

    @property
    def violations(self) -> list[str]:
        """What must never be, and was."""
        return self.cluster.violations

    def later(self, delay_s: float, what: Callable[..., None], *given: object) -> None:
        """A misfortune that comes a little later, if trouble is not over by then."""

        def happen() -> None:
            if not self.is_over:
                what(*given)

        asyncio.get_running_loop().call_later(delay_s, happen)

    # ---- controllers come, act and go

    def start_controller(self, name: str) -> None:
        """A process of this name, which remembers nothing."""
        self.tasks[name] = asyncio.create_task(Controller(self, name).run())

    def kill_controller(self, name: str) -> None:
        """At once, wherever it is; another takes its place a little later."""
        if self.tasks[name].cancelled() or self.tasks[name].cancelling():
            return
        self.tasks[name].cancel()
        self.cluster.say(name, "dies")
        self.cluster.counts["controller died in a run" if name in self.running else "controller died"] += 1
        if name != "c9":
            asyncio.get_running_loop().call_later(self.rng.uniform(0.1, 2.0), self.start_controller, name)

    def somebody_acts(self, lost: str | None) -> None:
        """One more controller, which has been told that this primary is lost, and acts at once."""
        once = Controller(self, "c9", primary=lost)
        self.tasks["c9"] = asyncio.create_task(once.carry_out(lost))

    def begin_run(self, name: str, world: SimWorld) -> None:
        """A controller runs a failover."""
        self.checkers.worlds[name] = world
        world.on_moment = self.at_moment
        self.cluster.say(name, f"runs a failover of {world.request.lost}")
        if self.running - {name}:
            self.cluster.counts["two runs at once"] += 1
        self.running.add(name)

    def end_run(self, name: str, world: SimWorld, outcome: Outcome) -> None:
        """It says how it ended, and is judged by that."""
        self.cluster.say(name, f"{outcome.ending}: {said_of(outcome)}")
        self.cluster.counts.update(counted(outcome))
        self.outcomes.append(outcome)
        self.checkers.outcome(world, outcome)

    def teller(self, name: str) -> Callable[[StepResult], None]:
        """What a run tells its steps to."""

        def tell_step(result: StepResult) -> None:
            self.cluster.say(name, said_of_step(result))

        return tell_step

    def at_moment(self, world: SimWorld, moment: str, node: str | None) -> None:
        """A run has come to where an ambush may be laid."""
        spring(self, world.controller, moment, node)


# ---- making one up


def build(seed: int) -> Story:
    """A cluster from a seed."""
    rng = random.Random(seed)
    theme = rng.choice(list(THEMES.values())) if rng.random() < 0.5 else None
    count = rng.choice((2, 3, 3, 3, 3, 4, 4, 5) if theme is None else theme.nodes)
    names = [f"pg{i}" for i in range(1, count + 1)]
    replicas = names[1:]
    confirmations = min(len(replicas), rng.choice((1, 1, 2, 2, 3)))
    if theme is not None and rng.random() < 0.9:
        confirmations = 1 if theme.few else len(replicas) // 2 + 1
    method = rng.choice(("ANY", "ANY", "FIRST"))
    sync = f"{method} {confirmations} ({', '.join(names)})" if rng.random() < 0.85 else ""
    sync = sync if theme is None or rng.random() < 0.1 else f"ANY {confirmations} ({', '.join(names)})"
    nodes = [Node("pg1", in_recovery=False, sync=sync), *_replicas(rng, replicas, sync, theme)]
    few = 1 if count == 2 else rng.choice((0, 0, 1, 2))
    few = few if theme is None or theme.witnesses is None else theme.witnesses
    witnesses = tuple(WitnessSpec(name=n, host=f"10.0.1.{i}") for i, n in enumerate(("w1", "w2")[:few]))
    failover = replace(
        TIMINGS,
        synchronous=sync,
        fencing=rng.choices(("auto", "none", "required"), (80, 15 if sync else 0, 5))[0],
        allow_replay_changes=rng.random() < 0.3,
    )
    settings = ClusterSettings(
        name="orders",
        nodes=(spec("pg1"), *(spec(name, promote=_wish(rng)) for name in replicas)),
        witnesses=witnesses,
        slot=rng.choice((None, "{name}")),
        replication=ReplicationSettings(user="replicator"),
        failover=failover,
    )
    if rng.random() < 0.12:
        _had_a_failover(rng, nodes)
    cluster = Cluster(
        rng, [*nodes, *(Node(w.name, in_recovery=False, is_witness=True) for w in witnesses)], sync
    )
    fences = frozenset(names if rng.random() < 0.15 else ())
    story = Story(seed, rng, cluster, settings, Checkers(cluster, settings), fences, lay_ambushes(rng))
    story.theme = theme
    return story


def _wish(rng: random.Random) -> str:
    return rng.choices(("neutral", "prefer", "avoid", "never"), (74, 14, 7, 5))[0]


def _replicas(rng: random.Random, names: list[str], sync: str, theme: Theme | None) -> list[Node]:
    """Most follow the primary and are well; some stream from another, some are held up."""
    nodes: list[Node] = []
    plain = theme is not None and theme.plain and rng.random() < 0.9
    for name in names:
        upstream = rng.choice(nodes).name if nodes and not plain and rng.random() < 0.12 else "pg1"
        odd = 1.0 if plain else rng.random()
        nodes.append(
            Node(
                name,
                upstream=upstream,
                receiver=upstream,
                delayed=odd < 0.08,
                paused=0.08 <= odd < 0.15,
                in_conflict=0.15 <= odd < 0.18,
                deaf=0.18 <= odd < 0.20,
                timeout_cut=rng.random() < 0.7,
                slow=rng.random() < 0.25,
                sync=sync if rng.random() < 0.8 else "",
            )
        )
    return nodes


def _had_a_failover(rng: random.Random, nodes: list[Node]) -> None:
    """An earlier failover: all are on timeline 2, but for one that has replayed past its beginning."""
    for node in nodes:
        node.wal, node.timeline, node.forks, node.replayed = [-3, -2, -1], 2, {1: 3}, 3
        node.checkpoint_timeline = 2
    if len(nodes) < 3:
        return
    odd = rng.choice(nodes[1:])
    if any(n.upstream == odd.name for n in nodes):
        return
    past = rng.random() < 0.5
    odd.wal = ([-3, -2, -1] if past else [-3, -2]) + [-10 - i for i in range(rng.randrange(2, 60))]
    odd.replayed = len(odd.wal)
    odd.timeline, odd.forks = (1, {}) if past else (2, {1: 2})  # ahead on the old one, or promoted apart
    odd.receiver, odd.received_known = None, rng.random() < 0.5
    odd.delayed = odd.paused = odd.in_conflict = False


async def play(story: Story) -> None:
    """Let it happen, then heal everything, and see what has become of it."""
    cluster, rng = story.cluster, story.rng
    for name in ["c1", "c2", "c3"][: rng.choice(story.theme.controllers if story.theme else (1, 1, 2, 2, 3))]:
        story.start_controller(name)
    life = asyncio.create_task(cluster.live(END_S))
    await asyncio.sleep(rng.uniform(0.2, 0.7))
    prepare(story)
    await asyncio.sleep(rng.uniform(0.1, 0.3))
    befall(story, main=True)
    onlooker = asyncio.create_task(look_on(story))
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2) if story.theme else (0, 1, 1, 2, 3, 4))):
        await asyncio.sleep(rng.choice((rng.uniform(0.0, 0.1), rng.uniform(0.1, 0.9))))
        befall(story, main=False)
    await asyncio.sleep(max(0.0, TROUBLE_ENDS_S - cluster.now_s))
    _heal(story)
    await onlooker
    await asyncio.sleep(0.5)
    while not life.done() and (  # noqa: ASYNC110  the clock is the simulation's
        story.running or _awaited(story) or story.checkers.is_restless()
    ):
        await asyncio.sleep(0.2)
    for task in story.tasks.values():
        if task.done() and not task.cancelled():
            task.result()  # a controller never fails
    story.checkers.end()


async def look_on(story: Story) -> None:
    """Somebody plans without acting, and somebody is asked and says no: nothing may come of either."""
    await asyncio.sleep(story.rng.uniform(0.0, 2.0))

    async def refuse(plan: Plan) -> bool:
        return False

    lost = story.checkers.newest().name
    world = SimWorld(
        cluster=story.cluster, settings=story.settings, controller="dry", request=Request(lost=lost)
    )
    outcome = await carry_out(world, story.teller("dry"), refuse)
    story.cluster.counts[f"dry run {'planned' if outcome.ending is Ending.NOTHING else outcome.ending}"] += 1
    story.checkers.nothing_was_changed(world, outcome)
    world.close()


def _awaited(story: Story) -> bool:
    """Whether a failover may still come: there is no primary, and the controllers have had little time."""
    return not story.checkers.newest().works and story.cluster.now_s < TROUBLE_ENDS_S + 4.0


def _heal(story: Story) -> None:
    """The network is whole, every replica runs, and an operator resumed what was paused."""
    cluster = story.cluster
    cluster.heal()
    story.ambushes.clear()
    story.is_over = True
    for node in cluster.nodes.values():
        cluster.thaw(node.name)
        node.paused = node.in_conflict = False
        if node.in_recovery or node.is_witness:
            cluster.start(node.name)


def tell(seed: int) -> Story:
    """Play the story of a seed to its end."""
    story = build(seed)
    clock.run(play(story))
    return story
