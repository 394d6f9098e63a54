"""What every renderer gives, and the head of its file: who wrote it, and from which policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from replctl.core.settings import ClusterSettings

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


def mark_of(text: str) -> str:
    """The first line of a file."""
    return text.partition("\n")[0]


def head(comment: str, command: str, cluster: str, facts: str) -> list[str]:
    """The first lines of a file; `comment` begins a comment in it."""
    return [
        f"{comment} Written by replctl {command} for the cluster {cluster}: what is changed here is lost.",
        f"{comment} {facts}",
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


def dotted(version: tuple[int, ...]) -> str:
    """(1, 24) as 1.24."""
    return ".".join(str(number) for number in version)
