"""Other releases of a framework than the installed one, to run live tests of its adapter with."""

from __future__ import annotations

import os
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


def passes_with(requirement: str, module: str, *, subset: str, besides: str = "", limit_s: float) -> None:
    """Run a module's tests in a process of their own, with that release; fails if one of them failed.

    With REPLCTL_TEST_MATRIX=all these are all but `besides`, otherwise those of `subset`: both are
    expressions of pytest's -k. The servers take turns in either case.
    """
    whole = os.environ.get("REPLCTL_TEST_MATRIX") == "all"
    chosen = (f"not ({besides})" if besides else "") if whole else subset
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", module]
    environment = {
        "PYTHONPATH": str(directory_with(requirement)),
        "PYTEST_ADDOPTS": "",
        "REPLCTL_TEST_MATRIX": "",
    }
    done = run([*command, "-k", chosen], env=environment, limit_s=limit_s)
    print(done.stdout)
    assert (done.returncode, " passed" in done.stdout) == (0, True), done.stderr


def version_with(requirement: str, package: str) -> str:
    """The version of the package that a process imports which has that release."""
    program = f"import {package}; print({package}.__version__)"
    done = run([sys.executable, "-c", program], env={"PYTHONPATH": str(directory_with(requirement))})
    return done.stdout.strip()
