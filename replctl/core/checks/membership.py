"""Which nodes are there, what they are, and whether they are of one cluster and one history."""

from __future__ import annotations

from collections.abc import Iterator

from replctl.core.automation import State, automation
from replctl.core.checks.registry import Context, behind, check
from replctl.core.model import Cause
from replctl.core.results import CheckResult, Status
from replctl.core.situation import is_cut
from replctl.core.status import NodeState, NodeStatus, Role
from replctl.core.topology import sender_for
from replctl.core.units import format_bytes, utc


@check(
    "reachable",
    of="node",
    help="Every node of the inventory answers.",
    hint="replctl status -o wide",
    meaning="CRITICAL for a node that gave no facts within its deadline; UNKNOWN with `unreachable = "
    '"unknown"` in `[checks]`, and for one that the run had no time for. The cause says where to '
    "look: `refused`: PostgreSQL does not run there; `timeout`: the host or the network; "
    "`starting_up`: wait; `auth` and `privilege`: the role and pg_hba.conf; `too_many_connections`, "
    "`tls`, `dns`, `not_postgres`: as named.",
)
def _reachable(ctx: Context) -> Iterator[CheckResult]:
    for node in ctx.status.nodes:
        if node.reachable:
            yield ctx.result(Status.OK, f"{node.name} answers", node)
        elif node.cause is not Cause.WRONG_CLUSTER:
            cut_short = node.name in ctx.status.state.cut_short
            severity = Status.UNKNOWN if _may_be_well(ctx, node) else Status.CRITICAL
            why = f": {node.message}" if cut_short else f" unreachable, {node.cause}: {node.message}"
            hint = "a longer --timeout shows why" if cut_short else _reaching(node)
            yield ctx.result(severity, f"{node.name}{why}", node, hint=hint)


def _reaching(node: NodeStatus) -> str:
    """What to look at, by cause."""
    at = f"{node.host}:{node.port}"
    return {
        Cause.REFUSED: f"start PostgreSQL on {node.host}, or correct the port; its log says why it stopped",
        Cause.TIMEOUT: f"is {node.host} up, and port {node.port} open from here?",
        Cause.DNS: f"correct the host of {node.name} in the inventory, or DNS",
        Cause.TLS: f"compare sslmode and certificates in [connection] with what {at} offers",
        Cause.AUTH: _logging_in(node),
        Cause.STARTING_UP: f"wait; the log of {node.name} shows how far it is",
        Cause.TOO_MANY_CONNECTIONS: f"raise max_connections on {node.name}, or use fewer",
        Cause.NOT_POSTGRES: f"something else listens on {at}: correct the port",
        Cause.PRIVILEGE: "replctl grants --role observer",
    }.get(node.cause or Cause.OTHER, f"psql 'host={node.host} port={node.port}' shows the same error")


def _logging_in(node: NodeStatus) -> str:
    """Whether the role lacks something, or does not get as far as that."""
    message = node.message or ""
    lacks = ("permission denied for database", "not permitted to log in", "does not exist")
    if any(words in message for words in lacks):
        return "run the statements of replctl grants on the primary"
    return f"psql 'host={node.host} port={node.port}': role, password and pg_hba.conf"


@check(
    "primary",
    of="cluster",
    help="Exactly one node is the primary.",
    hint="replctl failover --dry-run",
    meaning="CRITICAL when no node accepts writes, or more than one does. With none, read the diagnosis of "
    "`replctl status`: start the old primary where it is merely stopped, else decide about a "
    "failover, which the command below shows without doing it. With more than one, see `split-brain`.",
)
def _primary(ctx: Context) -> Iterator[CheckResult]:
    found = [n.name for n in ctx.status.nodes if n.role is Role.PRIMARY and n.state is not NodeState.FENCED]
    if len(found) == 1:
        yield ctx.result(Status.OK, f"{found[0]} is the primary")
    elif found:
        yield ctx.result(
            Status.CRITICAL, f"{len(found)} primaries: {', '.join(found)}", hint="replctl status"
        )
    elif silent := [n.name for n in ctx.status.nodes if _may_be_well(ctx, n)]:
        message = f"not known which node is the primary: nothing heard from {', '.join(silent)}"
        yield ctx.result(Status.UNKNOWN, message, hint="replctl status")
    else:
        yield ctx.result(Status.CRITICAL, "no primary answers")


def _may_be_well(ctx: Context, node: NodeStatus) -> bool:
    """Whether silence of this node is no finding: no time was left for it, or the inventory says so."""
    return not node.reachable and (
        node.name in ctx.status.state.cut_short or ctx.status.settings.unreachable(node.name) == "unknown"
    )


