"""`status --watch` on a terminal: looks, keys, signals and time, on one asyncio loop.

What is shown is made by `screen`, `keys` and `frame`, which are pure; here is only what happens. A frame
is drawn when something is new: a look, a key, another size, or an interval gone by without a look, so
that ages stay true.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from replctl.core.report import Report
from replctl.display.frame import frame, settled
from replctl.display.keys import Decoder, pressed
from replctl.display.screen import Screen
from replctl.display.style import render
from replctl.display.terminal import LostTerminalError, Terminal

ESCAPE_WAIT_S = 0.05  # what follows an Escape within this time belongs to it
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

Look = Callable[[], Awaitable[Report]]
"""Looks at one cluster; bounded in time."""


class Dashboard:
    """One run of the dashboard: `screen.clusters` and `looks` are in the same order."""

    def __init__(self, screen: Screen, looks: Sequence[Look], terminal: Terminal) -> None:
        self.screen = screen
        self._looks = looks
        self._terminal = terminal
        self._decoder = Decoder()
        self._changed = [asyncio.Event() for _ in looks]  # pause, interval, or a look wanted now
        self._wanted = [False for _ in looks]
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._drawn_s = 0.0

    async def run(self) -> int:
        """Show until the user has seen enough. Returns the exit code: 0, or 128 and the signal's number.

        The terminal is as before when this returns or raises.
        """
        tasks: list[asyncio.Task[None]] = []
        try:
            with self._signals(), self._terminal:
                self._resize()
                tasks += [asyncio.create_task(self._watch(i)) for i in range(len(self._looks))]
                tasks.append(asyncio.create_task(self._tick()))
                waited: list[asyncio.Future[Any]] = [self._end, *tasks]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()  # ends only by an error: let it be seen
                return await self._end
        except LostTerminalError:
            return 128 + signal.SIGHUP
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Listen to keys and signals. A signal that was ignored when we came (nohup) stays ignored."""
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGINT: lambda: self._stop(0),
            signal.SIGWINCH: self._resize,
            signal.SIGTSTP: self._suspend,
            signal.SIGCONT: self._resume,
        }
        for ending in ENDING:
            handlers[ending] = functools.partial(self._stop, 128 + ending)
        handlers = {n: h for n, h in handlers.items() if signal.getsignal(n) is not signal.SIG_IGN}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        loop.add_reader(self._terminal.input_fd, self._read)
        try:
            yield
        finally:
            loop.remove_reader(self._terminal.input_fd)
            for number in handlers:
                loop.remove_signal_handler(number)

    def _stop(self, code: int) -> None:
        if not self._end.done():
            self._end.set_result(code)

    async def _watch(self, cluster: int) -> None:
        """Look at one cluster at every interval."""
        while True:
            started_s = time.monotonic()
            self._wanted[cluster] = False
            report = await self._looks[cluster]()
            self.screen = self.screen.with_look(cluster, report)
            self._draw()
            await self._until_next(cluster, started_s)

    async def _until_next(self, cluster: int, started_s: float) -> None:
        """Wait for the next look: one interval since the last, or the key for it. Longer while paused."""
        while not self._wanted[cluster]:
            left_s = started_s + self.screen.interval_s - time.monotonic()
            if left_s <= 0 and not self.screen.paused:
                return
            self._changed[cluster].clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self.screen.paused else left_s):
                    await self._changed[cluster].wait()

    async def _tick(self) -> None:
        """Draw where nothing new came for an interval: a look may take long, or be paused."""
        while True:
            await asyncio.sleep(max(0.05, self._drawn_s + self.screen.interval_s - time.monotonic()))
            if time.monotonic() - self._drawn_s >= self.screen.interval_s:
                self._draw()

    def _draw(self) -> None:
        if self._end.done():
            return
        self._drawn_s = time.monotonic()
        self.screen = settled(replace(self.screen, now=time.time()))
        lines = [render(line, self.screen.medium.color) for line in frame(self.screen)]
        try:
            self._terminal.draw(lines)
        except LostTerminalError:
            self._stop(128 + signal.SIGHUP)

    def _resize(self) -> None:
        self.screen = self.screen.resized(*self._terminal.size())
        self._draw()

    def _read(self) -> None:
        try:
            keys = self._decoder.feed(self._terminal.read())
        except LostTerminalError:
            self._stop(128 + signal.SIGHUP)
            return
        self._press(keys)
        if self._decoder.waiting:
            asyncio.get_running_loop().call_later(ESCAPE_WAIT_S, self._flush)

    def _flush(self) -> None:
        self._press(self._decoder.flush())

    def _press(self, keys: Sequence[str]) -> None:
        for key in keys:
            if not self.screen.typing and key == "q":
                self._stop(0)
                return
            if not self.screen.typing and key == "r":
                self._wanted = [True for _ in self._looks]
            self.screen = settled(pressed(self.screen, key))
        if keys:
            for changed in self._changed:
                changed.set()
            self._draw()

    def _suspend(self) -> None:
        """Ctrl-Z: give the terminal back, then stop as any program does."""
        self._terminal.give_back()
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)  # returns when somebody lets us go on
        loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        self._resume()

    def _resume(self) -> None:
        """After Ctrl-Z and fg, or after a stop that could not be caught: the shell has used the terminal."""
        if self._end.done():
            return
        try:
            self._terminal.take()
        except LostTerminalError:
            self._stop(128 + signal.SIGHUP)
            return
        self._resize()
