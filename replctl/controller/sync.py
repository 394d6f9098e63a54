"""Too few replicas left to confirm commits: noticed, said and, where the inventory allows it, bridged."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from replctl.controller.patience import Patience
from replctl.controller.voice import Voice
from replctl.core.model import Lsn, NodeFacts
from replctl.core.quorum import SyncRule, parse_sync_rule, same_rule, sync_name
from replctl.core.settings import ClusterSettings
from replctl.core.status import ClusterStatus
from replctl.errors import ReplctlError
from replctl.inventory import Inventory
from replctl.pg.change import Editor
from replctl.pg.locks import Ballot
from replctl.pg.marks import write_mark


@dataclass
class SyncMinder:
    """Says when commits wait for replicas that are not there; with `degrade`, asks fewer until they are."""

    inventory: Inventory
    voice: Voice
    patience: Patience
    _lower_until: Lsn | None = field(default=None, init=False)  # up to there fewer replicas confirmed

    async def mind(self, ballot: Ballot, seen: ClusterStatus) -> None:
        """Too few replicas left to confirm: say so, or ask fewer of them until enough are back."""
        primary, marks = seen.primary, seen.state.marks
        connection = ballot.connections.get(primary or "")
        if primary is None or connection is None:
            return
        short = sync_short(seen)
        if not self.patience.has_lasted("sync", short is not None, time.monotonic()):
            short = None
        editor, wanted = Editor(self.inventory, ballot), self.inventory.settings.failover.synchronous or ""
        try:
            if short is not None and not _may_degrade(seen):
                self.voice.once(
                    "sync_short",
                    f"commits on {primary} wait: {short.needed} replica(s) must confirm, "
                    f"{short.streaming} stream",
                )
            elif short is not None:
                instead = short.instead or "none"
                sentence = f"{short.streaming} of {short.needed} replicas stream: {instead} until they return"
                mark = {"reason": sentence, "since_at": time.time(), "until_at": None}
                await write_mark(connection, "sync", mark)  # first: whoever finds it restores
                await editor.set_synchronous(primary, short.instead)
                self.voice.tell("sync_lowered", sentence, node=primary)
            elif marks is not None and marks.sync is not None and sync_restorable(seen):
                if not sync_is_restored(seen):
                    await editor.set_synchronous(primary, wanted)
                    self.voice.tell("sync_restored", f"{primary} waits for {wanted} again", node=primary)
                elif self._lower_until is None:
                    self._lower_until = seen[primary].write_lsn
                elif flushed_by_enough(seen, self._lower_until):
                    await write_mark(connection, "sync", None)
                return
            self._lower_until = None
        except ReplctlError as error:
            self.voice.once("sync_failed", str(error))


def _may_degrade(seen: ClusterStatus) -> bool:
    """Only after a failover (its block tells), as the inventory says, and where it can be noted."""
    marks = seen.state.marks
    after_one = marks is not None and marks.block is not None
    return seen.settings.failover.on_sync_short == "degrade" and after_one


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncShort:
    """Fewer replicas stream to the primary than have to confirm a commit."""

    wanted: str  # what the inventory says
    instead: str  # what can be satisfied now; "" = nobody confirms
    streaming: int
    needed: int


def sync_short(seen: ClusterStatus) -> SyncShort | None:
    """Whether commits wait for replicas that are not there; None where all is well or not known."""
    settings, primary = seen.settings, seen.primary_node
    rule = rule_of(settings)
    if rule is None or primary is None or primary.facts is None or not primary.facts.monitor_privilege:
        return None
    if not same_rule(primary.facts.synchronous_standby_names or "", settings.failover.synchronous or ""):
        return None
    count = confirming(primary.facts, rule)
    if count >= rule.confirmations:
        return None
    names = ", ".join("*" if m == "*" else sync_name(m) for m in rule.members)
    instead = f"{rule.method} {count} ({names})" if count else ""
    return SyncShort(
        wanted=settings.failover.synchronous or "",
        instead=instead,
        streaming=count,
        needed=rule.confirmations,
    )


def sync_restorable(seen: ClusterStatus) -> bool:
    """Whether enough replicas stream again for what the inventory says."""
    rule, primary = rule_of(seen.settings), seen.primary_node
    return (
        rule is not None
        and primary is not None
        and primary.facts is not None
        and (confirming(primary.facts, rule) >= rule.confirmations)
    )


def sync_is_restored(seen: ClusterStatus) -> bool:
    """Whether the primary has the rule of the inventory."""
    primary, wanted = seen.primary_node, seen.settings.failover.synchronous
    return (
        primary is not None
        and primary.facts is not None
        and same_rule(primary.facts.synchronous_standby_names, wanted) is True
    )


def flushed_by_enough(seen: ClusterStatus, lsn: Lsn) -> bool:
    """Whether as many members as the inventory says have the WAL up to there.

    Before, a commit of the time when fewer confirmed may be on fewer: the cuts of a failover would not
    prove that it is found.
    """
    rule, primary = rule_of(seen.settings), seen.primary_node
    if rule is None or primary is None or primary.facts is None:
        return False
    members = {m.lower() for m in rule.members}
    names = {
        s.application_name.lower()
        for s in primary.facts.senders
        if s.flush_lsn is not None and s.flush_lsn >= lsn
    }
    return len(names & members) >= rule.confirmations


def confirming(primary: NodeFacts, rule: SyncRule) -> int:
    """How many members of the rule stream from this primary."""
    members = {m.lower() for m in rule.members}
    names = {s.application_name.lower() for s in primary.senders if s.state == "streaming"}
    return len(names & members)


def rule_of(settings: ClusterSettings) -> SyncRule | None:
    """The synchronous rule of the inventory; None where it has none."""
    try:
        return parse_sync_rule(settings.failover.synchronous or "")
    except ValueError:
        return None
