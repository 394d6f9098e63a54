"""Keys: from the bytes of a terminal to names, and what each of them does to a Screen.

No key changes anything on a server.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass, replace

from replctl.display.columns import WIDE
from replctl.display.screen import INTERVALS_S, Overlay, Screen, Sort

_SEQUENCES = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "1~": "home",
    "7~": "home",
    "4~": "end",
    "8~": "end",
    "5~": "page-up",
    "6~": "page-down",
    "Z": "back-tab",
}
_CONTROLS = {
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x15": "clear",
}
PENDING_MAX = 32


class Decoder:
    """Bytes as they come from a terminal → names of keys. Holds back what is not complete yet."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    @property
    def waiting(self) -> bool:
        """An Escape came: alone, or the beginning of a sequence. `flush` decides after a moment."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete with these bytes."""
        self._pending += self._utf8.decode(data)
        keys: list[str] = []
        while self._pending:
            taken, key = _first_key(self._pending)
            if taken == 0:
                if len(self._pending) < PENDING_MAX:
                    break
                taken, key = len(self._pending), None  # no terminal sends this
            self._pending = self._pending[taken:]
            if key is not None:
                keys.append(key)
        return keys

    def flush(self) -> list[str]:
        """Nothing followed: what was held back is the Escape key."""
        held, self._pending = self._pending, ""
        self._utf8.reset()
        return ["escape"] if held else []


def _first_key(text: str) -> tuple[int, str | None]:
    """How many characters the first key takes, and its name; 0 = not complete, None = not a key of ours."""
    first = text[0]
    if first != "\x1b":
        return 1, _CONTROLS.get(first, "space" if first == " " else first if first.isprintable() else None)
    if len(text) == 1:
        return 0, None
    if text[1] not in "[O":
        return 1, "escape"
    for end in range(2, len(text)):
        if "@" <= text[end] <= "~":
            return end + 1, _SEQUENCES.get(text[2 : end + 1])
    return 0, None


@dataclass(frozen=True, slots=True)
class Binding:
    """One thing that keys do. The first key names it in the footer."""

    keys: tuple[str, ...]
    label: str  # for the footer; empty = only in the help
    help: str
    act: Callable[[Screen], Screen]


def _quit(screen: Screen) -> Screen:
    return screen  # the dashboard ends: see Dashboard


def _pause(screen: Screen) -> Screen:
    return replace(screen, paused=not screen.paused)


def _faster(screen: Screen) -> Screen:
    shorter = [i for i in INTERVALS_S if i < screen.interval_s]
    return replace(screen, interval_s=shorter[-1]) if shorter else screen


def _slower(screen: Screen) -> Screen:
    longer = [i for i in INTERVALS_S if i > screen.interval_s]
    return replace(screen, interval_s=longer[0]) if longer else screen


def _next_sort(screen: Screen) -> Screen:
    sorts = list(Sort)
    return replace(screen, sort=sorts[(sorts.index(screen.sort) + 1) % len(sorts)], as_tree=False)


def _reverse(screen: Screen) -> Screen:
    return replace(screen, reverse=not screen.reverse, as_tree=False)


def _tree(screen: Screen) -> Screen:
    return replace(screen, as_tree=not screen.as_tree)


def _wide(screen: Screen) -> Screen:
    return replace(screen, wide=not screen.wide, first_column=0)


def _columns(step: int) -> Callable[[Screen], Screen]:
    """Move a wide table that does not fit by so many columns."""

    def act(screen: Screen) -> Screen:
        first = max(0, min(len(WIDE) - 2, screen.first_column + step))
        return replace(screen, first_column=first) if screen.wide else screen

    return act


def _filter(screen: Screen) -> Screen:
    return replace(screen, typing=True, overlay=Overlay.NONE)


def _problems(screen: Screen) -> Screen:
    return replace(screen, problems_only=not screen.problems_only)


