"""replctl as a process that goes on, and what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from tests.support import ROOT

END_LIMIT_S = 10.0


class Running:
    """A command of replctl in the background; every line that it says is read at once."""

    def __init__(self, *words: str, env: Mapping[str, str], inside: Sequence[str] = ()) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*inside, sys.executable, "-m", "replctl", *words],
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.hear(line.rstrip("\n"))

    def hear(self, line: str) -> None:
        """What is done with a line, in the thread that reads."""
        self.lines.append(line)

    @property
    def log(self) -> str:
        """All that it has said."""
        return "\n".join(list(self.lines))

    def end(self, number: signal.Signals) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(END_LIMIT_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code
