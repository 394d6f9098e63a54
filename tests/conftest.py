"""Markers, the environment every test starts from, random seeds, and the header of a run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest

MARKERS = (
    "live: talks to real PostgreSQL servers that the test itself starts",
    "slow: takes more than about ten seconds",
    "pg(spec): only on these server versions, such as pg('>= 16')",
    "every_pg: on every server version in every run, not on one in turn",
    "lab(**options): the cluster that the test gets, as options of `replctl lab up`",
)
# What a user has set for his own work must not decide whether a test passes.
FOREIGN = ("PG", "REPLCTL_", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLUMNS", "LINES", "XDG_")
OURS = "REPLCTL_TEST_"
# What a shell ignores for jobs in the background, and their children for them.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)

_home = pytest.StashKey[str]()

hypothesis.settings.register_profile(
    "replctl",
    max_examples=100,
    deadline=None,  # a busy machine is no failure
    derandomize=False,
    print_blob=True,
)
hypothesis.settings.load_profile("replctl")


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its option
def pytest_configure(config: pytest.Config) -> None:
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(random.randrange(2**32))
    for name in list(os.environ):
        if name.startswith(FOREIGN) and not name.startswith(OURS):
            del os.environ[name]
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
    # No ~/.pgpass, ~/.postgresql or ~/.config of the user's, and nothing left behind in his home.
    config.stash[_home] = os.environ["HOME"] = tempfile.mkdtemp(prefix="replctl-test-home-")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no process is left with it when the others have ended."""
    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    items.sort(key=lambda item: ("slow" not in marks[item.path], "live" not in marks[item.path]))


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash.get(_home, ""), ignore_errors=True)


def pytest_report_header(config: pytest.Config) -> list[str]:
    seed = config.getoption("hypothesis_seed")
    return [
        f"random seed: {seed} (again with --hypothesis-seed={seed})",
        f"PostgreSQL: {_servers()}",
    ]


def _servers() -> str:
    try:
        from tests.live import servers
    except ImportError:
        return "no live tests in this checkout"
    return servers.header()


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """The seed of this run, for tests that draw their own random numbers."""
    return int(pytestconfig.getoption("hypothesis_seed"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write expected outputs anew; read the diff before committing"
    )
