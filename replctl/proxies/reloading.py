"""Reloading HAProxy, and knowing whether it was: where a new process does not start, the old one goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass

from replctl.inventory.model import expand
from replctl.proxies.changes import Change
from replctl.proxies.runtime import ask
from replctl.proxies.servers import Seen, same_address
from replctl.render.haproxy import Server
from replctl.render.structure import PREFIX, mark_of, skeleton
from replctl.render.tokens import split_port

LIMIT_S = 20.0
_FACTS = re.compile(r"^(Pid|Start_time_sec|description): (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The process that answers at a socket: which one it is, and the mark of the file that it read."""

    which: tuple[str | None, str | None]
    mark: str | None


async def worker_at(door: str) -> Worker:
    """Raises ReplctlError."""
    facts = dict(_FACTS.findall(await asyncio.to_thread(ask, door, "show info")))
    told = str(facts.get("description", "")).strip()
    # A process may get the number of the one before, in a container above all.
    return Worker(
        which=(facts.get("Pid"), facts.get("Start_time_sec")), mark=told if told.startswith(PREFIX) else None
    )


def stale(text: str, worker: Worker) -> list[str]:
    """Whether it read another file than this, as sentences; of a fragment nobody can tell."""
    mark = mark_of(text)
    return [] if mark in (None, worker.mark) else ["runs with another structure than the file's"]


def not_taken(text: str, before: Worker, now: Worker) -> list[str]:
    """Why a reload that went well was none, as sentences."""
    if now.which == before.which:
        return ["the reload made no new process: the one before goes on"]
    return stale(text, now)


def needs_reload(change: Change[Server], running: dict[str, Seen], workers: dict[str, Worker]) -> bool:
    """Whether a HAProxy runs that states and weights alone do not make as the file."""
    if not running:
        return False
    text = change.rendered.text
    known = mark_of(text) is not None and not any(stale(text, worker) for worker in workers.values())
    if not known and skeleton(change.present or "") != skeleton(text):
        return True
    return any(
        (there := seen.get((s.backend, s.name))) is None or not same_address(s, there)
        for seen in running.values()
        for s in change.rendered.plan
    )


async def reload(change: Change[Server], running: Iterable[str]) -> list[str]:
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
        output, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    except TimeoutError:
        return f"{what} did not end within {LIMIT_S:g} s"
    finally:
        if process.returncode is None:
            process.kill()
    said = output.decode(errors="replace").strip().splitlines() or ["no word"]
    shown = "".join(c for c in said[-1] if c.isprintable())[:200]
    return "" if process.returncode == 0 else f"{what}: exit code {process.returncode}, {shown}"