@check(
    "automatic-failover",
    of="cluster",
    help="Who fails over when the primary is lost.",
    hint="replctl doctor",
    meaning="Whether anything acts by itself when the primary is lost. Where the inventory names another "
    "manager, that is left to it; no controller at all is a choice, and OK. It is a warning when automatic "
    "failover is paused, blocked after a failover until `replctl ack`, or impossible while a controller "
    "runs. `replctl doctor` says what a failover needs and what it would cover.",
)
def _automatic_failover(ctx: Context) -> Iterator[CheckResult]:
    manager = ctx.status.settings.manager
    now = automation(ctx.status)
    said = f"automatic failover is {now.state}"
    until = "" if now.until_at is None else f" until {utc(now.until_at)}"
    if manager != "replctl":
        yield ctx.result(Status.OK, f"automatic failover is left to {manager}")
    elif now.state is State.PAUSED:
        yield ctx.result(Status.WARNING, f"{said}{until}: {now.reason}", hint="replctl resume")
    elif now.state is State.BLOCKED:
        yield ctx.result(Status.WARNING, f"{said}{until}: {now.reason}", hint="replctl ack")
    elif now.state is State.IMPOSSIBLE and now.controllers:
        yield ctx.result(Status.WARNING, f"a controller runs, but {said}: {now.reason}")
    else:
        yield ctx.result(Status.OK, f"{said}: {now.reason}")


@check(
    "split-brain",
    of="cluster",
    help="No second node accepts writes.",
    hint="replctl fence NODE, the one on the older timeline",
    meaning="CRITICAL when two nodes accept writes. The one on the older timeline is a stale primary: keep "
    "applications away from it at once, then fence it and bring it back as a replica. On equal "
    "timelines only you can say whose data is right.",
)
def _split_brain(ctx: Context) -> Iterator[CheckResult]:
    writable = [n for n in ctx.status.nodes if n.state in (NodeState.PRIMARY, NodeState.STALE_PRIMARY)]
    if len(writable) > 1:
        names = ", ".join(f"{n.name} (timeline {n.timeline})" for n in writable)
        stale = next((n.name for n in writable if n.state is NodeState.STALE_PRIMARY), None)
        hint = f"replctl fence {stale}" if stale else "decide which one is right, and replctl fence the other"
        yield ctx.result(Status.CRITICAL, f"{len(writable)} nodes accept writes: {names}", hint=hint)
    else:
        silent = any(not n.reachable for n in ctx.status.nodes)
        yield ctx.result(Status.OK, f"no second node {'that answers ' if silent else ''}accepts writes")


@check(
    "system-id",
    of="cluster",
    help="All nodes belong to one cluster (system identifier).",
    hint="replctl config show",
    meaning="CRITICAL when a server is of another cluster than the rest: its address leads to the wrong "
    "machine, or it was initialised anew. Correct the inventory or the DNS name; nothing that such a "
    "server says is used.",
)
def _system_id(ctx: Context) -> Iterator[CheckResult]:
    strangers = [n for n in ctx.status.nodes if n.cause is Cause.WRONG_CLUSTER]
    for node in strangers:
        yield ctx.result(Status.CRITICAL, f"{node.name} is of another cluster: {node.message}", node)
    if not strangers and ctx.status.system_identifier:
        yield ctx.result(Status.OK, f"system identifier {ctx.status.system_identifier}")


@check(
    "timeline",
    of="replica",
    help="Replicas are on the primary's history.",
    hint="stop it, then pg_rewind from the primary, or pg_basebackup anew",
    meaning="CRITICAL when a replica is ahead of the primary, on a newer timeline, or waits where the "
    "histories fork: what it has is not what the primary has, and it will never follow. It needs "
    "pg_rewind or a new copy.",
)
def _timeline(ctx: Context) -> Iterator[CheckResult]:
    for node in ctx.status.replicas:
        if node.state is NodeState.DIVERGED:
            ahead = -(node.lag.lag_bytes or 0)
            what = f"{format_bytes(ahead)} ahead of" if ahead > 0 else "on another history than"
            yield ctx.result(
                Status.CRITICAL,
                f"{node.name} (timeline {node.timeline}) is {what} {ctx.status.primary}",
                node,
                hint=f"stop {node.name}, then pg_rewind from {ctx.status.primary}, or pg_basebackup anew",
            )
        else:
            yield ctx.result(Status.OK, f"{node.name} on timeline {node.timeline}", node)


@check(
    "streaming",
    of="replica",
    help="Every replica receives WAL.",
    hint="look at the replica's server log for walreceiver messages",
    meaning="CRITICAL when a replica has no walreceiver and replays nothing. Its log says why it cannot "
    "connect: network, pg_hba.conf, a missing slot, WAL that the upstream no longer has (then only a "
    "new copy helps).",
)
def _streaming(ctx: Context) -> Iterator[CheckResult]:
    for node in ctx.status.replicas:
        if node.state is NodeState.STALLED:
            yield ctx.result(
                Status.CRITICAL,
                f"{node.name} stalled: no WAL from {node.upstream or 'anywhere'}{behind(node)}",
                node,
                hint="replctl failover, which goes on with what cut it" if _was_cut(node) else None,
            )
        elif node.state is NodeState.NO_PRIVILEGE:
            yield _hidden_receiver(ctx, node)
        elif node.state is NodeState.PAUSED:
            yield _streaming_while_paused(ctx, node)
        elif node.state is not NodeState.DIVERGED:
            yield ctx.result(Status.OK, f"{node.name} {node.state}", node)


