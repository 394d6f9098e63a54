"""Every way out of `check`: a monitoring system reads one line on stdout and one of four codes, always.

Whatever ends a run early is UNKNOWN: Typer's own codes 1 and 2 would mean WARNING and CRITICAL.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from replctl.core.results import Status
from replctl.display.plugin import FIRST_LINE_CHARACTERS, first_line
from replctl.errors import InventoryError, ReplctlError

_INTERRUPTED = 130  # Typer's word for Ctrl-C
# "Invalid value for '--for': …" says too little before what counts.
_PREAMBLE = re.compile(r"Invalid value for '(?:-\w' / ')?([^']+)': ")


def run_as_plugin(call: Callable[[], Any], usage_error: type[Exception]) -> int:
    """Run `check` through Typer (`call`), and return the code that a monitoring system gets."""
    if sys.stdout is None:  # closed by the caller: nobody could be told
        return int(Status.UNKNOWN)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of a server's message, in an old locale
    stdout = sys.stdout
    try:
        with _ended_by_signals() as said:
            result = call()
            stdout.flush()
            if result == _INTERRUPTED:
                raise KeyboardInterrupt(*said)
            return result if isinstance(result, int) else 0
    except BaseException as error:
        with suppress(OSError, ValueError):
            if not isinstance(error, (BrokenPipeError, SystemExit)):  # Typer exits where it met the pipe
                print(first_line(Status.UNKNOWN, _what_ended(error, usage_error)), file=stdout, flush=True)
                return int(Status.UNKNOWN)
        # Nothing that is still buffered may be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        return int(Status.UNKNOWN)


@contextmanager
def _ended_by_signals() -> Iterator[list[str]]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does. Yields what is to be said of it then."""
    said: list[str] = []

    def end(number: int, _: object) -> None:
        said[:] = [f"ended by {signal.Signals(number).name}"]
        raise KeyboardInterrupt  # asyncio lets no other kind through

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield said
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _what_ended(error: BaseException, usage_error: type[Exception]) -> str:
    """One sentence."""
    if isinstance(error, InventoryError) and len(error.problems) == 1:
        return _located(error.problems[0])
    if isinstance(error, InventoryError) and error.what.endswith("problems"):
        return f"{error}; replctl config validate lists them"
    if isinstance(error, ReplctlError):
        return _with_hint(str(error), error.hint)
    if isinstance(error, usage_error):
        return _PREAMBLE.sub(r"\1: ", getattr(error, "format_message", error.__str__)())
    if isinstance(error, (typer.Abort, KeyboardInterrupt)):
        return str(error) or "interrupted"
    return f"internal error: {type(error).__name__}: {error}"


def _located(problem: str) -> str:
    """A problem of the inventory without the folders of the file, which would leave it no room."""
    return re.sub(r"^\S*/", "", problem)


def _with_hint(text: str, hint: str | None) -> str:
    """The hint too, where there is room."""
    both = f"{text}; {hint}"
    room = FIRST_LINE_CHARACTERS - len("REPL UNKNOWN: ")
    return both if hint and len(both) <= room else text
