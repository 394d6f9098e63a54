"""From a Screen to the lines of one frame: a pure function, at any size.

From top to bottom: header, table, problems, changes, footer. The rows go first when there is little
room, then one line of the header, then problems, then changes; what does not fit is counted, not hidden.
"""

from __future__ import annotations

from dataclasses import replace

from replctl.display.columns import Row, format_age
from replctl.display.keys import BINDINGS
from replctl.display.overlay import detail_lines, help_lines
from replctl.display.overview import clock, header, problem_lines, verdict_span
from replctl.display.screen import OLD_INTERVALS, Overlay, Screen
from replctl.display.style import (
    BOLD,
    DIM,
    PLAIN,
    RED,
    REVERSE,
    Line,
    Span,
    clipped,
    flowed,
    line_width,
    restyled,
)
from replctl.display.table import Table, narrowest, table, wide_table

HEIGHT_MIN = 6
WIDTH_MIN = 24
GUTTER = 2  # where the selected row is marked
ROOMY = 10  # lines above the footer from which problems get room of their own, however many rows there are
PROBLEM_LINES = 4  # room that problems get before the header and the changes
CHANGE_LINES = 2  # room that changes get before all problems are shown


def frame(screen: Screen) -> list[Line]:
    """The lines of this frame: never more than the height, none wider than the width."""
    needed = needed_size(screen)
    if screen.width < needed[0] or screen.height < needed[1]:
        lines = _too_small(screen, needed)
    else:
        foot = _footer(screen)
        head = _head(screen)
        room = screen.height - len(foot)
        if screen.overlay is not Overlay.NONE:
            body = _overlaid(screen, head[:1], room)
        elif screen.seen.report is None:
            body = [*head, (), (Span(f"asking {len(screen.seen.settings.nodes)} nodes ..."),)][:room]
        else:
            body = _body(screen, head, room)
        lines = [*body, *[()] * (room - len(body)), *foot]
    return [clipped(line, screen.width) for line in lines[: screen.height]]


def needed_size(screen: Screen) -> tuple[int, int]:
    """Columns and lines without which nothing sensible can be shown."""
    columns = WIDTH_MIN
    if screen.overlay is Overlay.NONE:
        columns = max(columns, narrowest(screen.rows()).width + GUTTER)
    return columns, HEIGHT_MIN


def settled(screen: Screen) -> Screen:
    """The screen with its scroll position inside what there is to scroll."""
    if screen.overlay is Overlay.NONE:
        return screen
    shown = screen.height - len(_footer(screen)) - 3  # the head, an empty line, the count of what is hidden
    return replace(screen, scroll=max(0, min(screen.scroll, len(_overlay_lines(screen)) - shown)))


def _too_small(screen: Screen, needed: tuple[int, int]) -> list[Line]:
    return [
        (Span("terminal too small", BOLD),),
        (Span(f"needs {needed[0]}x{needed[1]}"),),
        (Span(f"has {screen.width}x{screen.height}"),),
        (Span("q quits"),),
    ]


def _head(screen: Screen) -> list[Line]:
    lines: list[Line] = []
    if len(screen.clusters) > 1:
        lines += flowed(_tabs(screen), screen.width)
    if screen.seen.report is None:
        return [*lines, (Span(screen.seen.settings.name, BOLD),)]
    return [*lines, *header(screen.seen.report, screen.medium)]


def _tabs(screen: Screen) -> list[Line]:
    """The names of all clusters with their verdicts; the one on show in brackets."""
    tabs: list[Line] = [(Span("tab:", DIM),)]
    for i, seen in enumerate(screen.clusters):
        here = i == screen.current
        verdict = (Span(" "), verdict_span(seen.report, screen.medium.glyphs)) if seen.report else ()
        name = Span(f"[{seen.settings.name}]" if here else seen.settings.name, BOLD if here else PLAIN)
        tabs.append((name, *verdict))
    return tabs


