"""PgBouncer: a new file made true in every one that runs, and seen there, or else taken back.

Before 1.25 a RELOAD says that it succeeded when it failed, and a file with an error in the middle is applied
up to it. So nothing is believed but SHOW DATABASES.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from replctl.errors import PartialError, RefusedError, ReplctlError
from replctl.proxies.changes import Change, Report
from replctl.proxies.console import ask, place_of, version_of
from replctl.proxies.trial import try_pgbouncer
from replctl.proxies.userlist import check_userlist
from replctl.render.pgbouncer import Alias
from replctl.render.rendered import dotted
from replctl.render.tokens import Whitelist

Rows = dict[str, dict[str, Any]]
RESUME_TRIES = 3
HURRY_RETRY_S = 0.05
HURRY_POLL_S = 0.02
HURRY_POLLS = 50


async def apply(change: Change[Alias]) -> Report:
    """Make the file as rendered, and every PgBouncer that answers as the file.

    Raises Moved, and ReplctlError where the file was refused or taken back: then all is as it was. A console
    that does not answer is a problem of the report: that PgBouncer reads the file when it starts.
    """
    async with change.place.held():
        await change.expect_present()
        report = Report()
        running = await _look(change.doors, report, held=change.held)
        fresh = change.present == change.rendered.text
        apart = {door: differences(change.rendered.plan, rows) for door, rows in running.items()}
        if fresh and not any(apart.values()):
            return report
        if not change.lost:
            await _refuse_older(change, running)
        await asyncio.to_thread(_validate, change)
        if not fresh:
            await asyncio.to_thread(change.place.write, change.rendered.text)
            report.done.append(f"{change.place} is written")
        else:
            report.done += [
                f"{_named(door)}: {'; '.join(found)}: mended" for door, found in apart.items() if found
            ]
        report.changed = True
        apart = dict(zip(running, await asyncio.gather(*(_reload(d, change) for d in running)), strict=True))
        await _settle(change, apart, running, report)
        if change.lost:
            good = [door for door in running if not apart[door]]
            moved = {door: moved_aliases(change, running[door]) for door in good}
            await asyncio.gather(*(_go_on(door, moved[door], report) for door in good))
        return report


def differences(plan: Iterable[Alias], rows: Rows) -> list[str]:
    """How what SHOW DATABASES shows is not the plan, as sentences."""
    found = []
    for alias in plan:
        row = rows.get(alias.name)
        if row is None:
            found.append(f"alias {alias.name} is not there")
            continue
        wanted = {
            "host": alias.settings.get("host"),
            "port": alias.settings.get("port", "5432"),
            "database": alias.settings.get("dbname", alias.name),
        }
        for key, value in wanted.items():
            shown = None if row[key] is None else str(row[key])
            if shown != value:
                found.append(f"alias {alias.name} has {key} {shown}, not {value}")
    return found


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
                    f"{_named(door)}: {', '.join(paused)} paused; RESUME on its console goes on"
                )
    return running


async def databases(door: str) -> Rows:
    """SHOW DATABASES by name. Raises ReplctlError."""
    rows = await ask(door, "SHOW DATABASES")
    if rows and "name" not in rows[0]:
        raise ReplctlError(
            f"{_named(door)} does not tell its databases", why="what answers is another program"
        )
    return {str(row["name"]): row for row in rows}


async def _refuse_older(change: Change[Alias], running: Iterable[str]) -> None:
    """Raise RefusedError where a PgBouncer is older than the file is for: it could refuse half of it."""
    for door in running:
        own = await version_of(door)
        if tuple(int(word) for word in own.split(".")) < change.version[:2]:
            raise RefusedError(
                f"{_named(door)} is a {own}, and the file is for a {dotted(change.version)}",
                why="one key that it does not know makes it refuse the rest",
                hint=f"--pgbouncer-version {own}, or `version` in the inventory",
            )


async def _reload(door: str, change: Change[Alias]) -> list[str]:
    """Reload, and how the result differs from the plan."""
    said = ""
    try:
        try:
            await ask(door, "RELOAD")
        except ReplctlError as error:  # from 1.25 on it tells
            said = error.why or str(error)
        found = differences(change.rendered.plan, await databases(door))
    except ReplctlError as error:
        return [str(error)]
    return [*found, *([said] if said else [])]


async def _settle(
    change: Change[Alias], apart: dict[str, list[str]], running: dict[str, Rows], report: Report
) -> None:
    """Keep the file where it is right, else put the one before back, everywhere. Raises ReplctlError."""
    wrong = {door: found for door, found in apart.items() if found}
    sentences = [f"{_named(door)}: {'; '.join(found)}" for door, found in wrong.items()]
    if not wrong:
        report.done += [f"{_named(door)} has it" for door in apart]
        return
    if change.lost and len(wrong) < len(apart):
        # The others write where writes are taken now; the file before leads nowhere.
        report.done += [f"{_named(door)} has it" for door in apart if door not in wrong]
        report.problems += sentences
        return
    if change.present == change.rendered.text:
        raise ReplctlError(
            "PgBouncer does not take its file", why="; ".join(sentences), hint="its log has the line"
        )
    await asyncio.to_thread(change.place.put_back, change.present)
    again = await asyncio.gather(*(_restored(door, running[door]) for door in apart))
    left = [sentence for sentence in again if sentence]
    if left:
        raise PartialError(
            "PgBouncer did not take the file, and is not as it was either",
            why="; ".join([*sentences, *left]),
            hint=f"{change.place} is the one before; its log has the line",
        )
    raise ReplctlError(
        "PgBouncer did not take the file: it is as it was, in every one",
        why="; ".join(sentences),
        hint=f"what was refused is {change.place.path.name}.previous; its log has the line",
    )


async def _restored(door: str, before: Rows) -> str:
    """RELOAD of the file that was put back; what is not as it was, as a sentence."""
    try:
        await ask(door, "RELOAD")
        now = await databases(door)
    except ReplctlError as error:
        return str(error)
    keys = ("host", "port", "database")
    other = [n for n, row in before.items() if n not in now or any(now[n][k] != row[k] for k in keys)]
    return f"{_named(door)}: {', '.join(other)} not as before" if other else ""


def _validate(change: Change[Alias]) -> None:
    check_userlist(change.table["auth_file"], readable_here=not change.place.run)
    try_pgbouncer(change.rendered.text, change.rendered.plan, change.version, hurried=change.lost)


def moved_aliases(change: Change[Alias], before: Rows) -> list[str]:
    """The aliases for writing that led elsewhere."""
    template = change.table["write_alias"]
    found = []
    for alias in change.rendered.plan:
        name, row = alias.name, before.get(alias.name)
        is_for_writing = name == template.replace("{database}", alias.settings.get("dbname", name))
        if is_for_writing and row is not None and differences([alias], {name: row}):
            found.append(name)
    return found


async def _go_on(door: str, moved: list[str], report: Report) -> None:
    """Let clients reach the new server at once: end what hangs, and wait for no retry."""
    try:
        await _end_hanging(door, moved, report)
        await _hurry(door, moved)
    except ReplctlError as error:
        report.problems.append(str(error))


async def _hurry(door: str, moved: list[str]) -> None:
    """After a failed login PgBouncer tries no other for server_login_retry, 15 s by default.

    That was of the server that is lost. SET holds until the next RELOAD: at once where the new server is
    reached, else that of the next change, since whoever comes in between is not to wait either.
    """
    without, _ = await _pools(door, moved)
    if not without:
        return
    await ask(door, f"SET server_login_retry = '{HURRY_RETRY_S}'")
    for _ in range(HURRY_POLLS):
        without, waiting = await _pools(door, moved)
        if not without:
            await ask(door, "RELOAD")
        if not (without and waiting):
            return
        await asyncio.sleep(HURRY_POLL_S)


async def _pools(door: str, moved: list[str]) -> tuple[bool, bool]:
    """Whether a pool of these aliases has no server, and whether clients wait in one that has none."""
    pools = [row for row in await ask(door, "SHOW POOLS") if row["database"] in moved]
    servers = ("sv_active", "sv_idle", "sv_used", "sv_tested")
    without = [row for row in pools if not any(int(row[key]) for key in servers)]
    return bool(without), any(int(row["cl_waiting"]) for row in without)


async def _end_hanging(door: str, moved: list[str], report: Report) -> None:
    """End transactions on a server that takes no writes any more: there they may never end by themselves.

    KILL ends every client of the alias, so it is kept for aliases with such a transaction; elsewhere idle
    clients stay, and go on at the new server.
    """
    rows = await ask(door, "SHOW SERVERS")
    stuck = {r["database"] for r in rows if r["state"] == "active" and str(r["close_needed"]) == "1"}
    for name in sorted(stuck & set(moved)):
        try:
            await ask(door, f"KILL {checked(name)}")
            report.done.append(f"{_named(door)}: clients of {name} ended, for their transactions hang")
        finally:
            await asyncio.shield(_resume(door, [name]))


@contextlib.asynccontextmanager
async def writes_held(doors: tuple[str, ...], aliases: Iterable[str], limit_s: float) -> AsyncIterator[None]:
    """PAUSE these aliases in every PgBouncer: new transactions wait, those that run come to their end.

    For a planned switch: change the roles and `apply` inside. RESUME follows on every way out, a signal
    included. Raises RefusedError where transactions do not end within `limit_s` seconds (all resumed), and
    PartialError where a RESUME is not taken.
    """
    names = list(aliases)
    tried: list[str] = []
    with _signals_cancel():
        try:
            tried = list(doors)
            await asyncio.gather(*(_pause(door, names, limit_s) for door in doors))
            yield
        finally:
            resuming = asyncio.ensure_future(_resume_all(tried, names))
            try:
                await asyncio.shield(resuming)
            except asyncio.CancelledError:
                await resuming
                raise


async def _pause(door: str, names: list[str], limit_s: float) -> None:
    async def one(name: str) -> None:
        try:
            await ask(door, f"PAUSE {checked(name)}", limit_s)
        except ReplctlError as error:
            raise RefusedError(
                f"{name} is not paused at {_named(door)}: nothing was switched",
                why=error.why,
                hint="long transactions, or pool_mode = session, where PAUSE waits for clients to leave",
            ) from None

    await asyncio.gather(*(one(name) for name in names))


async def _resume_all(doors: list[str], names: list[str]) -> None:
    async def one(door: str) -> None:
        await _resume(door, names)
        with contextlib.suppress(ReplctlError):
            await _hurry(door, names)  # a login that was under way may have failed meanwhile

    found = await asyncio.gather(*(one(door) for door in doors), return_exceptions=True)
    failed = [str(error) for error in found if isinstance(error, BaseException)]
    if failed:
        raise PartialError("writes may still be paused", why="; ".join(failed), hint="RESUME on that console")


async def _resume(door: str, names: Iterable[str]) -> None:
    """RESUME until none is paused. Raises ReplctlError."""
    wanted = list(names)
    for last in (*(False,) * (RESUME_TRIES - 1), True):
        with contextlib.suppress(ReplctlError):  # one that is not paused says so
            for name in wanted:
                await ask(door, f"RESUME {checked(name)}")
        try:
            rows = await databases(door)
        except ReplctlError:
            if last:
                raise
            continue
        wanted = [name for name in wanted if name in rows and str(rows[name]["paused"]) != "0"]
        if not wanted:
            return
    raise ReplctlError(f"{_named(door)}: {', '.join(wanted)} still paused")


@contextlib.contextmanager
def _signals_cancel() -> Iterator[None]:
    """A signal that would end the process at once cancels the task instead; others have their handlers."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    taken = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Not in the main thread, or somebody's own already: theirs to heed.
        if task is not None and signal.getsignal(number) is signal.SIG_DFL:
            with contextlib.suppress(ValueError, RuntimeError):
                loop.add_signal_handler(number, task.cancel)
                taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def checked(name: str) -> str:
    """The alias as it may stand in a command, where `-` and `.` need quotes. Raises InventoryError."""
    whitelist = Whitelist("the inventory")
    found = whitelist.name(name, "alias")
    whitelist.settle()
    return f'"{found}"'


def _named(door: str) -> str:
    return f"the PgBouncer at {place_of(door)}"
