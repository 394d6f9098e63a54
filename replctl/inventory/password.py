"""Runs `password_command`: argv without a shell, a time limit, and output that goes nowhere else.

Asked once per command and process. A failure is remembered for a moment, so that two hundred nodes with
one broken command do not wait for it two hundred times.
"""

from __future__ import annotations

import os
import threading
import time

from replctl.errors import ObserveError

LIMIT_S = 10.0
OUTPUT_MAX_BYTES = 64 * 1024
FAILURE_KEPT_S = 5.0

_lock = threading.Lock()
_known: dict[tuple[str, ...], str] = {}
_failed: dict[tuple[str, ...], tuple[float, str]] = {}


def ask(argv: tuple[str, ...]) -> str:
    """The first line that the command prints. Raises ObserveError; blocks up to LIMIT_S seconds."""
    with _lock:
        if argv in _known:
            return _known[argv]
        failed_at_s, why = _failed.get(argv, (0.0, ""))
        if not why or time.monotonic() - failed_at_s > FAILURE_KEPT_S:
            try:
                _known[argv] = _run(argv)
                return _known[argv]
            except _NoPasswordError as failure:
                why = str(failure)
                _failed[argv] = (time.monotonic(), why)
        raise ObserveError(
            f"password_command {argv[0]!r} gave no password",
            why=why,
            hint="run the command by hand; its output is not repeated here",
        )


def forget(argv: tuple[str, ...]) -> None:
    """Run the command again when it is asked next."""
    with _lock:
        _known.pop(argv, None)
        _failed.pop(argv, None)


class _NoPasswordError(Exception):
    """Why there is no password, without a word of what the command printed."""


def _run(argv: tuple[str, ...]) -> str:
    import contextlib
    import signal
    import subprocess

    deadline_s = time.monotonic() + LIMIT_S
    try:
        # An own session, so that whatever the command started ends with it.
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise _NoPasswordError(getattr(error, "strerror", None) or "it cannot be started") from None
    try:
        assert process.stdout is not None
        output = _read(process.stdout.fileno(), deadline_s)
        code = process.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _NoPasswordError(f"not done within {LIMIT_S:g} s") from None
    finally:
        if process.returncode is None:  # not reaped yet, so its group is still its own
            os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
        if process.stdout is not None:
            process.stdout.close()
    if code != 0:
        raise _NoPasswordError(f"exit code {code}" if code > 0 else f"ended by signal {-code}")
    return _first_line(output)


def _read(stream: int, deadline_s: float) -> bytes:
    import select

    output = b""
    readable = select.poll()
    readable.register(stream, select.POLLIN)
    while len(output) <= OUTPUT_MAX_BYTES:
        if not readable.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
            raise _NoPasswordError(f"not done within {LIMIT_S:g} s")
        chunk = os.read(stream, 4096)
        if not chunk:
            return output
        output += chunk
    raise _NoPasswordError(f"more than {OUTPUT_MAX_BYTES} bytes of output")


def _first_line(output: bytes) -> str:
    try:
        line = output.decode().split("\n", 1)[0].removesuffix("\r")
    except UnicodeDecodeError:
        raise _NoPasswordError("output that is not UTF-8") from None
    if not line:
        raise _NoPasswordError("an empty first line")
    if "\0" in line:
        raise _NoPasswordError("a zero byte in its output")
    return line
