"""Positions in the WAL, and looking nodes up in one look at a cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.model import Lsn
from tests.unit.builders import primary, replica, state, unreachable
from tests.unit.strategies import lsns


@given(lsns)
def test_an_lsn_is_read_back_as_it_is_printed(lsn):
    assert Lsn.parse(str(lsn)) == lsn


@given(lsns, lsns)
def test_lsns_are_ordered_as_numbers_not_as_texts(one, other):
    assert (Lsn.parse(str(one)) < Lsn.parse(str(other))) == (int(one) < int(other))


@given(lsns, st.integers(0, 2**40))
def test_the_difference_of_two_lsns_is_bytes(lsn, size):
    assert Lsn(lsn + size) - lsn == size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0/0", 0),
        ("0/1", 1),
        ("1/0", 2**32),
        ("16/B374D848", 0x16B374D848),
        ("16/b374d848", 0x16B374D848),
        ("0/FF000000", 0xFF000000),
        ("FFFFFFFF/FFFFFFFF", 2**64 - 1),
        ("00000001/00000002", 2**32 + 2),
    ],
)
def test_lsns_are_read_as_postgresql_prints_them(text, value):
    assert Lsn.parse(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "/", "16", "16/", "/B3", "0x16/B3", "16/B374D8480", "16/G", " 16/0", "16/0\n", "16/0/0", "-1/0"],
)
def test_what_is_no_lsn_is_refused_with_what_was_expected(text):
    with pytest.raises(ValueError) as refusal:
        Lsn.parse(text)

    assert str(refusal.value) == (
        f"not an LSN: {text!r} (expected two hexadecimal numbers such as 16/B374D848)"
    )


def test_an_lsn_shows_itself_as_postgresql_does():
    assert repr(Lsn(0x16B374D848)) == "Lsn('16/B374D848')"


def test_a_node_is_found_by_its_name_whether_it_answered_or_not():
    look = state(primary("pg1"), unreachable("pg2"), replica("pg3"))

    assert look["pg2"] == unreachable("pg2")
    assert look.facts == (primary("pg1"), replica("pg3"))
    with pytest.raises(KeyError):
        look["pg9"]
