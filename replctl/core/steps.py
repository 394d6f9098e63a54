"""The steps of a plan. Each names the observed fact that proves it, and the state expected after it.

`describe` is one imperative sentence; `done` looks at a situation; `project` gives the situation after the
step, on a cluster that nobody disturbs. What a step runs on the servers stands in `pg.act`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from replctl.core.candidates import position_of
from replctl.core.model import ClusterState, Lsn, NodeFacts, Receiver, Slot
from replctl.core.quorum import same_rule
from replctl.core.situation import CUT_WAIT_EVENTS, Position, Situation, Vote, is_cut, is_held
from replctl.core.topology import upstream_of


@dataclass(frozen=True, slots=True)
class TakeVotes:
    """Lock a majority of the voters, on the connections that will act."""

    node: str | None = None

    def describe(self) -> str:
        """One imperative sentence."""
        return "take the votes of a majority"

    def done(self, situation: Situation) -> bool:
        """A majority is ours."""
        return len(situation.votes_held) >= situation.majority

    def project(self, situation: Situation) -> Situation:
        """All that can be reached and are not taken are ours."""
        answering = {f.node for f in situation.state.facts}
        answering |= {w.node for w in situation.state.witnesses if isinstance(w, NodeFacts)}
        votes = dict(situation.votes)
        for voter in situation.voters:
            if voter in answering and votes.get(voter) is not Vote.TAKEN:
                votes[voter] = Vote.HELD
        return replace(situation, votes=votes)


@dataclass(frozen=True, slots=True)
class ProveSilence:
    """Make one replica reconnect: if the primary lives, its receiver is back within tens of ms."""

    node: str  # the replica that is asked

    def describe(self) -> str:
        """One imperative sentence."""
        return f"make {self.node} reconnect, to see whether the primary is really silent"

    def done(self, situation: Situation) -> bool:
        """The proof was made."""
        return situation.silence_proven

    def project(self, situation: Situation) -> Situation:
        """It stays silent."""
        return replace(situation, silence_proven=True)


@dataclass(frozen=True, slots=True)
class FenceCommand:
    """Run the inventory's fence command: after it the node is provably off."""

    node: str

    def describe(self) -> str:
        """One imperative sentence."""
        return f"switch {self.node} off with its fence command"

    def done(self, situation: Situation) -> bool:
        """It succeeded in this run."""
        return self.node in situation.request.fenced

    def project(self, situation: Situation) -> Situation:
        """It is off."""
        request = replace(situation.request, fenced=situation.request.fenced | {self.node})
        return replace(situation, request=request)


@dataclass(frozen=True, slots=True)
class Cut:
    """Disconnect a replica from its upstream, verifiably."""

    node: str
    means: str = "plain"  # plain | timeout (16+) | replay (changes replay, restored afterwards)

    def describe(self) -> str:
        """One imperative sentence."""
        how = {
            "plain": "",
            "timeout": " by wal_receiver_timeout, since its replay does not let go",
            "replay": ", changing its replay for that",
        }[self.means]
        return f"cut {self.node} from its upstream{how}"

    def done(self, situation: Situation) -> bool:
        """Nothing connects it, and nothing will."""
        facts = situation.facts(self.node)
        return facts is not None and is_cut(facts)

    def project(self, situation: Situation) -> Situation:
        """No upstream, no receiver; its position can be read."""
        facts = situation.facts(self.node)
        assert facts is not None
        held = facts.startup_wait_event
        after = replace(
            facts,
            conninfo={},
            upstream_host=None,
            upstream_port=None,
            receiver=None,
            receiver_processes=0,
            startup_wait_event=held if held in CUT_WAIT_EVENTS else "RecoveryRetrieveRetryInterval",
        )
        positions = dict(situation.positions)
        if (position := position_of(situation, facts)) is not None:
            hides = None if self.means == "replay" else position.incomplete
            positions[self.node] = replace(position, incomplete=hides)
        own_cuts = situation.own_cuts | {self.node}
        return replace(with_facts(situation, after), positions=positions, own_cuts=own_cuts)


@dataclass(frozen=True, slots=True)
class FastForward:
    """Let the preferred node stream what it lacks from the most advanced one, then cut it again."""

    node: str
    source: str
    timeline: int
    until_lsn: Lsn

    def describe(self) -> str:
        """One imperative sentence."""
        return f"let {self.node} catch up with {self.source} to {self.until_lsn}, and cut it again"

    def done(self, situation: Situation) -> bool:
        """It has it, and is cut."""
        facts, position = situation.facts(self.node), situation.positions.get(self.node)
        cut = facts is not None and is_cut(facts)
        return cut and position is not None and position.lsn >= self.until_lsn

    def project(self, situation: Situation) -> Situation:
        """It has what the source has."""
        facts = situation.facts(self.node)
        assert facts is not None
        after = replace(facts, received_lsn=self.until_lsn, timeline=self.timeline)
        positions = {**situation.positions, self.node: Position(timeline=self.timeline, lsn=self.until_lsn)}
        return replace(with_facts(situation, after), positions=positions)


@dataclass(frozen=True, slots=True)
class SetSynchronous:
    """Give the next primary the inventory's rule first: its first commit is to wait like the last one did."""

    node: str
    names: str

    def describe(self) -> str:
        """One imperative sentence."""
        return f"set synchronous_standby_names of {self.node} to {self.names!r}"

    def done(self, situation: Situation) -> bool:
        """It has the rule."""
        facts = situation.facts(self.node)
        return facts is not None and same_rule(facts.synchronous_standby_names, self.names) is True

    def project(self, situation: Situation) -> Situation:
        """It has the rule."""
        facts = situation.facts(self.node)
        assert facts is not None
        return with_facts(situation, replace(facts, synchronous_standby_names=self.names))


