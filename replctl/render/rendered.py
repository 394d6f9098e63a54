"""What every renderer gives, and the head of its file: who wrote it, and from which policy."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from replctl.core.settings import ClusterSettings
from replctl.render.tokens import Whitelist

Plan = TypeVar("Plan", covariant=True)
FINGERPRINT_DIGITS = 12
# How the running program is reached is no part of what its file says.
_NOT_IN_A_FILE = frozenset({"admin", "sockets", "file", "run", "reload", "pause_timeout_s"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered(Generic[Plan]):
    """A whole file, and as values what it makes the program do: what a look at the program must show.

    `warnings` are sentences for the person who renders. `text` ends with a newline.
    """

    text: str
    plan: Plan
    warnings: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """The first line: a file that begins with it may be replaced by this one."""
        return mark_of(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """By a file: whose the writes are, and the timeline on which that was seen. `system` = a fingerprint."""

    writer: str
    timeline: int
    system: str

    def __str__(self) -> str:
        return f"writes go to {self.writer} on timeline {self.timeline} of system {self.system}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the head of a file says besides its mark; None = not said."""

    version: str | None = None
    zone: str | None = None
    tenure: Tenure | None = None


_MADE_OF = re.compile(
    r"[;#] policy [0-9a-f]+; for (?:PgBouncer|HAProxy) ([0-9.]+)(?:; zone ([A-Za-z0-9_.-]+))?"
)
_TENURE = re.compile(r"[;#] writes go to ([A-Za-z0-9_.-]+) on timeline ([0-9]{1,10}) of system ([0-9a-f]+)")


def checked_facts(
    take: Whitelist, version: tuple[int, ...], zone: str | None, tenure: Tenure | None
) -> Facts:
    """Facts that may stand in a file; what may not is refused when the whitelist is settled."""
    if zone is not None:
        zone = take.name(zone, "--zone")
    if tenure is not None:
        tenure = replace(tenure, writer=take.name(tenure.writer, "[[nodes]] name"))
    return Facts(version=dotted(version), zone=zone, tenure=tenure)


def facts_of(text: str | None) -> Facts:
    """What was said when this file was rendered."""
    lines = [*(text or "").splitlines()[1:3], "", ""]
    made, tenure = _MADE_OF.fullmatch(lines[0]), _TENURE.fullmatch(lines[1])
    return Facts(
        version=made and made[1],
        zone=made and made[2],
        tenure=tenure and Tenure(writer=tenure[1], timeline=int(tenure[2]), system=tenure[3]),
    )


def mark_of(text: str) -> str:
    """The first line of a file."""
    return text.partition("\n")[0]


def head(comment: str, command: str, cluster: str, made_of: str, facts: Facts) -> list[str]:
    """The first lines of a file; `comment` begins a comment in it."""
    program = "PgBouncer" if "pgbouncer" in command else "HAProxy"
    zone = "" if facts.zone is None else f"; zone {facts.zone}"
    return [
        f"{comment} Written by replctl {command} for the cluster {cluster}: what is changed here is lost.",
        f"{comment} policy {made_of}; for {program} {facts.version}{zone}",
        *([] if facts.tenure is None else [f"{comment} {facts.tenure}"]),
        "",
    ]


def fingerprint(settings: ClusterSettings, table: Mapping[str, Any], **options: Any) -> str:
    """Some digits that are the same for the same inventory and options, whatever the roles are now."""
    material = {
        "cluster": settings.name,
        "nodes": sorted(
            (n.name, n.host, n.port, n.client_host, n.client_port, n.zone, n.weight) for n in settings.nodes
        ),
        "routing": asdict(settings.routing),
        "table": {key: value for key, value in table.items() if key not in _NOT_IN_A_FILE},
        "options": options,
    }
    text = json.dumps(material, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:FINGERPRINT_DIGITS]


def numbers(version: str) -> tuple[int, ...]:
    """1.24 as (1, 24)."""
    return tuple(int(word) for word in version.split("."))


def dotted(version: tuple[int, ...]) -> str:
    """(1, 24) as 1.24."""
    return ".".join(str(number) for number in version)
