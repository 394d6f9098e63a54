"""The one thing of a killed server that is not a file: its System V shared memory segment.

PostgreSQL makes a tiny one per server as an interlock. The next start of the same data directory removes
it; a lab that is removed after a kill has no next start.
https://www.postgresql.org/docs/current/kernel-resources.html
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

_SEGMENTS = Path("/proc/sysvipc/shm")
_IPC_RMID = 0
_SEGMENT_LINE = 6  # of postmaster.pid: key and id


def release(data_directory: Path) -> None:
    """Remove the segment that a killed server of this data directory left, if nobody is attached to it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (data_directory / "postmaster.pid").read_text().splitlines()
        key, identifier = (int(word) for word in lines[_SEGMENT_LINE].split())
        for line in _SEGMENTS.read_text().splitlines()[1:]:
            columns = line.split()  # key shmid perms size cpid lpid nattch …
            if (int(columns[0]), int(columns[1])) == (key, identifier) and columns[6] == "0":
                ctypes.CDLL(None).shmctl(identifier, _IPC_RMID, None)
