"""Holding writes in every PgBouncer for a planned switch: clients wait, and none gets an error."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any

from replctl.errors import PartialError, RefusedError, ReplctlError
from replctl.proxies.aliases import checked, named
from replctl.proxies.console import NotReached, ask, until_done
from replctl.proxies.going_on import hurry, resume


@contextlib.asynccontextmanager
async def writes_held(doors: tuple[str, ...], aliases: Iterable[str], limit_s: float) -> AsyncIterator[None]:
    """PAUSE these aliases in every PgBouncer: new transactions wait, those that run come to their end.

    For a planned switch: change the roles and `apply` inside. RESUME follows on every way out, a signal
    included. Raises RefusedError where transactions do not end within `limit_s` seconds (all resumed), and
    PartialError where a RESUME is not taken.
    """
    names, asleep = list(aliases), set[tuple[str, str]]()
    with _signals_cancel():
        try:
            await _all(_pause(door, name, limit_s, asleep) for door in doors for name in names)
            yield
        finally:
            resuming = asyncio.ensure_future(
                _resume_all([d for d in doors if any((d, name) not in asleep for name in names)], names)
            )
            await until_done(resuming)
            resuming.result()


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All at once. The first that fails is raised when none of the others is under way any more.

    Otherwise one of them would pause after everything was resumed, and nobody would resume it.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _pause(door: str, name: str, limit_s: float, asleep: set[tuple[str, str]]) -> None:
    """One alias of one PgBouncer. `asleep` gets it where the command was not even sent."""
    try:
        await ask(door, f"PAUSE {checked(name)}", limit_s)
    except ReplctlError as error:
        if isinstance(error, NotReached):
            asleep.add((door, name))
        raise RefusedError(
            f"{name} is not paused at {named(door)}: nothing was switched",
            why=error.why,
            hint="long transactions, or pool_mode = session, where PAUSE waits for clients to leave",
        ) from None


async def _resume_all(doors: Iterable[str], names: list[str]) -> None:
    async def one(door: str) -> None:
        await resume(door, names)
        with contextlib.suppress(ReplctlError):
            await hurry(door, names)  # a login that was under way may have failed meanwhile

    found = await asyncio.gather(*(one(door) for door in doors), return_exceptions=True)
    failed = [str(error) for error in found if isinstance(error, BaseException)]
    if failed:
        raise PartialError("writes may still be paused", why="; ".join(failed), hint="RESUME on that console")


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
