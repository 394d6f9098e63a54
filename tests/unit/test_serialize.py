"""JSON, YAML and CSV as other programs read them back."""

import csv
import io
import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from replctl.display.serialize import to_csv, to_json, to_yaml

texts = st.text(max_size=30)
finite = st.floats(allow_nan=False, allow_infinity=False)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(documents)
def test_yaml_says_what_the_document_says(document):
    assert yaml.load(to_yaml(document), yaml.SafeLoader) == document


@given(documents)
def test_json_says_what_the_document_says(document):
    assert json.loads(to_json(document)) == document
    assert json.loads(to_json(document, one_line=True)) == document


@given(documents)
def test_json_on_one_line_is_one_line(document):
    assert "\n" not in to_json(document, one_line=True)


@given(documents)
def test_no_format_prints_a_control_character(document):
    for text in (to_json(document), to_yaml(document)):
        assert [c for c in text if not c.isprintable() and c != "\n"] == []


@given(st.lists(st.fixed_dictionaries({"a": st.none() | texts, "b": st.integers() | st.booleans()})))
def test_csv_has_a_header_and_a_line_per_row(rows):
    read = list(csv.reader(io.StringIO(to_csv(rows, ("a", "b")) + "\n", newline="")))

    assert read == [["a", "b"], *([r["a"] or "", json.dumps(r["b"])] for r in rows)]


@given(st.lists(st.none() | texts))
def test_csv_of_one_column_has_a_line_per_row_too(values):
    read = list(csv.reader(io.StringIO(to_csv([{"a": v} for v in values], ("a",)) + "\n", newline="")))

    assert read == [["a"], *([v or ""] for v in values)]


def test_yaml_of_a_report_looks_as_people_write_it():
    document = {
        "schema_version": 1,
        "cluster": "orders",
        "nodes": [
            {"name": "pg1", "lag_bytes": 0, "lsn": "0/3000060", "slot": None, "sync": {"k": 1}},
            {"name": "on", "lag_s": 1e-05, "tags": [], "extra": {}},
        ],
    }

    assert to_yaml(document) == (
        "schema_version: 1\n"
        "cluster: orders\n"
        "nodes:\n"
        "- name: pg1\n"
        "  lag_bytes: 0\n"
        '  lsn: "0/3000060"\n'
        "  slot: null\n"
        "  sync:\n"
        "    k: 1\n"
        '- name: "on"\n'
        "  lag_s: 1.0e-05\n"
        "  tags: []\n"
        "  extra: {}"
    )


def test_nested_values_in_csv_are_json():
    assert to_csv([{"a": ["x", 1], "b": None}], ("a", "b")) == 'a,b\n"[""x"",1]",'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("write", [to_json, to_yaml])
def test_a_number_that_is_not_finite_is_refused(write, number):
    with pytest.raises(ValueError, match=r"finite|JSON compliant"):
        write({"lag_s": number})


@pytest.mark.parametrize("value", [object(), b"bytes", {1: "key"}])
def test_what_is_no_document_is_refused_in_yaml(value):
    with pytest.raises(TypeError):
        to_yaml({"value": value})
