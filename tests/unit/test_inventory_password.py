"""`password_command`: real programs, their limits, and what is never repeated."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from replctl.errors import ObserveError
from replctl.inventory import Connection, password
from tests.support import wait_until

SECRET = "hunter2"


def connection(*argv: str) -> Connection:
    """A connection with this password command."""
    return Connection(host="10.0.0.1", password_command=argv)


def python(code: str) -> tuple[str, ...]:
    """A program as an argv list."""
    return (sys.executable, "-c", code)


def why_not(*argv: str) -> str:
    """Why this command gives no password."""
    with pytest.raises(ObserveError) as refusal:
        connection(*argv).password()
    assert SECRET not in str(refusal.value)
    assert refusal.value.what == f"password_command {argv[0]!r} gave no password"
    return str(refusal.value.why)


def test_the_first_line_is_the_password():
    assert connection("printf", f"{SECRET}\\nuser: me\\n").password() == SECRET


def test_blanks_belong_to_the_password():
    assert connection("printf", "  two words \\r\\n").password() == "  two words "


def test_without_a_command_there_is_no_password():
    assert Connection(host="10.0.0.1").password() is None


def test_the_command_has_no_shell_and_no_input():
    assert connection("echo", "$HOME;cat").password() == "$HOME;cat"
    assert connection(*python("import sys; print(len(sys.stdin.read()))")).password() == "0"


def test_the_command_is_run_once_until_it_is_forgotten(tmp_path):
    runs = tmp_path / "runs"
    argv = ("sh", "-c", f"echo x >> {runs}; wc -l < {runs}")
    first, second = connection(*argv), connection(*argv)

    assert [first.password(), second.password(), first.password()] == ["1", "1", "1"]
    first.forget_password()
    assert second.password() == "2"


def test_a_failure_is_remembered_for_a_moment_only(tmp_path, monkeypatch):
    monkeypatch.setattr(password, "FAILURE_KEPT_S", 0.3)
    runs = tmp_path / "runs"
    argv = ("sh", "-c", f"echo x >> {runs}; test $(wc -l < {runs}) -gt 1 && echo {SECRET}")

    why_not(*argv)
    why_not(*argv)
    assert runs.read_text() == "x\n"

    def comes_right() -> bool:
        try:
            return connection(*argv).password() == SECRET
        except ObserveError:
            return False

    wait_until(comes_right, "the failure is forgotten")


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("/nowhere/pass",), "No such file or directory"),
        (("/etc/passwd",), "Permission denied"),
        (("sh", "-c", f"echo {SECRET}; exit 3"), "exit code 3"),
        (("sh", "-c", f"echo {SECRET} >&2; kill -9 $$"), "ended by signal 9"),
        (("true",), "an empty first line"),
        (("printf", f"\\n{SECRET}"), "an empty first line"),
        (("printf", "a\\0b"), "a zero byte in its output"),
        (("printf", "\\377"), "output that is not UTF-8"),
        (("yes", SECRET), "more than 65536 bytes of output"),
    ],
)
def test_a_command_that_gives_no_password_says_why_without_its_output(argv, why):
    assert why_not(*argv) == why


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(password, "LIMIT_S", 0.5)
    pid_file = tmp_path / "pid"
    started_s = time.monotonic()

    why = why_not("sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait")

    assert why == "not done within 0.5 s"
    assert time.monotonic() - started_s < 5
    child = int(pid_file.read_text())
    wait_until(lambda: is_gone(child), "the command's child has ended")


def test_a_command_that_leaves_a_child_with_the_pipe_is_ended_too(tmp_path, monkeypatch):
    monkeypatch.setattr(password, "LIMIT_S", 0.5)
    pid_file = tmp_path / "pid"

    why = why_not("sh", "-c", f"echo {SECRET}; sleep 600 & echo $! > {pid_file}")

    assert why == "not done within 0.5 s"
    child = int(pid_file.read_text())
    wait_until(lambda: is_gone(child), "the command's child has ended")


def is_gone(pid: int) -> bool:
    """Whether there is no such process, or only its exit code is left."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z")
    except (ProcessLookupError, FileNotFoundError):
        return True
