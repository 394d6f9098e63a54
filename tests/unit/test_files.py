"""A file is replaced whole, with its mode and owner kept, and what was there stays beside it."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from replctl.errors import ReplctlError
from replctl.files import LIMIT_BYTES, Replaced, previous_of, read, replace
from tests.support import need

NOBODY = 65534


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_can_be_read_by_all_and_has_no_previous_one(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"

    assert replace(path, "one\n") == Replaced(changed=True, previous=None)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("one\n", 0o644)
    assert names(tmp_path) == ["x.cfg"]


def test_the_file_before_is_kept_beside_it_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_text("one\n")
    path.chmod(0o2640)
    before = path.stat()

    assert replace(path, "two\n") == Replaced(changed=True, previous=previous_of(path))
    assert (path.read_text(), previous_of(path).read_text()) == ("two\n", "one\n")
    for found in (path.stat(), previous_of(path).stat()):
        assert (found.st_mode, found.st_uid, found.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert path.stat().st_ino != before.st_ino  # by a rename, which programs that look for changes see
    assert names(tmp_path) == ["x.cfg", "x.cfg.previous"]


def test_the_owner_is_kept(tmp_path: Path) -> None:
    need("root", os.geteuid() == 0, "run it as root")
    path = tmp_path / "x.cfg"
    path.write_text("one\n")
    os.chown(path, 12345, 12346)

    replace(path, "two\n")
    for found in (path.stat(), previous_of(path).stat()):
        assert (found.st_uid, found.st_gid) == (12345, 12346)


def test_somebody_else_s_file_is_left_and_the_way_out_is_said() -> None:
    need("root", os.geteuid() == 0, "run it as root")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        path = Path(name) / "x.cfg"
        path.write_text("one\n")

        assert as_nobody(lambda: replace(path, "two\n")) == (
            f"{path} cannot be written: Operation not permitted\n"
            "its owner is kept, which only its owner can do: chown it to who runs this"
        )
        assert (path.read_text(), names(Path(name))) == ("one\n", ["x.cfg"])
        os.chown(path, NOBODY, NOBODY)
        assert as_nobody(lambda: replace(path, "two\n")) == ""
        assert (path.read_text(), path.stat().st_uid) == ("two\n", NOBODY)


def as_nobody(work: Callable[[], object]) -> str:
    """What a user without rights is told by an error; empty where there is none."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()
        except ReplctlError as error:
            said = f"{error}\n{error.hint}"
        except BaseException as error:
            said = repr(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    os.waitpid(child, 0)
    return said


def test_a_file_that_is_right_already_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_text("one\n")
    before = path.stat()

    assert replace(path, "one\n") == Replaced(changed=False, previous=None)
    assert path.stat() == before
    assert names(tmp_path) == ["x.cfg"]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.cfg").write_text("one\n")
    link = tmp_path / "x.cfg"
    link.symlink_to("real/x.cfg")

    assert replace(link, "two\n").previous == tmp_path / "real" / "x.cfg.previous"
    assert link.is_symlink()
    assert (tmp_path / "real" / "x.cfg").read_text() == "two\n"


@pytest.mark.parametrize("kind", ["directory", "fifo", "binary", "huge", "no directory"])
def test_what_is_no_text_file_is_refused_and_left(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.cfg"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(LIMIT_BYTES + 1)
    else:
        path = tmp_path / "none" / "x.cfg"
    with pytest.raises(ReplctlError, match="cannot be"):
        if kind == "no directory":
            replace(path, "one\n")
        else:
            read(path)

    assert names(tmp_path) == ([] if kind == "no directory" else ["x.cfg"])


def test_where_nothing_can_be_written_the_file_stays_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_text("one\n")
    previous_of(path).mkdir()  # in the way of the copy
    with pytest.raises(ReplctlError, match="cannot be written") as failure:
        replace(path, "two\n")

    assert failure.value.exit_code == 1
    assert path.read_text() == "one\n"
    assert names(tmp_path) == ["x.cfg", "x.cfg.previous"]


def test_no_file_is_none(tmp_path: Path) -> None:
    assert read(tmp_path / "x.cfg") is None


def test_a_reader_sees_one_text_or_the_other_and_nothing_between(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    texts = {letter * 100_000 for letter in "ab"}
    path.write_text("a" * 100_000)
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(40):
        replace(path, "ab"[number % 2] * 100_000)
    done.set()
    reader.join(10)

    assert seen <= texts
