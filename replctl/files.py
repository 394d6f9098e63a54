"""Replacing a configuration file that a running program may read at any moment.

The new text is whole on the disk, with the old file's mode and owner, before it takes the old one's place
by a rename; what was there stays beside it as `FILE.previous`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from replctl.errors import ReplctlError

LIMIT_BYTES = 16 * 1024 * 1024
NEW_MODE = 0o644  # what is rendered holds no secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """What `replace` did. `previous` is the copy of what was there, None where nothing was."""

    changed: bool
    previous: Path | None


def previous_of(path: Path) -> Path:
    """Where the file that was there before is kept."""
    return path.with_name(f"{path.name}.previous")


def read(path: Path) -> str | None:
    """The text of a file, None where there is none. Raises ReplctlError where it cannot be read."""
    found = _read(path)
    return None if found is None else _text(found[0], path)


def replace(path: Path, text: str) -> Replaced:
    """Put this text in the place of the file, unless it has it already. A symbolic link stays one.

    Mode and owner stay as they are; a new file gets mode 0644. Raises ReplctlError, and then the file is as
    it was.
    """
    content = text.encode("utf-8")
    try:
        target = path.resolve()
        found = _read(target)
        if found is not None and found[0] == content:
            return Replaced(changed=False, previous=None)
        if found is None:
            _put(target, content, None)
            return Replaced(changed=True, previous=None)
        before, like = found
        _put(previous_of(target), before, like)
        _put(target, content, like)
    except OSError as error:
        hint = "the file is as it was"
        if not path.resolve().parent.is_dir():
            hint = "make its directory first"
        elif error.errno == errno.EPERM:
            hint = "its owner is kept, which only its owner can do: chown it to who runs this"
        raise ReplctlError(f"{path} cannot be written", why=error.strerror or str(error), hint=hint) from None
    return Replaced(changed=True, previous=previous_of(target))


def _read(path: Path) -> tuple[bytes, os.stat_result] | None:
    try:
        # A FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReplctlError(f"{path} cannot be read", why=error.strerror or str(error)) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ReplctlError(f"{path} cannot be read", why="it is not a file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > LIMIT_BYTES:
            raise ReplctlError(f"{path} cannot be read", why=f"it has more than {LIMIT_BYTES} bytes")
        return file.read(), status


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ReplctlError(f"{path} cannot be read", why="it is not UTF-8 text") from None


def _put(path: Path, content: bytes, like: os.stat_result | None) -> None:
    """Make `path` this content, with the mode and owner of `like`, by a rename that survives a crash."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if like is not None:
                own = os.fstat(descriptor)
                if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
                    os.fchown(descriptor, like.st_uid, like.st_gid)
            # After the owner: a change of owner takes mode bits away.
            os.fchmod(descriptor, NEW_MODE if like is None else stat.S_IMODE(like.st_mode))
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
