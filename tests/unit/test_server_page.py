"""The page and its curves, made from looks that never happened."""

from __future__ import annotations

import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from replctl.server.curves import STEP_S, STEPS_MAX, Curves
from replctl.server.page import CURVE_POINTS_MAX, page, thinned
from replctl.server.style import STYLE
from tests.unit.builders import replica, spec, trio, unreachable
from tests.unit.test_server_roles import MIB, look, watch_of


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLCTL_STATE_DIR", str(tmp_path / "state"))


class Reader(HTMLParser):
    """The text of a page, the addresses in it, and whether every element ends."""

    VOID = ("meta", "link", "br", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.names: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("href", "src", "action", "xlink:href")
        ]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data.split()


def read(*watches, refresh_s: int = 5) -> Reader:
    found = Reader(page(watches, refresh_s=refresh_s, now_at=time.time()))
    assert not found.open
    return found


def test_it_has_every_node_and_loads_nothing() -> None:
    found = read(look(watch_of(), *trio(pg3=unreachable("pg3"))))
    text = " ".join(found.words)

    for words in (
        "orders",
        "CRITICAL",
        "writes go to pg1",
        "pg2 replica ✓ streaming 1 pg1 async",
        "pg3 ? ✗ unreachable (refused)",
    ):
        assert words in text
    assert found.addresses == ["data:,", "?refresh=0"]
    assert not found.names & {"script", "iframe", "img", "object", "form", "base"}


def test_it_stays_as_it_is_where_that_is_asked() -> None:
    watch = look(watch_of(), *trio())

    assert '<meta http-equiv="refresh" content="5">' in page([watch], refresh_s=5, now_at=0)
    assert '<meta http-equiv="refresh" content="2">' in page([watch], refresh_s=1, now_at=0)
    assert "http-equiv" not in page([watch], refresh_s=0, now_at=0)


def test_what_others_have_said_is_text_and_no_markup() -> None:
    evil = '<script>alert(1)</script><img src=x onerror="a">&\x1b[31m'
    nodes = (spec("pg1"), spec("pg2"), spec("pg3", host=evil))
    text = page(
        [look(watch_of(nodes=nodes), *trio(pg3=unreachable("pg3", message=evil)))], refresh_s=5, now_at=0
    )

    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert not Reader(text).names & {"script", "img"}


def test_it_says_that_it_is_old_or_that_nobody_has_looked() -> None:
    assert "Nobody has looked yet." in " ".join(read(watch_of()).words)
    old = " ".join(read(look(watch_of(), *trio(), age_s=60)).words)
    assert "✗ This is 1 min old. What follows may not hold any more; no role endpoint says yes." in old
    assert "old" not in " ".join(read(look(watch_of(), *trio())).words)


def test_a_replica_has_its_curve_with_the_limit_it_went_over_and_a_primary_none() -> None:
    watch = look(watch_of(), *trio(pg2=replica("pg2", lsn=0x5000000 - 32 * MIB)))
    text = page([watch], refresh_s=5, now_at=0)

    assert 'aria-label="Lag of pg2 over 5.0 s: now 32.0 MiB, at most 32.0 MiB, dashed 16.0 MiB"' in text
    assert text.count('class="limit"') == 1
    assert text.count("<figure>") == 2


def test_every_class_that_is_used_is_in_the_style_sheet() -> None:
    text = page([look(watch_of(), *trio(pg3=unreachable("pg3")), age_s=60)], refresh_s=5, now_at=0)
    used = {word for part in text.split('class="')[1:] for word in part.partition('"')[0].split()}

    assert {word for word in used if f".{word}" not in STYLE} == set()


# ---- curves


def test_a_curve_keeps_the_highest_of_each_step_and_gaps_where_nothing_is_known() -> None:
    curves = Curves()
    at = 1_700_000_000.0
    for step, lags in enumerate([[5, 9, 1], [None], [], [3]]):
        for n, lag in enumerate(lags):
            curves.add(at + step * STEP_S + n, {"pg2": lag})

    assert curves.of("pg2") == [9, None, None, 3]
    assert curves.of("pg3") == []


def test_a_curve_is_bounded_and_survives_nodes_that_come_and_go_and_clocks_that_go_back() -> None:
    curves = Curves()
    for n in range(STEPS_MAX + 50):
        curves.add(n * STEP_S, {"pg2": n} if n % 2 else {"pg3": n})
    assert [len(curves.of(name)) for name in ("pg2", "pg3")] == [STEPS_MAX, STEPS_MAX]
    assert curves.of("pg2")[-1] == STEPS_MAX + 49
    curves.add((STEPS_MAX * 9) * STEP_S, {"pg2": 7})
    assert curves.of("pg2") == [None] * (STEPS_MAX - 1) + [7]
    curves.add(0.0, {"pg2": 1})
    assert curves.of("pg2") == [1]


def test_thinning_keeps_the_highest() -> None:
    lags = [None] * 100 + list(range(260))
    assert len(thinned(lags, CURVE_POINTS_MAX)) == CURVE_POINTS_MAX
    assert max(v for v in thinned(lags, CURVE_POINTS_MAX) if v is not None) == 259
    assert thinned(lags, CURVE_POINTS_MAX)[0] is None
    assert thinned([1, None], CURVE_POINTS_MAX) == [1, None]