def _hidden_receiver(ctx: Context, node: NodeStatus) -> CheckResult:
    hint = "replctl grants --role observer"
    return ctx.result(Status.UNKNOWN, f"{node.name} hides its walreceiver from this role", node, hint=hint)


def _was_cut(node: NodeStatus) -> bool:
    """Whether a failover took its upstream away, and nobody gave it one again: it still has its slot."""
    return node.facts is not None and is_cut(node.facts) and node.facts.primary_slot_name is not None


def _streaming_while_paused(ctx: Context, node: NodeStatus) -> CheckResult:
    """A paused replica goes on receiving, but asks for no new connection once it has lost its own."""
    facts = node.facts
    receiver = facts.receiver if facts is not None else None
    if receiver is not None and receiver.status is None:
        return _hidden_receiver(ctx, node)
    archive_only = facts is not None and facts.upstream_known and facts.upstream_host is None
    if receiver is not None or archive_only:
        return ctx.result(Status.OK, f"{node.name} receives WAL while replay is paused", node)
    message = f"{node.name} is paused and receives no WAL{behind(node)}"
    return ctx.result(Status.CRITICAL, message, node, hint=f"on {node.name}: SELECT pg_wal_replay_resume();")


@check(
    "expected-nodes",
    of="cluster",
    help="Every replica of the inventory has a walsender.",
    hint="replctl status --tree",
    meaning="CRITICAL when a replica of the inventory neither answers us nor streams from anybody: it is "
    "gone. Its row is merely missing in pg_stat_replication, which most monitoring takes for fine. "
    "One that still streams is cut off from here only.",
)
def _expected_nodes(ctx: Context) -> Iterator[CheckResult]:
    observed = [f for _, f in ctx.answering() if f.is_complete]
    if ctx.status.primary is None or not observed:
        return
    for node in ctx.status.nodes:
        strange = node.cause is Cause.WRONG_CLUSTER or node.name in ctx.status.state.cut_short
        if node.reachable or strange:
            continue
        name = node.spec.application_name
        seen = next((f.node for f in observed if any(s.application_name == name for s in f.senders)), None)
        if seen is None:
            yield ctx.result(Status.CRITICAL, f"{node.name} streams from no node", node)
        else:
            yield ctx.result(Status.OK, f"{node.name} does not answer but streams from {seen}", node)
    if all(n.reachable for n in ctx.status.nodes):
        yield ctx.result(Status.OK, f"all {len(ctx.status.nodes)} nodes are there")


@check(
    "foreign-replicas",
    of="cluster",
    help="Nobody streams who is not in the inventory.",
    hint="add the node to the inventory, or stop it",
    meaning="WARNING when somebody streams whom the inventory does not know. A failover would leave him "
    "behind, and one who matches synchronous_standby_names confirms commits that no replica of yours "
    "has. Add him to the inventory, or end him.",
)
def _foreign_replicas(ctx: Context) -> Iterator[CheckResult]:
    ours = {(n.upstream, n.sender.pid) for n in ctx.status.replicas if n.sender is not None}
    sending = [(node, facts) for node, facts in ctx.answering() if facts.senders]
    for replica, facts in ctx.answering():
        # Also what an earlier upstream has not noticed to be gone.
        for node, upstream in sending if replica.role is Role.REPLICA else ():
            row = sender_for(upstream, facts, ctx.status.settings)
            if row is not None:
                ours.add((node.name, row.pid))
    silent = {n.spec.application_name for n in ctx.status.nodes if not n.reachable}
    foreign = False
    for node, facts in ctx.answering():
        logical = {s.active_pid for s in facts.slots if s.kind == "logical"}
        for row in facts.senders:
            known = (node.name, row.pid) in ours or row.application_name in silent or row.pid in logical
            # A backup also streams the WAL that it needs, by a second walsender.
            if known or row.state == "backup" or row.application_name == "pg_basebackup":
                continue
            foreign = True
            counts = " and confirms commits" if row.sync_state in ("sync", "quorum") else ""
            address = f" from {row.client_addr}" if row.client_addr else ""
            yield ctx.result(
                Status.WARNING,
                f"{row.application_name!r}{address} streams from {node.name}{counts}",
                node,
                subject=row.application_name,
            )
    if not foreign:
        yield ctx.result(Status.OK, "nobody streams who is not in the inventory")
