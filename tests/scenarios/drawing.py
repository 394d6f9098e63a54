"""From a drawn cluster to the values that the core decides from.

A scenario is a text of four parts, in this order:

    # what is feared, in a sentence or two
    [failover] synchronous = ""                  the inventory, as far as it matters; absent = not set
    pg1      silent                              a node a line, indented below its upstream,
      pg2    paused, 100 behind                  with what is special about it
    $ replctl failover --fenced pg1              a command, and all that it answers

What nothing is said about is well. A replica of a node that refuses connections has no receiver, one of a
silent node still has one that hears nothing. `PHRASES` lists everything that can be said of a node.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from replctl.core.detector import Word
from replctl.core.model import FENCE_NAME, Cause, ClusterState, Lsn, NodeFacts, Observation
from replctl.core.settings import (
    ClusterSettings,
    FailoverSettings,
    NodeSpec,
    ReplicationSettings,
    WitnessSpec,
)
from replctl.core.situation import KnownLsn, Position, Vote, is_cut
from replctl.core.status import ClusterStatus
from tests.unit.builders import END, address, assessed, node, primary, receiver, replica, slot, unreachable

AGE_S = 3.0  # of what was last known of a node
HELD_EVENTS = ("RecoveryApplyDelay", "RecoveryPause")


@dataclass
class Drawn:
    """One line: a node, whom it follows, and what is said of it."""

    name: str
    upstream: str | None
    is_witness: bool = False
    spec: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    receiver: dict[str, Any] | None = field(default_factory=dict)  # None = it has none
    says: dict[str, Any] = field(default_factory=dict)  # everything that is not a fact of the node
    cause: Cause | None = None
    message: str = ""
    offset: int = 0
    timeline: int | None = None

    @property
    def lsn(self) -> int:
        """Where its WAL ends."""
        return END + self.offset


Say = Callable[[Drawn, re.Match[str]], None]


def _lost(cause: Cause, message: str) -> Say:
    def say(drawn: Drawn, _: re.Match[str]) -> None:
        drawn.cause, drawn.message = cause, message

    return say


def _fact(**facts: Any) -> Say:
    return lambda drawn, _: drawn.facts.update(facts)


def _says(**says: Any) -> Say:
    return lambda drawn, _: drawn.says.update(says)


def _spec(key: str) -> Say:
    return lambda drawn, found: drawn.spec.update({key: found[1]})


def _ahead(sign: int) -> Say:
    def say(drawn: Drawn, found: re.Match[str]) -> None:
        drawn.offset = sign * int(found[1])

    return say


def _receives(**columns: Any) -> Say:
    return lambda drawn, _: drawn.says.update(receiver=columns)


def _timeline(drawn: Drawn, found: re.Match[str]) -> None:
    drawn.timeline = int(found[1])


def _history(drawn: Drawn, found: re.Match[str]) -> None:
    drawn.says.setdefault("history", {})[int(found[1])] = Lsn(END + int(found[2]))


def _last_seen(drawn: Drawn, found: re.Match[str]) -> None:
    drawn.says["last_seen"] = Lsn(END + int(found[1]))


def _called(drawn: Drawn, found: re.Match[str]) -> None:
    drawn.facts["own_application_name"] = drawn.spec["application_name"] = found[1]


PHRASES: dict[str, Say] = {
    # It gives no facts
    "refuses connections": _lost(Cause.REFUSED, "nobody listens"),
    "silent": _lost(Cause.TIMEOUT, "no answer within 2 s"),
    "name not found": _lost(Cause.DNS, "no such host"),
    "certificate not trusted": _lost(Cause.TLS, "self-signed certificate"),
    "refuses the password": _lost(Cause.AUTH, "password authentication failed"),
    "too many clients": _lost(Cause.TOO_MANY_CONNECTIONS, "sorry, too many clients already"),
    "starting up": _lost(Cause.STARTING_UP, "the database system is starting up"),
    "shutting down": _lost(Cause.STARTING_UP, "the database system is shutting down"),
    "another cluster": _lost(Cause.WRONG_CLUSTER, "its system identifier is 1"),
    "not PostgreSQL": _lost(Cause.NOT_POSTGRES, "expected an answer of PostgreSQL"),
    r"for (\d+) s": lambda drawn, found: drawn.says.update(for_s=float(found[1])),
    r"last seen at ([+-]\d+)": _last_seen,
    # Where its WAL is
    r"(\d+) behind": _ahead(-1),
    r"(\d+) ahead": _ahead(1),
    r"(\d+) not replayed": lambda drawn, found: drawn.says.update(not_replayed=int(found[1])),
    r"timeline (\d+)": _timeline,
    r"timeline (\d+) ended at ([+-]\d+)": _history,
    "history unknown": _says(history_unknown=True),
    "no checkpoint yet": _says(no_checkpoint=True),
    "not seen since it is the primary": _says(unseen=True),
    "position hidden": _says(position_hidden=True),
    "restarted": _fact(receive_lsn_known=False),
    # How it follows
    "cut": _says(cut=True),
    "cut by this run": _says(cut=True, own_cut=True),
    r"follows (\S+)": lambda drawn, found: setattr(drawn, "upstream", found[1]),
    "streaming": _receives(last_message_age_s=0.01),
    "connected": _receives(last_message_age_s=20.0),
    "waiting": _receives(status="waiting"),
    "no receiver": _says(receiver=None),
    "fed from the archive": _says(archive=True),
    "paused": _fact(replay_pause="paused", startup_wait_event="RecoveryPause"),
    r"delayed (\d+) s": lambda drawn, found: drawn.facts.update(
        apply_delay_s=float(found[1]), startup_wait_event="RecoveryApplyDelay"
    ),
    "in conflict": _fact(startup_wait_event="RecoveryConflictSnapshot"),
    "does not let go": _says(stubborn=True),
    # What it is
    r"calls itself (\S+)": _called,
    r"says it is (\S+)": lambda drawn, found: drawn.facts.update(own_application_name=found[1]),
    r"promote (prefer|avoid|never)": _spec("promote"),
    r"zone (\S+)": _spec("zone"),
    "fence command": _says(fence=True),
    "fenced": _fact(synchronous_standby_names=FENCE_NAME),
    r"has synchronous_standby_names '(.*)'": lambda drawn, found: drawn.facts.update(
        synchronous_standby_names=found[1]
    ),
    r"PostgreSQL (\d+)": lambda drawn, found: drawn.says.update(version=int(found[1])),
    r"slot (\S+)": lambda drawn, found: drawn.says.setdefault("slots", []).append(found[1]),
    "asks fewer to confirm until more are back": _says(lowered="1 of 2 replicas stream"),
    "only basic privileges": _says(hidden=True),
    # Votes
    "its vote is ours": _says(vote=Vote.HELD),
    "its vote is another's": _says(vote=Vote.TAKEN),
    "its vote cannot be asked for": _says(vote=Vote.UNREACHABLE),
}
_WORDS = {
    Cause.REFUSED: Word.REFUSED,
    Cause.TIMEOUT: Word.SILENT,
    Cause.AUTH: Word.ANSWERED,
    Cause.TOO_MANY_CONNECTIONS: Word.ANSWERED,
    Cause.STARTING_UP: Word.STARTING_UP,
}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A scenario, read: the inventory, the nodes, and what the files say about the run."""

    settings: ClusterSettings
    drawn: tuple[Drawn, ...]
    status: ClusterStatus
    commands: tuple[tuple[str, ...], ...]
    head: str  # the text before the first command

    @property
    def state(self) -> ClusterState:
        """What was observed."""
        return self.status.state

    @property
    def was_primary(self) -> str | None:
        """Whom a controller that has watched all along takes for the primary."""
        tops = [d for d in self.drawn if d.upstream is None and not d.is_witness and not d.says.get("cut")]
        return tops[0].name if tops else None

    def timeline_seen(self, lost: str | None) -> int | None:
        """The timeline that such a controller saw the primary on."""
        timelines = [f.timeline for f in self.state.facts if f.in_recovery and f.timeline is not None]
        return None if lost in self.said("unseen") else max(timelines, default=None)

    def said(self, key: str) -> dict[str, Any]:
        """What the nodes say under this key, by name."""
        return {d.name: d.says[key] for d in self.drawn if key in d.says}

    def word(self, name: str | None) -> Word:
        """What a probe of this node comes back with."""
        if name is None:
            return Word.UNCLEAR
        drawn = next(d for d in self.drawn if d.name == name)
        if drawn.cause is None:
            return Word.ANSWERED
        if "shutting down" in drawn.message:
            return Word.STOPPING
        return _WORDS.get(drawn.cause, Word.UNCLEAR)

    def _history(self, name: str | None) -> dict[int, Lsn]:
        """Where the timelines before a node's own ended: as drawn, else as its upstream has it."""
        by_name = {d.name: d for d in self.drawn}
        for _ in self.drawn:
            drawn = by_name.get(name or "")
            if drawn is None or "history" in drawn.says or drawn.timeline == 1:
                return drawn.says.get("history", {}) if drawn is not None else {}
            name = drawn.upstream
        return {}

    def gathered(self, lost: str | None) -> dict[str, Any]:
        """What a run of the command has gathered, as keywords of Situation."""
        facts = {f.node: f for f in self.state.facts}
        seen = self.said("last_seen")
        known = seen.pop(lost, None)
        source = "the last look at the primary"
        histories = {n: self._history(n) for n, f in facts.items() if f.in_recovery}
        for name in self.said("history_unknown"):
            del histories[name]
        promoted = [n for n, f in facts.items() if not f.in_recovery and n != lost]
        return {
            "votes": self.said("vote"),
            "positions": {n: _position(f) for n, f in facts.items() if is_cut(f) and f.received_lsn},
            "histories": histories,
            "forks": self.said("history").get(promoted[0], {}) if promoted else {},
            "last_known_lsns": seen,
            "known_lsn": None if known is None else KnownLsn(lsn=known, age_s=AGE_S, source=source),
            "sync_seen": next(
                (d.facts.get("synchronous_standby_names") for d in self.drawn if d.name == lost), None
            ),
            "stubborn": frozenset(self.said("stubborn")),
            "own_cuts": frozenset(self.said("own_cut")),
            "sync_lowered": self.said("lowered").get(lost),
            "fence_commands": self.settings.fence_commands,
        }