@dataclass(frozen=True, slots=True)
class Promote:
    """Make this node the primary."""

    node: str

    def describe(self) -> str:
        """One imperative sentence."""
        return f"promote {self.node}"

    def done(self, situation: Situation) -> bool:
        """It is not in recovery."""
        facts = situation.facts(self.node)
        return facts is not None and not facts.in_recovery

    def project(self, situation: Situation) -> Situation:
        """It writes, on the next timeline; its control file is not there yet."""
        facts = situation.facts(self.node)
        assert facts is not None
        after = replace(
            facts,
            in_recovery=False,
            timeline=(facts.timeline or 0) + 1,
            write_lsn=facts.received_lsn,
            flush_lsn=facts.received_lsn,
            received_lsn=None,
            replayed_lsn=None,
            checkpoint_timeline=facts.timeline,
            own_application_name=None,
            replay_pause=None,
            apply_delay_s=None,
            startup_wait_event=None,
        )
        end = with_facts(situation, after)
        for other in situation.replicas:  # what streams from it goes on, on the new timeline
            if other.receiver is not None and upstream_of(other, end.state, end.settings) == self.node:
                receiver = replace(other.receiver, received_timeline=after.timeline)
                end = with_facts(end, replace(other, receiver=receiver, timeline=after.timeline))
        return end


@dataclass(frozen=True, slots=True)
class CreateSlot:
    """Give a replica its slot on the new primary before it asks for it."""

    node: str  # the new primary
    slot: str

    def describe(self) -> str:
        """One imperative sentence."""
        return f"create slot {self.slot} on {self.node}"

    def done(self, situation: Situation) -> bool:
        """The slot is there."""
        facts = situation.facts(self.node)
        return facts is not None and any(s.name == self.slot for s in facts.slots)

    def project(self, situation: Situation) -> Situation:
        """The slot is there, unused."""
        facts = situation.facts(self.node)
        assert facts is not None
        slot = Slot(
            name=self.slot,
            kind="physical",
            active=False,
            active_pid=None,
            temporary=False,
            restart_lsn=facts.write_lsn,
            retained_bytes=0,
            wal_status="reserved",
            safe_wal_bytes=None,
        )
        return with_facts(situation, replace(facts, slots=(*facts.slots, slot)))


@dataclass(frozen=True, slots=True)
class Repoint:
    """Give a replica the new primary as its upstream."""

    node: str
    upstream: str

    def describe(self) -> str:
        """One imperative sentence."""
        return f"repoint {self.node} to {self.upstream}"

    def done(self, situation: Situation) -> bool:
        """It streams from there, on its timeline: a row alone may be a replica that waits at the fork.

        One whose replay is held up asks for WAL only later: there, the setting is all that can be had.
        """
        facts, upstream = situation.facts(self.node), situation.facts(self.upstream)
        spec = situation.spec(self.upstream)
        if facts is None or upstream is None:
            return False
        if (facts.upstream_host, facts.upstream_port) != (spec.host, spec.port):
            return False
        receiver = facts.receiver
        streams = (
            receiver is not None
            and receiver.status == "streaming"
            and receiver.received_timeline == upstream.timeline
        )
        return streams or is_held(facts)

    def project(self, situation: Situation) -> Situation:
        """It streams from there."""
        facts, upstream = situation.facts(self.node), situation.facts(self.upstream)
        assert facts is not None
        assert upstream is not None
        spec = situation.spec(self.upstream)
        receiver = Receiver(
            pid=0,
            status="streaming",
            sender_host=spec.host,
            sender_port=spec.port,
            slot_name=None,
            received_timeline=upstream.timeline,
            written_lsn=upstream.write_lsn,
            flushed_lsn=upstream.write_lsn,
            latest_end_lsn=upstream.write_lsn,
            latest_end_age_s=0.0,
            last_message_age_s=0.0,
        )
        after = replace(
            facts,
            conninfo={"host": spec.host, "port": str(spec.port)},
            upstream_host=spec.host,
            upstream_port=spec.port,
            receiver=receiver,
            receiver_processes=1,
            timeline=upstream.timeline,
            startup_wait_event="RecoveryWalStream",
        )
        positions = {k: v for k, v in situation.positions.items() if k != self.node}
        return replace(with_facts(situation, after), positions=positions)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Write the new timeline into the control file, which pg_rewind on 15 and before reads."""

    node: str

    def describe(self) -> str:
        """One imperative sentence."""
        return f"checkpoint {self.node}"

    def done(self, situation: Situation) -> bool:
        """The control file knows the timeline."""
        facts = situation.facts(self.node)
        return facts is not None and facts.checkpoint_timeline == facts.timeline

    def project(self, situation: Situation) -> Situation:
        """The control file knows the timeline."""
        facts = situation.facts(self.node)
        assert facts is not None
        return with_facts(situation, replace(facts, checkpoint_timeline=facts.timeline))


Step = (
    TakeVotes
    | ProveSilence
    | FenceCommand
    | Cut
    | FastForward
    | SetSynchronous
    | Promote
    | CreateSlot
    | Repoint
    | Checkpoint
)


def with_facts(situation: Situation, facts: NodeFacts) -> Situation:
    """The same situation with one node's facts replaced."""
    state: ClusterState = situation.state
    nodes = tuple(facts if n.node == facts.node else n for n in state.nodes)
    return replace(situation, state=replace(state, nodes=nodes))
