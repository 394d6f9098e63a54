"""A change of a proxy's configuration: what there is to do, and what was done."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

from replctl.errors import PartialError, ReplctlError
from replctl.proxies.places import Moved, Place
from replctl.render.rendered import Rendered

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[Part]):
    """One file that is to be as rendered, in every proxy that reads it.

    `present` is the text of which the rendering knows; `doors` are admin consoles or runtime sockets.
    `lost` = the node that took writes takes none any more: to go on matters more than to agree. `held` = the
    aliases for writing are paused on purpose just now.
    """

    proxy: str  # PgBouncer or HAProxy
    place: Place
    present: str | None
    rendered: Rendered[tuple[Part, ...]]
    version: tuple[int, ...]
    table: dict[str, Any] = field(repr=False)
    doors: tuple[str, ...] = ()
    lost: bool = False
    held: bool = False

    async def expect_present(self) -> None:
        """Raise Moved where the file is not what it was when this change was thought of."""
        if await asyncio.to_thread(self.place.read) != self.present:
            raise Moved(f"{self.place} was changed by somebody else just now", hint="run it again")


@dataclass(slots=True, kw_only=True)
class Report:
    """What became of a change: `done` and `problems` are sentences."""

    changed: bool = False
    done: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def raise_problems(self) -> None:
        """Raise PartialError where some proxy does not have it."""
        if self.problems:
            raise PartialError(
                "not every proxy has the new configuration",
                why="; ".join(self.problems),
                hint="the same command finishes the rest; a proxy that starts reads the file",
            )


def raise_not_taken(
    program: str, place: Place, sentences: list[str], left: list[str], *, look: str = ""
) -> NoReturn:
    """Raise why `program` did not take a file that was put back, and with `look` where to look besides.

    PartialError where something is `left` of what was to be taken back.
    """
    if left:
        raise PartialError(
            f"{program} did not take the file, and is not as it was either",
            why="; ".join([*sentences, *left]),
            hint=f"{place} is the one before{look}",
        )
    raise ReplctlError(
        f"{program} did not take the file: it is as it was, in every one",
        why="; ".join(sentences),
        hint=f"what was refused is {place.path.name}.previous{look}",
    )
