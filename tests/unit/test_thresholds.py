"""Thresholds: human sizes and times, Nagios ranges of them, `never`."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.thresholds import NEVER, THRESHOLD_KEYS, Range, Unit, in_order, parse_range

MIB = 1024 * 1024
numbers = st.floats(0, 1e12, allow_subnormal=False).map(lambda number: round(number, 3))


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("16MiB", Unit.BYTES, Range(0, 16 * MIB)),
        ("30s", Unit.SECONDS, Range(0, 30)),
        ("5min", Unit.SECONDS, Range(0, 300)),
        ("80%", Unit.PERCENT, Range(0, 80)),
        ("80", Unit.PERCENT, Range(0, 80)),
        ("2.5", Unit.COUNT, Range(0, 2.5)),
        ("10:", Unit.COUNT, Range(10, math.inf)),
        ("~:10", Unit.COUNT, Range(-math.inf, 10)),
        ("~:", Unit.COUNT, NEVER),
        ("10:20", Unit.COUNT, Range(10, 20)),
        ("@10:20", Unit.COUNT, Range(10, 20, inverted=True)),
        ("1MiB:1GiB", Unit.BYTES, Range(MIB, 1024 * MIB)),
        ("@0:500ms", Unit.SECONDS, Range(0, 0.5, inverted=True)),
        (" never ", Unit.BYTES, NEVER),
        ("-5:5", Unit.COUNT, Range(-5, 5)),
    ],
)
def test_every_form_of_a_threshold_is_read(text, unit, expected):
    assert parse_range(text, unit) == expected


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        ("", Unit.COUNT, "not a number: ''"),
        ("many", Unit.COUNT, "not a number: 'many'"),
        ("inf", Unit.COUNT, "not a number: 'inf'"),
        ("nan%", Unit.PERCENT, "not a number: 'nan'"),
        ("20:10", Unit.COUNT, "the range from '20' up to '10' is empty"),
        ("1:2:3", Unit.COUNT, "not a number: '1:2'"),
    ],
)
def test_what_is_no_threshold_is_refused(text, unit, message):
    with pytest.raises(ValueError) as refusal:
        parse_range(text, unit)

    assert str(refusal.value).startswith(message.removesuffix("'"))


@pytest.mark.parametrize(("text", "unit"), [("16MX", Unit.BYTES), ("5m", Unit.SECONDS), ("@", Unit.BYTES)])
def test_a_wrong_unit_is_refused(text, unit):
    with pytest.raises(ValueError, match=r"not a (unit|number)"):
        parse_range(text, unit)


@pytest.mark.parametrize(
    ("text", "fine", "reported"),
    [
        ("10", [0, 5, 10], [-1, 10.1, 11]),
        ("10:", [10, 11, 1e9], [9, 0, -1]),
        ("~:10", [-1e9, 0, 10], [10.5]),
        ("10:20", [10, 15, 20], [9, 21]),
        ("@10:20", [9, 21], [10, 15, 20]),
        ("0", [0], [-1, 0.001]),
        ("never", [-1e9, 0, 1e9], []),
    ],
)
def test_ranges_report_what_monitoring_plugins_report(text, fine, reported):
    found = parse_range(text, Unit.COUNT)

    assert [value for value in (*fine, *reported) if found.alerts(value)] == reported


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Range(0, 16 * MIB), "16777216"),
        (Range(0, 0.5), "0.5"),
        (Range(10, math.inf), "10:"),
        (Range(-math.inf, 10), "~:10"),
        (Range(10, 20), "10:20"),
        (Range(10, 20, inverted=True), "@10:20"),
        (Range(0, 20, inverted=True), "@20"),
        (Range(0, 1e12), "1000000000000"),
        (NEVER, ""),
    ],
)
def test_ranges_are_printed_as_monitoring_plugins_do_in_the_base_unit(found, text):
    assert str(found) == text


@given(numbers, numbers, st.booleans())
def test_a_printed_range_is_read_back(one, other, inverted):
    found = Range(min(one, other), max(one, other), inverted)

    assert parse_range(str(found), Unit.COUNT) == found


@pytest.mark.parametrize(
    ("warning", "critical", "expected"),
    [
        ("10", "20", True),
        ("20", "10", False),
        ("10", "10", True),
        ("10:", "5:", True),
        ("5:", "10:", False),
        ("10:20", "5:30", True),
        ("10:20", "15:30", False),
        ("never", "5", True),
        ("5", "never", True),
        ("@10:20", "5", True),
    ],
)
def test_a_warning_comes_before_the_critical_one(warning, critical, expected):
    found = in_order(parse_range(warning, Unit.COUNT), parse_range(critical, Unit.COUNT))

    assert found is expected


@pytest.mark.parametrize("key", THRESHOLD_KEYS)
def test_the_defaults_can_be_read_and_are_in_order(key):
    declared = THRESHOLD_KEYS[key]

    assert in_order(
        parse_range(declared.warning, declared.unit), parse_range(declared.critical, declared.unit)
    )


@pytest.mark.parametrize("unit", Unit)
def test_every_unit_has_the_symbol_of_monitoring_plugins(unit):
    symbols = {"bytes": "B", "seconds": "s", "percent": "%", "count": "", "counter": "c"}

    assert unit.symbol == symbols[unit]
