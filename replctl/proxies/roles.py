"""From roles to changes: what each proxy of an inventory has to become, as its file was rendered before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from replctl.core.settings import ClusterSettings
from replctl.errors import RefusedError
from replctl.inventory import Inventory
from replctl.inventory.model import expand
from replctl.proxies import console, haproxy, pgbouncer, runtime
from replctl.proxies.changes import Change, Report
from replctl.proxies.console import settings_of
from replctl.proxies.places import Place
from replctl.render import haproxy as haproxy_file
from replctl.render import pgbouncer as pgbouncer_file
from replctl.render.placement import Placement, from_inventory, near_to
from replctl.render.rendered import Tenure, facts_of, mark_of, numbers
from replctl.render.tokens import split_port

SHOWN = {"pgbouncer": "PgBouncer", "haproxy": "HAProxy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How to render, as it was said on a command line; None = as the present file was."""

    version: str | None = None
    whole: bool | None = None  # --full; of HAProxy: without --fragment
    zone: str | None = None  # "" = none
    force: bool = False

    def zone_of(self, present: str | None) -> str | None:
        """Where the proxy of this file is."""
        return facts_of(present).zone if self.zone is None else self.zone or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One proxy of an inventory: its table, its file, and the doors of those that read this file."""

    name: str  # pgbouncer or haproxy
    inventory: Inventory
    place: Place
    doors: tuple[str, ...]

    @property
    def table(self) -> dict[str, Any]:
        """`[pgbouncer]` or `[haproxy]`."""
        found: dict[str, Any] = getattr(self.inventory, self.name)
        return found

    async def change(
        self,
        placement: Placement,
        wish: Wish,
        *,
        present: str | None,
        lost: bool = False,
        held: bool = False,
    ) -> Change[Any]:
        """What has to become of the file, whose text is `present`.

        Raises RefusedError where it is somebody else's, and what rendering raises.
        """
        version = await self._version(wish, present)
        rendered = _render(self, placement, present, wish, version)
        if present is not None and present.strip() and mark_of(present) != rendered.mark and not wish.force:
            raise RefusedError(
                f"{self.place} was not rendered by this command for this cluster",
                why="its first line is another",
                hint=f"--out with --force replaces it, and keeps it as {self.place.path.name}.previous",
            )
        return Change(
            proxy=SHOWN[self.name],
            place=self.place,
            present=present,
            rendered=rendered,
            version=numbers(version),
            table=self.table,
            doors=self.doors,
            lost=lost,
            held=held,
        )

    async def _version(self, wish: Wish, present: str | None) -> str:
        """As said, else as the inventory says, as the file has it, as the oldest that runs says.

        The file before those that run: one that is down must not change what is written.
        """
        known = wish.version or self.table["version"] or facts_of(present).version
        if known is not None:
            return str(known)
        asked = console.ask_version if self.name == "pgbouncer" else runtime.ask_version
        asking = (asyncio.to_thread(asked, door) for door in self.doors)
        found = await asyncio.gather(*asking, return_exceptions=True)
        versions = [version for version in found if isinstance(version, str)]
        default = pgbouncer_file if self.name == "pgbouncer" else haproxy_file
        return min(versions, key=numbers, default=default.DEFAULT_VERSION)

    def writer_of(self, present: str | None) -> str | None:
        """The node that a file sends writes to; None where it cannot be told."""
        if present is None:
            return None
        if self.name == "pgbouncer":
            return pgbouncer_file.writer_of(self.inventory.settings, self.table, present)
        return haproxy_file.writer_of(self.inventory.settings, present)


async def apply(change: Change[Any]) -> Report:
    """Make it true. Raises Moved and other ReplctlError."""
    return await (pgbouncer.apply(change) if change.proxy == "PgBouncer" else haproxy.apply(change))


async def foresee(change: Change[Any]) -> Report:
    """What `apply` would do, without doing it. Raises ReplctlError where it would refuse."""
    return await (pgbouncer.foresee(change) if change.proxy == "PgBouncer" else haproxy.foresee(change))


def targets(inventory: Inventory, name: str, file: Path | None = None) -> list[Target]:
    """The files of one proxy: one here, or one on each machine that `run` reaches. None without a file."""
    table = getattr(inventory, name)
    if table is None or (file is None and table["file"] is None):
        return []
    doors: tuple[str, ...] = table["admin"] if name == "pgbouncer" else table["sockets"]
    path = Path(table["file"]) if file is None else file
    if file is not None or not table["run"]:
        return [Target(name=name, inventory=inventory, place=Place(path=path), doors=doors)]
    places: dict[tuple[str, ...], list[str]] = {}
    for door in doors:
        places.setdefault(expand(table["run"], _address(name, door)), []).append(door)
    return [
        Target(name=name, inventory=inventory, place=Place(path=path, run=run), doors=tuple(own))
        for run, own in places.items()
    ]


def _address(name: str, door: str) -> dict[str, object]:
    """`{host}` and `{port}` of a console or socket."""
    if name == "pgbouncer":
        settings = settings_of(door)
        return {"host": settings.get("host", "localhost"), "port": settings.get("port", "6432")}
    split = None if door.startswith("/") else split_port(door)
    return {"host": "localhost"} if split is None else {"host": split[0], "port": split[1]}


def after_promotion(
    settings: ClusterSettings,
    writer: str,
    *,
    lost: str | None,
    answering: Iterable[str],
    drained: Iterable[str],
    tenure: Tenure | None = None,
) -> Placement:
    """The roles of the moment after a promotion, when replicas are still being repointed.

    Reads go to the replicas that answered; without any to the new primary, whatever the inventory wants:
    an alias cannot lead to nowhere, and writes must not wait for that.
    """
    readers = set(answering) - set(drained) - {writer, lost}
    nodes = tuple(n if n.name in readers else replace(n, weight=0) for n in settings.nodes)
    placement = from_inventory(replace(settings, nodes=nodes), writer)
    others = frozenset(answering) - {lost}
    return replace(
        placement,
        spare=None if placement.readers else writer,
        checkable=others | {writer},
        barred=frozenset() if lost is None else frozenset({lost}),
        tenure=tenure,
    )


def _render(target: Target, placement: Placement, present: str | None, wish: Wish, version: str) -> Any:
    """The file with the options of the present one: they show in its head."""
    mark, zone = mark_of(present or ""), wish.zone_of(present)
    if target.name == "pgbouncer":
        whole = "--full" in mark if wish.whole is None else wish.whole
    else:
        whole = "--fragment" not in mark if wish.whole is None else wish.whole
    near = near_to(target.inventory.settings, placement, zone)
    return _one(target, near, present, version, zone, whole=whole)


def _one(
    target: Target, placement: Placement, present: str | None, version: str, zone: str | None, *, whole: bool
) -> Any:
    found, table = target.inventory, target.table
    if target.name == "pgbouncer":
        users = tuple(u for dsn in table["admin"] if (u := settings_of(dsn).get("user")) is not None)
        own = pgbouncer_file.Options(
            version=version, full=whole, zone=zone, present=present, admin_users=users if whole else ()
        )
        return pgbouncer_file.render(found.settings, table, placement, own, file=str(found.path))
    named = {found.connections[spec.name].user for spec in found.settings.nodes}
    options = haproxy_file.Options(
        version=version,
        fragment=not whole,
        zone=zone,
        check_user=next(iter(named)) if len(named) == 1 else None,
    )
    return haproxy_file.render(found.settings, table, placement, options, file=str(found.path))
