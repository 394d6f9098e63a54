"""The same tests with the oldest SQLAlchemy that is supported, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from tests.support import ROOT, need, run

pytestmark = [pytest.mark.live, pytest.mark.slow]

OLDEST = "2.0"
INSTALL_LIMIT_S = 120
RUN_LIMIT_S = 600
MODULES = ("tests/live/test_sqlalchemy.py", "tests/live/test_sqlalchemy_async.py")
# What belongs to the run that has started this one, and must not steer the inner one.
OF_PYTEST = ("PYTEST_", "REPLCTL_TEST_REQUIRE", "COV_")


def installed() -> Path | None:
    """Where SQLAlchemy of that version is, beside this environment's packages; None = not to be had."""
    target = Path(sys.prefix) / "cache" / f"sqlalchemy-{OLDEST}"
    if not (target / "complete").exists():
        wanted = [f"sqlalchemy=={OLDEST}.*", "--no-deps", "--target", str(target), "--upgrade"]
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        try:
            done = run([sys.executable, "-m", "pip", "install", *quiet, *wanted], limit_s=INSTALL_LIMIT_S)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode != 0:
            print(done.stderr)
            return None
        (target / "complete").touch()
    return target


def test_all_of_it_works_with_the_oldest_sqlalchemy_that_is_supported() -> None:
    if sqlalchemy.__version__.startswith(f"{OLDEST}."):
        return  # it is the inner run, or one in an environment with that version
    target = installed()
    need(f"SQLAlchemy {OLDEST}", target, f"let pip install sqlalchemy=={OLDEST}.*")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OF_PYTEST)}
    environment["PYTHONPATH"] = f"{target}{os.pathsep}{ROOT}"
    told = subprocess.run(
        [sys.executable, "-c", "import sqlalchemy; print(sqlalchemy.__version__)"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert told.stdout.startswith(f"{OLDEST}."), told.stderr

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *MODULES],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
    )
    print(done.stdout[-20_000:])
    assert (done.returncode, "passed" in done.stdout) == (0, True), done.stderr[-2000:]
