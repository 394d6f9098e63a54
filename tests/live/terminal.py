"""replctl on a terminal of a given width: what is on it, and typing into it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping
from types import TracebackType

import pytest

from tests.support import ROOT


class Terminal:
    """A run of replctl on a pseudo-terminal. `text` is everything that it wrote."""

    def __init__(self, *arguments: str, env: Mapping[str, str], columns: int = 80) -> None:
        self._main, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            # The terminal has to be its own, or Ctrl-C would be no signal.
            ["setsid", "--ctty", sys.executable, "-m", "replctl", *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", **env},
            stdin=far,
            stdout=far,
            stderr=far,
        )
        os.close(far)
        self._output = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._main, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            self._output += data

    @property
    def text(self) -> str:
        """Everything so far, lines ended as usual."""
        return self._output.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, words: str, limit_s: float = 20.0) -> None:
        """Wait until these words were written."""
        until_s = time.monotonic() + limit_s
        while words not in self.text:
            if time.monotonic() > until_s:
                pytest.fail(f"waited {limit_s:g} s in vain for {words!r} in:\n{self.text}", pytrace=False)
            threading.Event().wait(0.02)

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._main, text.encode())

    def end(self, limit_s: float = 30.0) -> tuple[int, str]:
        """Wait for its end; its exit code and everything that it wrote."""
        code = self.process.wait(limit_s)
        self._reader.join(5)
        return code, self.text

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._reader.join(5)
        os.close(self._main)
