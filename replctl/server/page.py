"""The page: every cluster's table, its problems, the lag of each replica. HTML, ready made, without a script.

The words are those of `replctl status`. Everything that a server or an inventory has said is escaped.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

from replctl.core.automation import automation
from replctl.core.results import Status
from replctl.core.status import NodeState
from replctl.core.units import format_bytes, format_duration
from replctl.display.columns import CAUGHT_UP_BYTES, COLUMNS, NONE, Row, format_age
from replctl.display.document import iso_time
from replctl.display.overview import rows_of
from replctl.display.style import BOLD, DIM, UNICODE, Line, visible
from replctl.server.curves import STEP_S
from replctl.server.roles import view_of
from replctl.server.style import CONTENT_POLICY, STYLE
from replctl.server.watch import Seen, Watch

__all__ = ["CONTENT_POLICY", "REFRESH_S", "page"]

REFRESH_S = 5
REFRESH_MIN_S = 2
REFRESH_MAX_S = 3600
PROBLEMS_MAX = 50
CURVE_POINTS_MAX = 120
CURVE_WIDTH = 300
CURVE_HEIGHT = 60

_SHOWN = ("node", "role", "state", "timeline", "upstream", "sync", "lag_bytes", "lag_s", "trend")
_COLUMNS = [column for column in COLUMNS if column.key in _SHOWN]


def page(watches: Sequence[Watch], *, refresh_s: int, now_at: float) -> str:
    """The whole document. `refresh_s` 0 = it stays as it is; `now_at` is the Unix time that it shows."""
    refresh_s = 0 if refresh_s <= 0 else min(max(refresh_s, REFRESH_MIN_S), REFRESH_MAX_S)
    reload = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    title = ", ".join(_title(watch) for watch in watches[:3])
    again = (
        f'again every {refresh_s} s · <a href="?refresh=0">stop</a>'
        if refresh_s
        else f'<a href="/">every {REFRESH_S} s</a>'
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{reload}<link rel="icon" href="data:,"><title>{_text(title)} - replctl</title>'
        f"<style>{STYLE}</style></head>\n<body><header><h1>replctl</h1>"
        f"<p>{_text(iso_time(now_at)[:19].replace('T', ' '))} UTC</p><p>{again}</p></header>\n<main>\n"
        + "\n".join(_cluster(watch) for watch in watches)
        + "\n</main></body></html>\n"
    )


def _title(watch: Watch) -> str:
    seen = watch.current
    return f"{watch.name}: {'no current look' if seen is None else seen.report.verdict.name}"


def _cluster(watch: Watch) -> str:
    seen = watch.newest
    if seen is None:
        head = f'<section id="{_text(watch.name)}"><h2>{_text(watch.name)}</h2>'
        return f'{head}<p class="stale">Nobody has looked yet.</p></section>'
    age_s, verdict = seen.age_s(), seen.report.verdict
    stale = ""
    if watch.current is None:
        stale = (
            f'<p class="stale"><b class="critical">✗ This is {format_age(age_s)} old.</b>'
            " What follows may not hold any more; no role endpoint says yes.</p>"
        )
    sign = UNICODE.signed(verdict, verdict.name)
    return (
        f'<section id="{_text(watch.name)}"><div class="head"><h2>{_text(watch.name)}</h2>'
        f'<p class="verdict {_class(verdict)}">{_text(sign)}</p>{_facts(seen)}</div>{stale}'
        f"{_table(seen)}{_problems(seen)}{_curves(watch, seen)}</section>"
    )


def _facts(seen: Seen) -> str:
    status, now = seen.status, automation(seen.status)
    write = seen.snapshot.write
    facts = [
        f"writes go to {write.node}" if write.node else f"writes go nowhere: {write.reason.sentence}",
        f"automatic failover: {now.state}",
    ]
    if status.sync.configured is not None:
        facts.append(f"synchronous: {status.sync.configured or 'nobody'}")
    facts.append(f"looked in {format_duration(status.took_s)}")
    return "".join(f'<p class="dim">{_text(fact)}</p>' for fact in facts)


def _table(seen: Seen) -> str:
    rows = rows_of(seen.report, UNICODE)
    heads = "".join(
        f'<th scope="col"{_right(column.right)}>{_text(column.heading)}</th>' for column in _COLUMNS
    )
    body = "\n".join(_row(row, seen) for row in rows)
    return (
        f'<table><thead><tr>{heads}<th scope="col">READS</th></tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    )


def _row(row: Row, seen: Seen) -> str:
    cells = []
    for column in _COLUMNS:
        kinds = [column.key] if column.key in ("node", "state") else []
        kinds += ["right"] if column.right else []
        kinds += [_class(row.severity)] if column.key == "state" else []
        kinds += ["none"] if column.cell(row) == NONE else []
        shown = f' class="{" ".join(kinds)}"' if kinds else ""
        cells.append(f'<td{shown} data-name="{_text(column.heading)}">{_html(column.cell(row))}</td>')
    view = view_of(row.node.name, seen)
    reads = "yes" if view.fit else f'<span class="dim">no ({_text(str(view.fitness))})</span>'
    return f'<tr>{"".join(cells)}<td data-name="READS">{reads}</td></tr>'


def _html(line: Line) -> str:
    """The spans of a terminal's line as HTML. Of their styles, what is bold or dim."""
    tags = {BOLD: ("<b>", "</b>"), DIM: ('<span class="dim">', "</span>")}
    parts = [(_text(span.text), tags.get(span.style, ("", ""))) for span in line]
    return "".join(f"{before}{text}{after}" for text, (before, after) in parts)


