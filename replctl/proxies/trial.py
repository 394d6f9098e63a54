"""Trying a rendered file before anybody depends on it: by our own reading, and by the real program.

The program at hand is used where it is at least of the version that the file is for: an older one refuses
what a newer one knows. Where it cannot be run here, our own reading has to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from replctl.errors import ReplctlError
from replctl.proxies.console import ask
from replctl.render import ini
from replctl.render.haproxy import Server
from replctl.render.pgbouncer import Alias

LIMIT_S = 5.0
NOBODY = 65534
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
_VERSION = re.compile(r"(?:PgBouncer|HAProxy version|HA-Proxy version) ([0-9]{1,3})\.([0-9]{1,3})")
_PORT = 6432  # of a Unix socket: only part of its name
_OVERRIDES = """
listen_addr =
listen_port = {port}
unix_socket_dir = {scratch}
unix_socket_mode = 0700
logfile =
pidfile =
auth_type = any
"""


def try_pgbouncer(
    text: str, plan: tuple[Alias, ...], version: tuple[int, ...], *, hurried: bool = False
) -> None:
    """Raise ReplctlError where the file would not make these aliases; `hurried` = by our reading alone."""
    try:
        read = ini.databases(text)
    except ValueError as error:
        raise ReplctlError("the rendered file is not as it should be", why=str(error)) from None
    if read != {alias.name: alias.settings for alias in plan}:
        raise ReplctlError("the rendered file is not as it should be", why="its aliases are others")
    program = None if hurried else _program("pgbouncer", "--version", version)
    if program is not None:
        with _scratch() as (scratch, account):
            config = scratch / "pgbouncer.ini"
            section = "" if "\n[pgbouncer]\n" in text else "\n[pgbouncer]"
            own = "".join(
                f"{line}\n"
                for line in text.splitlines()
                if not line.startswith(("auth_file ", "auth_hba_file "))
            )
            config.write_text(f"{own}{section}{_OVERRIDES.format(port=_PORT, scratch=scratch)}")
            config.chmod(0o644)
            _try_running([program, str(config)], scratch, account, plan)


def _try_running(argv: list[str], scratch: Path, account: dict[str, Any], plan: tuple[Alias, ...]) -> None:
    from replctl.proxies.aliases import differences

    with (scratch / "log").open("w+b") as log:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=scratch, **account
            )
        except OSError:
            return
        try:
            rows = _first_answer(process, f"host={scratch} port={_PORT} user=replctl")
        finally:
            process.kill()
            process.wait(LIMIT_S)
        log.seek(0)
        said = log.read().decode(errors="replace")
    if rows is None:
        wrong = re.findall(r" (?:ERROR|FATAL) (.*)", said)
        if not wrong:
            return  # it could not run here, which says nothing of the file
        raise ReplctlError("a PgBouncer of its own refuses the rendered file", why=wrong[0])
    found = differences(plan, {str(row["name"]): row for row in rows})
    if found:
        raise ReplctlError("a PgBouncer of its own reads the rendered file otherwise", why="; ".join(found))


def _first_answer(process: subprocess.Popen[bytes], dsn: str) -> list[dict[str, Any]] | None:
    until_s = time.monotonic() + LIMIT_S
    while process.poll() is None:
        with contextlib.suppress(ReplctlError):
            return asyncio.run(ask(dsn, "SHOW DATABASES"))
        if time.monotonic() > until_s:
            return None
        time.sleep(0.01)
    return None


def try_haproxy(
    text: str, plan: tuple[Server, ...], version: tuple[int, ...], *, hurried: bool = False
) -> None:
    """Raise ReplctlError where the file would not make these servers; `hurried` as above."""
    read = servers_of(text)
    wanted = [(s.backend, s.name, s.enabled, s.weight, s.backup) for s in plan]
    if read != wanted:
        raise ReplctlError("the rendered file is not as it should be", why="its servers are others")
    program = None if hurried else _program("haproxy", "-v", version)
    if program is None:
        return
    with _scratch() as (scratch, _):
        config = scratch / "haproxy.cfg"
        config.write_text(text)
        try:
            done = subprocess.run(
                [program, "-c", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ReplctlError("haproxy -c does not end", why=f"not within {LIMIT_S:g} s") from None
    if done.returncode not in (0, 2):  # 2: valid, but nothing listens
        alerts = [line for line in done.stderr.splitlines() if "[ALERT]" in line] or [
            "it says nothing of why"
        ]
        why = re.sub(r"^\[ALERT\]\s*\([0-9]+\) : ", "", alerts[0]).replace(str(config), "the file")
        raise ReplctlError("HAProxy refuses the rendered file", why=why)


def servers_of(text: str) -> list[tuple[str, str, bool, int, bool]]:
    """The servers of a file that we rendered: listener, name, enabled, weight, backup."""
    found, section = [], ""
    for line in text.splitlines():
        words = line.split()
        if line[:1].isalpha():
            section = words[1] if words[0] == "listen" and len(words) > 1 else ""
        elif section and words[:1] == ["server"] and "weight" in words:
            weight = int(words[words.index("weight") + 1])
            found.append((section, words[1], words[-1] != "disabled", weight, "backup" in words))
    return found


def _program(name: str, option: str, version: tuple[int, ...]) -> str | None:
    """The program where it is at hand and knows what a file for this version may hold."""
    program = shutil.which(name, path=PATH)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, option],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout)
    own = (int(match[1]), int(match[2])) if match else (0, 0)
    return program if own >= tuple(version[:2]) else None


@contextlib.contextmanager
def _scratch() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A directory for the trial, and as whom to run it: PgBouncer refuses root."""
    account: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="replctl-") as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
            account = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        yield Path(name), account
