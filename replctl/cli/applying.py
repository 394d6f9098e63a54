"""`--apply` and `--watch` of the render commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from replctl.cli.render import check_version, placement_of, tell, warn_of_zone
from replctl.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from replctl.inventory import Inventory
    from replctl.proxies.roles import Target, Wish
    from replctl.render.placement import Placement

ApplyOption = Annotated[
    bool,
    typer.Option("--apply", help="Validate, write, make every running proxy take it, read back; or undo."),
]
WatchOption = Annotated[bool, typer.Option("--watch", help="Keep it applied, until a signal ends it.")]
DOORS = {"pgbouncer": "admin", "haproxy": "sockets"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Applying:
    """The options of one run; `wish` = those of `roles.Wish`, in its order."""

    wish: tuple[str | None, bool | None, str | None, bool]
    out: Path | None
    check: bool
    watch: bool
    offline: bool
    primary: str | None
    timeout: str | None

    def run(self, inventory: Inventory, name: str) -> int:
        """Apply once, or until a signal; the exit code. Raises UsageError and what applying raises."""
        import asyncio

        from replctl.proxies.roles import Wish

        found = self._targets(inventory, name)
        version, whole, zone, force = self.wish
        check_version(version)
        warn_of_zone(inventory, zone if self.watch else None)
        wish = Wish(version=version, whole=whole, zone=zone, force=force)
        if self.watch:
            return asyncio.run(keep(found, wish))
        # Before anybody is looked at: what changes later is somebody else's doing.
        present = {str(target.place): target.place.read() for target in found}
        first = found[0]
        text = present[str(first.place)]
        placement = placement_of(
            inventory,
            offline=self.offline,
            primary=self.primary,
            zone=zone,
            timeout=self.timeout,
            present_writer=lambda: first.writer_of(text),
            present=bool(text and text.strip()),
        )
        return asyncio.run(apply_once(found, wish, placement, present))

    def _targets(self, inventory: Inventory, name: str) -> list[Target]:
        """The files to apply. Raises UsageError where it is not said which, or how the proxy is reached."""
        from replctl.proxies.roles import targets

        if self.check:
            raise UsageError("--check and --apply do not go together", why="--check changes nothing")
        if self.watch and self.offline:
            raise UsageError("--watch and --offline do not go together", why="who watches asks the servers")
        table = getattr(inventory, name)
        option = "--watch" if self.watch else "--apply"
        if not table[DOORS[name]]:
            raise UsageError(
                f"{option} needs [{name}] {DOORS[name]}",
                why="what a running proxy really does is asked there",
                hint="docs/proxies.md has an example; --out FILE only writes",
            )
        found = targets(inventory, name, self.out)
        if not found:
            raise UsageError(f"{option} needs a file: --out FILE, or `file` in [{name}]")
        return found


async def apply_once(
    found: list[Target], wish: Wish, placement: Placement, present: dict[str, str | None]
) -> int:
    """Apply to each place; the exit code. Raises ReplctlError, PartialError where some do not have it."""
    from replctl.proxies.changes import Report
    from replctl.proxies.roles import apply

    whole = Report()
    for target in found:
        text = present[str(target.place)]
        before = target.writer_of(text)
        moved = before is not None and before != placement.writer
        change = await target.change(placement, wish, present=text, lost=moved)
        for warning in change.rendered.warnings:
            tell(f"warning: {warning}")
        report = await apply(change)
        fine = f"{target.place} is as it should be" + ("" if report.problems else ", and so is what runs")
        for sentence in report.done or [fine]:
            tell(sentence)
        whole.problems += report.problems
    whole.raise_problems()
    return 0


async def keep(found: list[Target], wish: Wish) -> int:
    """Keep it applied until a signal; one line for each change."""
    import asyncio

    from replctl.cli.auto import LogFormat, heed_signals, log_line
    from replctl.controller.keeping import Keeper
    from replctl.controller.notify import keep_notifying, notify

    cluster = found[0].inventory.settings.name

    def say(event: str, sentence: str) -> None:
        print(log_line(cluster, LogFormat.HUMAN, event, sentence, {}), flush=True)
        notify(f"STATUS={sentence}")

    stopping = asyncio.Event()
    heed_signals(stopping)
    watchdog = asyncio.create_task(keep_notifying())
    try:
        await Keeper(found, wish, say, stopping).run(lambda: notify("READY=1"))
    finally:
        notify("STOPPING=1")
        watchdog.cancel()
    return 0
