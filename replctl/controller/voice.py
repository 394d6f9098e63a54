"""What a controller says: each thing once, until it is another."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from replctl.controller.incident import Log
from replctl.core.coverage import coverage, votes_of
from replctl.core.marks import Marks
from replctl.core.status import ClusterStatus

_SECONDS = re.compile(r"\b[\d.]+ m?s\b")


@dataclass
class Voice:
    """Passes events on to a log."""

    log: Log
    said: dict[str, str] = field(default_factory=dict, init=False)  # the last sentence under each key

    def tell(self, event: str, sentence: str, **facts: object) -> None:
        """Say something that has happened."""
        self.log(event, sentence, facts)

    def once(self, key: str, sentence: str) -> None:
        """Say something when it is not what was said last under this key, which begins with the event."""
        said = _SECONDS.sub("", sentence)  # that time goes on is no news
        if self.said.get(key) != said:
            self.said[key] = said
            self.log(key.split(" ")[0], sentence, {})

    def marks(self, marks: Marks | None) -> None:
        """Whether automatic failover is paused or blocked."""
        objection = None if marks is None else marks.objection(time.time())
        if objection is not None or "marks" in self.said:
            self.once("marks", objection or "neither paused nor blocked")

    def introduce(self, seen: ClusterStatus) -> None:
        """The first lines: what this controller would do about each way to lose the primary."""
        settings = seen.settings
        covered = coverage(settings, seen.sync, settings.fence_commands)
        votes = votes_of(settings)
        self.tell(
            "votes",
            f"{len(votes.voters)} voters, {votes.majority} are a majority: beside a lost primary "
            f"{max(0, votes.may_be_missing) or 'no'} more may be missing",
        )
        for name in ("process_death", "host_death", "partition"):
            one = getattr(covered, name)
            self.tell("covers", f"{name.replace('_', ' ')}: {'yes' if one.yes else 'NO'} ({one.reason})")
        if covered.impossible is not None:
            self.tell("impossible", f"watching only: {covered.impossible}")
