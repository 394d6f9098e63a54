"""Which observed node is which: the primary, who streams from whom, and the rows that belong together.

Names in a live primary_conninfo are whatever the DBA typed there, so an upstream is found by address
first and by the walsender rows of the other nodes second.
"""

from __future__ import annotations

import ipaddress

from replctl.core.model import FENCE_NAME, ClusterState, Lsn, NodeFacts, Sender
from replctl.core.settings import ClusterSettings, NodeSpec

_LOOPBACK = {"localhost", "127.0.0.1", "::1", ""}


def primaries(state: ClusterState) -> tuple[NodeFacts, ...]:
    """The nodes that are not in recovery: fenced ones last, else the newest history first."""
    found = [f for f in state.facts if not f.in_recovery]
    return tuple(
        sorted(found, key=lambda f: (is_fenced(f), -(f.timeline or 0), -(f.write_lsn or Lsn(0)), f.node))
    )


def current_primary(state: ClusterState) -> NodeFacts | None:
    """The one to measure against: the only primary, or the one on the newest timeline. None at a tie.

    A fenced one only where there is no other; one that was replaced by a primary that is gone, never.
    """
    found = tuple(f for f in primaries(state) if not is_outrun(f, state))
    tied = [f for f in found if (f.timeline, is_fenced(f)) == (found[0].timeline, is_fenced(found[0]))]
    return found[0] if len(tied) == 1 else None


def is_outrun(facts: NodeFacts, state: ClusterState) -> bool:
    """Whether a primary was replaced: nobody follows it, and a replica is on a newer timeline, or it is
    fenced while one follows another node.

    A replica knows its timeline from its receiver only; without one, it may show an older one for minutes.
    """
    replicas = [f for f in state.facts if f.in_recovery]
    newest = max((f.timeline or 0 for f in replicas), default=0)
    alone = not facts.in_recovery and not facts.senders
    return alone and ((facts.timeline or 0) < newest or (is_fenced(facts) and bool(replicas)))


def is_fenced(facts: NodeFacts) -> bool:
    """Whether replctl's fence is on this node: a synchronous member that nobody answers to."""
    return FENCE_NAME in (facts.synchronous_standby_names or "")


def sender_for(
    upstream: NodeFacts, replica: NodeFacts, settings: ClusterSettings, *, streams_from_it: bool = False
) -> Sender | None:
    """The upstream's pg_stat_replication row of this replica: by slot, else by unique name, else by address.

    On many systems all replicas call themselves alike (`walreceiver`, or the package's cluster_name).
    Where it is known from elsewhere that the replica `streams_from_it`, the only row of its name is its own.
    """
    rows = [s for s in upstream.senders if s.state != "backup"]
    if not rows:
        return None
    slot = replica.primary_slot_name
    by_slot = [s for s in rows if s.slot_name and s.slot_name == slot]
    if len(by_slot) == 1:
        return by_slot[0]
    spec = settings.node(replica.node)
    names = {replica.own_application_name} | (set() if replica.upstream_known else {spec.application_name})
    # Whoever uses another slot is another replica.
    rows = [s for s in rows if s.application_name in names and not (s.slot_name and slot)]
    if len(rows) == 1 and _names_only(rows[0].application_name, spec.name, settings):
        return rows[0]
    if replica.receiver is None:
        return None  # it is not connected: a row of a shared name is another's
    by_address = [s for s in rows if s.client_addr and s.client_addr in (spec.host, replica.address)]
    if len(by_address) == 1:
        return by_address[0]
    return rows[0] if streams_from_it and len(rows) == 1 else None


def _names_only(application_name: str, node: str, settings: ClusterSettings) -> bool:
    """Whether the inventory has this application_name for this node and no other."""
    return [n.name for n in settings.nodes if n.application_name == application_name] == [node]


def upstream_of(replica: NodeFacts, state: ClusterState, settings: ClusterSettings) -> str | None:
    """The name of the node this replica is set to stream from; `host:port` where it is not in the inventory.

    None when it is fed from the archive alone, or when the role may not see primary_conninfo and no
    node shows a walsender for it.
    """
    host, port = replica.upstream_host, replica.upstream_port
    # Of a primary_conninfo with several hosts the receiver knows the one that was taken.
    if replica.receiver is not None and replica.receiver.sender_host:
        host, port = replica.receiver.sender_host, replica.receiver.sender_port
    own_host = settings.node(replica.node).host
    if host is not None:
        for spec in settings.nodes:
            if spec.name != replica.node and _same_address(spec, host, port, own_host):
                return spec.name
    if replica.receiver is not None or not replica.upstream_known:
        for facts in state.facts:
            if facts.node != replica.node and sender_for(facts, replica, settings) is not None:
                return facts.node
    return f"{host}:{port}" if host is not None else None


def _same_address(spec: NodeSpec, host: str, port: int | None, own_host: str) -> bool:
    """Whether a replica on `own_host` means this node by `host` and `port`."""
    if (port or 5432) != spec.port:
        return False
    if _is_local(host):  # to the replica, that is its own machine
        return _is_local(spec.host) or spec.host.lower() == own_host.lower()
    return host.lower() == spec.host.lower() or host == spec.client_host


def _is_local(host: str) -> bool:
    return host.lower() in _LOOPBACK or host.startswith("/")


def is_address(host: str) -> bool:
    """Whether it is an IP address, with or without a zone, and no name to be looked up."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def tree(settings: ClusterSettings, upstreams: dict[str, str | None]) -> list[tuple[int, str]]:
    """The nodes as a tree, depth first: (depth, name). A node without a known upstream is a root."""
    names = [spec.name for spec in settings.nodes]
    children: dict[str | None, list[str]] = {}
    for name in names:
        upstream = upstreams.get(name)
        children.setdefault(upstream if upstream in names else None, []).append(name)
    out: list[tuple[int, str]] = []

    def walk(name: str, depth: int) -> None:
        if any(name == seen for _, seen in out):
            return
        out.append((depth, name))
        for child in children.get(name, ()):
            walk(child, depth + 1)

    for root in children.get(None, ()):
        walk(root, 0)
    for name in names:  # whatever is left streams in a circle
        walk(name, 0)
    return out
