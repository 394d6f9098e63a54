"""Telling systemd how a service is: the sd_notify protocol, where NOTIFY_SOCKET is set.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping


def notify(message: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send one message such as `READY=1`. False where nobody asked for it, or nobody takes it."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(message.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
        return True
    return False


def watchdog_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """How often systemd wants to hear from us: half of WATCHDOG_USEC; None where it does not."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID")
    if not text.isdecimal() or int(text) == 0 or (pid is not None and pid != str(os.getpid())):
        return None
    return int(text) / 2e6


async def keep_notifying() -> None:
    """Say that the event loop turns, for ever; ends at once where no watchdog waits."""
    every_s = watchdog_s()
    while every_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(every_s)
