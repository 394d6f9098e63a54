"""The user's terminal, taken for a full screen and given back as it was, on every way out.

Takes the alternate screen, so that what was there before comes back; hides the cursor; lets keys come
one by one. Ctrl-C and Ctrl-Z go on being signals.
"""

from __future__ import annotations

import contextlib
import copy
import os
import termios
from collections.abc import Iterable
from types import TracebackType
from typing import Any

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"  # alternate screen, no cursor, no wrapping, empty
LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE = "\x1b[H", "\x1b[2K"
READ_MAX_BYTES = 1024
INPUT_FLAGS, LOCAL_FLAGS, CHARACTERS = 0, 3, 6  # places in what tcgetattr returns


class LostTerminalError(Exception):
    """The terminal is gone: the other end hung up."""


class Terminal:
    """Two file descriptors of one terminal. A context manager: holds the screen while it is entered."""

    def __init__(self, input_fd: int, output_fd: int) -> None:
        self.input_fd = input_fd
        self.output_fd = output_fd
        self._before: list[Any] | None = None  # what termios said when we came

    def __enter__(self) -> Terminal:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def take(self) -> None:
        """Hold the screen and the keyboard. Once more after a stop, it also mends what a shell has set."""
        try:
            if self._before is None:
                self._before = termios.tcgetattr(self.input_fd)
            mode = copy.deepcopy(self._before)
            # As cbreak: no echo, no lines, but signals. And Ctrl-S must not stop the drawing for ever.
            mode[LOCAL_FLAGS] &= ~(termios.ECHO | termios.ICANON)
            mode[INPUT_FLAGS] &= ~termios.IXON
            mode[CHARACTERS][termios.VMIN], mode[CHARACTERS][termios.VTIME] = 1, 0
            termios.tcsetattr(self.input_fd, termios.TCSANOW, mode)
        except termios.error as error:
            raise LostTerminalError(str(error)) from None
        self._write(ENTER)

    def give_back(self) -> None:
        """Leave the terminal as it was found. Harmless when it is gone, and when called twice."""
        if self._before is None:
            return
        before, self._before = self._before, None
        with contextlib.suppress(LostTerminalError):
            self._write(LEAVE)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self.input_fd, termios.TCSANOW, before)

    def size(self) -> tuple[int, int]:
        """Columns and lines; 80 and 24 where the terminal does not say."""
        try:
            found = os.get_terminal_size(self.output_fd)
        except OSError:
            return 80, 24
        return found.columns or 80, found.lines or 24

    def draw(self, lines: Iterable[str]) -> None:
        """Put these lines on the screen, from the top, in one write. Raises LostTerminalError.

        Each line is cleared before it is written: after a full one the cursor stands on its last character.
        """
        self._write(HOME + "\r\n".join(CLEAR_LINE + line for line in lines))

    def read(self) -> bytes:
        """What was typed. Raises LostTerminalError at the end of the input."""
        try:
            data = os.read(self.input_fd, READ_MAX_BYTES)
        except OSError as error:
            raise LostTerminalError(str(error)) from None
        if not data:
            raise LostTerminalError("end of input")
        return data

    def _write(self, text: str) -> None:
        data = text.encode()
        try:
            while data:
                data = data[os.write(self.output_fd, data) :]
        except OSError as error:
            raise LostTerminalError(str(error)) from None
