"""A replctl that every user can run: the checkout and the interpreter may stand where only we can enter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.support import ROOT

NOBODY = 65534
_LEFT_OUT = shutil.ignore_patterns("test", "tests", "site-packages", "config-*", "idlelib", "ensurepip")


def unprivileged() -> list[str]:
    """Words before a command that take away what NoNewPrivileges and CapabilityBoundingSet do."""
    who = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all"]
    return ["setpriv", "--no-new-privs", *(who if os.geteuid() == 0 else ())]


def program(directory: Path) -> Path:
    """A script below this directory, which everybody may enter, that is replctl to whoever runs it.

    Where others cannot run ours in its place, the package, what it needs, and an interpreter that others
    cannot run either are copied there.
    """
    script = directory / "replctl"
    own = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    if not _runs(_write(script, own, sys.executable)):
        place = directory / "replctl-for-everybody"
        _copy_packages(place / "packages")
        python = _interpreter(place / "python")
        open_to_all(place)
        assert _runs(_write(script, [str(place / "packages")], python)), "others cannot run the copy"
    return script


def open_to_all(place: Path) -> None:
    """Let everybody read what is there, and run what we can run."""
    for path in (place, *place.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & 0o100 else 0o444))


def _write(script: Path, paths: list[str], python: str) -> Path:
    libraries = (
        Path(python).parent.parent / "lib"
    )  # of a shared libpython, which is linked by its first place
    script.write_text(
        f"#!/bin/sh\nLD_LIBRARY_PATH={libraries} PYTHONPATH={':'.join(paths)}"
        f' exec {python} -B -m replctl "$@"\n'
    )
    script.chmod(0o755)
    return script


def _runs(script: Path) -> bool:
    command = [*unprivileged(), str(script), "--version"]
    return subprocess.run(command, capture_output=True, cwd="/", timeout=20).returncode == 0


def _interpreter(place: Path) -> str:
    """Ours, copied if others cannot run it."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix) / "bin" / name
    # Through a shell: those words still have root's rights when they begin what they are given.
    trial = [*unprivileged(), "/bin/sh", "-c", f"exec {base} -c ''"]
    if subprocess.run(trial, capture_output=True, cwd="/", timeout=20).returncode == 0:
        return str(base)
    (place / "bin").mkdir(parents=True)
    shutil.copy2(base.resolve(), place / "bin" / name)
    shutil.copytree(sysconfig.get_path("stdlib"), place / "lib" / name, ignore=_LEFT_OUT)
    for library in (Path(sys.base_prefix) / "lib").glob("libpython*.so*"):
        shutil.copy2(library, place / "lib")
    return str(place / "bin" / name)


def _copy_packages(place: Path) -> None:
    """The package, and what it and its server need."""
    shutil.copytree(ROOT / "replctl", place / "replctl")
    for name in _needed("replctl", frozenset({"server"})):
        found = distribution(name)
        for part in {file.parts[0] for file in found.files or ()} - {"..", "replctl"}:
            source = Path(str(found.locate_file(part)))
            if source.is_dir():
                shutil.copytree(source, place / part, dirs_exist_ok=True)
            elif source.suffix in (".py", ".so"):
                shutil.copy2(source, place / part)


def _needed(name: str, extras: frozenset[str]) -> set[str]:
    """A distribution and all that it requires, by name."""
    found = {name}
    for text in distribution(name).requires or ():
        wanted = Requirement(text)
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found |= _needed(wanted.name, frozenset(wanted.extras))
    return found
