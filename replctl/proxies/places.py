"""A proxy's configuration file, here or on another machine, and who may change it now."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from replctl import files
from replctl.errors import ReplctlError

RUN_LIMIT_S = 10.0  # for one command on another machine
LOCK_LIMIT_S = 15.0
LOCK_POLL_S = 0.02


class Moved(ReplctlError):  # noqa: N818 - a state, not a mistake
    """Somebody else has changed the file since it was read: look again. Nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a file is. `run` = the words before a command that reach its machine; none = this one."""

    path: Path
    run: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Which of several machines shows in the words that reach it."""
        return f"{self.path} by {' '.join(self.run)}" if self.run else str(self.path)

    def read(self) -> str | None:
        """Its text, None where there is none. Blocks. Raises ReplctlError."""
        if not self.run:
            return files.read(self.path)
        if self._command("test", "-e", str(self.path)).returncode == 1:
            return None
        return self._done("cat", str(self.path))

    def write(self, text: str) -> None:
        """Put this text there, whole or not at all; what was there stays as `FILE.previous`.

        Blocks. Raises ReplctlError, and then the file is as it was.
        """
        if not self.run:
            files.replace(self.path, text)
            return
        with self._beside(text) as new:
            self._take_over(new)

    def replace(self, before: str | None, text: str) -> None:
        """The same, unless there is another text than `before` now: then raises Moved.

        On another machine nothing locks the file, so that is asked again right before the end.
        """
        if not self.run:  # `held`
            files.replace(self.path, text)
            return
        with self._beside(text) as new:
            if self.read() != before:
                raise Moved(f"{self} was changed by somebody else just now", hint="run it again")
            self._take_over(new)

    @contextlib.contextmanager
    def _beside(self, text: str) -> Iterator[str]:
        """A new file with this text and the mode and owner of the one that is there; nobody else's."""
        new, path = f"{self.path}.{secrets.token_hex(6)}.replctl-new", str(self.path)
        try:
            if self._command("test", "-e", path).returncode == 0:
                self._done("cp", "-p", path, new)
            self._done("tee", new, text=text)
            self._done("sync", new)
            yield new
        except BaseException:
            with contextlib.suppress(ReplctlError):
                self._done("rm", "-f", new)
            raise

    def _take_over(self, new: str) -> None:
        path = str(self.path)
        if self._command("test", "-e", path).returncode == 0:
            kept = f"{new}.previous"  # two who do this at once would be in each other's way
            self._done("cp", "-p", path, kept)
            self._done("mv", "-f", kept, str(files.previous_of(self.path)))
        self._done("mv", "-f", new, path)

    def put_back(self, text: str | None) -> None:
        """Undo `write`: this text, or no file. What is taken away stays as `FILE.previous`."""
        if text is not None:
            self.write(text)
        elif self.run:
            self._done("mv", "-f", str(self.path), str(files.previous_of(self.path)))
        else:
            self.path.replace(files.previous_of(self.path))

    def _done(self, *command: str, text: str | None = None) -> str:
        done = self._command(*command, text=text)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ReplctlError(f"{self}: {command[0]} failed", why=said[-1])
        return done.stdout

    def _command(self, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        how = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
        try:
            return subprocess.run(
                [*self.run, *command],
                **how,
                capture_output=True,
                text=True,
                timeout=RUN_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ReplctlError(f"{self} is not reached", why=f"not within {RUN_LIMIT_S:g} s") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ReplctlError(f"{self} is not reached", why=str(error)) from None

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nobody else on this machine changes files of this directory meanwhile. Raises ReplctlError.

        The lock is on the directory itself, so that nothing is left behind.
        """
        if self.run:
            yield
            return
        try:
            folder = os.open(self.path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ReplctlError(f"{self.path} cannot be written", why=error.strerror) from None
        try:
            until_s = time.monotonic() + LOCK_LIMIT_S
            while not _locked(folder):
                if time.monotonic() > until_s:
                    why = f"another replctl has been at it for {LOCK_LIMIT_S:g} s"
                    raise ReplctlError(f"{self.path} is not changed", why=why)
                await asyncio.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(folder)


def _locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