def _position(facts: NodeFacts) -> Position:
    """What IDENTIFY_SYSTEM says of a cut node."""
    assert facts.timeline is not None
    assert facts.received_lsn is not None
    vague = facts.receive_lsn_known is False and facts.startup_wait_event in HELD_EVENTS
    why = "it was restarted and has not replayed its own WAL yet" if vague else None
    return Position(timeline=facts.timeline, lsn=facts.received_lsn, incomplete=why)


def read(text: str) -> Drawing:
    """Read a scenario. Raises ValueError for a line that says nothing known."""
    head, commands, drawn = [], [], []
    inventory: dict[str, dict[str, Any]] = {}
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(tuple(shlex.split(line[2:])))
        if commands:
            continue
        head.append(line)
        if setting := re.fullmatch(r"\[(\w+)\] (.+)", line):
            inventory.setdefault(setting[1], {}).update(tomllib.loads(setting[2]))
        elif line.strip() and not line.startswith("#"):
            drawn.append(_node_line(line, above))
    settings = _settings(inventory, drawn)
    return Drawing(
        settings=settings,
        drawn=tuple(drawn),
        status=_look(settings, drawn),
        commands=tuple(commands),
        head="\n".join(head).rstrip(),
    )


def _node_line(line: str, above: list[tuple[int, str]]) -> Drawn:
    """`above` is the path from the top to the line before, with indentations."""
    found = re.fullmatch(r"( *)(witness )?(\S+)(?: +(.*))?", line)
    if found is None:
        raise ValueError(f"no node: {line!r}")
    while above and above[-1][0] >= len(found[1]):
        above.pop()
    drawn = Drawn(found[3], above[-1][1] if above else None, is_witness=bool(found[2]))
    above.append((len(found[1]), drawn.name))
    for phrase in re.findall(r"(?:\([^)]*\)|[^,(])+", found[4] or ""):
        hits = [(say, hit) for known, say in PHRASES.items() if (hit := re.fullmatch(known, phrase.strip()))]
        if len(hits) != 1:
            raise ValueError(f"{drawn.name}: {phrase.strip()!r} is none of: {', '.join(PHRASES)}")
        hits[0][0](drawn, hits[0][1])
    return drawn


