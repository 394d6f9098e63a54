"""What tests of every kind share: saying what a test needs, waiting for a condition, running replctl."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def everything_is_required() -> bool:
    """REPLCTL_TEST_REQUIRE=all: on a CI machine nothing may be missing."""
    return os.environ.get("REPLCTL_TEST_REQUIRE") == "all"


def need(what: str, found: object, how: str) -> None:
    """Go on if `found` is true; otherwise skip the test, or fail it where everything is required.

    `what` is missing, `how` it is had: need("HAProxy", shutil.which("haproxy"), "apt-get install haproxy").
    The only place that skips a test (test_tidy.py sees to that), so that no machine skips in silence.
    """
    if found:
        return
    sentence = f"{what} is not on this machine; to run this test: {how}"
    if everything_is_required():
        pytest.fail(f"{sentence} (REPLCTL_TEST_REQUIRE=all: nothing is skipped)", pytrace=False)
    pytest.skip(sentence)


def wait_until(condition: Callable[[], object], what: str, *, limit_s: float = 10.0) -> None:
    """Wait until `condition()` is true. Fails the test, saying `what` was awaited, after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_s:
            pytest.fail(f"waited {limit_s:g} s in vain until {what}", pytrace=False)
        time.sleep(0.02)


def same_as_file(path: Path, text: str) -> None:
    """Compare with what is expected, which is in a file; with REPLCTL_TEST_REWRITE=1, write that anew."""
    if os.environ.get("REPLCTL_TEST_REWRITE"):
        path.write_text(text, encoding="utf-8")
    expected = path.read_text(encoding="utf-8") if path.exists() else ""
    assert text == expected, f"{path.name} differs; REPLCTL_TEST_REWRITE=1 writes it anew"


def replctl(
    *arguments: str, env: Mapping[str, str] | None = None, limit_s: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """Run replctl as a user would, off a terminal; return its exit code and both its outputs."""
    return run([sys.executable, "-m", "replctl", *arguments], env=env, limit_s=limit_s)


def run(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, limit_s: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """Run a program without standard input, in the checkout, with `env` added to the environment."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
    )


def accepts(path: Path) -> bool:
    """Whether somebody accepts connections at this Unix socket: its file is there a little before that."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        return client.connect_ex(str(path)) == 0