def _problems(seen: Seen) -> str:
    problems = seen.report.problems
    if not problems:
        return ""
    items = []
    for problem in problems[:PROBLEMS_MAX]:
        word = UNICODE.signed(problem.status, problem.status.name)
        where = f"{problem.node}: " if problem.node and problem.node not in problem.message else ""
        hint = f'<br><span class="dim">{_text(problem.hint)}</span>' if problem.hint else ""
        said = f'<b class="{_class(problem.status)}">{_text(word)}</b> {_text(where + problem.message)}'
        items.append(f"<li>{said}{hint}</li>")
    left = len(problems) - PROBLEMS_MAX
    more = f'<li class="dim">and {left} more: replctl status</li>' if left > 0 else ""
    return f"<h3>Problems</h3><ul>{''.join(items)}{more}</ul>"


def _curves(watch: Watch, seen: Seen) -> str:
    figures = [
        _figure(node.name, watch.curves.of(node.name), seen.status.settings.routing.max_lag_bytes, now=lag)
        for node in seen.status.nodes
        if watch.curves.of(node.name) and node.state is not NodeState.PRIMARY
        for lag in [node.lag.lag_bytes]
    ]
    legend = '<span class="dim">(bytes; dashed: max_lag_bytes)</span>'
    return f'<h3>Lag {legend}</h3><div class="curves">{"".join(figures)}</div>' if figures else ""


def _figure(name: str, lags: list[int | None], limit_bytes: int, *, now: int | None) -> str:
    """One replica's lag over time. A gap is what is not known."""
    span_s = len(lags) * STEP_S
    values = thinned(lags, CURVE_POINTS_MAX)
    peak = max([lag for lag in values if lag is not None], default=0)
    top = max(peak, CAUGHT_UP_BYTES)  # below that all is jitter, and must not look like mountains
    limit = said = ""
    if limit_bytes <= top:
        said = f", dashed {format_bytes(limit_bytes)}"
        y = round(_height(limit_bytes, top), 1)
        limit = f'<path class="limit" d="M0 {y}H{CURVE_WIDTH}"/>'
    said = f"now {'unknown' if now is None else format_bytes(now)}, at most {format_bytes(peak)}{said}"
    label = f"Lag of {name} over {format_duration(span_s)}: {said}"
    return (
        f"<figure><figcaption><b>{_text(name)}</b>"
        f'<span class="dim">{_text(format_duration(span_s))}</span>'
        f'<span class="said">{_text(said)}</span></figcaption>'
        f'<svg viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="{_text(label)}">{_paths(values, top)}{limit}</svg></figure>'
    )


def thinned(lags: Sequence[int | None], most: int) -> list[int | None]:
    """At most so many values: the highest of each stretch."""
    if len(lags) <= most:
        return list(lags)
    edges = [round(n * len(lags) / most) for n in range(most + 1)]
    stretches = (lags[a:b] for a, b in itertools.pairwise(edges))
    return [max((lag for lag in stretch if lag is not None), default=None) for stretch in stretches]


def _height(lag: int, top: int) -> float:
    return CURVE_HEIGHT - (CURVE_HEIGHT - 2) * max(0, min(lag, top)) / top


def _paths(values: Sequence[int | None], top: int) -> str:
    """A line and the area below it for each stretch without a gap."""
    values = [*values, *values] if len(values) == 1 else values
    step = CURVE_WIDTH / max(1, len(values) - 1)
    runs: list[list[str]] = [[]]
    for number, lag in enumerate(values):
        if lag is None:
            runs.append([])
        else:
            runs[-1].append(f"{number * step:.1f} {_height(lag, top):.1f}")
    found = []
    for run in runs:
        if not run:
            continue
        if len(run) == 1:  # a point has no length
            x, y = run[0].split(" ")
            run = [f"{max(0.0, float(x) - step / 2):.1f} {y}", f"{float(x) + step / 2:.1f} {y}"]
        line = "L".join(run)
        first, last = run[0].split(" ")[0], run[-1].split(" ")[0]
        found.append(f'<path class="area" d="M{first} {CURVE_HEIGHT}L{line}L{last} {CURVE_HEIGHT}Z"/>')
        found.append(f'<path class="curve" d="M{line}"/>')
    return "".join(found)


def _text(said: str) -> str:
    """Text that is nothing but text, also where it has control characters in it."""
    return escape(visible(said))


def _class(status: Status) -> str:
    return status.name.lower()


def _right(right: bool) -> str:
    return ' class="right"' if right else ""
