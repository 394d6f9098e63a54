"""Is this cluster ready to be failed over, switched over and rejoined? `doctor`, beside the checks.

Each finding says what would go wrong and the exact statement or setting that mends it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from replctl.core.coverage import votes_of
from replctl.core.quorum import parse_sync_rule, sync_name
from replctl.core.results import Status
from replctl.core.settings import ClusterSettings
from replctl.core.status import ClusterStatus, Role

RIGHTS_LISTED_MAX = 3  # more than that are one finding
RIGHTS_NAMED_MAX = 6  # in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One right of the role: whether it holds it, and the statement that gives it."""

    what: str
    needed_for: str
    statement: str
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRights:
    """What was asked of one node beside the sample."""

    node: str
    user: str
    rights: tuple[Right, ...]
    state_table: bool
    config_errors: tuple[str, ...] | None  # None = may not be asked
    conninfo_source: str | None
    conninfo_file: str | None
    alter_system_allowed: bool
    through_pooler: bool
    managers: tuple[str, ...]
    durable_fence: Right | None = None  # None = not asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the inventory gives beside the core's settings, without secrets."""

    commands: dict[str, frozenset[str]]  # node → stop, start, run, fence where given
    sslmodes: dict[str, str | None]
    conninfo_differences: dict[str, tuple[str, ...]]  # replica → keywords that differ from [replication]
    missing_programs: tuple[str, ...]  # hooks and commands whose program cannot be run


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that stands in the way, or would."""

    topic: str  # failover | switchover | rejoin | security
    severity: Status
    message: str
    remedy: str
    node: str | None = None


def readiness(
    status: ClusterStatus, rights: dict[str, NodeRights], around: Surroundings
) -> tuple[Finding, ...]:
    """Every finding, the ones that stop a failover first.

    Where another manager fails over, only what is not its business.
    """
    if status.settings.manager != "replctl":
        return tuple(f for f in _of_surroundings(status, around) if f.topic == "security")
    found = [
        *_of_settings(status.settings),
        *_of_votes(status.settings),
        *_of_sync(status),
        *_of_rights(status, tuple(rights.values())),
        *(finding for node in status.nodes if node.name in rights for finding in _of_node(rights[node.name])),
        *_of_candidates(status),
        *_of_witnesses(status),
        *_of_surroundings(status, around),
    ]
    return tuple(sorted(found, key=lambda f: -f.severity.rank))


def unexamined(untold: dict[str, str]) -> tuple[Finding, ...]:
    """Nodes that answered, but would not say what the role may do there; by name, with the reason."""
    return tuple(
        Finding(
            topic="failover",
            severity=Status.UNKNOWN,
            node=name,
            message=f"what the role may do there is not known: {why}",
            remedy="replctl doctor --timeout 30s",
        )
        for name, why in untold.items()
    )


def _of_settings(settings: ClusterSettings) -> Iterator[Finding]:
    if settings.replication is None:
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            message="the inventory has no [replication]: no replica can be repointed",
            remedy='add [replication] with user = "…" (replctl init fills it from the running replicas)',
        )
    if settings.failover.synchronous is None:
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            message="the inventory does not say what synchronous_standby_names must be",
            remedy='[failover] synchronous = "ANY 1 (…)", or "" for asynchronous replication',
        )
    names = [n.application_name for n in settings.nodes]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL if settings.failover.synchronous else Status.WARNING,
            message=f"several nodes call themselves {name!r}: a quorum cannot tell them apart",
            remedy="give each node an application_name of its own, in its primary_conninfo and here",
        )


def _of_votes(settings: ClusterSettings) -> Iterator[Finding]:
    votes = votes_of(settings)
    count = len(votes.voters)
    if not votes.possible:
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            message=f"{count} voters need {votes.majority}; without the primary {count - 1} are left",
            remedy='add [[witnesses]] with any third server, or votes = "replicas" with one controller',
        )
    elif count % 2 == 0 and settings.failover.votes == "majority":
        yield Finding(
            topic="failover",
            severity=Status.WARNING,
            message=f"{count} voters tolerate no more losses than {count - 1} would",
            remedy="add a witness to make their number odd",
        )


def _of_sync(status: ClusterStatus) -> Iterator[Finding]:
    primary, sync = status.primary_node, status.sync
    if sync.matches is False and primary is not None:
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            node=primary.name,
            message=f"synchronous_standby_names is {sync.configured!r}, expected {sync.expected!r}",
            remedy=f"ALTER SYSTEM SET synchronous_standby_names = {_literal(sync.expected or '')}; "
            "SELECT pg_reload_conf();",
        )
    try:
        rule = parse_sync_rule(sync.configured or "")
    except ValueError:
        rule = None
    if rule is None or primary is None:
        return
    known = {n.application_name.lower() for n in status.settings.nodes}
    strange = [m for m in rule.members if m != "*" and m.lower() not in known]
    if strange or "*" in rule.members:
        who = "any name" if "*" in rule.members else ", ".join(strange)
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            node=primary.name,
            message=f"{who} may confirm commits without being in the inventory: zero loss cannot be proven",
            remedy=f"ALTER SYSTEM SET synchronous_standby_names = {_literal(_suggested(status))}; "
            "SELECT pg_reload_conf();",
        )
    for node in status.replicas:
        if node.apply_delay_s and node.spec.application_name.lower() in {m.lower() for m in rule.members}:
            yield Finding(
                topic="failover",
                severity=Status.WARNING,
                node=node.name,
                message=f"{node.name} is delayed and confirms commits: before PostgreSQL 16 it cannot be cut",
                remedy=f"leave {node.name} out of synchronous_standby_names",
            )


def _suggested(status: ClusterStatus) -> str:
    names = ", ".join(sync_name(n.application_name) for n in status.settings.nodes)
    return f"ANY 1 ({names})"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _of_rights(status: ClusterStatus, rights: tuple[NodeRights, ...]) -> Iterator[Finding]:
    """What the roles lack. Rights are in catalogs that reach every node, so each is mended once."""
    for user in dict.fromkeys(r.user for r in rights):
        lacking = {x.what: x for r in rights if r.user == user for x in r.rights if not x.held}
        if len(lacking) > RIGHTS_LISTED_MAX:
            yield Finding(
                topic="failover",
                severity=Status.CRITICAL,
                message=f"role {user} lacks {len(lacking)} rights: {_some(list(lacking))}",
                remedy=_grants(status, user),
            )
            continue
        for right in lacking.values():
            yield Finding(
                topic="failover",
                severity=Status.CRITICAL,
                message=f"role {user} lacks {right.what} (for {right.needed_for})",
                remedy=f"{right.statement};",
            )
    if without := [r for r in rights if not r.state_table]:
        yield Finding(
            topic="failover",
            severity=Status.WARNING,
            message="there is no table replctl.state: pause, block and drain cannot be kept in the cluster",
            remedy=_grants(status, without[0].user),
        )


def _some(names: list[str]) -> str:
    """So many that one sees what kind of role it is."""
    rest = len(names) - RIGHTS_NAMED_MAX
    return ", ".join(names[:RIGHTS_NAMED_MAX]) + (f" and {rest} more" if rest > 0 else "")


def _grants(status: ClusterStatus, user: str) -> str:
    """The command whose output mends everything about a role."""
    version = min(n.server_version_num or 0 for n in status.nodes if n.reachable) // 10000
    return f"replctl grants --pg {version} --role operator --name {shlex.quote(user)}"


def _of_node(rights: NodeRights) -> Iterator[Finding]:
    for error in rights.config_errors or ():
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            node=rights.node,
            message=f"a syntax error makes it ignore every reload: {error}",
            remedy="correct the file, then SELECT pg_reload_conf();",
        )
    if not rights.alter_system_allowed:
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            node=rights.node,
            message="allow_alter_system is off: it can be neither cut nor repointed",
            remedy="set allow_alter_system = on in postgresql.conf; SELECT pg_reload_conf();",
        )
    if rights.conninfo_source == "command line":
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            node=rights.node,
            message="primary_conninfo was given on the command line: ALTER SYSTEM does not change it",
            remedy="move it to postgresql.auto.conf and restart the server",
        )
    if rights.through_pooler:
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            node=rights.node,
            message="this address leads through a connection pooler: votes need a direct connection",
            remedy="put the server's own host and port into the inventory",
        )
    if rights.managers:
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            node=rights.node,
            message=f"another manager is connected: {', '.join(rights.managers)}",
            remedy='let one of them go, or set manager = "patroni" in [cluster] to only look',
        )


def _of_candidates(status: ClusterStatus) -> Iterator[Finding]:
    """Room on each replica for all the others, should it become primary."""
    others = len(status.settings.nodes) - 1
    for node in status.replicas:
        settings = node.facts.settings if node.facts is not None else {}
        needed = {"max_wal_senders": others}
        if status.settings.slot is not None:
            needed["max_replication_slots"] = others
        for name, count in needed.items():
            if name in settings and int(settings[name]) < count:
                yield Finding(
                    topic="failover",
                    severity=Status.CRITICAL,
                    node=node.name,
                    message=f"{name} is {settings[name]}: as primary it could not feed {count} replicas",
                    remedy=f"ALTER SYSTEM SET {name} = {count + 5}; then restart {node.name}",
                )
        if node.facts is not None and node.role is Role.REPLICA and node.facts.primary_slot_name is None:
            slot = status.settings.slot_name(node.name)
            if slot is None:
                continue
            yield Finding(
                topic="failover",
                severity=Status.WARNING,
                node=node.name,
                message="it uses no slot, though [replication] slot is set: WAL may go before it is read",
                remedy=f"create slot {slot} on its upstream, then ALTER SYSTEM SET primary_slot_name = "
                f"{_literal(slot)}; SELECT pg_reload_conf();",
            )


def _of_witnesses(status: ClusterStatus) -> Iterator[Finding]:
    for witness in status.witnesses:
        if not witness.reachable:
            yield Finding(
                topic="failover",
                severity=Status.WARNING,
                node=witness.name,
                message=f"this witness cannot vote: {witness.message}",
                remedy="start it, or correct its address in [[witnesses]]",
            )


def _of_surroundings(status: ClusterStatus, around: Surroundings) -> Iterator[Finding]:
    for node in status.settings.nodes:
        has = around.commands.get(node.name, frozenset())
        if not {"stop", "start"} <= has:
            yield Finding(
                topic="switchover",
                severity=Status.WARNING,
                node=node.name,
                message="no stop and start commands: after a switchover it would need pg_rewind to come back",
                remedy='[nodes.commands] stop = ["ssh", "{host}", …], start = […]',
            )
        if "run" not in has or node.data_directory is None:
            yield Finding(
                topic="rejoin",
                severity=Status.WARNING,
                node=node.name,
                message="pg_rewind cannot be run on it: no run command, or no data_directory",
                remedy="data_directory and [nodes.commands] run = "
                '["ssh", "{host}", "sudo", "-u", "postgres", "--"]',
            )
        sslmode = around.sslmodes.get(node.name)
        if sslmode not in ("verify-full", "verify-ca") and not _is_local(node.host):
            yield Finding(
                topic="security",
                severity=Status.WARNING,
                node=node.name,
                message=f"sslmode {sslmode or 'prefer'} does not protect against an impostor",
                remedy='sslmode = "verify-full" in [connection]',
            )
    for name, keywords in around.conninfo_differences.items():
        yield Finding(
            topic="failover",
            severity=Status.WARNING,
            node=name,
            message=f"its primary_conninfo differs from [replication] in {', '.join(keywords)}",
            remedy="correct [replication]: that is what a repointed replica gets",
        )
    for program in around.missing_programs:
        yield Finding(
            topic="failover",
            severity=Status.CRITICAL,
            message=f"{program} cannot be run here",
            remedy="install it, or correct the hook or command",
        )


def _is_local(host: str) -> bool:
    return host.startswith(("/", "127.")) or host in ("localhost", "::1")
