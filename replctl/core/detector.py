"""Is the primary lost? The failure detector as a state machine: ticks in, a verdict out.

What counts as a failure is what no living server does: its host refuses connections, nobody answers, or
an open connection breaks. Every answer in the PostgreSQL protocol proves life, also a refusal to log in.
An orderly stop and a restart are waited for. What says nothing about the server (DNS, TLS, something
else on the port) neither counts nor resets.

Confirmed failures alone are not enough: a replica that still streams and moves vetoes, and a controller
that reaches no majority of the voters is the one that is cut off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from replctl.core.settings import FailoverSettings


class Word(StrEnum):
    """What one probe of the primary, on a new connection, came back with."""

    ANSWERED = "answered"  # a real query gave a row, or anything else that only a living server says
    REFUSED = "refused"
    SILENT = "silent"
    BROKEN = "broken"  # it took the connection and dropped it
    STARTING_UP = "starting_up"
    STOPPING = "stopping"  # an orderly stop was announced
    UNCLEAR = "unclear"  # says nothing about the server


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One round of looking: the probe, and what the others see. Times are one monotonic clock's."""

    at_s: float
    word: Word
    streaming: tuple[str, ...] = ()  # replicas whose receiver is connected to the primary and moves
    connected: tuple[str, ...] = ()  # replicas that have a receiver at all
    voters_reached: int = 0
    majority: int = 0


class Verdict(StrEnum):
    """What to do about it."""

    ALIVE = "alive"
    SUSPECT = "suspect"  # failures, not enough of them yet
    GRACE = "grace"  # it is being restarted or stopped: wait
    VETOED = "vetoed"  # a replica still streams from it
    ISOLATED = "isolated"  # we are the ones who are cut off
    DEAD = "dead"  # confirmed, and its host said so
    SILENT = "silent"  # confirmed, but nobody said so: needs the forced proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """What is remembered between ticks."""

    failures: int = 0
    first_failure_s: float | None = None
    last_word: Word | None = None
    restarting_since_s: float | None = None
    stopping_since_s: float | None = None
    vetoed_by: tuple[str, ...] = ()  # who heard from it when the count was last full, until it is full again


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict of one tick and the sentence that goes with it."""

    verdict: Verdict
    evidence: str


def advance(before: Detector, tick: Tick, settings: FailoverSettings) -> tuple[Detector, Finding]:
    """One step of the detector."""
    after = _count(before, tick, settings)
    finding = _judge(after, tick, settings)
    if after.failures < settings.failures:
        return after, finding
    if finding.verdict is Verdict.VETOED:
        # It was alive when it was heard: what failed before that counts no more. Else one message would be
        # a veto for as long as the connection to a host that has died since is thought to be open.
        return replace(after, failures=0, first_failure_s=None, vetoed_by=tick.streaming), finding
    return replace(after, vetoed_by=()), finding


def _count(before: Detector, tick: Tick, settings: FailoverSettings) -> Detector:
    """Count failures in a row; remember since when the server says that it restarts or stops."""
    if tick.word is Word.UNCLEAR:
        return replace(before, last_word=tick.word)
    if tick.word is Word.ANSWERED:
        return Detector(last_word=tick.word)
    if tick.word is Word.STOPPING:
        since_s = before.stopping_since_s if before.stopping_since_s is not None else tick.at_s
        if tick.at_s - since_s < settings.stop_grace_s:
            return replace(
                before, failures=0, first_failure_s=None, last_word=tick.word, stopping_since_s=since_s
            )
    restarting_since_s = before.restarting_since_s
    if tick.word is Word.STARTING_UP:
        restarting_since_s = tick.at_s if restarting_since_s is None else restarting_since_s
        if tick.at_s - restarting_since_s < settings.restart_grace_s:
            return Detector(last_word=tick.word, restarting_since_s=restarting_since_s)
    in_stop_grace = (
        before.stopping_since_s is not None and tick.at_s - before.stopping_since_s < settings.stop_grace_s
    )
    if in_stop_grace:  # it went down as announced; whoever stopped it may start it again
        return replace(before, last_word=tick.word)
    first_s = tick.at_s if before.first_failure_s is None else before.first_failure_s
    return replace(
        before,
        failures=before.failures + 1,
        first_failure_s=first_s,
        last_word=tick.word,
        restarting_since_s=restarting_since_s,
    )


def _judge(seen: Detector, tick: Tick, settings: FailoverSettings) -> Finding:
    """What the count and the others' view amount to."""
    if tick.word is Word.ANSWERED:
        return Finding(Verdict.ALIVE, "the primary answers")
    if tick.word is Word.UNCLEAR:
        return Finding(Verdict.SUSPECT, "the probe says nothing about the server")
    if seen.failures == 0:
        if seen.stopping_since_s is not None:
            return Finding(
                Verdict.GRACE, f"orderly stop: waiting {settings.stop_grace_s:g} s for it to return"
            )
        return Finding(Verdict.GRACE, f"starting up: waiting {settings.restart_grace_s:g} s")
    needed, word = settings.failures, tick.word
    count = f"{min(seen.failures, needed)} of {needed} failures in a row ({word})"
    vetoed = f"{needed} of {needed} failures in a row ({word}), but it still streams to "
    if seen.failures < needed:
        if seen.vetoed_by:
            return Finding(Verdict.VETOED, vetoed + ", ".join(seen.vetoed_by))
        return Finding(Verdict.SUSPECT, count)
    if tick.voters_reached < tick.majority:
        reached = f"{tick.voters_reached} of {tick.majority} voters needed"
        return Finding(Verdict.ISOLATED, f"{count}, but we reach {reached}: it is we who are cut off")
    if tick.streaming:
        return Finding(Verdict.VETOED, vetoed + ", ".join(tick.streaming))
    if tick.word is Word.REFUSED and not tick.connected:
        return Finding(Verdict.DEAD, f"{count}, and no replica is connected to it")
    return Finding(Verdict.SILENT, f"{count}, and nothing moves; it may still be running")
