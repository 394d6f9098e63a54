"""What must hold in every run, each by its name. A checker looks at the truth, which no controller sees."""

from __future__ import annotations

from replctl.core.outcome import Ending, Outcome
from replctl.core.situation import is_cut
from tests.sim.cluster import Cluster, Node
from tests.sim.world import SimWorld, facts_of

SURE_S = 0.7  # a link or a life that is older than this, every controller can have known of


class Checkers:
    """Hangs itself on a cluster, and looks on."""

    def __init__(self, cluster: Cluster, *, quorum: bool) -> None:
        self.cluster = cluster
        self.quorum = quorum  # a synchronous rule, and nobody gave anything up
        self.worlds: dict[str, SimWorld] = {}  # the run that each controller is in
        self.cut_by: dict[str, set[str]] = {}
        cluster.on_acknowledge = self.one_node_acknowledges
        cluster.on_promote = self.look_at_promotion

    # ---- at every acknowledgement

    def one_node_acknowledges(self, node: Node, record: int) -> None:
        """After a cut and a promotion, the primary of before acknowledges nothing more."""
        if not self.quorum:
            return
        for promotion in self.cluster.promotions:
            if promotion.node != node.name and node.timeline <= promotion.old_timeline:
                self.cluster.violate(
                    "at most one node acknowledges",
                    f"{node.name} acknowledged {record} after {promotion.node} was promoted",
                )

    # ---- at every promotion

    def look_at_promotion(self, node: Node, controller: str, lost: str | None) -> None:
        """Everything that must be true of a promotion, at its very moment."""
        self.no_two_promotions(node, controller)
        self.nothing_acknowledged_is_lost(node)
        self.promoted_is_maximal(node, controller)
        self.promoted_may_be_promoted(node)
        self.living_primary_is_left_alone(controller, lost)

    def no_two_promotions(self, node: Node, controller: str) -> None:
        """Two controllers, or one twice, never promote two nodes from the same timeline."""
        for other in self.cluster.promotions:
            if other.old_timeline >= node.timeline:
                self.cluster.violate(
                    "never two promotions",
                    f"{controller} promotes {node.name}, {other.controller} has promoted {other.node}",
                )

    def nothing_acknowledged_is_lost(self, node: Node) -> None:
        """With a quorum rule, the new primary has every commit that anybody was told of."""
        if not self.quorum:
            return
        missing = sorted(set(self.cluster.acknowledged) - set(node.wal))
        if missing:
            self.cluster.violate(
                "no acknowledged commit is lost", f"{node.name} is promoted without {missing[:5]}"
            )

    def promoted_is_maximal(self, node: Node, controller: str) -> None:
        """No cut node of the same history, whose position the run could know, has more."""
        world = self.worlds.get(controller)
        if world is None or world.seen is None:
            return
        for name, position in world.seen.positions.items():
            other = self.cluster.nodes[name]
            shared = other.wal[: len(node.wal)] == node.wal
            if position.incomplete is None and other.is_cut and shared and len(other.wal) > len(node.wal):
                self.cluster.violate(
                    "the promoted is maximal",
                    f"{node.name} has {len(node.wal)} records, {name} has {len(other.wal)}",
                )

    def promoted_may_be_promoted(self, node: Node) -> None:
        """`never` means never, and a delayed replica is kept for its delay."""
        world = next(iter(self.worlds.values()), None)
        if node.delayed or (world is not None and world.settings.node(node.name).promote == "never"):
            self.cluster.violate("only an eligible node is promoted", f"{node.name} is promoted")

    def living_primary_is_left_alone(self, controller: str, lost: str | None) -> None:
        """A primary that works, and that the controller has long been able to reach, is not lost."""
        node = self.cluster.nodes.get(lost or "")
        if node is None or node.in_recovery or not node.works:
            return
        lived_s = self.cluster.now_s - node.started_s
        if min(lived_s, self.cluster.reachable_for_s(controller, node.name)) > SURE_S:
            self.cluster.violate("a living primary is left alone", f"{node.name} answers {controller}")

    # ---- at every change of an upstream

    def touch(self, world: SimWorld, name: str, upstream: str) -> None:
        """Before a cut of an automatic run: somebody who can be asked streams from a living primary."""
        self.cut_by.setdefault(world.controller, set()).add(name)
        lost = self.cluster.nodes.get(world.request.lost or "")
        if upstream != "none" or lost is None or lost.in_recovery or not lost.works:
            return
        if self.cluster.now_s - lost.started_s < SURE_S:
            return
        streaming = [
            n.name
            for n in self.cluster.nodes.values()
            if n.receiver == lost.name
            and n.works
            and not n.holds_on
            and not n.waiting
            and self.cluster.now_s - n.started_s > SURE_S
            and self.cluster.reachable_for_s(world.controller, n.name) > SURE_S
            and self.cluster.reachable_for_s(n.name, lost.name) > SURE_S
        ]
        # Once the run has begun to cut, who is left streaming is only not yet cut.
        begun = any(n.upstream is None and n.in_recovery for n in self.cluster.nodes.values())
        if streaming and not begun:
            self.cluster.violate(
                "a streaming primary is never failed over", f"{name} is cut while {streaming} streams"
            )

    # ---- at the end of every run

    def outcome(self, world: SimWorld, outcome: Outcome) -> None:
        """What a run says of itself is so."""
        ending = outcome.ending
        if outcome.problem is not None and "not done after" in outcome.problem:
            self.cluster.violate("it converges in bounded steps", outcome.problem)
        if not outcome.results and world.touched:
            self.cluster.violate("a refusal changes nothing", f"it wrote to {sorted(world.touched)}")
        if ending is Ending.REFUSED and outcome.results:
            left = [n for n in world.touched if self._cut_by_nobody_else(n, world.controller)]
            if left:
                self.cluster.violate("an aborted run restores every cut", f"{left} is left, and not named")
        if ending is Ending.NOT_RESTORED and not outcome.left_cut:
            self.cluster.violate("an aborted run says what it left", "it names nobody")
        if ending is Ending.DONE and outcome.promoted is None:
            self.cluster.violate("what is done has a primary", "nobody was promoted")

    def _cut_by_nobody_else(self, name: str, controller: str) -> bool:
        node = self.cluster.nodes[name]
        others = set().union(*(s for c, s in self.cut_by.items() if c != controller), set())
        return node.in_recovery and node.upstream is None and name not in others

    # ---- at the end of everything

    def end(self) -> None:
        """Everything was healed, and the controllers had time to finish."""
        cluster, newest = self.cluster, self.newest()
        if self.quorum and cluster.promotions:
            missing = sorted(set(cluster.acknowledged) - set(newest.wal))
            if missing:
                cluster.violate(
                    "no acknowledged commit is lost", f"{newest.name} lacks {missing[:5]} at the end"
                )
        for node in self.unsettled():
            follows = node.receiver or node.upstream
            cluster.violate(
                "every reachable undiverged replica follows",
                f"{node.name} follows {follows}, not {newest.name}",
            )

    def unsettled(self) -> list[Node]:
        """Replicas that could follow the primary, and do not."""
        newest = self.newest()
        if not newest.works:
            return []
        return [
            node
            for node in self.cluster.nodes.values()
            if node.works and node.in_recovery and not node.holds_on and not node.deaf
            if self._undiverged(node, newest) and not self._follows(node, newest)
        ]

    def newest(self) -> Node:
        """The primary on the newest timeline, dead or alive."""
        primaries = [n for n in self.cluster.nodes.values() if not n.in_recovery and not n.is_witness]
        return max(primaries, key=lambda n: n.timeline)

    def _undiverged(self, node: Node, primary: Node) -> bool:
        return primary.wal[: node.replayed] == node.wal[: node.replayed] and node.timeline <= primary.timeline

    def _follows(self, node: Node, primary: Node) -> bool:
        seen: set[str] = set()
        while node.in_recovery and node.name not in seen:
            seen.add(node.name)
            if node.receiver is None:
                return False
            above = self.cluster.nodes[node.receiver]
            if not above.works or above.holds_on or above.deaf:
                return True  # it hangs below one that cannot be mended here
            node = above
        return node is primary


def cut_nodes(cluster: Cluster) -> list[str]:
    """Who is verifiably cut now."""
    return [n.name for n in cluster.nodes.values() if n.up and is_cut(facts_of(cluster, n))]
