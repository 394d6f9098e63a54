"""Other releases of a framework than the installed one, to run live tests of its adapter with."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import need, run

INSTALL_LIMIT_S = 180.0


def directory_with(requirement: str) -> Path:
    """A directory for PYTHONPATH that holds `requirement`, such as "django==4.2.*", and what it needs.

    Made once, beside the installed packages. Without an index the test is skipped, or fails where everything
    is required.
    """
    place = Path(sys.prefix) / "other-versions" / re.sub(r"[^A-Za-z0-9.]+", "-", requirement).strip("-.")
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as name:
            fresh = Path(name) / "packages"
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(fresh), requirement]
            try:
                installed = run(command, limit_s=INSTALL_LIMIT_S).returncode == 0
            except subprocess.TimeoutExpired:
                installed = False
            need(requirement, installed, f"pip must reach its index: pip install --target … '{requirement}'")
            if not place.exists():  # another process may have been first
                fresh.rename(place)
    return place


def passes_with(requirement: str, *paths: str, limit_s: float) -> str:
    """Run these tests in a process of their own, with that release; what pytest said. Fails if one failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *paths]
    done = run(
        command, env={"PYTHONPATH": str(directory_with(requirement)), "PYTEST_ADDOPTS": ""}, limit_s=limit_s
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
