"""HAProxy: a new file made true in every one that runs, and seen there, or else taken back.

The file comes first, since what is changed at runtime is lost with a reload, except where writes are lost. A
change of states and weights goes over the runtime sockets; only one of structure needs a reload.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from replctl.errors import RefusedError, ReplctlError
from replctl.proxies.changes import Change, Report, raise_not_taken
from replctl.proxies.places import Moved
from replctl.proxies.reloading import Worker, needs_reload, not_taken, reload, stale, worker_at
from replctl.proxies.runtime import ask, ask_version
from replctl.proxies.servers import Seen, differences, like, named, servers, writes_apart
from replctl.proxies.trial import servers_of, try_haproxy
from replctl.render.haproxy import Server
from replctl.render.rendered import dotted

READ_BACK_S = 5.0  # after a reload, until the new process answers
POLL_S = 0.05
COMMANDS_A_LINE = 20  # it has to fit into HAProxy's buffer, 16 kB


async def apply(change: Change[Server]) -> Report:
    """Make the file as rendered, and every HAProxy that answers as the file.

    Raises Moved, RefusedError where a reload is needed and none is configured, and ReplctlError where the
    file was refused or taken back; where writes are lost neither of both. A socket that does not answer is a
    problem of the report.
    """
    async with change.place.held():
        await change.expect_present()
        report = Report()
        running, workers = await _look(change.doors, report)
        plan, fresh = change.rendered.plan, change.present == change.rendered.text
        apart, reloads = _apart(change, running, workers, report)
        if fresh and not any(apart.values()):
            return report
        change = replace(change, lost=change.lost or _is_left_behind(change, running))
        if change.lost:
            # Before anything that may fail or take its time: writes wait for no file and no reload.
            await _push_all(plan, running)
        written = await _write(change, running, report, reloads=reloads)
        if not (change.lost or reloads):
            await _push_all(plan, running)
        said = await reload(change, running) if reloads and (fresh or written) else []
        left = await _read_back(change, workers, reloaded=reloads and not said)
        mended = {d: found for d, found in apart.items() if found and not left[d]}
        if fresh:
            report.done += [f"{named(d)}: {'; '.join(found)}: mended" for d, found in mended.items()]
        report.changed = written or bool(mended)
        await _settle(change, left, said, running, workers, report)
        return report


async def foresee(change: Change[Server]) -> Report:
    """What `apply` would do now, as sentences. Changes and locks nothing; raises where that would refuse."""
    report = Report()
    running, workers = await _look(change.doors, report)
    fresh = change.present == change.rendered.text
    apart, reloads = _apart(change, running, workers, report)
    if fresh and not any(apart.values()):
        return report
    change = replace(change, lost=change.lost or _is_left_behind(change, running))
    await _try(change, running, reloads=reloads)
    report.done += [] if fresh else [f"{change.place} would be written"]
    how = "would be reloaded" if reloads else "would be told over its socket"
    report.done += [
        f"{named(door)} {how}" + (f": {'; '.join(found)}" if found else "")
        for door, found in apart.items()
        if reloads or found
    ]
    return report


def _apart(
    change: Change[Server], running: dict[str, Seen], workers: dict[str, Worker], report: Report
) -> tuple[dict[str, list[str]], bool]:
    """How each HAProxy is not as planned, as sentences, and whether that takes a reload."""
    apart = {door: differences(change.rendered.plan, seen) for door, seen in running.items()}
    old = {door: found for door, w in workers.items() if (found := stale(change.rendered.text, w))}
    if needs_reload(change, running, workers):
        return apart, True
    if change.table["reload"] and any(workers[door].mark for door in old):
        return {door: [*found, *old.get(door, [])] for door, found in apart.items()}, True
    # The roles are not to wait for it; and where the mark is not ours, a reload after another would not help.
    report.problems += [f"{named(door)} {found[0]}: reload it" for door, found in old.items()]
    return apart, False


async def _write(change: Change[Server], running: dict[str, Seen], report: Report, *, reloads: bool) -> bool:
    """Try the file and write it, if it is another; whether that was done.

    Raises ReplctlError; where writes are lost, what went wrong is a problem of the report.
    """
    try:
        await _try(change, running, reloads=reloads)
        if change.present == change.rendered.text:
            return False
        await asyncio.to_thread(change.place.replace, change.present, change.rendered.text)
    except ReplctlError as error:
        if not change.lost or isinstance(error, Moved):
            raise
        report.problems.append(str(error))
        return False
    report.done.append(f"{change.place} is written")
    return True


async def _try(change: Change[Server], running: dict[str, Seen], *, reloads: bool) -> None:
    """Raise ReplctlError where the file would not do, RefusedError where it could not be taken."""
    # Where writes are lost, and the structure is the one that runs already, there is no time for it.
    hurried = change.lost and not reloads
    text, plan = change.rendered.text, change.rendered.plan
    await asyncio.to_thread(partial(try_haproxy, text, plan, change.version, hurried=hurried))
    if change.lost or not reloads:
        return
    await _refuse_older(change, running)
    if not change.table["reload"]:
        raise RefusedError(
            "the change needs a reload, and [haproxy] reload is not configured",
            why="it is not one of states and weights alone",
            hint="configure it, or --out FILE, reload HAProxy, and --apply again",
        )


async def _push_all(plan: tuple[Server, ...], running: dict[str, Seen]) -> None:
    await asyncio.gather(*(_push(door, plan, seen) for door, seen in running.items()))


def _is_left_behind(change: Change[Server], running: dict[str, Seen]) -> bool:
    """Whether the file has had the writer since before, and a HAProxy was not told of it."""
    try:
        servers_before = servers_of(change.present or "")
    except (ValueError, IndexError):  # somebody else was at it
        return False
    for_writing = {(s.backend, s.name): s.enabled for s in change.rendered.plan if s.backend.endswith("_rw")}
    before = {(b, name): on for b, name, on, *_ in servers_before if b.endswith("_rw")}
    return before == for_writing and any(writes_apart(change.rendered.plan, s) for s in running.values())


async def _look(doors: tuple[str, ...], report: Report) -> tuple[dict[str, Seen], dict[str, Worker]]:
    """What each socket shows, and of which process; those that do not answer are problems."""
    running: dict[str, Seen] = {}
    workers: dict[str, Worker] = {}

    async def one(door: str) -> None:
        try:
            seen, worker = await servers(door), await worker_at(door)
        except ReplctlError as error:
            report.problems.append(str(error))
        else:
            running[door], workers[door] = seen, worker

    await asyncio.gather(*(one(door) for door in doors))
    return running, workers


async def _push(door: str, plan: tuple[Server, ...], seen: Seen) -> None:
    """Change states and weights where they are others. What it answers is not read: it is looked at after.

    First out, then in: two servers for writing at once are one too many. The old writer's sessions end last,
    for whoever comes back while none is enabled is turned away, and a pooler then waits. Maintenance ends
    them too (`on-marked-down`), so the old writer is only drained at first.
    """
    known = [(s, seen[s.backend, s.name]) for s in plan if (s.backend, s.name) in seen]
    out = [f"{s.backend}/{s.name}" for s, there in known if there.enabled and not s.enabled]
    commands = [f"set server {name} state drain" for name in out]
    for server, there in known:
        name = f"{server.backend}/{server.name}"
        if there.weight != server.weight:
            commands.append(f"set server {name} weight {server.weight}")
        if server.enabled and not there.enabled:
            commands.append(f"set server {name} state ready")
            if server.backend.endswith("_rw"):
                # It was just seen to take writes; the checks go on from there.
                commands.append(f"set server {name} health up")
    commands += [f"set server {name} state maint" for name in out]
    writers = [name for name in out if name.partition("/")[0].endswith("_rw")]
    commands += [f"shutdown sessions server {name}" for name in writers]
    try:
        for at in range(0, len(commands), COMMANDS_A_LINE):
            await asyncio.to_thread(ask, door, "; ".join(commands[at : at + COMMANDS_A_LINE]))
    except ReplctlError:
        return  # it shows when it is looked at


async def _refuse_older(change: Change[Server], running: Iterable[str]) -> None:
    """Raise RefusedError where a HAProxy is older than the file is for."""
    for door in running:
        own = await asyncio.to_thread(ask_version, door)
        if tuple(int(word) for word in own.split(".")) < change.version[:2]:
            raise RefusedError(
                f"{named(door)} is a {own}, and the file is for a {dotted(change.version)}",
                why="it refuses a file with a key that it does not know",
                hint=f"--haproxy-version {own}, or `version` in the inventory",
            )


async def _read_back(
    change: Change[Server], workers: dict[str, Worker], *, reloaded: bool
) -> dict[str, list[str]]:
    """What is not as planned at each socket, once it is, or after the limit of a reload."""
    until_s = time.monotonic() + (READ_BACK_S if reloaded else 0.0)
    plan, text = change.rendered.plan, change.rendered.text

    async def one(door: str) -> list[str]:
        while True:
            try:
                found = differences(plan, await servers(door))
                if reloaded:
                    found += not_taken(text, workers[door], await worker_at(door))
            except ReplctlError as error:
                found = [error.why or str(error)]
            if not found or time.monotonic() >= until_s:
                return found
            await asyncio.sleep(POLL_S)

    return dict(zip(workers, await asyncio.gather(*(one(door) for door in workers)), strict=True))


async def _is_another(door: str, before: Worker) -> bool:
    """Whether another process answers than before, or none."""
    try:
        return (await worker_at(door)).which != before.which
    except ReplctlError:
        return True


async def _settle(
    change: Change[Server],
    left: dict[str, list[str]],
    said: list[str],
    running: dict[str, Seen],
    workers: dict[str, Worker],
    report: Report,
) -> None:
    """Keep the file where it is right, else put the one before back, everywhere. Raises ReplctlError.

    It stays where it was right before, and where writes are lost: the one before leads nowhere.
    """
    sentences = [*said, *(f"{named(door)}: {'; '.join(found)}" for door, found in left.items() if found)]
    if not sentences or change.lost or change.present == change.rendered.text:
        report.done += [f"{named(door)} has it" for door, found in left.items() if not found]
        report.problems += sentences
        return
    await asyncio.to_thread(change.place.put_back, change.present)
    # One that refused the file has not changed, and another reload would only cost it its sessions.
    others = [door for door in running if await _is_another(door, workers[door])]
    problems = await reload(change, others) if others else []
    for door, seen in running.items():
        before = tuple(
            replace(s, enabled=seen[s.backend, s.name].enabled, weight=seen[s.backend, s.name].weight)
            for s in change.rendered.plan
            if (s.backend, s.name) in seen
        )
        try:
            await _push(door, before, await servers(door))
            now = await servers(door)
        except ReplctlError as error:
            problems.append(str(error))
            continue
        other = ["/".join(key) for key, was in seen.items() if key not in now or not like(was, now[key])]
        problems += [f"{named(door)}: {', '.join(other)} not as before"] if other else []
    raise_not_taken("HAProxy", change.place, sentences, problems)
