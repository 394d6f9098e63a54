"""`replctl config`, run as a user runs it."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
import yaml

from tests.support import replctl

INVENTORY = """
[cluster]
name = "orders"

[connection]
user = "replctl"
password_command = ["echo", "hunter2"]

[[nodes]]
name = "pg1"
host = "10.0.0.1"

[[witnesses]]
name = "w1"
host = "10.0.0.9"

[routing]
max_lag_bytes = "1MiB"
wait_s = "500ms"

[failover]
profile = "fast"
"""
SHARED = 'application_name = "x"\n[[nodes]]\nname = "pg2"\nhost = "10.0.0.2"\napplication_name = "x"\n'


@pytest.fixture
def inventory(tmp_path):
    """A good inventory in a file of its own."""
    path = tmp_path / "orders.toml"
    path.write_text(INVENTORY)
    path.chmod(0o644)
    return path


@pytest.fixture
def broken(tmp_path):
    """An inventory with two mistakes."""
    path = tmp_path / "broken.toml"
    path.write_text(INVENTORY.replace("max_lag_bytes", "max_lag_byte").replace("fast", "quick"))
    path.chmod(0o644)
    return path


def test_path_says_what_is_used_and_what_is_not(inventory, tmp_path):
    done = replctl("config", "path", "-i", str(inventory), env={"XDG_CONFIG_HOME": str(tmp_path)})

    assert (done.returncode, done.stderr) == (0, "")
    rows = [re.split(" {2,}", line) for line in done.stdout.splitlines()]
    assert rows[:2] == [["SOURCE", "STATE", "PATH"], ["--inventory", "used", str(inventory)]]
    assert rows[2:4] == [
        ["working directory", "not found", "replctl.toml"],
        ["user", "not found", f"{tmp_path}/replctl"],
    ]


def test_path_in_other_formats(inventory):
    arguments = ("config", "path", "-i", str(inventory))

    assert replctl(*arguments, "-o", "name").stdout == f"{inventory}\n"
    places = json.loads(replctl(*arguments, "--json").stdout)["places"]
    assert places[0] == {
        "source": "--inventory",
        "state": "used",
        "path": str(inventory),
        "files": [str(inventory)],
    }
    by_variable = replctl("config", "path", "-o", "csv", env={"REPLCTL_INVENTORY": str(inventory)}).stdout
    assert by_variable.splitlines()[:2] == ["source,state,path", f"REPLCTL_INVENTORY,used,{inventory}"]


@pytest.mark.parametrize("command", ["path", "show", "validate"])
def test_no_inventory_is_an_error_with_every_place_and_a_hint(command, tmp_path):
    done = replctl("config", command, "-i", str(tmp_path / "none.toml"))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"replctl: {tmp_path}/none.toml: not found (named by --inventory)\n"
        "hint: `replctl init DSN` writes one from a running cluster; `replctl lab up` makes a local cluster\n"
    )


def test_show_has_every_value_with_its_origin(inventory):
    done = replctl("config", "show", "-i", str(inventory), env={"PGSSLMODE": "require"})

    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[0] == f"# orders: {inventory}"
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[2:]}
    expected = {
        "cluster.name": 'file "orders"',
        "connection.user": 'file "replctl"',
        "connection.sslmode": 'environment PGSSLMODE "require"',
        "connection.password_command": "file (not shown)",
        "connection.passfile": "default (~/.pgpass)",
        "nodes.pg1.port": "default 5432",
        "witnesses.w1.host": 'file "10.0.0.9"',
        "routing.max_lag_bytes": 'file "1MiB"',
        "routing.readmit_lag_bytes": 'default "256KiB"',
        "failover.interval_s": "profile fast 0.5",
        "failover.synchronous": "default (not stated: no automatic failover)",
    }
    assert {key: rows[key] for key in expected} == expected
    assert "hunter2" not in done.stdout


def test_show_gives_programs_bytes_and_seconds(inventory):
    done = replctl("config", "show", "-i", str(inventory), "-o", "json")

    document = json.loads(done.stdout)
    values = {value["key"]: value["value"] for value in document["values"]}
    assert list(document) == ["schema_version", "cluster", "path", "values", "warnings"]
    assert document["schema_version"] == 1
    assert values["routing.max_lag_bytes"] == 1048576
    assert values["routing.wait_s"] == 0.5
    assert values["checks.lag_bytes"] == ["16MiB", "1GiB"]
    assert values["connection.sslmode"] is None
    assert "hunter2" not in done.stdout


def test_every_format_of_show_says_the_same(inventory):
    arguments = ("config", "show", "-i", str(inventory), "-o")
    document = json.loads(replctl(*arguments, "json").stdout)

    assert yaml.load(replctl(*arguments, "yaml").stdout, yaml.SafeLoader) == document
    rows = list(csv.DictReader(io.StringIO(replctl(*arguments, "csv").stdout)))
    keys = [value["key"] for value in document["values"]]
    assert [row["key"] for row in rows] == keys
    assert replctl(*arguments, "name").stdout.splitlines() == keys
    wide = replctl(*arguments, "wide").stdout
    assert wide.splitlines()[1].split() == ["KEY", "ORIGIN", "HELP", "VALUE"]


def test_a_directory_shows_every_cluster_or_the_one_named(inventory, tmp_path):
    (tmp_path / "billing.toml").write_text(INVENTORY.replace("orders", "billing"))
    arguments = ("config", "show", "-i", str(tmp_path), "-o", "json")

    clusters = json.loads(replctl(*arguments).stdout)["clusters"]
    assert [cluster["cluster"] for cluster in clusters] == ["billing", "orders"]
    assert json.loads(replctl(*arguments, "--cluster", "orders").stdout)["cluster"] == "orders"
    refused = replctl(*arguments, "--cluster", "order")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "replctl: no cluster 'order' in the inventory\nhint: did you mean orders?\n"


def test_validate_says_ok(inventory):
    done = replctl("config", "validate", "-i", str(inventory))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"OK {inventory}: cluster orders, 1 node, 1 witness\n"


def test_validate_warns_on_stderr(inventory):
    inventory.write_text(INVENTORY.replace('host = "10.0.0.1"\n', f'host = "10.0.0.1"\n{SHARED}'))
    done = replctl("config", "validate", "-i", str(inventory))

    assert (done.returncode, done.stdout) == (0, f"OK {inventory}: cluster orders, 2 nodes, 1 witness\n")
    assert done.stderr == (
        f'warning: {inventory}: application_name "x" is shared by 2 nodes: '
        "a synchronous quorum over it proves nothing\n"
    )


def test_validate_says_all_problems_of_all_files(inventory, broken, tmp_path):
    done = replctl("config", "validate", "-i", str(tmp_path))

    assert (done.returncode, done.stdout) == (2, f"OK {inventory}: cluster orders, 1 node, 1 witness\n")
    assert done.stderr == (
        "replctl: the inventory has 2 problems\n"
        f'  {broken}: [routing] max_lag_byte = "1MiB": unknown key; did you mean max_lag_bytes?\n'
        f'  {broken}: [failover] profile = "quick": expected one of fast, normal, safe\n'
        "hint: mend the file, then run `replctl config validate`\n"
    )


@pytest.mark.parametrize("form", ["json", "yaml", "csv"])
def test_validate_for_programs_is_a_document_and_the_same_exit_code(broken, form):
    done = replctl("config", "validate", "-i", str(broken), "-o", form)

    assert (done.returncode, done.stderr) == (2, "")
    if form == "csv":
        assert next(csv.DictReader(io.StringIO(done.stdout)))["valid"] == "false"
        return
    document = json.loads(done.stdout) if form == "json" else yaml.load(done.stdout, yaml.SafeLoader)
    (only,) = document["files"]
    assert (only["path"], only["valid"], only["cluster"], len(only["problems"])) == (
        str(broken),
        False,
        None,
        2,
    )