def _settings(inventory: dict[str, dict[str, Any]], drawn: list[Drawn]) -> ClusterSettings:
    nodes = [d for d in drawn if not d.is_witness]
    specs = (
        NodeSpec(**{"name": d.name, "host": address(d.name), "application_name": d.name} | d.spec)
        for d in nodes
    )
    replication = {"user": "replicator"} | inventory.get("replication", {})
    slot_pattern = replication.pop("slot", None)
    return ClusterSettings(
        **{"name": "orders"} | inventory.get("cluster", {}),
        nodes=tuple(specs),
        witnesses=tuple(WitnessSpec(name=d.name, host=address(d.name)) for d in drawn if d.is_witness),
        slot=slot_pattern,
        replication=ReplicationSettings(**replication) if replication["user"] else None,
        failover=FailoverSettings(**inventory.get("failover", {})),
        fence_commands=frozenset(d.name for d in nodes if d.says.get("fence")),
    )


def _look(settings: ClusterSettings, drawn: list[Drawn]) -> ClusterStatus:
    by_name = {d.name: d for d in drawn}
    nodes = [_observation(settings, d, by_name) for d in drawn if not d.is_witness]
    witnesses = [
        unreachable(d.name, d.cause, d.message) if d.cause is not None else node(d.name)
        for d in drawn
        if d.is_witness
    ]
    voted = frozenset(d.name for d in drawn if d.says.get("vote") in (Vote.HELD, Vote.TAKEN))
    return assessed(*nodes, inventory=settings, witnesses=tuple(witnesses), voted=voted)


