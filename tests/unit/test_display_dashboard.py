"""The dashboard on a terminal of its own: keys, signals, and the terminal as it was on every way out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replctl.display.terminal import ENTER, LEAVE
from tests.support import ROOT, wait_until

TAKEN, GIVEN_BACK = ENTER.encode(), LEAVE.encode()
PROGRAM = Path(__file__).parent / "golden" / "dashboard.py"


class Session:
    """A program that runs on a pseudo terminal, as its controlling terminal."""

    def __init__(self, *arguments: str, lines: int = 24, columns: int = 80) -> None:
        self.outer, self.inner = pty.openpty()
        self.resize(lines, columns)
        self.before = termios.tcgetattr(self.inner)
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            cwd=ROOT,
            env=os.environ | {"TERM": "xterm", "LC_ALL": "C.UTF-8", "NO_COLOR": "1"},
            stdin=self.inner,
            stdout=self.inner,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.output = b""

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.outer, keys)

    def shows(self, text: str, *, since: int = 0) -> bool:
        """Whether the text was drawn, reading what there is."""
        self._read()
        return text.encode() in self.output[since:]

    def wait_for(self, text: str, *, since: int = 0) -> None:
        wait_until(lambda: self.shows(text, since=since), f"the screen shows {text!r}")

    @property
    def pid(self) -> int:
        """The process that holds the terminal."""
        return os.tcgetpgrp(self.outer)

    def stopped(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].startswith("T")

    def end(self) -> int:
        """The exit code; everything the program wrote has been read."""
        wait_until(lambda: self._read() or self.process.poll() is not None, "the dashboard ends")
        self._read()
        return self.process.wait()

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def terminal_is_as_before(self) -> bool:
        return termios.tcgetattr(self.inner) == self.before

    def _read(self) -> None:
        while select.select([self.outer], [], [], 0)[0]:
            try:
                data = os.read(self.outer, 65536)
            except OSError:
                return
            if not data:
                return
            self.output += data

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        for descriptor in (self.outer, self.inner):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def session() -> Iterator[Session]:
    """The dashboard, showing its first look."""
    found = Session()
    try:
        found.wait_for("primary pg1")
        yield found
    finally:
        found.close()


def leave_by_key(session: Session) -> None:
    session.type(b"q")


def leave_by_interrupt_key(session: Session) -> None:
    session.type(b"\x03")


def leave_by(number: signal.Signals):
    def leave(session: Session) -> None:
        session.process.send_signal(number)

    leave.__name__ = f"leave_by_{number.name}"
    return leave


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        (leave_by_key, 0),
        (leave_by_interrupt_key, 0),
        (leave_by(signal.SIGINT), 0),
        (leave_by(signal.SIGTERM), 143),
        (leave_by(signal.SIGHUP), 129),
        (leave_by(signal.SIGQUIT), 131),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_terminal_is_as_it_was_after(session, leave, code):
    assert not session.terminal_is_as_before()

    leave(session)

    assert session.end() == code
    assert session.terminal_is_as_before()
    assert session.output.count(TAKEN) == session.output.count(GIVEN_BACK) == 1
    assert session.output.endswith(GIVEN_BACK)
    assert session.errors() == ""


def test_an_error_in_a_look_ends_it_with_the_terminal_as_it_was():
    session = Session("--fail-after", "2")
    try:
        assert session.end() == 1
        assert session.terminal_is_as_before()
        assert session.output.endswith(GIVEN_BACK)
        assert "no more looks" in session.errors()
    finally:
        session.close()


def test_a_lost_terminal_ends_it(session):
    os.close(session.outer)

    wait_until(lambda: session.process.poll() is not None, "the dashboard ends")
    assert session.process.returncode == 129


def test_a_lost_terminal_ends_it_also_where_hangups_are_ignored():
    session = Session("--ignore-hangup")
    try:
        session.wait_for("primary pg1")
        os.close(session.outer)
        wait_until(lambda: session.process.poll() is not None, "the dashboard ends")
        assert session.process.returncode == 129
    finally:
        session.close()


def test_stopped_by_a_key_it_gives_the_terminal_back_and_takes_it_again():
    session = Session("--as-job")
    try:
        session.wait_for("primary pg1")
        session.type(b"\x1a")
        wait_until(session.stopped, "the dashboard is stopped")
        session.wait_for(LEAVE)
        assert session.terminal_is_as_before()

        drawn = len(session.output)
        os.kill(session.pid, signal.SIGCONT)

        session.wait_for("primary pg1", since=drawn)
        assert TAKEN in session.output[drawn:]
        session.type(b"q")
        assert session.end() == 0
        assert session.terminal_is_as_before()
    finally:
        session.close()


def test_where_the_terminal_cannot_stop_it_the_stop_key_changes_nothing(session):
    drawn = len(session.output)

    session.type(b"\x1a")

    session.wait_for("primary pg1", since=drawn)
    session.type(b"q")
    assert session.end() == 0
    assert session.terminal_is_as_before()


def test_a_stop_that_cannot_be_caught_is_mended_when_it_goes_on(session):
    session.process.send_signal(signal.SIGSTOP)
    wait_until(session.stopped, "the dashboard is stopped")
    termios.tcsetattr(session.inner, termios.TCSANOW, session.before)  # as a shell does

    drawn = len(session.output)
    session.process.send_signal(signal.SIGCONT)

    session.wait_for("primary pg1", since=drawn)
    assert not session.terminal_is_as_before()
    session.type(b"q")
    assert session.end() == 0
    assert session.terminal_is_as_before()


def test_it_draws_anew_on_another_size(session):
    drawn = len(session.output)

    session.resize(5, 20)
    session.process.send_signal(signal.SIGWINCH)

    session.wait_for("terminal too small", since=drawn)
    session.resize(24, 80)
    session.process.send_signal(signal.SIGWINCH)
    session.wait_for("q\x20quit", since=drawn)


def test_keys_work_while_a_look_takes_long():
    session = Session("--look-takes", "3600")
    try:
        session.wait_for("asking 5 nodes")
        session.type(b"?")
        session.wait_for("show these keys")
        drawn = len(session.output)
        session.type(b"\x1b")
        session.wait_for("asking 5 nodes", since=drawn)
        session.type(b"q")
        assert session.end() == 0
    finally:
        session.close()


def test_r_looks_at_once_and_pause_stops_looking():
    session = Session("--interval", "3600")
    try:
        session.wait_for("look 1 ")
        session.type(b"r")
        session.wait_for("look 2 ")
        session.type(b" ")
        session.wait_for("PAUSED")
        session.type(b"r")
        session.wait_for("look 3 ")
        session.type(b"-")
        session.wait_for("every")
        session.type(b" ")
        session.type(b"q")
        assert session.end() == 0
    finally:
        session.close()


def test_it_looks_at_every_interval_and_draws_only_what_is_new():
    session = Session("--interval", "0.5")
    try:
        started_s = time.monotonic()
        session.wait_for("look 4 ")
        took_s = time.monotonic() - started_s
        frames = session.output.count(b"\x1b[H")
        session.type(b"q")
        assert session.end() == 0
    finally:
        session.close()

    assert took_s >= 1.5
    assert frames <= 4 + 4  # one for each look, one before the first, and the odd one for ages
