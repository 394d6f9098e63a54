"""The inventory's hooks: programs that are told of a failover before, after, and when it fails.

A hook gets one JSON document on its standard input and the same as REPLCTL_* in its environment. It has a
limit of time, and is ended with everything that it started when that is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping
from typing import Any

from replctl.errors import ReplctlError

TAIL_BYTES = 4096
TAIL_LETTERS = 200


class HookError(ReplctlError):
    """A hook failed, did not end, or could not be started."""


async def run_hook(name: str, argv: tuple[str, ...], document: Mapping[str, Any], limit_s: float) -> None:
    """Run a hook and wait for it; nothing to do where there is none. Raises HookError.

    `document` = flat values, None for what is not known. What the hook prints is shown only when it fails.
    """
    if not argv:
        return
    content = {"schema_version": 1, "hook": name, **document}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=environment(content, os.environ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with its children
        )
    except OSError as error:
        raise HookError(f"the {name} hook cannot be started", why=f"{argv[0]}: {error.strerror}") from None
    try:
        async with asyncio.timeout(limit_s):
            output, _ = await process.communicate(json.dumps(content).encode() + b"\n")
    except TimeoutError:
        raise HookError(f"the {name} hook did not end", why=f"within {limit_s:g} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        said = output[-TAIL_BYTES:].decode(errors="replace").strip().splitlines()
        tail = "".join(c for c in (said[-1] if said else "") if c.isprintable())[:TAIL_LETTERS]
        why = f"exit code {process.returncode}{f', {tail}' if tail else ''}"
        raise HookError(f"the {name} hook failed", why=why)


def environment(document: Mapping[str, Any], before: Mapping[str, str]) -> dict[str, str]:
    """The environment of a hook: ours, and every value of the document as REPLCTL_NAME, unknown = empty."""
    own = {k: v for k, v in before.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")}
    told = {f"REPLCTL_{k.upper()}": "" if v is None else str(v) for k, v in document.items()}
    return own | told


def _end(process: asyncio.subprocess.Process) -> None:
    """End what is left of it. Its exit is collected by the event loop."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
