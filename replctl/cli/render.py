"""What the render commands share: the roles, the version, and where the text goes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replctl.cli.options import complete_nodes
from replctl.errors import RefusedError, ReplctlError, UsageError

if TYPE_CHECKING:
    from replctl.core.routing import Snapshot
    from replctl.core.settings import ClusterSettings
    from replctl.inventory import Inventory
    from replctl.render.placement import Placement
    from replctl.render.rendered import Rendered

_VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}")
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write it there, if it differs; keep FILE.previous."),
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Write nothing; print how the file differs, exit code 1 if it does.")
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Ask no server: the inventory alone, with the file's writer.")
]
PrimaryOption = Annotated[
    str | None,
    typer.Option(
        "--primary",
        metavar="NODE",
        help="With --offline: who takes writes.",
        autocompletion=complete_nodes,
        show_default="as the file has it, else the first node",
    ),
]
ZoneOption = Annotated[
    str | None,
    typer.Option(
        "--zone",
        metavar="ZONE",
        help="Where the proxy is, for the zone policy.",
        show_default="as the file has it",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="With --out: also replace a file that was not rendered by this.")
]


def tell(message: str) -> None:
    """A message for the person, on stderr."""
    print(f"replctl: {message}", file=sys.stderr)


def place_of(table: dict[str, Any], out: Path | None, *, check: bool) -> Path | None:
    """The file this is about: --out, else the inventory's where it is on this machine. Raises UsageError."""
    if out is not None:
        return out
    configured = None if table["file"] is None or table["run"] else Path(table["file"])
    if check and configured is None:
        raise UsageError(
            "--check needs a file to compare with", hint="--out FILE, or `file` in the inventory"
        )
    return configured


def warn_of_zone(inventory: Inventory, zone: str | None) -> None:
    """Say that a zone has no node, which may be meant: then nobody is near."""
    known = sorted({spec.zone for spec in inventory.settings.nodes if spec.zone})
    if zone is not None and zone not in known:
        tell(f"warning: no node is in the zone {zone!r}; known: {', '.join(known) or 'none'}")


def present_text(path: Path | None, *, needed: bool) -> str | None:
    """What is in the file now. Where it is not `needed`, one that cannot be read is only warned of."""
    from replctl.files import read

    if path is None:
        return None
    try:
        return read(path)
    except ReplctlError as error:
        if needed:
            raise
        tell(f"warning: {error}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Who takes writes and who reads: of one look, or, offline, of each file and --primary."""

    settings: ClusterSettings
    snapshot: Snapshot | None
    primary: str | None

    def placement(
        self, zone: str | None, present: str | None, writer: str | None, *, any_will_do: bool = False
    ) -> Placement:
        """The roles for a file whose text and writer are these; `any_will_do` = it enables every node anyway.

        Raises NoPrimary, also where the file says that this primary was replaced, and RefusedError.
        """
        from replctl.render.placement import from_inventory, from_snapshot
        from replctl.render.rendered import facts_of

        settings, before = self.settings, facts_of(present).tenure
        if self.snapshot is not None:
            return from_snapshot(settings, self.snapshot, zone, before)
        writer = self.primary or writer
        if writer is None:
            if present and present.strip() and not any_will_do:
                raise RefusedError(
                    "the file does not say which one node takes writes, and no server is asked",
                    hint="--primary NODE, or without --offline",
                )
            writer = settings.nodes[0].name
            tell(f"warning: {writer} is taken for the primary, as the first node; --primary names another")
        # Of another writer nothing is known here: who names it knows better than the file.
        stays = before is not None and before.writer == writer
        return replace(from_inventory(settings, writer, zone), tenure=before if stays else None)


def look_for_roles(inventory: Inventory, *, offline: bool, primary: str | None, timeout: str | None) -> Roles:
    """Look once, unless offline. Raises UsageError."""
    settings = inventory.settings
    if offline:
        known = [spec.name for spec in settings.nodes]
        if primary is not None and primary not in known:
            raise UsageError(f"no node {primary!r} in the inventory", hint=f"known: {', '.join(known)}")
        return Roles(settings=settings, snapshot=None, primary=primary)
    if primary is not None:
        raise UsageError("--primary goes with --offline", why="otherwise the servers are asked")
    import asyncio

    from replctl.cli.look import limit_of, look_at_roles

    snapshot, _ = asyncio.run(look_at_roles(inventory, limit_s=limit_of(timeout)))
    return Roles(settings=settings, snapshot=snapshot, primary=None)


def check_version(given: str | None) -> None:
    """Raise UsageError for an option that is no version."""
    if given is not None and not _VERSION.fullmatch(given):
        raise UsageError(f"{given!r} is not a version", hint="for example 2.8")


def version_of(
    given: str | None,
    known: str | None,
    places: tuple[str, ...],
    ask: Callable[[str], str],
    default: str,
) -> str:
    """The version to write for: the option's, the `known` one, the oldest that runs, or the default.

    Known is the inventory's, else that of the file. Raises UsageError for an option that is no version.
    """
    check_version(given)
    if given or known or not places:
        return given or known or default
    from concurrent.futures import ThreadPoolExecutor

    from replctl.render.rendered import numbers

    found: list[str] = []
    with ThreadPoolExecutor(max_workers=min(8, len(places))) as pool:
        for answer in pool.map(lambda place: _asked(ask, place), places):
            if isinstance(answer, str):
                found.append(answer)
            else:
                tell(f"warning: {answer}")
    if not found:
        tell(f"warning: no running proxy tells its version, so this is written for {default}")
    return min(found, key=numbers, default=default)


def _asked(ask: Callable[[str], str], place: str) -> str | ReplctlError:
    try:
        return ask(place)
    except ReplctlError as error:
        return error


def deliver(
    rendered: Rendered[Any],
    *,
    out: Path | None,
    place: Path | None,
    present: str | None,
    check: bool,
    force: bool,
) -> int:
    """Print, compare or write; the exit code. Raises RefusedError for a file that is somebody else's."""
    from replctl.files import previous_of, replace
    from replctl.render.drift import difference
    from replctl.render.rendered import mark_of

    for warning in rendered.warnings:
        tell(f"warning: {warning}")
    if check:
        differs = difference(present, rendered.text, str(place))
        if differs:
            typer.echo(differs)
        return 1 if differs else 0
    if out is None:
        typer.echo(rendered.text, nl=False)
        return 0
    if present is not None and present.strip() and mark_of(present) != rendered.mark and not force:
        raise RefusedError(
            f"{out} was not rendered by this command for this cluster",
            why="its first line is another",
            hint=f"--force replaces it, and keeps it as {previous_of(out).name}",
        )
    done = replace(out, rendered.text)
    if not done.changed:
        tell(f"{out} is as it should be")
    else:
        tell(f"{out} is written" + (f", the one before is {done.previous}" if done.previous else ""))
    return 0


def table_of(inventory: Inventory, name: str) -> dict[str, Any]:
    """`[pgbouncer]` or `[haproxy]`. Raises UsageError where the inventory has none."""
    table: dict[str, Any] | None = getattr(inventory, name)
    if table is None:
        raise UsageError(
            f"{inventory.path} has no table [{name}]", hint=f"add [{name}]; docs/proxies.md has an example"
        )
    return table
