"""Sizes and times as people write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.units import (
    SIZE_MAX_BYTES,
    TIME_MAX_S,
    exact_bytes,
    exact_duration,
    format_bytes,
    format_duration,
    format_version,
    parse_bytes,
    parse_duration,
)
from tests.unit.strategies import size_texts, time_texts


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16MiB", 16 * 1024**2),
        ("1GB", 1024**3),
        ("1kB", 1024),
        ("10 KiB", 10240),
        ("1.5 GiB", 3 * 512 * 1024**2),
        ("2tb", 2 * 1024**4),
        ("123", 123),
        ("7B", 7),
        (0, 0),
        (16777216, 16777216),
        (" 1MiB ", 1024**2),
    ],
)
def test_sizes_count_in_1024s_as_postgresql_does(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "not a number and a unit"),
        ("MiB", "not a number and a unit"),
        ("-1", "not a number and a unit"),
        ("1 2", "not a number and a unit"),
        ("0x10", "not a number and a unit"),
        ("16MX", "MX is not a unit of size; known are B, KiB, MiB, GiB, TiB, PiB"),
        ("16M", "M is not a unit of size"),
        ("9999PiB", "between 0 and 8 EiB"),
        ("1e999", "between 0 and 8 EiB"),
        ("9" * 5000, "not a number and a unit"),
        (-1, "between 0 and 8 EiB"),
        (True, "neither a text nor a whole number"),
        (1.5, "neither a text nor a whole number"),
        (None, "neither a text nor a whole number"),
        ("١MiB", "not a number and a unit"),
    ],
)
def test_what_is_no_size_is_refused(value, message):
    with pytest.raises(ValueError) as refusal:
        parse_bytes(value)

    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        (5, 5.0),
        (0.2, 0.2),
        ("500ms", 0.5),
        ("300ms", 0.3),
        ("30s", 30.0),
        ("1.5 s", 1.5),
        ("5min", 300.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("0", 0.0),
    ],
)
def test_times_are_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5m", "m is not a unit of time; known are ms, s, min, h, d"),
        ("5 minutes", "minutes is not a unit of time"),
        ("5S", "S is not a unit of time"),
        ("-5s", "not a number and a unit"),
        ("", "not a number and a unit"),
        (-0.1, "between 0 and 100 years"),
        (math.nan, "between 0 and 100 years"),
        (math.inf, "between 0 and 100 years"),
        (10**400, "between 0 and 100 years"),
        ("1e99", "between 0 and 100 years"),
        (False, "neither a text nor a number"),
        ([5], "neither a text nor a number"),
    ],
)
def test_what_is_no_time_is_refused(value, message):
    with pytest.raises(ValueError) as refusal:
        parse_duration(value)

    assert message in str(refusal.value)


@given(st.integers(0, SIZE_MAX_BYTES))
def test_an_exact_size_is_read_back_as_itself(size):
    assert parse_bytes(exact_bytes(size)) == size


@given(st.floats(0, TIME_MAX_S))
def test_an_exact_time_is_read_back_as_itself(seconds):
    assert parse_duration(exact_duration(seconds)) == seconds


@given(size_texts)
def test_every_spelling_of_a_size_has_one_exact_text(text):
    assert parse_bytes(exact_bytes(parse_bytes(text))) == parse_bytes(text)


@given(time_texts)
def test_every_spelling_of_a_time_has_one_exact_text(text):
    assert parse_duration(exact_duration(parse_duration(text))) == parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1500, "1500"), (16 * 1024**2, "16MiB"), (1536 * 1024**2, "1536MiB")]
)
def test_an_exact_size_is_short(size, text):
    assert exact_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.5, "500ms"),
        (5, "5s"),
        (90, "90s"),
        (300, "5min"),
        (7200, "2h"),
        (86400, "1d"),
        (1e-7, "1e-07s"),
    ],
)
def test_an_exact_time_is_short(seconds, text):
    assert exact_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1288490188, "1.2 GiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**3 - 1, "1.0 GiB"),
        (-5000, "-4.9 KiB"),
        (2**63, "8192.0 PiB"),
    ],
)
def test_sizes_are_shown_with_one_decimal(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0003, "0.3 ms"),
        (0.0094, "9.4 ms"),
        (0.25, "250 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (1.23, "1.2 s"),
        (9.96, "10 s"),
        (42.4, "42 s"),
        (59.7, "1 min"),
        (303, "5 min 3 s"),
        (3599.6, "1 h"),
        (7500, "2 h 5 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
        (-3.2, "-3.2 s"),
    ],
)
def test_times_are_shown_in_two_units_at_most(seconds, text):
    assert format_duration(seconds) == text


@given(st.floats(0, TIME_MAX_S))
def test_a_shown_time_is_short_and_positive(seconds):
    assert len(format_duration(seconds)) <= 12
    assert not format_duration(seconds).startswith("-")


@pytest.mark.parametrize(("number", "text"), [(140000, "14.0"), (150018, "15.18"), (180006, "18.6")])
def test_a_server_version_is_written_as_postgresql_writes_it(number: int, text: str) -> None:
    assert format_version(number) == text
