"""Who takes writes, or that nobody provably does."""

from __future__ import annotations

from dataclasses import replace

from replctl.core.model import Cause, NodeFacts, Unreachable
from replctl.core.routing.decision import Decision
from replctl.core.routing.pool import Memory
from replctl.core.routing.reasons import Reason
from replctl.core.status import ClusterStatus
from replctl.core.topology import is_fenced

SILENT_WRITER_S = 5.0
"""A primary that gives no answer is still written to for so long: its clients may reach it all the same."""

# These are answers, and they say that it takes no writes.
_GONE = frozenset({Cause.REFUSED, Cause.STARTING_UP, Cause.WRONG_CLUSTER, Cause.NOT_POSTGRES})


def choose_writer(memory: Memory, status: ClusterStatus, now_s: float) -> tuple[Memory, Decision]:
    """The one primary of the newest timeline, and the memory with it.

    Beside one of an older timeline it must have been the writer before, or have gone on from where it was
    when it was first seen: what was promoted writes; what was started by mistake, from an old backup,
    stands still.
    """
    if memory.system != status.system_identifier:
        return memory, Decision(None, Reason.NO_PRIMARY)
    primaries = [f for f in status.state.facts if not f.in_recovery and not is_fenced(f)]
    newest = [f for f in primaries if f.timeline == memory.newest]
    if len(newest) == 1 and (len(primaries) == 1 or _is_proven(newest[0], memory)):
        writer = newest[0].node
        return replace(memory, writer=writer, writer_seen_s=now_s), Decision(writer, Reason.WRITE)
    if not newest and _is_only_silent(memory, status, now_s):
        return memory, Decision(memory.writer, Reason.WRITE)
    reason = Reason.STALE_PRIMARY if primaries else Reason.NO_PRIMARY
    if newest:
        reason = Reason.TWO_PRIMARIES
    return replace(memory, writer=None), Decision(None, reason)


def _is_proven(facts: NodeFacts, memory: Memory) -> bool:
    if memory.writer == facts.node:
        return True
    return memory.began_by is not None and (facts.write_lsn or 0) > memory.began_by


def _is_only_silent(memory: Memory, status: ClusterStatus, now_s: float) -> bool:
    """Whether the last writer just did not answer in time, and nobody shows that it was replaced."""
    if memory.writer is None or now_s - memory.writer_seen_s > SILENT_WRITER_S:
        return False
    seen = status.state[memory.writer]
    return isinstance(seen, Unreachable) and seen.cause not in _GONE
