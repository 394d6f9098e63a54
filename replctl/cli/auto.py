"""What `replctl failover --auto` is as a process: its lines, its journal, its signals, systemd."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from replctl.controller.incident import Log
    from replctl.inventory import Inventory
    from replctl.journal import EventLog

Line = tuple[str, str, dict[str, Any]]
ROUTINE = ("primary", "diagnosis", "marks", "votes", "covers")  # said at every start, whatever there is to do


class LogFormat(StrEnum):
    """Lines of the controller."""

    HUMAN = "human"
    JSON = "json"


async def control(inventory: Inventory, log_format: LogFormat, *, once: bool) -> int:
    """The controller until a signal ends it; with `once` a single decision and its exit code."""
    import asyncio

    from replctl.controller.automatic import Controller, exit_code
    from replctl.controller.notify import keep_notifying, notify
    from replctl.journal import Background, load_history, load_sync, save_history, save_sync

    name = inventory.settings.name
    journal, record = recorder(name)
    # Not print(): a reader that stands still, or is gone, must not hold up or end a failover.
    lines = Background(lambda line: os.write(1, f"{line}\n".encode()))

    def write(event: str, sentence: str, facts: dict[str, Any]) -> None:
        lines.leave(log_line(name, log_format, event, sentence, facts))
        record(event, sentence, facts)

    held = _Held(write) if once else None

    def log(event: str, sentence: str, facts: dict[str, object]) -> None:
        (held or write)(event, sentence, facts)
        if event == "verdict":
            notify(f"STATUS={sentence}")

    controller = Controller(
        inventory,
        log,
        load_history(name),
        once=once,
        sync_before=load_sync(name),
        remember_sync=lambda configured: save_sync(name, configured),
    )
    heed_signals(controller.stopping)
    watchdog = asyncio.create_task(keep_notifying())
    notify("READY=1")
    try:
        await controller.run()
        if held is not None and held.lines and os.isatty(1):
            os.write(1, f"{name}: nothing to do: {held.lines[-1][1]}\n".encode())
    finally:
        notify("STOPPING=1")
        watchdog.cancel()
        lines.close()
        journal.close()
        save_history(name, controller.history)  # how far the primary was, for whoever comes next
    return exit_code(controller) if once else 0


class _Held:
    """Keeps a run of `--once` quiet until there is something to say: then everything, in order.

    A job that runs every minute would otherwise fill the journal, and have cron send a mail each time.
    """

    def __init__(self, write: Callable[[str, str, dict[str, Any]], None]) -> None:
        self._write = write
        self._quiet = True
        self.lines: list[Line] = []

    def __call__(self, event: str, sentence: str, facts: dict[str, Any]) -> None:
        self.lines.append((event, sentence, facts))
        is_routine = event in ROUTINE or (event == "verdict" and sentence.startswith("alive:"))
        if self._quiet and is_routine:
            return
        self._quiet = False
        for line in self.lines:
            self._write(*line)
        self.lines.clear()


def heed_signals(halt: asyncio.Event) -> None:
    """From now on a signal undoes what is begun, or lets a promotion come to its end."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, halt.set)


def recorder(cluster: str) -> tuple[EventLog, Log]:
    """The journal, and what writes an event into it."""
    from replctl.journal import EventLog
    from replctl.pg.locks import session_name

    journal, by = EventLog(cluster), session_name("failover").removeprefix("replctl failover ")

    def record(event: str, sentence: str, facts: dict[str, object]) -> None:
        journal.append({"event": event, "message": sentence, "by": by, **facts})

    return journal, record


def log_line(cluster: str, log_format: LogFormat, event: str, sentence: str, facts: dict[str, Any]) -> str:
    """One event as one line."""
    from datetime import UTC, datetime

    from replctl.display.serialize import to_json
    from replctl.journal import redacted

    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    sentence = redacted(sentence)
    if log_format is LogFormat.JSON:
        return to_json(
            {"at": at, "cluster": cluster, "event": event, "message": sentence, **facts}, one_line=True
        )
    took_s = facts.get("took_s")
    took = f" ({took_s:.3f} s)" if isinstance(took_s, float) else ""
    return f"{at} {cluster} {event}: {sentence}{took}"
