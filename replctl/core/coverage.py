"""What automatic failover would cover: the arithmetic of votes, and three ways to lose a primary.

- process death: its host answers that nobody listens;
- host death: nobody answers, and nothing runs there any more;
- partition: nobody answers here, while the primary may go on serving others.

From here the last two look alike. With a proven quorum neither can lose an acknowledged commit; with
asynchronous replication only a fence command (or giving safety up by name) covers them.
"""

from __future__ import annotations

from dataclasses import dataclass

from replctl.core.quorum import SyncRule, parse_sync_rule, sync_name
from replctl.core.settings import ClusterSettings
from replctl.core.status import ClusterStatus, Role, SyncStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """Who has to agree before anything is promoted."""

    voters: tuple[str, ...]
    majority: int
    may_be_missing: int  # voters that may be missing beside the lost primary

    @property
    def possible(self) -> bool:
        """Whether a majority is left when the primary is gone."""
        return self.may_be_missing >= 0


def votes_of(settings: ClusterSettings) -> Votes:
    """The voters and their majority. With `votes = "replicas"` the lost primary does not count."""
    voters = (*(n.name for n in settings.nodes), *(w.name for w in settings.witnesses))
    counted = len(voters) - 1 if settings.failover.votes == "replicas" else len(voters)
    majority = counted // 2 + 1
    return Votes(voters=voters, majority=majority, may_be_missing=len(voters) - 1 - majority)


@dataclass(frozen=True, slots=True)
class Covered:
    """Whether a loss is covered, and why or why not."""

    yes: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What a running controller would do about each way to lose the primary."""

    impossible: str | None  # why automatic failover cannot work at all
    process_death: Covered
    host_death: Covered
    partition: Covered


def coverage(settings: ClusterSettings, sync: SyncStatus, fence_commands: frozenset[str]) -> Coverage:
    """`fence_commands` = the nodes that have one."""
    reason = _impossible(settings, sync)
    if reason is not None:
        no = Covered(False, reason)
        return Coverage(impossible=reason, process_death=no, host_death=no, partition=no)
    fencing = settings.failover.fencing
    unfenced = [n.name for n in settings.nodes if n.name not in fence_commands]
    fenced = Covered(True, "every node has a fence command")
    if fencing == "required":
        both = fenced if not unfenced else Covered(False, f"no fence command for {', '.join(unfenced)}")
        return Coverage(impossible=None, process_death=both, host_death=both, partition=both)
    rule = _rule(settings)
    if rule is not None:
        return _with_quorum(settings, rule)
    process = Covered(True, "its host refuses connections and no replica is connected to it")
    if not unfenced:
        silent = fenced
    elif fencing == "none":
        silent = Covered(
            True, 'fencing = "none": promotes on silence; a living primary would be a second one'
        )
    else:
        silent = Covered(
            False,
            f"asynchronous replication, and no fence command for {', '.join(unfenced)}: "
            "a silent primary may still accept writes",
        )
    return Coverage(impossible=None, process_death=process, host_death=silent, partition=silent)


def _with_quorum(settings: ClusterSettings, rule: SyncRule) -> Coverage:
    spare = rule.confirmations - 1
    proof = f"{settings.failover.synchronous}: no acknowledged commit is lost"
    also = f", {spare} more replica(s) may be missing" if spare else ", every other member must be reachable"
    yes = Covered(True, proof + also)
    return Coverage(impossible=None, process_death=yes, host_death=yes, partition=yes)


def _rule(settings: ClusterSettings) -> SyncRule | None:
    try:
        return parse_sync_rule(settings.failover.synchronous or "")
    except ValueError:
        return None


def _impossible(settings: ClusterSettings, sync: SyncStatus) -> str | None:
    """The first reason for which no automatic failover can happen, as status and doctor say it."""
    votes = votes_of(settings)
    if settings.manager != "replctl":
        return f"{settings.manager} manages this cluster"
    if len(settings.nodes) < 2:
        return "there is only one node"
    if not votes.possible:
        return (
            f"{len(votes.voters)} voters need {votes.majority}, and without the primary "
            f"{len(votes.voters) - 1} are left: add a witness"
        )
    if settings.replication is None:
        return "the inventory has no [replication]: a new primary_conninfo could not be written"
    if settings.failover.synchronous is None:
        return "[failover] synchronous is not set: say what synchronous_standby_names must be"
    if sync.matches is False:
        return f"synchronous_standby_names is {sync.configured!r}, expected {sync.expected!r}"
    return None


def lacking_now(status: ClusterStatus) -> tuple[str, ...]:
    """What a failover would lack at this moment, though the settings allow it: votes, or proof of no loss."""
    votes = votes_of(status.settings)
    answering = {n.name for n in status.nodes if n.reachable} | {
        w.name for w in status.witnesses if w.reachable
    }
    agreeing = [voter for voter in votes.voters if voter in answering and voter != status.primary]
    lacking = []
    if len(agreeing) < votes.majority:
        lacking.append(f"{_only(agreeing)} of the {votes.majority} votes that are needed without the primary")
    needed, able = _provers(status)
    if len(able) < needed:
        lacking.append(f"{_only(able)} of the {needed} replicas that prove together that nothing is lost")
    return tuple(lacking)


def _only(names: list[str]) -> str:
    return f"only {len(names)} ({', '.join(names)})" if names else "none"


def _provers(status: ClusterStatus) -> tuple[int, list[str]]:
    """How many members of the quorum a failover has to cut to lose nothing, and those that answer."""
    rule = _rule(status.settings)
    if rule is None:
        return 0, []
    members = {m.lower() for m in rule.members}
    ours = [n for n in status.nodes if n.spec.application_name.lower() in members]
    # One of the members is, or was, the primary, which never confirms to itself.
    has_primary = any(n.role is Role.PRIMARY or not n.reachable for n in ours)
    able = [n.name for n in ours if n.role is Role.REPLICA]
    return len(members) - has_primary - rule.confirmations + 1, able


def more_votes(votes: Votes) -> str:
    """What would let one more voter be missing."""
    count = 1 if len(votes.voters) % 2 == 0 else 2
    return f"{count} more [[witnesses]] would let one more of them be missing"


def more_sync(status: ClusterStatus) -> tuple[str, str | None] | None:
    """What would let a failover survive one more loss, and the statement for it, if it is one.

    None where the setting is not known, or is no rule.
    """
    if status.primary is None or status.sync.configured is None:
        return None
    try:
        rule = parse_sync_rule(status.sync.configured)
    except ValueError:
        return None
    names = [n.application_name for n in status.settings.nodes]
    confirmations = 1 if rule is None else rule.confirmations + 1
    if confirmations >= len(names):
        return "another replica, which the rule names too", None
    value = f"ANY {confirmations} ({', '.join(map(sync_name, names))})".replace("'", "''")
    writes = len(names) - 1 - confirmations
    return (
        f"ANY {confirmations}, also in [failover] synchronous; writes then survive {_losses(writes)}",
        f"ALTER SYSTEM SET synchronous_standby_names = '{value}'; SELECT pg_reload_conf();",
    )


def _losses(count: int) -> str:
    return "no loss" if count == 0 else "one loss" if count == 1 else f"{count} losses"
