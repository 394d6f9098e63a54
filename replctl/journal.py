"""What is remembered between runs, per cluster, in the state directory. Never read to decide.

Losing any of it costs history only. A file is replaced atomically and locked only while it is updated,
for at most LOCK_LIMIT_S: whoever cannot have the lock goes on without remembering.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pwd
import queue
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from replctl.core.alerting import Bad, Key, Memory, Settled
from replctl.core.lag import OVERLAP_S, LagHistory, Mark, Point, thinned
from replctl.core.model import Lsn
from replctl.core.results import Status

LOCK_LIMIT_S = 1.0
FORMAT = 1
FILE_LIMIT_BYTES = 4 * 1024 * 1024
KEPT_POINTS = 30
VIEWS_MAX = 32  # selections of checks that are remembered apart


def state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """`$REPLCTL_STATE_DIR`, else `$XDG_STATE_HOME/replctl`, else `~/.local/state/replctl`."""
    if own := environment.get("REPLCTL_STATE_DIR"):
        return Path(own)
    if (base := environment.get("XDG_STATE_HOME")) and Path(base).is_absolute():
        return Path(base) / "replctl"
    return Path(environment.get("HOME") or _home()) / ".local" / "state" / "replctl"


def _home() -> str:
    """The home of this account where HOME is not set, as in a systemd service."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/nonexistent"


