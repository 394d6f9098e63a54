"""PgBouncer: a new file made true in every one that runs, and seen there, or else taken back.

Before 1.25 a RELOAD says that it succeeded when it failed, and a file with an error in the middle is applied
up to it. So nothing is believed but SHOW DATABASES.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from replctl.errors import RefusedError, ReplctlError
from replctl.proxies.aliases import Rows, databases, differences, moved_aliases, named
from replctl.proxies.changes import Change, Report, raise_not_taken
from replctl.proxies.console import ask, version_of
from replctl.proxies.going_on import go_on
from replctl.proxies.own_settings import settings_apart
from replctl.proxies.trial import try_pgbouncer
from replctl.proxies.userlist import check_userlist
from replctl.render.pgbouncer import Alias
from replctl.render.rendered import dotted


async def apply(change: Change[Alias]) -> Report:
    """Make the file as rendered, and every PgBouncer that answers as the file.

    Raises Moved, and ReplctlError where the file was refused or taken back: then all is as it was. Nothing is
    taken back where writes are lost. A console that does not answer is a problem of the report: that
    PgBouncer reads the file when it starts.
    """
    async with change.place.held():
        await change.expect_present()
        report = Report()
        running = await _look(change.doors, report, held=change.held)
        fresh = change.present == change.rendered.text
        apart = {door: differences(change.rendered.plan, rows) for door, rows in running.items()}
        await _compare_settings(change, apart, report)
        # By what runs, not by the file: that may have been written while this PgBouncer was away.
        moved = {door: [] if change.held else moved_aliases(change, rows) for door, rows in running.items()}
        good = list(running)
        if not fresh or any(apart.values()):
            good = await _told(change, running, apart, report, fresh=fresh)
        if not change.held:
            await asyncio.gather(*(go_on(door, change, moved[door], report) for door in good))
        return report


async def foresee(change: Change[Alias]) -> Report:
    """What `apply` would do now, as sentences. Changes and locks nothing; raises where that would refuse."""
    report = Report()
    running = await _look(change.doors, report, held=change.held)
    fresh = change.present == change.rendered.text
    apart = {door: differences(change.rendered.plan, rows) for door, rows in running.items()}
    await _compare_settings(change, apart, report)
    if fresh and not any(apart.values()):
        return report
    if not (change.lost or fresh):
        await _refuse_older(change, running)
    await asyncio.to_thread(_validate, change)
    report.done += [] if fresh else [f"{change.place} would be written"]
    report.done += [
        f"{named(door)} would be reloaded" + (f": {'; '.join(found)}" if found else "")
        for door, found in apart.items()
    ]
    return report


async def _told(
    change: Change[Alias],
    running: dict[str, Rows],
    apart: dict[str, list[str]],
    report: Report,
    *,
    fresh: bool,
) -> list[str]:
    """Write and reload; those whose aliases for writing then lead where they are to. Raises ReplctlError."""
    if not (change.lost or fresh):
        await _refuse_older(change, running)
    await asyncio.to_thread(_validate, change)
    if not fresh:
        await asyncio.to_thread(change.place.replace, change.present, change.rendered.text)
        report.done.append(f"{change.place} is written")
        report.changed = True
    looks = dict(zip(running, await asyncio.gather(*(_reload(d, change) for d in running)), strict=True))
    wrong = {door: look.wrong for door, look in looks.items()}
    mended = {door: found for door, found in apart.items() if fresh and found and not wrong[door]}
    report.done += [f"{named(door)}: {'; '.join(found)}: mended" for door, found in mended.items()]
    report.changed = report.changed or bool(mended)
    await _settle(change, wrong, running, report, stays=fresh or change.lost)
    return [door for door, look in looks.items() if look.writes]


async def _look(doors: tuple[str, ...], report: Report, *, held: bool) -> dict[str, Rows]:
    """What each console shows; those that do not answer are problems."""
    found = await asyncio.gather(*(databases(door) for door in doors), return_exceptions=True)
    running: dict[str, Rows] = {}
    for door, rows in zip(doors, found, strict=True):
        if isinstance(rows, ReplctlError):
            report.problems.append(str(rows))
        elif isinstance(rows, BaseException):
            raise rows
        else:
            running[door] = rows
            paused = sorted(name for name, row in rows.items() if str(row.get("paused", 0)) not in ("0", "f"))
            if paused and not held:
                report.problems.append(
                    f"{named(door)}: {', '.join(paused)} paused; RESUME on its console goes on"
                )
    return running


async def _compare_settings(change: Change[Alias], apart: dict[str, list[str]], report: Report) -> None:
    """Add what differs in the rest of a whole file to `apart`; what needs a restart is a problem."""

    async def one(door: str) -> None:
        try:
            found = await settings_apart(door, change.rendered.text)
        except ReplctlError as error:
            report.problems.append(str(error))
            return
        apart[door] += found.reload
        report.problems += [f"{named(door)}: {sentence}: restart it" for sentence in found.restart]

    await asyncio.gather(*(one(door) for door in apart))


async def _refuse_older(change: Change[Alias], running: Iterable[str]) -> None:
    """Raise RefusedError where a PgBouncer is older than the file is for: it could refuse half of it."""
    for door in running:
        own = await version_of(door)
        if tuple(int(word) for word in own.split(".")) < change.version[:2]:
            raise RefusedError(
                f"{named(door)} is a {own}, and the file is for a {dotted(change.version)}",
                why="one key that it does not know makes it refuse the rest",
                hint=f"--pgbouncer-version {own}, or `version` in the inventory",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What one shows after a reload: `wrong` as sentences, and whether writes lead where they are to."""

    wrong: list[str]
    writes: bool = False


