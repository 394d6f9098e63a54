"""synchronous_standby_names: what it says, whether two of them say the same, what it tolerates.

That PostgreSQL reads the same texts in the same way is asked in tests/live/test_queries.py.
"""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.quorum import SyncRule, Tolerance, parse_sync_rule, same_rule, sync_name, tolerance


def rule(method, confirmations, *members):
    return SyncRule(method=method, confirmations=confirmations, members=members)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pg1", rule("FIRST", 1, "pg1")),
        ("pg1, pg2", rule("FIRST", 1, "pg1", "pg2")),
        ("1 (pg1)", rule("FIRST", 1, "pg1")),
        ("2 (pg1, pg2, pg3)", rule("FIRST", 2, "pg1", "pg2", "pg3")),
        ("FIRST 2 (pg1,pg2)", rule("FIRST", 2, "pg1", "pg2")),
        ("ANY 1 (pg1, pg2)", rule("ANY", 1, "pg1", "pg2")),
        ("any 1(pg1)", rule("ANY", 1, "pg1")),
        ("  AnY\t2 ( pg1 , pg2 ) ", rule("ANY", 2, "pg1", "pg2")),
        ("*", rule("FIRST", 1, "*")),
        ("ANY 2 (*)", rule("ANY", 2, "*")),
        ('"pg-1"', rule("FIRST", 1, "pg-1")),
        ('ANY 1 ("pg-1", "a ""b"", (c)")', rule("ANY", 1, "pg-1", 'a "b", (c)')),
        ('"a, b-c, d", ""', rule("FIRST", 1, "a, b-c, d", "")),
        ("größe", rule("FIRST", 1, "größe")),
        ('"any"', rule("FIRST", 1, "any")),
        ('ANY 1 ("FIRST")', rule("ANY", 1, "FIRST")),
        ("anything, first_one", rule("FIRST", 1, "anything", "first_one")),
        ("pg$1, _pg", rule("FIRST", 1, "pg$1", "_pg")),
        ("1, 2", rule("FIRST", 1, "1", "2")),
        ("ANY 1 (1)", rule("ANY", 1, "1")),
        ("ANY 3 (pg1, pg2)", rule("ANY", 3, "pg1", "pg2")),
    ],
)
def test_every_form_of_the_setting_is_read(text, expected):
    assert parse_sync_rule(text) == expected


def test_the_empty_setting_is_asynchronous():
    assert parse_sync_rule("") is None


@pytest.mark.parametrize(
    "text",
    [
        "ANY",
        "ANY 1",
        "ANY 1 ()",
        "ANY 0 (pg1)",
        "ANY (pg1)",
        "ANY x (pg1)",
        "ANY -1 (pg1)",
        "ANY 1 (pg1",
        "ANY 1 pg1)",
        "ANY 1 (pg1) pg2",
        "ANY 1 ((pg1))",
        "ANY 1 (pg1,)",
        "ANY 1 (,pg1)",
        "ANY 1 (pg1 pg2)",
        "ALL 2 (pg1, pg2)",
        '"ANY" 1 (pg1)',
        '1 "(" pg1)',
        "pg1,",
        ", pg1",
        "pg1 pg2",
        "any, pg1",
        "pg1, first",
        "pg-1",
        "pg.1",
        "1pg",
        '"pg1',
        "()",
        "(pg1)",
        " ",
    ],
)
def test_what_postgresql_would_refuse_is_refused(text):
    with pytest.raises(ValueError, match=r"^expected |^PostgreSQL wants "):
        parse_sync_rule(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ANY 1 (pg1, pg-2)", 'PostgreSQL wants pg-2 in double quotes: "pg-2"'),
        ("pg1, First", 'PostgreSQL wants First in double quotes: "First"'),
        ("ANY 0 (pg1)", "expected a number of at least 1 before ( in 'ANY 0 (pg1)'"),
        ("ANY 1 (pg1", "expected names separated by commas in 'ANY 1 (pg1', or ANY or FIRST n (names)"),
    ],
)
def test_a_refusal_says_what_was_expected(text, message):
    with pytest.raises(ValueError) as refusal:
        parse_sync_rule(text)

    assert str(refusal.value) == message


@given(st.text(st.characters(codec="utf-8"), max_size=8))
def test_a_name_written_for_the_setting_is_read_back(name):
    assert parse_sync_rule(f"ANY 1 ({sync_name(name)})") == rule("ANY", 1, name)