class StateFile:
    """One JSON document of one cluster: read whole, replaced whole."""

    def __init__(self, cluster: str, kind: str, directory: Path | None = None) -> None:
        self.directory = state_directory() if directory is None else directory
        self.path = self.directory / f"{cluster}.{kind}.json"

    def read(self) -> dict[str, Any]:
        """The document; empty when there is none, or none that can be used."""
        try:
            found = self.path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_LIMIT_BYTES:
                return {}
            document = json.loads(self.path.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            return {}
        return document

    def write(self, document: dict[str, Any]) -> bool:
        """Replace the document, holding the lock. False when it cannot be: a full disk, not our directory."""
        # One name for all: what a killed run leaves behind is overwritten by the next.
        temporary = self.path.with_name(f"{self.path.name}.new")
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump({"format": FORMAT, **document}, file, separators=(",", ":"))
            temporary.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            return False
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the file's lock, if it can be had within LOCK_LIMIT_S. Yields whether it is held."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            yield False
            return
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    until_s = time.monotonic() + LOCK_LIMIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                return False
            time.sleep(0.01)
        except OSError:
            return False
        else:
            return True


def load_history(cluster: str, directory: Path | None = None) -> LagHistory:
    """The lag history of a cluster; an empty one when there is none, or none that can be used."""
    document = StateFile(cluster, "lag", directory).read()
    try:
        origin = document["origin"]
        marks = tuple(Mark(float(a), float(b), Lsn(c)) for a, b, c in document["marks"])
        points = {
            str(node): tuple(Point(float(a), Lsn(b), None if c is None else int(c)) for a, b, c in kept)
            for node, kept in document["points"].items()
        }
        if not _are_sound(marks, points):
            return LagHistory()
        return LagHistory(
            origin=(str(origin[0]), str(origin[1]), int(origin[2])) if origin else None,
            marks=marks,
            points=points,
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
        return LagHistory()


def _are_sound(marks: tuple[Mark, ...], points: dict[str, tuple[Point, ...]]) -> bool:
    """Whether this run can go on with it: marks that rise, nothing from a time that is still to come."""
    now = time.time() + OVERLAP_S
    rising = all(a.last_at <= b.first_at and a.lsn < b.lsn for a, b in itertools.pairwise(marks))
    moments = [m.first_at for m in marks] + [m.last_at for m in marks]
    moments += [p.at for kept in points.values() for p in kept]
    return (
        rising
        and all(m.first_at <= m.last_at and m.lsn >= 0 for m in marks)
        and all(0 <= moment <= now for moment in moments)  # false for what is not a number, too
    )


def save_history(cluster: str, history: LagHistory, directory: Path | None = None) -> bool:
    """Remember a history. Marks that another run wrote meanwhile are kept. False when it was not possible."""
    file = StateFile(cluster, "lag", directory)
    with file.locked() as held:
        if not held:
            return False
        return file.write(_document(_merged(load_history(cluster, directory), history)))


def load_sync(cluster: str, directory: Path | None = None) -> str | None:
    """synchronous_standby_names as a controller here saw it last on the primary; None = not known."""
    configured = StateFile(cluster, "sync", directory).read().get("configured")
    return configured if isinstance(configured, str) else None


def save_sync(cluster: str, configured: str, directory: Path | None = None) -> bool:
    """Remember it: a controller that is started when the primary is gone already goes by it."""
    file = StateFile(cluster, "sync", directory)
    with file.locked() as held:
        return held and file.write({"configured": configured})


def _merged(stored: LagHistory, ours: LagHistory) -> LagHistory:
    """Both runs' marks of one primary and timeline, in order; otherwise ours, which is newer."""
    if stored.origin != ours.origin or not stored.marks:
        return ours
    marks: list[Mark] = []
    for mark in sorted({*stored.marks, *ours.marks}, key=lambda m: (m.lsn, m.first_at, m.last_at)):
        if marks and marks[-1].lsn == mark.lsn:
            marks[-1] = Mark(marks[-1].first_at, max(marks[-1].last_at, mark.last_at), mark.lsn)
        elif not marks or mark.first_at >= marks[-1].last_at:
            marks.append(mark)
    return LagHistory(origin=ours.origin, marks=thinned(tuple(marks)), points=ours.points)


def _document(history: LagHistory) -> dict[str, Any]:
    return {
        "origin": history.origin,
        "marks": [[round(m.first_at, 3), round(m.last_at, 3), int(m.lsn)] for m in history.marks],
        "points": {
            node: [[round(p.at, 3), int(p.replayed_lsn), p.lag_bytes] for p in points[-KEPT_POINTS:]]
            for node, points in history.points.items()
        },
    }


def settle_remembering(
    cluster: str, view: str, settle: Callable[[Memory | None], Settled], directory: Path | None = None
) -> tuple[Settled, bool]:
    """Settle with what earlier runs of `check` with the same selection left, and leave what this one found.

    Second: whether anything could be kept. Where not, nothing is taken from earlier either: a memory that
    is not current could silence an alert.
    """
    file = StateFile(cluster, "alerts", directory)
    with file.locked() as held:
        if held:
            views = _views(file.read())
            settled = settle(_memory(views.pop(view, None)))
            views[view] = _remembered(settled.memory)
            if file.write({"views": dict(list(views.items())[-VIEWS_MAX:])}):
                return settled, True
    with contextlib.suppress(OSError):
        file.path.unlink()
    return settle(None), False


def _views(document: dict[str, Any]) -> dict[str, Any]:
    views = document.get("views")
    return views if isinstance(views, dict) else {}


def _memory(stored: Any) -> Memory | None:
    """None when nothing usable is there."""
    try:
        findings = {_key(at): Bad(int(runs), Status(status)) for at, runs, status in stored["findings"]}
        if any(bad.runs < 1 for bad in findings.values()):
            return None
        return Memory(
            findings=findings,
            said={_key(at): Status(status) for at, status in stored["said"]},
            said_at=float(stored["said_at"]),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
        return None


def _key(at: Any) -> Key:
    name, node, subject = at
    return (str(name), str(node), str(subject))


def _remembered(memory: Memory) -> dict[str, Any]:
    return {
        "findings": [[at, bad.runs, int(bad.status)] for at, bad in memory.findings.items()],
        "said": [[at, int(status)] for at, status in memory.said.items()],
        "said_at": memory.said_at,
    }


EVENTS_LIMIT_BYTES = 1024 * 1024
EVENTS_QUEUE_MAX = 1000
EVENT_BYTES_MAX = 8192
EVENTS_UNTIL_AT = 253402300799  # the end of the year 9999, beyond which no time can be shown
Event = dict[str, Any]
_SECRETS = re.compile(
    r"((?:(?:ssl)?password|scram_\w+_key|oauth_client_secret)\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)"
    r"|(://[^/\s:@]+:)[^@\s]+(?=@)",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """The text without what looks like a password in a connection string."""
    return _SECRETS.sub(lambda m: f"{m[1] or m[3]}***", text)


def events_path(cluster: str, directory: Path | None = None) -> Path:
    """The events of a cluster, one JSON document a line; what was before stands in `.1`."""
    return (state_directory() if directory is None else directory) / f"{cluster}.events.jsonl"


class Background:
    """Writes lines from a thread of its own: whoever leaves them is never held up, nor stopped by an error.

    What cannot be written is lost, and counted in `lost`; `problem` says why. `write` raises OSError where
    it cannot.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self.lost = 0
        self.problem: str | None = None
        self._write = write
        self._queue: queue.Queue[str | None] = queue.Queue(EVENTS_QUEUE_MAX)
        self._thread: threading.Thread | None = None

    def leave(self, line: str) -> None:
        """Leave a line to be written."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="lines", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.lost, self.problem = self.lost + 1, "it takes too long"

    def close(self, limit_s: float = LOCK_LIMIT_S) -> None:
        """Wait until all is written, at most so long."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=limit_s)
            self._thread.join(limit_s)
            self._thread = None

    def _write_all(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._write(line)
            except OSError as error:
                self.lost, self.problem = self.lost + 1, error.strerror or str(error)


class EventLog:
    """The events of one cluster on disk: neither a full disk nor a hanging one holds a failover up."""

    def __init__(self, cluster: str, directory: Path | None = None) -> None:
        self.path = events_path(cluster, directory)
        self._lines = Background(self._write)

    @property
    def lost(self) -> int:
        """How many events could not be written."""
        return self._lines.lost

    @property
    def problem(self) -> str | None:
        """Why some could not; None where all were."""
        return self._lines.problem

    def append(self, event: Event) -> None:
        """Leave an event to be written. `at` (Unix time) is added where it is missing."""
        line = redacted(json.dumps({"at": time.time(), **event}, default=str))
        self._lines.leave(line if len(line) <= EVENT_BYTES_MAX else _shortened(event))

    def close(self) -> None:
        """Wait until all is written, for a second at most."""
        self._lines.close()

    def _write(self, line: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size > EVENTS_LIMIT_BYTES:
                self.path.replace(self.path.with_suffix(".1.jsonl"))
        # One write, so that controllers side by side do not mix their lines.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)


def _shortened(event: Event) -> str:
    kept = {k: redacted(str(v))[:1000] for k, v in event.items() if k in ("id", "event", "message", "node")}
    return json.dumps({"at": time.time(), **kept})


def read_events(cluster: str, directory: Path | None = None) -> list[Event]:
    """All events that are kept, oldest first. A line that is no event, or of no time, is left out."""
    path = events_path(cluster, directory)
    found: list[Event] = []
    for file in (path.with_suffix(".1.jsonl"), path):
        try:
            with file.open("rb") as stream:
                lines = stream.read(FILE_LIMIT_BYTES).splitlines()
        except OSError:
            continue
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                event = json.loads(line)
                at = event.get("at") if isinstance(event, dict) else None
                if isinstance(at, int | float) and 0 <= at < EVENTS_UNTIL_AT:
                    found.append(event)
    return sorted(found, key=lambda e: float(e["at"]))
