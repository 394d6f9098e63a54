"""The account that the lab's servers run under: PostgreSQL refuses to run as root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replctl.errors import LabError

_PREFERRED = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged user that root switches to."""

    name: str
    uid: int
    gid: int


def server_account() -> Account | None:
    """Whom servers run as: None = whoever we are, which is right for everyone but root."""
    if os.geteuid() != 0:
        return None
    for name in _PREFERRED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise LabError(
        "no user to run PostgreSQL as",
        why=f"PostgreSQL refuses root, and there is no user {' or '.join(_PREFERRED)}",
        hint="create one (useradd --system postgres), or run the lab as an ordinary user",
    )


def account_named(name: str | None) -> Account | None:
    """The account that a lab was built with. Raises LabError when this machine has lost it."""
    if name is None:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise LabError(f"user {name}, who runs the lab's servers, does not exist any more") from None
    return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)


def environment() -> dict[str, str]:
    """Our environment without what would point PostgreSQL's programs elsewhere."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def run(argv: Sequence[str], account: Account | None, *, timeout_s: float, input_text: str = "") -> str:
    """Run a program as the account and return what it printed. Raises LabError when it fails.

    Raises PermissionError or FileNotFoundError when it cannot be executed at all.
    """
    program = Path(argv[0]).name
    switch: dict[str, Any] = {}
    if account is not None:
        switch = {"user": account.uid, "group": account.gid, "extra_groups": []}
    try:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            argv,
            **switch,
            input=input_text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd="/",
            env=environment(),
            umask=0o077,
            # Ctrl-C in the terminal is for us; we end what we started.
            start_new_session=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{program} did not finish within {timeout_s:g} s") from None
    if done.returncode != 0:
        raise LabError(f"{program} failed", why=telling_line(done.stdout) or f"exit code {done.returncode}")
    return done.stdout


def telling_line(output: str) -> str | None:
    """The last line of a program's output that names an error, else its last line; None if it is empty."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [
        line for line in lines if any(word in line for word in ("FATAL:", "ERROR:", "PANIC:", "error:"))
    ]
    telling = errors or lines
    return telling[-1] if telling else None


def give(path: Path, account: Account | None, mode: int) -> None:
    """Let a file or directory belong to the account, with these permissions."""
    path.chmod(mode)
    if account is not None:
        os.chown(path, account.uid, account.gid)


def command_prefix(account: Account | None, extra: Mapping[str, str]) -> list[str]:
    """The argv under which another program runs as the account, with `extra` in its environment."""
    variables = ["env", *(f"{key}={value}" for key, value in extra.items())]
    if account is None:
        return variables
    if shutil.which("setpriv"):
        switch = ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups", "--"]
    elif shutil.which("runuser"):
        switch = ["runuser", "-u", account.name, "--"]
    else:
        switch = ["sudo", "-n", "-u", account.name, "--"]
    return [*switch, *variables]