@pytest.mark.parametrize(
    ("name", "written"), [("pg1", "pg1"), ("pg-1", '"pg-1"'), ("any", '"any"'), ("*", '"*"'), ('"', '""""')]
)
def test_names_are_quoted_only_where_they_must_be(name, written):
    assert sync_name(name) == written


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", ""),
        ("ANY 1 (pg1, pg2)", "any 1 (PG2,pg1)"),
        ("pg1", "FIRST 1 (pg1)"),
        ("pg1", "ANY 1 (pg1)"),
        ("pg1, pg2", "1 (pg1, pg2)"),
        ("FIRST 2 (pg1, pg2)", "ANY 2 (pg2, pg1)"),
        ('"pg1"', "pg1"),
        ("ANY 1 (*)", 'any 1 ("*")'),
        ("pg1,", "pg1, "),
    ],
)
def test_settings_that_mean_the_same_are_the_same(one, other):
    assert same_rule(one, other) is True
    assert same_rule(other, one) is True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", "pg1"),
        ("ANY 1 (pg1, pg2)", "ANY 2 (pg1, pg2)"),
        ("ANY 1 (pg1, pg2)", "FIRST 1 (pg1, pg2)"),
        ("ANY 1 (pg1, pg2)", "ANY 1 (pg1, pg3)"),
        ("FIRST 1 (pg1, pg2)", "FIRST 1 (pg2, pg1)"),
        ("ANY 1 (*)", "ANY 1 (pg1, pg2)"),
        ("ANY 1 (*)", "FIRST 1 (*)"),
        ("ANY 1 (pg1", "ANY 1 (pg1)"),
    ],
)
def test_settings_that_mean_something_else_differ(one, other):
    assert same_rule(one, other) is False
    assert same_rule(other, one) is False


@pytest.mark.parametrize(("one", "other"), [(None, ""), ("pg1", None), (None, None)])
def test_a_setting_that_is_not_known_is_neither_the_same_nor_another(one, other):
    assert same_rule(one, other) is None


@pytest.mark.parametrize(
    ("text", "members", "confirming", "expected"),
    [
        # A primary and two replicas: the failover needs both of them, writes need one.
        ("ANY 1 (pg1, pg2, pg3)", 2, 2, Tolerance(for_writes=1, for_failover=0)),
        ("ANY 1 (pg1, pg2, pg3)", 2, 1, Tolerance(for_writes=0, for_failover=-1)),
        ("ANY 1 (pg1, pg2, pg3)", 2, 0, Tolerance(for_writes=-1, for_failover=-2)),
        ("ANY 2 (pg1, pg2, pg3)", 2, 2, Tolerance(for_writes=0, for_failover=1)),
        ("ANY 2 (pg1, pg2, pg3, pg4)", 3, 3, Tolerance(for_writes=1, for_failover=1)),
        ("ANY 2 (pg1, pg2)", 1, 1, Tolerance(for_writes=-1, for_failover=1)),
    ],
)
def test_the_tolerance_of_usual_clusters(text, members, confirming, expected):
    parsed = parse_sync_rule(text)

    assert parsed is not None
    assert tolerance(parsed, members, confirming) == expected


@given(st.data())
def test_the_tolerance_is_what_trying_every_loss_gives(data):
    count = data.draw(st.integers(1, 5), "replicas")
    confirmations = data.draw(st.integers(1, count), "k")
    replicas = frozenset(range(count))
    connected = data.draw(st.frozensets(st.sampled_from(sorted(replicas))), "connected")
    # A commit was acknowledged by any k replicas; those that a failover reaches must hold every such one.
    acknowledged = [frozenset(holders) for holders in combinations(replicas, confirmations)]

    def proves_no_loss(reached):
        return all(holders & reached for holders in acknowledged)

    def survives(condition, losses):
        return all(condition(connected - set(lost)) for lost in combinations(connected, losses))

    found = tolerance(rule("ANY", confirmations, *map(str, replicas)), count, len(connected))

    for losses in range(len(connected) + 1):
        assert survives(lambda left: len(left) >= confirmations, losses) == (losses <= found.for_writes)
        assert survives(proves_no_loss, losses) == (losses <= found.for_failover)
