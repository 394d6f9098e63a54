"""Tokens: what goes in comes out, nobody else can make one, and one that is no good is as good as none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.routing import Claim, KeyRing, Position, parse
from replctl.core.routing.token import MAX_AGE_S, TOKEN_LENGTH_MAX, later
from tests.unit.builders import NOW
from tests.unit.routing import SYSTEM, position
from tests.unit.strategies import lsns

OLD, NEW, FOREIGN = b"o" * 16, b"n" * 16, b"f" * 16
KEYS = KeyRing((NEW, OLD))
TOKEN = KEYS.issue(position(), NOW)
timelines = st.integers(1, 2**31 - 1)


@given(lsns, timelines, st.floats(0, 2e10))
def test_what_goes_in_comes_out(lsn, timeline, now_at):
    token = KEYS.issue(position(lsn, timeline), now_at)
    claim = KEYS.verify(token, now_at)

    assert claim is not None
    assert (claim.system, claim.position) == (SYSTEM, position(lsn, timeline))
    assert 0 <= now_at - claim.issued_at < 0.002
    assert len(token) <= TOKEN_LENGTH_MAX


def test_a_token_looks_like_this():
    body, _, signature = TOKEN.rpartition(".")

    assert (body, len(signature)) == (f"v1.{SYSTEM}.1.5000000.18bcfe56800", 32)
    assert KEYS.issue_window(SYSTEM, NOW).startswith(f"v1.{SYSTEM}.0..18bcfe56800.")


def test_a_write_without_a_position_says_only_when():
    assert KEYS.verify(KEYS.issue_window(SYSTEM, NOW), NOW) == Claim(SYSTEM, None, NOW)


def test_the_first_secret_signs_and_each_is_accepted():
    assert KeyRing((NEW,)).verify(TOKEN, NOW) is not None
    assert KeyRing((OLD,)).verify(TOKEN, NOW) is None
    assert KEYS.verify(KeyRing((OLD,)).issue(position(), NOW), NOW) is not None
    assert KEYS.verify(KeyRing((FOREIGN,)).issue(position(), NOW), NOW) is None


@given(st.integers(0, len(TOKEN) - 1), st.characters())
def test_a_token_that_was_changed_anywhere_is_none(at, letter):
    changed = TOKEN[:at] + letter + TOKEN[at + 1 :]

    assert KEYS.verify(changed, NOW) is None or changed == TOKEN


@given(st.text() | st.from_regex(r"v1(\.[0-9a-f]{0,40}){3,6}", fullmatch=True))
def test_any_other_text_is_none(text):
    assert KEYS.verify(text, NOW) is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        TOKEN.replace("v1", "v2"),
        TOKEN[:-1],
        TOKEN + "0",
        f"{TOKEN}\n",
        f"{TOKEN}.0",
        TOKEN.upper(),
        "v1." + "9" * 10_000,
        TOKEN.replace(f".{SYSTEM}.", ".ffffffffff."),  # of another cluster, and not signed so
    ],
)
def test_none_of_these_is_a_token(text):
    assert KEYS.verify(text, NOW) is None


@pytest.mark.parametrize(
    ("age_s", "holds"), [(0, True), (MAX_AGE_S, True), (MAX_AGE_S + 0.01, False), (-86400, True)]
)
def test_an_old_token_is_none_and_one_from_the_future_is_of_another_clock(age_s, holds):
    assert (KEYS.verify(TOKEN, NOW + age_s) is not None) is holds


def test_anybody_can_read_a_token():
    assert parse(TOKEN) == Claim(SYSTEM, position(), NOW)


@pytest.mark.parametrize("secrets", [(), (b"",), (NEW, b"short")])
def test_a_ring_without_a_good_secret_is_refused(secrets):
    with pytest.raises(ValueError, match="at least 16 bytes"):
        KeyRing(secrets)


def test_no_secret_is_shown():
    assert "n" * 8 not in repr(KEYS)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (None, None, None),
        (position(5), None, position(5)),
        (None, position(5), position(5)),
        (position(7), position(5), position(7)),
        (position(9, 1), position(5, 2), position(5, 2)),
        (position(9), Position("0" * 10, 1, position(5).lsn), Position("0" * 10, 1, position(5).lsn)),
    ],
)
def test_the_later_of_two_positions_includes_both(one, other, expected):
    assert later(one, other) == expected
