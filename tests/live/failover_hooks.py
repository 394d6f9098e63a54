"""Hooks for tests: small programs that leave what they were told, and wait, fail or hang."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import wait_until

LIMIT_TICKS = 600  # of 0.05 s: a hook that nobody lets go on ends by itself


@dataclass(frozen=True)
class Hook:
    """A hook script and the files that it leaves."""

    directory: Path
    name: str

    @property
    def argv(self) -> list[str]:
        """For the inventory."""
        return [str(self._file("sh"))]

    def _file(self, kind: str) -> Path:
        return self.directory / f"{self.name}.{kind}"

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The document that each run got on its standard input."""
        path = self._file("documents")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the last run had."""
        lines = self._file("environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def wait_started(self) -> None:
        """Wait until it runs."""
        wait_until(lambda: self.runs, f"the {self.name} hook runs")

    def let_go(self) -> None:
        """End one that waits."""
        self._file("go").touch()


def write_hook(directory: Path, name: str, then: str = "exit 0", *, waits: bool = False) -> Hook:
    """A hook that notes what it was told and then runs this piece of shell; with `waits`, once let go."""
    hook = Hook(directory, name)
    quoted = {k: shlex.quote(str(directory / f"{name}.{k}")) for k in ("documents", "environment", "go")}
    waiting = (
        f"i=0; while [ ! -e {quoted['go']} ] && [ $i -lt {LIMIT_TICKS} ]; do sleep 0.05; i=$((i+1)); done\n"
    )
    script = Path(hook.argv[0])
    script.write_text(
        "#!/bin/sh\n"
        f"env > {quoted['environment']}\n"
        f"cat >> {quoted['documents']}\n"
        f"{waiting if waits else ''}"
        f"{then}\n"
    )
    script.chmod(0o755)
    return hook
