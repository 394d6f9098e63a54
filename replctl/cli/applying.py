"""`--apply` and `--watch` of the render commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replctl.cli.render import Roles, check_version, look_for_roles, tell, warn_of_zone
from replctl.errors import PartialError, RefusedError, ReplctlError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from replctl.inventory import Inventory
    from replctl.proxies.changes import Change, Report
    from replctl.proxies.roles import Target, Wish

ApplyOption = Annotated[
    bool,
    typer.Option("--apply", help="Validate, write, make every running proxy take it, read back; or undo."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="With --apply: print what would be done, change nothing.")
]
WatchOption = Annotated[bool, typer.Option("--watch", help="Keep it applied, until a signal ends it.")]
DOORS = {"pgbouncer": "admin", "haproxy": "sockets"}


def refuse_lone_dry_run(dry_run: bool) -> None:
    """Raise UsageError where --dry-run was asked for and nothing would be applied."""
    if dry_run:
        raise UsageError(
            "--dry-run goes with --apply", hint="--check compares, and without --out it is printed"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Applying:
    """The options of one run; `wish` = those of `roles.Wish`, in its order."""

    wish: tuple[str | None, bool | None, str | None, bool]
    out: Path | None
    check: bool
    watch: bool
    dry_run: bool
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
        warn_of_zone(inventory, zone or None)
        wish = Wish(version=version, whole=whole, zone=zone, force=force)
        if self.watch:
            return asyncio.run(keep(found, wish))
        # Before anybody is looked at: what changes later is somebody else's doing.
        present = asyncio.run(_read(found))
        roles = look_for_roles(inventory, offline=self.offline, primary=self.primary, timeout=self.timeout)
        return asyncio.run(apply_once(found, wish, roles, present, dry_run=self.dry_run))

    def _targets(self, inventory: Inventory, name: str) -> list[Target]:
        """The files to apply. Raises UsageError where it is not said which, or how the proxy is reached."""
        from replctl.proxies.roles import targets

        if self.check:
            raise UsageError("--check and --apply do not go together", why="--check changes nothing")
        if self.watch and self.dry_run:
            raise UsageError("--watch and --dry-run do not go together", hint="--apply --dry-run looks once")
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


Present = str | None | ReplctlError
"""The text of a file, None where there is none, or why it cannot be read."""


async def _read(found: list[Target]) -> list[Present]:
    """What is in each file now, all asked at once."""
    import asyncio

    async def one(target: Target) -> Present:
        try:
            return await asyncio.to_thread(target.place.read)
        except ReplctlError as error:
            return error

    return await asyncio.gather(*(one(target) for target in found))


async def apply_once(
    found: list[Target], wish: Wish, roles: Roles, present: list[Present], *, dry_run: bool = False
) -> int:
    """Apply to each place at once, or say what that would do; the exit code. One that fails stops no other.

    Raises ReplctlError: of the one that failed where nothing was changed, else PartialError.
    """
    import asyncio

    from replctl.proxies.changes import Report

    async def one(target: Target, text: Present) -> Report | ReplctlError:
        try:
            if isinstance(text, ReplctlError):
                raise text
            return await _apply_to(target, wish, roles, text, dry_run=dry_run)
        except ReplctlError as error:
            return error

    results = await asyncio.gather(*(one(*pair) for pair in zip(found, present, strict=True)))
    reports = [result for result in results if isinstance(result, Report)]
    errors = [result for result in results if isinstance(result, ReplctlError)]
    if errors and not any(report.changed or report.problems for report in reports):
        raise _together(errors)
    problems = [*(p for report in reports for p in report.problems), *map(str, errors)]
    Report(problems=problems).raise_problems()
    return 0


def _together(errors: list[ReplctlError]) -> ReplctlError:
    """Several errors as one, with the exit code that says most."""
    if len(set(map(str, errors))) == 1:
        return errors[0]
    worst = next((e for e in errors if not isinstance(e, RefusedError)), errors[0])
    error = ReplctlError("no file is applied", why="; ".join(map(str, errors)), hint=worst.hint)
    error.exit_code = max(worst.exit_code, *(e.exit_code for e in errors if isinstance(e, PartialError)), 0)
    return error


async def _apply_to(target: Target, wish: Wish, roles: Roles, text: str | None, *, dry_run: bool) -> Report:
    from replctl.proxies.roles import apply

    before = target.writer_of(text)
    any_will_do = target.table.get("write_role_checks") is True
    placement = roles.placement(wish.zone_of(text), text, before, any_will_do=any_will_do)
    moved = before is not None and before != placement.writer
    change = await target.change(placement, wish, present=text, lost=moved)
    for warning in change.rendered.warnings:
        tell(f"warning: {warning}")
    if dry_run:
        return await _foretell(change)
    report = await apply(change)
    fine = f"{target.place} is as it should be" + ("" if report.problems else ", and so is what runs")
    for sentence in report.done or [fine]:
        tell(sentence)
    return report


async def _foretell(change: Change[Any]) -> Report:
    """Print what applying it would do; what is wrong already is a warning then."""
    from replctl.proxies.changes import Report
    from replctl.proxies.roles import foresee
    from replctl.render.drift import difference

    report = await foresee(change)
    differs = difference(change.present, change.rendered.text, str(change.place.path))
    lines = [*([differs] if differs else []), *(report.done or [f"{change.place}: nothing to do"])]
    typer.echo("\n".join(lines))
    for problem in report.problems:
        tell(f"warning: {problem}")
    return Report()


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
