"""`make` makes .venv by itself; where it cannot, it says which of two things is missing."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, run


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as make_venv.py looks at."""
    (tmp_path / "tools").mkdir()
    for name in ("pyproject.toml", "tools/make_venv.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path / "tools" / "make_venv.py"


def test_without_a_network_it_is_the_package_index_that_is_missing(checkout: Path) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        index = f"http://127.0.0.1:{nobody_listens.getsockname()[1]}/simple"
        env = {"PIP_INDEX_URL": index, "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0"}
        done = run([sys.executable, str(checkout), "lab"], env=env, limit_s=120)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "hint: pip needs a package index: is the network there? PIP_INDEX_URL and PIP_PROXY name another way"
    )


def test_without_venv_it_is_a_package_of_the_system_that_is_missing(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "venv.py").write_text("raise SystemExit(1)\n")

    done = run([sys.executable, str(checkout), "lab"], env={"PYTHONPATH": str(tmp_path)})

    assert (done.returncode, done.stderr.splitlines()[1:]) == (
        1,
        [
            f"cannot make .venv: '{sys.executable} -m venv --clear ...' ended with 1; "
            "what it said stands above.",
            "hint: on Debian and Ubuntu, venv is a package of its own: apt-get install python3-venv",
        ],
    )


def test_an_extra_that_does_not_exist_is_a_wrong_command_line(checkout: Path) -> None:
    done = run([sys.executable, str(checkout), "everything"])

    assert (done.returncode, done.stderr) == (1, "usage: make_venv.py lab|test\n")