def _body(screen: Screen, head: list[Line], room: int) -> list[Line]:
    """Header, table, problems and changes in so many lines."""
    rows = screen.rows()
    found = _table(screen, rows)
    problems = _problems(screen)
    wanted = min(PROBLEM_LINES, len(problems) + 1) if problems else 0
    reserved = min(wanted, room // 4) if room >= ROOMY else 0
    shown = _window(screen, rows, found, max(1, room - 2 - reserved))
    left = room - 1 - len(shown)
    head = head[: max(1, left - wanted - 1)]
    left -= len(head)
    if left > max(2, wanted):
        head = [*head, ()]
    lines = [*head, _in_gutter(found.heading, False, screen), *shown]
    return [*lines, *_below(screen, problems, room - len(lines))]


def _table(screen: Screen, rows: list[Row]) -> Table:
    if screen.wide:
        return wide_table(rows, screen.width - GUTTER, screen.first_column)[0]
    return table(rows, screen.width - GUTTER)


def _window(screen: Screen, rows: list[Row], found: Table, room: int) -> list[Line]:
    """The rows that fit, around the selected one, and how many more there are."""
    if not rows:
        return [(Span("  no node " + ("matches" if screen.filter else "has a problem"), DIM),)]
    names = [r.node.name for r in rows]
    at = names.index(screen.selected) if screen.selected in names else 0
    cropped = len(rows) > room
    count = max(1, room - 1) if cropped else len(rows)
    first = max(0, at - count + 1)
    old = _is_old(screen)
    lines = []
    for i in range(first, first + count):
        line = restyled(found.rows[i], DIM) if old else found.rows[i]
        lines.append(_in_gutter(line, i == at, screen))
    if cropped and room > 1:
        lines.append((Span(f"  {_hidden(first, len(rows) - first - count)}", DIM),))
    return lines


def _hidden(above: int, below: int) -> str:
    """How much there is that does not fit."""
    if not above:
        return f"+{below} more"
    return f"+{above} more above" + (f", +{below} below" if below else "")


def _in_gutter(line: Line, chosen: bool, screen: Screen) -> Line:
    marked: Line = (Span("> " if chosen else "  "), *line)
    if not chosen:
        return marked
    rest = screen.width - line_width(marked)
    return restyled((*marked, Span(" " * max(0, rest))), REVERSE) if screen.medium.color else marked


def _problems(screen: Screen) -> list[Line]:
    report = screen.seen.report
    return problem_lines(report.problems, screen.medium) if report else []


def _below(screen: Screen, problems: list[Line], room: int) -> list[Line]:
    """Problems and changes under the table; changes get a little room of their own."""
    changes = _changes(screen)
    reserved = min(len(changes), CHANGE_LINES) + 1 if changes and room >= ROOMY else 0
    lines: list[Line] = []
    if problems and room > 1:
        lines = [(), *_cropped(problems, max(1, room - 1 - reserved))]
    left = room - len(lines) - 1
    if changes and left > 0:
        lines += [(), *changes[-left:]]
    return lines


def _cropped(lines: list[Line], room: int) -> list[Line]:
    if len(lines) <= room:
        return lines
    return [*lines[: room - 1], (Span(f"+{len(lines) - room + 1} lines of problems", DIM),)]


def _changes(screen: Screen) -> list[Line]:
    arrow = screen.medium.glyphs.arrow
    return [
        (
            Span(f"{clock(c.at)}  ", DIM),
            Span("" if c.fact == "primary" else f"{c.node}: "),
            Span(f"{c.fact} {c.before} {arrow} {c.after}"),
        )
        for c in screen.seen.changes
    ]


def _overlaid(screen: Screen, head: list[Line], room: int) -> list[Line]:
    lines = _overlay_lines(screen)
    shown = room - len(head) - 1
    if len(lines) > shown:
        first = settled(screen).scroll
        part = lines[first : first + shown - 1]
        hidden = len(lines) - first - len(part)
        lines = [*part, (Span(_hidden(first, hidden), DIM),)]
    return [*head, (), *lines]


def _overlay_lines(screen: Screen) -> list[Line]:
    if screen.overlay is Overlay.HELP:
        return help_lines(screen.medium)
    row = screen.selected_row()
    if row is None or screen.seen.report is None:
        return [(Span("no such node"),)]
    return detail_lines(row, screen.seen.report, screen.medium)


def _age_s(screen: Screen) -> float | None:
    report = screen.seen.report
    return None if report is None else max(0.0, screen.now - report.status.observed_at)


def _is_old(screen: Screen) -> bool:
    age_s = _age_s(screen)
    return age_s is not None and age_s > OLD_INTERVALS * screen.interval_s


def _footer(screen: Screen) -> list[Line]:
    """One line of how things are, one of the keys."""
    parts: list[Line] = []
    if screen.seen.report is not None:
        parts.append((verdict_span(screen.seen.report, screen.medium.glyphs),))
    age_s = _age_s(screen)
    if age_s is not None and _is_old(screen):
        parts.append((Span(f"! data {format_age(age_s)} old", f"{BOLD};{RED}"),))
    elif age_s is not None:
        parts.append((Span(f"data {format_age(age_s)} old", DIM),))
    parts.append((Span("PAUSED", BOLD) if screen.paused else Span(f"every {screen.interval_s:g} s", DIM),))
    parts += [(Span(text, DIM),) for text in _settings(screen)]
    if screen.typing or screen.filter:
        cursor = "_" if screen.typing else ""
        parts.insert(1, (Span(f"filter: {screen.filter}{cursor}", BOLD),))
    return [*flowed(parts, screen.width)[:1], _key_hints(screen)]


def _settings(screen: Screen) -> list[str]:
    found = ["tree" if screen.as_tree else f"sort {screen.sort}{', reversed' if screen.reverse else ''}"]
    if screen.problems_only:
        found.append("only problems")
    if screen.wide:
        hidden = wide_table(screen.rows(), screen.width - GUTTER, screen.first_column)[1]
        found.insert(0, f"{hidden} (left, right)" if hidden else "all columns")
    return found


def _key_hints(screen: Screen) -> Line:
    """As many keys as fit, whole."""
    hints = [(b.keys[0], b.label) for b in BINDINGS if b.label]
    if screen.typing:
        hints = [("enter", "keep the filter"), ("esc", "clear it")]
    elif screen.overlay is not Overlay.NONE:
        hints = [("q", "quit"), ("esc", "back"), ("j", "down"), ("k", "up")]
    parts: list[Line] = [(Span(key, BOLD), Span(f" {label}", DIM)) for key, label in hints]
    return next(iter(flowed(parts, screen.width, gap=2)), ())