async def _reload(door: str, change: Change[Alias]) -> _Look:
    """Reload, and how the result differs from the plan."""
    said = ""
    try:
        try:
            await ask(door, "RELOAD")
        except ReplctlError as error:  # from 1.25 on it tells
            said = error.why or str(error)
        rows = await databases(door)
        others = (await settings_apart(door, change.rendered.text)).reload
    except ReplctlError as error:
        return _Look(wrong=[str(error)])
    found = [*differences(change.rendered.plan, rows), *others]
    return _Look(wrong=[*found, *([said] if said else [])], writes=not moved_aliases(change, rows))


async def _settle(
    change: Change[Alias],
    apart: dict[str, list[str]],
    running: dict[str, Rows],
    report: Report,
    *,
    stays: bool,
) -> None:
    """Keep the file where it is right, else put the one before back, everywhere. Raises ReplctlError.

    The file `stays` where it was right before, and where writes are lost: the one before leads nowhere, and
    whatever else a PgBouncer did not take, its clients write where writes are taken now.
    """
    sentences = [f"{named(door)}: {'; '.join(found)}" for door, found in apart.items() if found]
    if stays or not sentences:
        report.done += [f"{named(door)} has it" for door, found in apart.items() if not found]
        report.problems += sentences
        return
    await asyncio.to_thread(change.place.put_back, change.present)
    again = await asyncio.gather(*(_restored(door, running[door]) for door in apart))
    left = [sentence for sentence in again if sentence]
    raise_not_taken("PgBouncer", change.place, sentences, left, look="; its log has the line")


async def _restored(door: str, before: Rows) -> str:
    """RELOAD of the file that was put back; what is not as it was, as a sentence."""
    try:
        await ask(door, "RELOAD")
        now = await databases(door)
    except ReplctlError as error:
        return str(error)
    keys = ("host", "port", "database")
    other = [n for n, row in before.items() if n not in now or any(now[n][k] != row[k] for k in keys)]
    return f"{named(door)}: {', '.join(other)} not as before" if other else ""


def _validate(change: Change[Alias]) -> None:
    check_userlist(change.table["auth_file"], readable_here=not change.place.run)
    try_pgbouncer(change.rendered.text, change.rendered.plan, change.version, hurried=change.lost)
