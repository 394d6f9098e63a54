"""The newest timeline that each node has shown: what decides which primary is not to be believed.

A primary of an older timeline may only have come back, while the newer one is alive and not to be seen from
here. So what a node has shown holds while it is silent, restarts, or is gone.
"""

from __future__ import annotations

from collections.abc import Mapping

from replctl.core.status import ClusterStatus, NodeState, NodeStatus, Role


def shown(before: Mapping[str, int], status: ClusterStatus) -> dict[str, int]:
    """By node, after one more look: the newest timeline ever, or the one that it provably went back to."""
    found = dict(before)
    for node in status.nodes:
        timeline = node.timeline
        if timeline is not None and (timeline >= found.get(node.name, 0) or went_back(node, status)):
            found[node.name] = timeline
    return found


def went_back(node: NodeStatus, status: ClusterStatus) -> bool:
    """Whether it follows a primary, on that one's timeline: both answered in this very look.

    This is the only proof that what the node once showed is not there any more, as when a replica that was
    promoted by mistake has been copied anew. It lets no second primary be believed:
    - A node that follows takes no writes, and neither does anybody by its newer timeline: a server streams an
      older one only where its own data directory holds nothing of the newer (its control file counts in
      `timeline`, and has to agree with what is received). To leave again it must be promoted, which the next
      look shows as any other promotion.
    - It speaks for itself alone. Each node that has shown the newer timeline has to go back on its own: while
      one of them is silent, as the real successor behind a broken network, the old primary is none.
    - A replica that only passes through an older timeline on its way to a newer one follows a primary of the
      newer one, which is not on this timeline.
    """
    above, seen = node, {one.name: one for one in status.nodes}
    for _ in status.nodes:
        receiver = above.facts.receiver if above.facts is not None else None
        if receiver is None or receiver.status != "streaming" or above.timeline != node.timeline:
            return False
        upstream = seen.get(above.upstream or "")
        if receiver.received_timeline != node.timeline or upstream is None:
            return False
        if upstream.role is Role.PRIMARY:
            return upstream.state is NodeState.PRIMARY and upstream.timeline == node.timeline
        above = upstream
    return False
