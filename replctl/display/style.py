"""Styled text: spans that cannot smuggle escapes, their width in cells, and what the terminal can show.

Every text that reaches a screen is a `Span`, and a `Span` makes control characters visible when it is
made: a server's message can neither move the cursor nor set a colour. Only `render` writes escapes.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TextIO

from replctl.core.results import Status

BOLD = "1"
DIM = "2"
REVERSE = "7"
RED = "31"
GREEN = "32"
YELLOW = "33"
CYAN = "36"
PLAIN = ""

SEVERITY_STYLE = {
    Status.OK: GREEN,
    Status.WARNING: YELLOW,
    Status.CRITICAL: f"{BOLD};{RED}",
    Status.UNKNOWN: CYAN,
}


def visible(text: str) -> str:
    """The text with all that is no glyph made visible: `\\x1b` for an escape, a space for any space."""
    if text.isprintable():
        return text
    return "".join(_visible_character(c) for c in text)


def _visible_character(c: str) -> str:
    if c.isprintable():
        return c
    if c in "\t\n" or unicodedata.category(c) == "Zs":
        return " "
    code = ord(c)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width(text: str) -> int:
    """How many cells of a terminal a text takes: two for an East Asian wide character, none for an accent."""
    if text.isascii():
        return len(text)
    return sum(_cells(c) for c in text)


def _cells(c: str) -> int:
    if unicodedata.category(c) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


class Span:
    """A piece of text in one style (the numbers of an SGR sequence, such as `1;31`). Not to be changed.

    A plain class: thousands are made for one frame, and a frozen dataclass takes twice the time.
    """

    __slots__ = ("style", "text", "width")

    def __init__(self, text: str, style: str = PLAIN) -> None:
        self.text = visible(text)
        self.style = style
        self.width = width(self.text)

    def __repr__(self) -> str:
        return f"Span({self.text!r}, {self.style!r})"


Line = tuple[Span, ...]
"""One line of a screen, without its end."""


def line_width(line: Line) -> int:
    """Cells of a whole line."""
    return sum(span.width for span in line)


def restyled(line: Line, style: str) -> Line:
    """The same line in one more style on top of its own."""
    return tuple(Span(s.text, f"{s.style};{style}" if s.style else style) for s in line)


def clipped(line: Line, cells: int) -> Line:
    """The beginning of a line, at most so many cells. For overlong messages, never for values of a table."""
    if line_width(line) <= cells:
        return line
    kept: list[Span] = []
    left = cells
    for span in line:
        text = ""
        for c in span.text:
            if _cells(c) > left:
                return (*kept, Span(text, span.style))
            text += c
            left -= _cells(c)
        kept.append(Span(text, span.style))
    return tuple(kept)


def wrapped(text: str, cells: int | None, style: str = PLAIN) -> list[Line]:
    """Break a message at spaces into lines of at most so many cells; a longer word is broken where it must.

    None = no limit.
    """
    text = visible(text)
    if cells is None or width(text) <= cells:
        return [(Span(text, style),)]
    lines: list[str] = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if width(joined) <= cells:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        while width(word) > cells:
            head = clipped((Span(word),), max(2, cells))[0].text
            lines[-1] = head
            lines.append("")
            word = word[len(head) :]
        lines[-1] = word
    return [(Span(line, style),) for line in lines]


def flowed(parts: Iterable[Line], cells: int | None, gap: int = 3) -> list[Line]:
    """Put parts beside each other, as many on a line as fit; only one that is too long alone is broken."""
    lines: list[Line] = []
    for part in parts:
        if lines and (cells is None or line_width(lines[-1]) + gap + line_width(part) <= cells):
            lines[-1] = (*lines[-1], Span(" " * gap), *part)
        elif cells is not None and line_width(part) > cells:
            style = part[0].style if len(part) == 1 else PLAIN
            lines.extend(wrapped("".join(s.text for s in part), cells, style))
        else:
            lines.append(part)
    return lines


def render(line: Line, color: bool) -> str:
    """The line as text, with escapes where colour is on; spaces at its end are dropped unless styled."""
    if not color:
        return "".join(s.text for s in line).rstrip(" ")
    return "".join(f"\x1b[{s.style}m{s.text}\x1b[0m" if s.style and s.text else s.text for s in line)


class Glyphs(NamedTuple):
    """The signs that not every terminal has."""

    ok: str
    warning: str
    critical: str
    unknown: str
    at_least: str
    at_most: str
    rising: str
    falling: str
    steady: str
    branch: str
    last_branch: str
    trunk: str
    arrow: str
    sparks: str  # from least to most
    no_spark: str  # nothing known: looks like none of the sparks

    def signed(self, status: Status, word: str) -> str:
        """A word with the sign of its severity before it, where there are signs."""
        sign = {
            Status.OK: self.ok,
            Status.WARNING: self.warning,
            Status.CRITICAL: self.critical,
            Status.UNKNOWN: self.unknown,
        }[status]
        return f"{sign} {word}" if sign else word


UNICODE = Glyphs(
    ok="✓",
    warning="!",
    critical="✗",
    unknown="?",
    at_least="≥",
    at_most="≤",
    rising="↑",
    falling="↓",
    steady="→",
    branch="├─ ",
    last_branch="└─ ",
    trunk="│  ",
    arrow="→",
    sparks="▁▂▃▄▅▆▇█",
    no_spark=" ",
)
ASCII = Glyphs(
    ok="+",
    warning="!",
    critical="x",
    unknown="?",
    at_least=">=",
    at_most="<=",
    rising="/",
    falling="\\",
    steady="=",
    branch="|- ",
    last_branch="`- ",
    trunk="|  ",
    arrow="->",
    sparks=" .:-=+*#",
    no_spark="?",
)
WORDS = ASCII._replace(ok="", warning="", critical="", unknown="", rising="+", falling="-", steady="")


class Medium(NamedTuple):
    """What the output can show. `width` None = no terminal: as wide as it needs to be, and no signs."""

    width: int | None = None
    color: bool = False
    glyphs: Glyphs = WORDS

    @property
    def is_terminal(self) -> bool:
        """Whether people look at it as it comes."""
        return self.width is not None


def medium(stream: TextIO, color: Literal["auto", "always", "never"], environ: Mapping[str, str]) -> Medium:
    """What this stream can show, by itself, the environment and the user's wish.

    The wish goes first, then NO_COLOR, then FORCE_COLOR (https://no-color.org, https://force-color.org),
    then whether it is a terminal that knows colours.
    """
    terminal = stream.isatty()
    dumb = environ.get("TERM", "") in ("dumb", "")
    forced, refused = color == "always", color == "never"
    if color == "auto":
        forced = environ.get("FORCE_COLOR", "") not in ("", "0")
        refused = bool(environ.get("NO_COLOR") or environ.get("REPLCTL_NO_COLOR"))
    colored = not refused and (forced or (terminal and not dumb))
    columns = None
    if terminal:
        try:
            columns = os.get_terminal_size(stream.fileno()).columns or 80
        except OSError:
            columns = 80
    glyphs = UNICODE if not dumb and knows_unicode(stream, environ) else ASCII
    return Medium(width=columns, color=colored, glyphs=glyphs if terminal else WORDS)


def knows_unicode(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether arrows and blocks will come out right: UTF-8 by the locale, and not the kernel's own console.

    Python writes UTF-8 in the C locale too, so the stream's encoding alone does not tell.
    """
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    utf8 = locale.lower().replace("-", "").endswith("utf8") or ".utf8@" in locale.lower().replace("-", "")
    encoding = (stream.encoding or "").lower().replace("-", "")
    return utf8 and encoding == "utf8" and environ.get("TERM") != "linux"
