"""Real clusters for tests: one version in turn by default, every version with REPLCTL_TEST_MATRIX=all.

    @pytest.mark.pg(">= 16")                      only on these versions
    @pytest.mark.every_pg                         on every version in every run
    @pytest.mark.lab(replicas=3, sync="ANY 2")    options of Lab.up
    def test_something(lab): ...

`lab` is a fresh cluster that the test may break; `shared_lab` one per version and run, only to be read;
`pg_bin` a server's programs. Whatever happens, nothing of them is left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replctl.lab import Lab, binaries
from replctl.lab.account import server_account
from tests.live.places import open_directory
from tests.live.servers import EXPECTED, SERVERS, fitting, in_turn
from tests.support import everything_is_required, need

LOG_TAIL_LINES = 30


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = os.environ.get("REPLCTL_TEST_MATRIX") == "all"
    every = every or metafunc.definition.get_closest_marker("every_pg") is not None
    if "pg_major" not in metafunc.fixturenames or not every:
        return
    marker = metafunc.definition.get_closest_marker("pg")
    majors = fitting(marker.args[0] if marker else "", sorted({*EXPECTED, *SERVERS}))
    metafunc.parametrize("pg_major", majors, ids=[f"pg{major}" for major in majors], indirect=True)


@pytest.fixture(scope="session", autouse=True)
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, so that clusters are taken down then too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def pg_major(request: pytest.FixtureRequest) -> int:
    """The server version of this test."""
    major = getattr(request, "param", None)
    if major is None:
        marker = request.node.get_closest_marker("pg")
        specification = marker.args[0] if marker else ""
        # In CI the version does not depend on what the machine happens to have.
        choice = list(EXPECTED) if everything_is_required() else list(SERVERS) or list(EXPECTED)
        majors = fitting(specification, choice)
        need(f"a PostgreSQL {specification}", majors, "pip install 'replctl[test]'")
        major = in_turn(request.node.nodeid, majors)
    need(f"PostgreSQL {major}", major in SERVERS, EXPECTED.get(major, "see tests/README.md"))
    print(f"PostgreSQL {major}: {SERVERS[major]}")  # shown with a failure
    return int(major)


class _Programs(dict[int, Path]):
    """By major version: where every user may run them; copied there once if they are not found so."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def __missing__(self, major: int) -> Path:
        found = binaries.reachable(SERVERS[major], server_account(), self.place / str(major))
        self[major] = found.bin_directory
        return found.bin_directory


@pytest.fixture(scope="session")
def _programs() -> Iterator[_Programs]:
    with open_directory() as place:
        yield _Programs(place)


@pytest.fixture
def pg_bin(pg_major: int, _programs: _Programs) -> Path:
    """The directory of this test's server programs."""
    return _programs[pg_major]


@pytest.fixture
def lab_directory() -> Iterator[Path]:
    """A place for a lab that does not exist yet, below one that every user may pass; removed at the end."""
    with open_directory(for_labs=True) as place:
        yield place / "lab"
        _take_down(place / "lab")


def _take_down(directory: Path) -> None:
    """Show the ends of the servers' logs (pytest prints them where the test failed), and remove the lab."""
    from replctl.lab import remove

    for log in sorted(directory.glob("*/postgresql.log")):
        print(f"---- {log.parent.name}")
        print("\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]))
    remove(directory)


@pytest.fixture(scope="session")
def _kept() -> Iterator[Path]:
    """What takes time to make and serves many tests."""
    with open_directory(for_labs=True) as place:
        yield place


@pytest.fixture(scope="session")
def _template(_kept: Path) -> Path:
    """What initdb made, for the next labs."""
    kept = _kept / "template"
    kept.mkdir()
    return kept


@pytest.fixture
def new_lab(lab_directory: Path, pg_bin: Path, _template: Path) -> Callable[..., Lab]:
    """Builds the one lab of a test that wants to do it itself."""

    def build(**options: object) -> Lab:
        return Lab.up(lab_directory, **{"pg_bin": pg_bin, "fsync": False, "template": _template, **options})

    return build


@pytest.fixture
def lab(request: pytest.FixtureRequest, new_lab: Callable[..., Lab]) -> Lab:
    """A fresh cluster, with the options of the test's `lab` marker."""
    marker = request.node.get_closest_marker("lab")
    return new_lab(**(marker.kwargs if marker else {}))


class _SharedLabs(dict[int, Lab]):
    """By major version; built when first asked for."""

    def __init__(self, kept: Path, programs: _Programs) -> None:
        super().__init__()
        self.kept, self.programs = kept, programs

    def __missing__(self, major: int) -> Lab:
        place, pg_bin = self.kept / f"lab{major}", self.programs[major]
        self[major] = Lab.up(place, pg_bin=pg_bin, fsync=False, sync="ANY 1")
        return self[major]


@pytest.fixture(scope="session")
def _shared_labs(_kept: Path, _programs: _Programs) -> Iterator[_SharedLabs]:
    labs = _SharedLabs(_kept, _programs)
    yield labs
    for shared in labs.values():
        _take_down(shared.directory)


@pytest.fixture
def shared_lab(pg_major: int, _shared_labs: _SharedLabs) -> Lab:
    """A primary with two replicas (ANY 1) that many tests look at: leave it as it is."""
    return _shared_labs[pg_major]
