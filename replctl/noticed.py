"""Events without a daemon: each look is compared with what earlier runs on this machine saw.

`status`, `check`, `metrics` and `serve` leave what changed in the events of the cluster, each change once
whoever sees it first, and count failovers. Never read to decide; losing it costs history only.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from replctl.core.changes import FACTS, Known, notice
from replctl.core.lag import OVERLAP_S
from replctl.core.status import ClusterStatus
from replctl.journal import EventLog, StateFile

KIND = "seen"


def leave_changes(status: ClusterStatus, directory: Path | None = None) -> int | None:
    """Write down what this look found to be another, and return how many failovers were seen up to now.

    None where nothing can be kept. May wait a second for another run; bears every file as it is.
    """
    if not status.state.facts:
        return failovers_seen(status.settings.name, directory)  # a machine that is cut off saw nothing
    file = StateFile(status.settings.name, KIND, directory)
    with file.locked() as held:
        if not held:
            return None
        before = _known(file.read())
        after, found = notice(before, status)
        if after is not before and not file.write(_document(after)):
            return None
        if found:
            log, by = EventLog(status.settings.name, directory), f"{socket.gethostname()} {os.getpid()}"
            for one in found:
                told = {"event": one.fact, "node": one.node, "before": one.before, "after": one.after}
                log.append({"at": one.at, **told, "message": one.message, "by": by})
            log.close()
        return after.failovers


def failovers_seen(cluster: str, directory: Path | None = None) -> int | None:
    """How often another node was seen to have taken over the writes; None where nobody has looked yet."""
    known = _known(StateFile(cluster, KIND, directory).read())
    return None if known is None else known.failovers


def _known(document: dict[str, Any]) -> Known | None:
    """None where nothing usable is there, or it is of a time that is still to come."""
    try:
        known = Known(
            at=float(document["at"]),
            system=None if document.get("system") is None else str(document["system"]),
            primary=None if document["primary"] is None else str(document["primary"]),
            failovers=int(document["failovers"]),
            nodes={
                str(name): {fact: str(facts[fact]) for fact in FACTS if fact in facts}
                for name, facts in document["nodes"].items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return known if 0 <= known.at <= time.time() + OVERLAP_S and known.failovers >= 0 else None


def _document(known: Known) -> dict[str, Any]:
    return {
        "at": known.at,
        "system": known.system,
        "primary": known.primary,
        "failovers": known.failovers,
        "nodes": known.nodes,
    }