def _observation(settings: ClusterSettings, drawn: Drawn, all_drawn: dict[str, Drawn]) -> Observation:
    if drawn.cause is not None:
        return unreachable(drawn.name, drawn.cause, drawn.message)
    version = drawn.says.get("version", 18)
    given: dict[str, Any] = {
        "server_version_num": version * 10000 + 3,
        "capabilities": frozenset({"wal_receiver_timeout_cut"} if version >= 16 else ()),
        "slots": tuple(slot(name) for name in drawn.says.get("slots", ())),
        "timeline": _timeline_of(drawn, all_drawn),
    } | drawn.facts
    if drawn.upstream is None and not drawn.says.get("cut") and not drawn.says.get("archive"):
        return _primary(settings, drawn, all_drawn, given)
    given.setdefault("synchronous_standby_names", settings.failover.synchronous or "")
    facts = _replica(drawn, all_drawn, given)
    if drawn.says.get("position_hidden"):
        facts = replace(facts, received_lsn=None)
    if drawn.says.get("hidden"):
        blind: dict[str, Any] = {"upstream_known": False, "conninfo": {}, "receiver_processes": None}
        facts = replace(facts, monitor_privilege=False, settings={}, **blind)
    return facts


def _timeline_of(drawn: Drawn, all_drawn: dict[str, Drawn]) -> int:
    """Its own, else that of the nearest node above it that has one."""
    for _ in all_drawn:
        if drawn.timeline is not None or drawn.upstream not in all_drawn:
            break
        drawn = all_drawn[drawn.upstream]
    return drawn.timeline or 1


def _primary(
    settings: ClusterSettings, drawn: Drawn, all_drawn: dict[str, Drawn], given: dict[str, Any]
) -> NodeFacts:
    followers = [d for d in all_drawn.values() if d.upstream == drawn.name and _columns(d, drawn) is not None]
    sync = settings.failover.synchronous or ""
    facts = primary(drawn.name, *(d.name for d in followers), lsn=drawn.lsn)
    names = {d.name: d.spec.get("application_name", d.name) for d in followers}
    senders = tuple(
        replace(s, application_name=names[s.application_name], sync_state="quorum" if sync else "async")
        for s in facts.senders
    )
    slots = facts.slots + given.pop("slots")
    timeline = given["timeline"]
    checkpointed = timeline - 1 if drawn.says.get("no_checkpoint") else timeline
    own = {"synchronous_standby_names": sync, "checkpoint_timeline": checkpointed}
    last = {"senders": senders, "slots": slots, "own_application_name": None}
    return replace(facts, **own | given | last)


def _columns(drawn: Drawn, upstream: Drawn | None) -> dict[str, Any] | None:
    """What is special about its receiver; None where it has none."""
    if "receiver" in drawn.says:
        return drawn.says["receiver"]
    gone = upstream is not None and upstream.cause in (Cause.REFUSED, Cause.STARTING_UP)
    if gone:
        return None
    quiet = upstream is not None and upstream.cause is Cause.TIMEOUT
    return {"last_message_age_s": 20.0} if quiet else {}


def _replica(drawn: Drawn, all_drawn: dict[str, Drawn], given: dict[str, Any]) -> NodeFacts:
    upstream = drawn.upstream
    facts = replica(drawn.name, upstream or "pg1", lsn=drawn.lsn)
    columns = _columns(drawn, all_drawn.get(upstream or ""))
    if drawn.says.get("cut") or drawn.says.get("archive"):
        given |= {"conninfo": {}, "upstream_host": None, "upstream_port": None}
        columns = None
    else:
        given["conninfo"] = {"host": address(upstream or ""), "port": "5432"}
    if drawn.says.get("archive"):
        given |= {"primary_slot_name": None, "settings": {**facts.settings, "restore_command": "cp %f %p"}}
    given.setdefault(
        "startup_wait_event", "RecoveryWalStream" if columns is not None else "RecoveryRetrieveRetryInterval"
    )
    return replace(
        facts,
        **{
            "replayed_lsn": Lsn(drawn.lsn - drawn.says.get("not_replayed", 0)),
            "receiver": None
            if columns is None
            else receiver(
                upstream or "", lsn=drawn.lsn, **{"received_timeline": given["timeline"]} | columns
            ),
            "receiver_processes": 0 if columns is None else 1,
        }
        | given,
    )
