"""Where tests put what the servers' account has to reach."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 8 << 30  # every process of a run has some 200 MiB in servers, and seldom over 1 GiB
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)


@contextlib.contextmanager
def open_directory(*, for_labs: bool = False) -> Iterator[Path]:
    """A directory that every user may enter; removed at the end.

    Labs are built in memory where there is plenty: copying data directories to a disk would be a third
    of all the time that the tests take.
    """
    with tempfile.TemporaryDirectory(prefix="replctl-test-", dir=_in_memory() if for_labs else None) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _in_memory() -> Path | None:
    """None = where temporary files are."""
    try:
        memory = os.statvfs(_MEMORY)
        available = _AVAILABLE.search(Path("/proc/meminfo").read_text())
    except OSError:
        return None
    free_bytes = min(memory.f_bavail * memory.f_frsize, int(available[1]) << 10 if available else 0)
    # A lab copies its programs beside its servers where their account could not run them.
    usable = os.access(_MEMORY, os.W_OK) and not memory.f_flag & os.ST_NOEXEC
    return _MEMORY if usable and free_bytes > _ENOUGH_BYTES else None
