"""What must hold in every run, each by its name. A checker looks at the truth, which no controller sees."""

from __future__ import annotations

from replctl.core.outcome import Ending, Outcome
from replctl.core.settings import ClusterSettings
from replctl.core.situation import is_cut
from tests.sim.cluster import Cluster, Node
from tests.sim.looks import facts_of
from tests.sim.world import SimWorld

SURE_S = 1.0  # a link or a life that is older than this, every controller can have known of


class Checkers:
    """Hangs itself on a cluster, and looks on."""

    def __init__(self, cluster: Cluster, settings: ClusterSettings) -> None:
        self.cluster = cluster
        self.settings = settings
        self.quorum = cluster.rule is not None  # and nobody gave anything up
        self.worlds: dict[str, SimWorld] = {}  # the run that each controller is in
        self.last_touch: dict[str, SimWorld] = {}  # whose word about its upstream each node had last
        cluster.on_acknowledge = self.one_node_acknowledges
        cluster.on_ask = self.look_at_request
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

    def look_at_request(self, controller: str, lost: str | None) -> None:
        """What must be true of the lost primary when a promotion is asked for."""
        self.living_primary_is_left_alone(controller, lost)
        self.asynchronous_primary_is_off(lost)

    def look_at_promotion(self, node: Node, controller: str) -> None:
        """What must be true of the promoted node when it begins to write."""
        self.no_two_promotions(node, controller)
        self.nothing_acknowledged_is_lost(node)
        self.promoted_is_maximal(node, controller)
        self.promoted_may_be_promoted(node)
        self.cluster.counts["promoted"] += 1
        if self.cluster.promotions:
            self.cluster.counts["promoted again"] += 1

    def no_two_promotions(self, node: Node, controller: str) -> None:
        """Two controllers, or one twice, never promote two nodes from the same timeline."""
        for other in self.cluster.promotions:
            if other.old_timeline >= node.timeline:
                self.cluster.violate(
                    "never two promotions",
                    f"{controller} promotes {node.name}, {other.controller} has promoted {other.node}",
                )
        newest = max(self.cluster.promotions, key=lambda p: p.old_timeline, default=None)
        lost = node.promoting[1] if node.promoting is not None else None
        if newest is not None and newest.node != lost and not self.cluster.nodes[newest.node].in_recovery:
            self.cluster.violate(
                "only the newest primary is replaced", f"{node.name} for {lost}, not for {newest.node}"
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
            twin = position.timeline == other.timeline == node.timeline and other.forks != node.forks
            if position.incomplete is None and other.is_cut and twin:
                self.cluster.violate(
                    "of two histories none is promoted", f"{node.name} is promoted, {name} has another"
                )

    def promoted_may_be_promoted(self, node: Node) -> None:
        """`never` means never, and a delayed replica is kept for its delay."""
        if node.delayed or self.settings.node(node.name).promote == "never":
            self.cluster.violate("only an eligible node is promoted", f"{node.name} is promoted")

    def living_primary_is_left_alone(self, controller: str, lost: str | None) -> None:
        """A primary that works, and that the controller has long been able to reach, is not lost."""
        node = self.cluster.nodes.get(lost or "")
        if node is None or node.in_recovery or not node.works:
            return
        lived_s = self.cluster.now_s - node.awake_since_s
        if min(lived_s, self.cluster.reachable_for_s(controller, node.name)) > SURE_S:
            self.cluster.violate("a living primary is left alone", f"{node.name} answers {controller}")

    def asynchronous_primary_is_off(self, lost: str | None) -> None:
        """Without a quorum, only what is dead or was switched off is replaced; silence is no death."""
        node = self.cluster.nodes.get(lost or "")
        if self.quorum or node is None or node.in_recovery or not node.up or self.cluster.was_rejected:
            return
        if self.cluster.now_s - node.started_s > SURE_S:  # else it has come back in the meantime
            self.cluster.violate("an asynchronous primary is fenced first", f"{node.name} still runs")

    # ---- at every fence

    def fenced_is_stale(self, node: Node) -> None:
        """Only a primary that was replaced is fenced."""
        if node.fenced and node.timeline >= max(n.timeline for n in self.cluster.nodes.values()):
            self.cluster.violate("only a stale primary is fenced", f"{node.name} is the newest")

    # ---- at every change of an upstream

    def touch(self, world: SimWorld, name: str, upstream: str) -> None:
        """Before every change of an upstream."""
        self.last_touch[name] = world
        self.only_with_the_votes(world, name)
        self.streaming_primary_is_left_alone(world, name, upstream)
        if not world.restoring:
            self.diverged_is_left_alone(name, upstream)

    def only_with_the_votes(self, world: SimWorld, name: str) -> None:
        """Another run may be cutting the same replica: only whoever took the votes changes an upstream."""
        if not world.voted:
            self.cluster.violate("upstreams are changed under the votes only", f"{world.controller}: {name}")

    def diverged_is_left_alone(self, name: str, upstream: str) -> None:
        """What has replayed past the fork would wait for ever: it needs a rewind."""
        node, above = self.cluster.nodes[name], self.cluster.nodes.get(upstream)
        if above is None or node.timeline == above.timeline or not node.is_cut:
            return  # one that still streams may have passed the fork since it was looked at
        if node.timeline > above.timeline and not above.in_recovery:
            self.cluster.violate("no replica is given to a stale primary", f"{name} is given to {upstream}")
        fork = above.forks.get(node.timeline)
        if fork is not None and node.replayed > fork:
            self.cluster.violate("a replica past the fork is left alone", f"{name} is given to {upstream}")

    def streaming_primary_is_left_alone(self, world: SimWorld, name: str, upstream: str) -> None:
        """Before a cut of an automatic run: somebody who can be asked streams from a living primary."""
        lost = self.cluster.nodes.get(world.request.lost or "")
        if upstream != "none" or lost is None or lost.in_recovery or not lost.works:
            return
        stalled_until_s = self.cluster.stalled_until_s.get(world.controller, -1000.0)
        if self.cluster.now_s - max(lost.awake_since_s, stalled_until_s) < SURE_S:
            return  # what was decided before it came back, or before we were stopped, is still on its way
        streaming = [
            n.name
            for n in self.cluster.nodes.values()
            if n.receiver == lost.name
            and n.works
            and not n.holds_on
            and not n.waiting
            and self.cluster.now_s - n.awake_since_s > SURE_S
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
            left = [n for n in world.touched if self._left_cut(n, world)]
            if left:
                self.cluster.violate("an aborted run restores every cut", f"{left} is left, and not named")
        if ending is Ending.NOT_RESTORED and not outcome.left_cut:
            self.cluster.violate("an aborted run says what it left", "it names nobody")
        if ending is Ending.DONE:
            newest = max(n.timeline for n in self.cluster.nodes.values())
            node = self.cluster.nodes.get(outcome.promoted or "")
            if node is None or node.timeline < max(
                (p.old_timeline + 1 for p in self.cluster.promotions), default=0
            ):
                self.cluster.violate(
                    "what is done has the newest primary", f"{outcome.promoted}, not {newest}"
                )

    def nothing_was_changed(self, world: SimWorld, outcome: Outcome) -> None:
        """A plan that is not carried out writes nothing, takes no vote, does no step."""
        held = [
            n.name for n in self.cluster.nodes.values() if n.vote and n.vote.controller == world.controller
        ]
        if world.touched or held or outcome.results:
            self.cluster.violate("a dry run changes nothing", f"wrote {world.touched}, holds {held}")

    def _left_cut(self, name: str, world: SimWorld) -> bool:
        """Whether this run, and none after it, has left the node without an upstream."""
        node = self.cluster.nodes[name]
        return node.in_recovery and node.upstream is None and self.last_touch.get(name) is world

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

        if self.could_be_replaced():
            cluster.violate("a lost primary is replaced in the end", f"{newest.name} is not")
        for node in self.unfenced():
            cluster.violate("a stale primary is fenced when it is seen", f"{node.name} is not")

    def could_be_replaced(self) -> bool:
        """Whether the primary is gone, everybody else is there, and nothing stands in the way."""
        primary = self.newest()
        others = [n for n in self.cluster.nodes.values() if n is not primary]
        data = [n for n in others if not n.is_witness]
        replicas = [n for n in data if n.in_recovery or n.timeline >= primary.timeline]  # without stale ones
        rule = self.cluster.rule
        needed = 1 if rule is None else max(1, len(data) - rule.confirmations + 1)
        plain = all(
            n.works
            and n.in_recovery
            and not n.holds_on
            and not n.deaf
            and n.timeline == primary.timeline
            and self.settings.node(n.name).promote != "never"
            and n.wal == primary.wal[: len(n.wal)]
            for n in replicas
        )
        voters = len(others) + 1
        return (
            not primary.up
            and self.quorum
            and plain
            and len(data) > 1
            and len(replicas) >= needed
            and all(n.works for n in others)
            and len(others) >= voters // 2 + 1
            and self.settings.failover.fencing != "required"
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
            if not self._may_be_anothers(node, newest)
        ]

    def _may_be_anothers(self, node: Node, primary: Node) -> bool:
        """Cut for the sake of a node that is silent now, as far as anybody can tell: people have to look."""
        others = [n for n in self.cluster.nodes.values() if n not in (node, primary) and not n.is_witness]
        silent = [n for n in others if not n.works and self.settings.node(n.name).promote != "never"]
        return bool(silent) and node.is_cut and node.timeline == primary.timeline

    def is_restless(self) -> bool:
        """Whether there is something that controllers still have to do."""
        return bool(self.unsettled() or self.unfenced() or self.could_be_replaced())

    def unfenced(self) -> list[Node]:
        """Stale primaries that could still write."""
        newest = self.newest()
        return [
            node
            for node in self.cluster.nodes.values()
            if not node.in_recovery and not node.is_witness and node.timeline < newest.timeline
            if node.works and newest.works and not node.fenced and not node.deaf
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