def _detail(screen: Screen) -> Screen:
    if screen.overlay is not Overlay.NONE:
        return _back(screen)
    row = screen.selected_row()
    if row is None:
        return screen
    return replace(screen, overlay=Overlay.DETAIL, selected=row.node.name, scroll=0)


def _help(screen: Screen) -> Screen:
    if screen.overlay is Overlay.HELP:
        return _back(screen)
    return replace(screen, overlay=Overlay.HELP, scroll=0)


def _back(screen: Screen) -> Screen:
    if screen.overlay is not Overlay.NONE:
        return replace(screen, overlay=Overlay.NONE, scroll=0)
    return replace(screen, filter="")


def _cluster(step: int) -> Callable[[Screen], Screen]:
    def act(screen: Screen) -> Screen:
        following = (screen.current + step) % len(screen.clusters)
        return replace(screen, current=following, selected=None, overlay=Overlay.NONE, scroll=0)

    return act


def _move(step: int) -> Callable[[Screen], Screen]:
    """Move the selection by so many rows, or scroll what stands in the place of the table."""

    def act(screen: Screen) -> Screen:
        if screen.overlay is not Overlay.NONE:
            return replace(screen, scroll=max(0, screen.scroll + step))
        names = [r.node.name for r in screen.rows()]
        if not names:
            return screen
        at = names.index(screen.selected) if screen.selected in names else 0
        return replace(screen, selected=names[max(0, min(len(names) - 1, at + step))])

    return act


EVERYTHING = 1_000_000
BINDINGS = (
    Binding(("q",), "quit", "quit (so does Ctrl-C)", _quit),
    Binding(("?", "h"), "help", "show these keys", _help),
    Binding(("space",), "pause", "pause looking, or go on", _pause),
    Binding(("r",), "", "look now", lambda screen: screen),
    Binding(("+", "="), "", "look less often", _slower),
    Binding(("-",), "", "look more often", _faster),
    Binding(("enter",), "detail", "everything about the selected node, and back", _detail),
    Binding(("!",), "problems", "only nodes with problems, or all", _problems),
    Binding(("s",), "sort", "sort by: problems, inventory, name, lag, state", _next_sort),
    Binding(("S",), "", "reverse the order", _reverse),
    Binding(("t",), "tree", "cascades as a tree, or flat", _tree),
    Binding(("w",), "wide", "every column, or those that fit", _wide),
    Binding(("right",), "", "with w: columns further right", _columns(+1)),
    Binding(("left",), "", "with w: columns further left", _columns(-1)),
    Binding(("/",), "filter", "only rows that contain a text", _filter),
    Binding(("escape",), "", "back; without an overlay: clear the filter", _back),
    Binding(("tab",), "", "next cluster", _cluster(+1)),
    Binding(("back-tab",), "", "previous cluster", _cluster(-1)),
    Binding(("down", "j"), "", "select the next node, scroll down", _move(+1)),
    Binding(("up", "k"), "", "select the previous node, scroll up", _move(-1)),
    Binding(("page-down",), "", "ten further", _move(+10)),
    Binding(("page-up",), "", "ten back", _move(-10)),
    Binding(("home", "g"), "", "first", _move(-EVERYTHING)),
    Binding(("end", "G"), "", "last", _move(+EVERYTHING)),
)
_ACTS = {key: binding.act for binding in BINDINGS for key in binding.keys}


def pressed(screen: Screen, key: str) -> Screen:
    """The screen after a key. One that means nothing changes nothing."""
    if screen.typing:
        return _typed(screen, key)
    act = _ACTS.get(key)
    return screen if act is None else act(screen)


def _typed(screen: Screen, key: str) -> Screen:
    """A key while the filter is being typed: it filters as one types."""
    if key == "enter":
        return replace(screen, typing=False)
    if key == "escape":
        return replace(screen, typing=False, filter="")
    if key == "clear":
        return replace(screen, filter="")
    if key == "backspace":
        return replace(screen, filter=screen.filter[:-1])
    character = " " if key == "space" else key
    return replace(screen, filter=screen.filter + character) if len(character) == 1 else screen
