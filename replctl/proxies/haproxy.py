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

from replctl.errors import PartialError, RefusedError, ReplctlError
from replctl.inventory.model import expand
from replctl.proxies.changes import Change, Report
from replctl.proxies.runtime import ask, ask_version
from replctl.proxies.servers import Seen, differences, like, named, same_address, servers, writes_apart
from replctl.proxies.trial import servers_of, try_haproxy
from replctl.render.haproxy import Server
from replctl.render.rendered import dotted
from replctl.render.tokens import split_port

READ_BACK_S = 5.0  # after a reload, until the new process answers
POLL_S = 0.05
RELOAD_LIMIT_S = 20.0
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
        running = await _look(change.doors, report)
        plan, fresh = change.rendered.plan, change.present == change.rendered.text
        apart = {door: differences(plan, seen) for door, seen in running.items()}
        if fresh and not any(apart.values()):
            return report
        change = replace(change, lost=change.lost or _is_left_behind(change, running))
        reloads = _needs_reload(change, running)
        if change.lost:
            # Before anything that may fail or take its time: writes wait for no file and no reload.
            await _push_all(plan, running)
        written = await _write(change, running, report, reloads=reloads)
        if not (change.lost or reloads):
            await _push_all(plan, running)
        said = await _reload(change, running) if reloads and (fresh or written) else []
        left = await _read_back(plan, tuple(running), READ_BACK_S if reloads and not said else 0.0)
        mended = {d: found for d, found in apart.items() if found and not left[d]}
        if fresh:
            report.done += [f"{named(d)}: {'; '.join(found)}: mended" for d, found in mended.items()]
        report.changed = written or bool(mended)
        await _settle(change, left, said, running, report, reloaded=reloads)
        return report


async def _write(change: Change[Server], running: dict[str, Seen], report: Report, *, reloads: bool) -> bool:
    """Try the file and write it, if it is another; whether that was done.

    Raises ReplctlError; where writes are lost, what went wrong is a problem of the report.
    """
    try:
        await _try(change, running, reloads=reloads)
        if change.present == change.rendered.text:
            return False
        await asyncio.to_thread(change.place.write, change.rendered.text)
    except ReplctlError as error:
        if not change.lost:
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
    for_writing = {(s.backend, s.name): s.enabled for s in change.rendered.plan if s.backend.endswith("_rw")}
    before = {(b, name): on for b, name, on, *_ in servers_of(change.present or "") if b.endswith("_rw")}
    return before == for_writing and any(writes_apart(change.rendered.plan, s) for s in running.values())


async def _look(doors: tuple[str, ...], report: Report) -> dict[str, Seen]:
    """What each socket shows; those that do not answer are problems."""
    running: dict[str, Seen] = {}
    found = await asyncio.gather(*(servers(door) for door in doors), return_exceptions=True)
    for door, seen in zip(doors, found, strict=True):
        if isinstance(seen, ReplctlError):
            report.problems.append(str(seen))
        elif isinstance(seen, BaseException):
            raise seen
        else:
            running[door] = seen
    return running


async def _push(door: str, plan: tuple[Server, ...], seen: Seen) -> None:
    """Change states and weights where they are others. What it answers is not read: it is looked at after.

    First out, then in: two servers for writing at once are one too many. In one breath, and the sessions of
    the old writer last: whoever comes back while none is enabled is turned away, and a pooler then waits.
    """
    known = [(s, seen[s.backend, s.name]) for s in plan if (s.backend, s.name) in seen]
    out = [server for server, there in known if there.enabled and not server.enabled]
    commands = [f"set server {server.backend}/{server.name} state maint" for server in out]
    for server, there in known:
        name = f"{server.backend}/{server.name}"
        if there.weight != server.weight:
            commands.append(f"set server {name} weight {server.weight}")
        if server.enabled and not there.enabled:
            commands.append(f"set server {name} state ready")
            if server.backend.endswith("_rw"):
                # It was just seen to take writes; the checks go on from there.
                commands.append(f"set server {name} health up")
    commands += [f"shutdown sessions server {s.backend}/{s.name}" for s in out if s.backend.endswith("_rw")]
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


def _needs_reload(change: Change[Server], running: dict[str, Seen]) -> bool:
    """Whether a HAProxy runs that states and weights alone do not make as the file."""
    if not running:
        return False
    if skeleton(change.present or "") != skeleton(change.rendered.text):
        return True
    return any(
        (there := seen.get((s.backend, s.name))) is None or not same_address(s, there)
        for seen in running.values()
        for s in change.rendered.plan
    )


def skeleton(text: str) -> list[str]:
    """A file without comments, states and weights."""
    lines = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "server":
            at = words.index("weight") if "weight" in words else len(words)
            words = [*words[:at], *words[at + 2 :]]
            words = words[:-1] if words[-1] == "disabled" else words
        lines.append(" ".join(words))
    return lines


async def _reload(change: Change[Server], running: Iterable[str]) -> list[str]:
    """Run the reload command, once for every machine; what went wrong, as sentences."""
    if not change.table["reload"]:
        return ["HAProxy needs a reload, and [haproxy] reload is not configured"]
    commands = {expand(change.table["reload"], _of_door(door)) for door in running}
    found = await asyncio.gather(*(_run(argv) for argv in sorted(commands)))
    return [sentence for sentence in found if sentence]


def _of_door(door: str) -> dict[str, object]:
    split = None if door.startswith("/") else split_port(door)
    return {} if split is None else {"host": split[0], "port": split[1]}


async def _run(argv: tuple[str, ...]) -> str:
    what = f"the reload command {argv[0]}"
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        return f"{what} cannot be started: {error.strerror}"
    try:
        output, _ = await asyncio.wait_for(process.communicate(), RELOAD_LIMIT_S)
    except TimeoutError:
        return f"{what} did not end within {RELOAD_LIMIT_S:g} s"
    finally:
        if process.returncode is None:
            process.kill()
    said = output.decode(errors="replace").strip().splitlines() or ["no word"]
    shown = "".join(c for c in said[-1] if c.isprintable())[:200]
    return "" if process.returncode == 0 else f"{what}: exit code {process.returncode}, {shown}"


async def _read_back(
    plan: tuple[Server, ...], doors: tuple[str, ...], limit_s: float
) -> dict[str, list[str]]:
    """What is not as planned at each socket, once it is, or after the limit."""
    until_s = time.monotonic() + limit_s

    async def one(door: str) -> list[str]:
        while True:
            try:
                found = differences(plan, await servers(door))
            except ReplctlError as error:
                found = [error.why or str(error)]
            if not found or time.monotonic() >= until_s:
                return found
            await asyncio.sleep(POLL_S)

    return dict(zip(doors, await asyncio.gather(*(one(door) for door in doors)), strict=True))


async def _settle(
    change: Change[Server],
    left: dict[str, list[str]],
    said: list[str],
    running: dict[str, Seen],
    report: Report,
    *,
    reloaded: bool,
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
    problems = [] if not reloaded or said else await _reload(change, running)
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
    if problems:
        raise PartialError(
            "HAProxy did not take the file, and is not as it was either",
            why="; ".join([*sentences, *problems]),
            hint=f"{change.place} is the one before",
        )
    raise ReplctlError(
        "HAProxy did not take the file: it is as it was, in every one",
        why="; ".join(sentences),
        hint=f"what was refused is {change.place.path.name}.previous",
    )
