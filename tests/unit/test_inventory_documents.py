"""An inventory written and read back, the example file, and docs/inventory.md."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given

from replctl.inventory import dump, load, parse
from replctl.inventory.reference import document, example
from replctl.inventory.schema import TABLES
from tests.support import ROOT
from tests.unit.strategies import inventories

EXAMPLE = ROOT / "inventory.example.toml"
GUIDE = ROOT / "docs/inventory.md"
HERE = Path("/nowhere/orders.toml")


def uncommented(text):
    """The example with every commented key and table put in force; prose stands behind `# `."""
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


@given(inventories)
def test_what_is_written_is_read_back_equal(document):
    again = tomllib.loads(dump(document))

    assert parse(again, HERE) == parse(document, HERE)


@given(inventories)
def test_commented_keys_change_nothing(document):
    again = tomllib.loads(dump(document, optional=True, header="Found by hand.\n\nTwice."))

    assert parse(again, HERE) == parse(document, HERE)


@given(inventories)
def test_an_inventory_gives_back_the_document_that_makes_it(document):
    inventory = parse(document, HERE)

    assert parse(tomllib.loads(dump(inventory.document())), HERE) == inventory


def test_a_written_inventory_is_commented():
    text = dump(
        {
            "schema": 1,
            "cluster": {"name": "orders"},
            "nodes": [
                {"name": "pg1", "host": "10.0.0.1", "commands": {"stop": ["ssh", "{host}", "stop"]}},
                {"name": "pg2", "host": "10.0.0.2", "promote": "never"},
            ],
        },
        header="Written by hand.",
        notes={"nodes.pg2": "Streams from pg1.", "cluster.name": "Taken from cluster_name."},
    )

    assert text == (
        "# Written by hand.\n"
        "schema = 1                                  # version of this format\n"
        "\n"
        "# The cluster as a whole.\n"
        "[cluster]\n"
        "# Taken from cluster_name.\n"
        'name = "orders"                             # shown everywhere\n'
        "\n"
        "# One table for each PostgreSQL server of the cluster. Any key of [connection] may stand here too.\n"
        "[[nodes]]\n"
        'name = "pg1"                                # unique, also among the witnesses\n'
        'host = "10.0.0.1"                           # where it is reached from here\n'
        "\n"
        "# How to act on this node's machine: lists of arguments, without a shell, run where replctl runs. "
        "{name},\n"
        "# {host}, {port} and {data_directory} expand; a brace of its own is doubled.\n"
        "[nodes.commands]\n"
        'stop = ["ssh", "{host}", "stop"]            # stop PostgreSQL\n'
        "\n"
        "# Streams from pg1.\n"
        "[[nodes]]\n"
        'name = "pg2"\n'
        'host = "10.0.0.2"\n'
        'promote = "never"\n'
    )


@pytest.mark.parametrize(
    "document", [{"cluster": {"nmae": "x"}}, {"nodes": [{"name": "pg1", "commands": {"halt": ["x"]}}]}]
)
def test_a_key_that_the_schema_does_not_know_is_not_written(document):
    with pytest.raises(KeyError):
        dump(document)


def test_the_example_is_the_schema_s(request):
    if request.config.getoption("--rewrite"):
        EXAMPLE.write_text(example())

    assert EXAMPLE.read_text() == example()


def test_the_example_can_be_used_as_it_is(tmp_path):
    copy = tmp_path / "replctl.toml"
    copy.write_text(EXAMPLE.read_text())
    inventory = load(copy, {})

    assert inventory.settings.name == "orders"
    assert [spec.name for spec in inventory.settings.nodes] == ["pg1", "pg2", "pg3"]


def test_the_example_can_be_used_with_every_key_uncommented():
    parsed = tomllib.loads(uncommented(EXAMPLE.read_text()))
    inventory = parse(parsed, HERE)

    given = {
        (entry.table[0] if entry.table else "", entry.key)
        for entry in inventory.entries
        if entry.origin == "file"
    }
    wanted = {(table.path[0] if table.path else "", key.name) for table in TABLES for key in table.keys}
    assert wanted - given == set()


def test_the_defaults_in_the_example_are_the_defaults():
    commented = tomllib.loads(uncommented(EXAMPLE.read_text()))
    plain = parse(tomllib.loads(EXAMPLE.read_text()), HERE)
    defaults = {
        entry.path: entry.value
        for entry in plain.entries
        if entry.origin != "file" and entry.value is not None
    }

    shown = {
        f"{table}.{key}": value
        for table in ("cluster", "connection", "routing", "checks", "failover")
        for key, value in commented[table].items()
        if not isinstance(value, dict)
    }
    differing = {path for path, value in shown.items() if path in defaults and defaults[path] != value}
    assert differing == set()


def test_the_guide_s_tables_are_the_schema_s(request):
    text = GUIDE.read_text()
    if request.config.getoption("--rewrite"):
        GUIDE.write_text(document(text))

    assert GUIDE.read_text() == document(text)


def test_a_guide_without_marks_is_an_error():
    with pytest.raises(ValueError, match="marks"):
        document("# Inventory\n")


def test_the_guide_s_inventories_can_be_used():
    blocks = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    whole = [block for block in blocks if "[cluster]" in block]

    assert whole != []
    for block in whole:
        assert parse(tomllib.loads(block), HERE).settings.nodes != ()
