"""Everything that can be wrong with an inventory: its exact message, and never a password in it."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.errors import InventoryError
from replctl.inventory import parse
from replctl.inventory.schema import TABLES, accepted_keys
from tests.unit.strategies import inventories

HERE = Path("replctl.toml")
SECRET = "hunter2"
REFUSED = "a literal password is refused; use passfile, service, a client certificate or password_command"
NAME = "expected a name of 1 to 63 letters, digits, '_', '.' or '-'"
CASES = Path(__file__).with_name("inventory_problems.txt")

# A good inventory, which the cases spoil.
CLUSTER = '[cluster]\nname = "orders"\n'
NODES = '[[nodes]]\nname = "pg1"\nhost = "10.0.0.1"\n[[nodes]]\nname = "pg2"\nhost = "10.0.0.2"\n'


def problems_of(text: str) -> list[str]:
    """The lines said about this file, without its name."""
    try:
        parse(tomllib.loads(text), HERE)
    except InventoryError as error:
        assert all(line.startswith("replctl.toml: ") for line in error.problems)
        return [line.removeprefix("replctl.toml: ") for line in error.problems]
    return []


def test_a_good_inventory_has_no_problems():
    assert problems_of(CLUSTER + NODES) == []


@dataclass(frozen=True)
class Case:
    """One case of inventory_problems.txt."""

    place: str
    toml: str
    problems: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole inventory."""
        return {
            "top": f"{self.toml}\n{CLUSTER}{NODES}",
            "end": f"{CLUSTER}{NODES}{self.toml}\n",
            "node": f"{CLUSTER}[[nodes]]\n{self.toml}\n",
        }[self.place]

    def __str__(self) -> str:
        toml = "\n".join(f"    {line}" for line in self.toml.split("\n"))
        return "\n".join((self.place, toml, *(f"=> {line}" for line in self.problems)))


def read_cases() -> tuple[str, list[Case]]:
    """The comment on top, and the cases."""
    comment, *blocks = CASES.read_text().strip().split("\n\n")
    cases = []
    for block in blocks:
        place, *lines = block.split("\n")
        toml = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
        problems = [line.removeprefix("=> ") for line in lines if line.startswith("=> ")]
        cases.append(Case(place, "\n".join(toml), tuple(problems)))
    return comment, cases


def test_the_cases_are_told_as_they_are_written_down(request):
    if request.config.getoption("--rewrite"):
        comment, cases = read_cases()
        new = [replace(case, problems=tuple(problems_of(case.text))) for case in cases]
        CASES.write_text("\n\n".join((comment, *map(str, new))) + "\n")

    _, cases = read_cases()
    assert len(cases) > 80


@pytest.mark.parametrize("case", read_cases()[1], ids=lambda case: case.toml)
def test_a_problem_is_said_in_these_words(case):
    assert problems_of(case.text) == list(case.problems)
    assert case.problems != ()


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            "",
            [
                f"[cluster]: name is missing; {NAME}",
                "[[nodes]]: the cluster has no nodes; expected one table for each server",
            ],
        ),
        ("[cluster]\nname = 'a b'\n" + NODES, [f'[cluster] name = "a b": {NAME}']),
        (
            CLUSTER + "[nodes]\nname = 'a'\nhost = 'x'\n",
            ["[nodes]: expected [[nodes]], one for each, with two brackets"],
        ),
    ],
)
def test_problems_of_what_has_to_be_there(text, problems):
    assert problems_of(text) == problems


LITERAL = (
    f"[connection]\npassword = '{SECRET}'",
    f"[connection]\npasswd = '{SECRET}'",
    f"[connection]\nPGPASSWORD = '{SECRET}'",
    f"[replication]\nuser = 'r'\npassword = '{SECRET}'",
    f"[connection]\nuser = 'password={SECRET}'",
    f"[connection]\ndbname = 'host=a password = {SECRET}'",
    f"[connection]\ndbname = 'postgres://app:{SECRET}@db/app'",
    f"[connection]\nservice = 'x sslpassword={SECRET}'",
    f"[pgbouncer]\nadmin = ['host=a user=b password={SECRET}']",
    f"[haproxy]\nreload = ['env', 'PGPASSWORD={SECRET}', 'x']",
    f"[failover.hooks]\nbefore = ['x', '--password', '{SECRET}']",
    f"[failover.hooks]\nbefore = ['x', '--password={SECRET}']",
    f"[failover.hooks]\nbefore = ['/usr/sbin/fence_ipmilan', '-p', '{SECRET}']",
    f"[failover]\nsynchronous = 'password={SECRET}'",
    f"[connection]\nmotto = 'mysql://u:{SECRET}@h'",
    f"[connection]\nsecret = '{SECRET}'",
)


@pytest.mark.parametrize("text", LITERAL)
def test_a_literal_password_is_refused_and_not_repeated(text):
    problems = problems_of(f"{CLUSTER}{NODES}{text}\n")

    assert len(problems) == 1
    assert problems[0].endswith(f" = (not shown): {REFUSED}")


@pytest.mark.parametrize(
    "text",
    [
        f"[connection]\npassword_command = 'echo {SECRET}'",
        f"[connection]\npassword_comand = ['echo', '{SECRET}']",
        f"[connection]\npassword_command = ['{SECRET}', 5]",
        f"[connection.password]\nvalue = '{SECRET}'",
        f"[[password]]\nvalue = '{SECRET}'",
        f'[connection]\npassfile = "{SECRET}\\u0000"',
    ],
)
def test_what_may_be_a_password_is_not_repeated_either(text):
    problems = problems_of(f"{CLUSTER}{NODES}{text}\n")

    assert len(problems) == 1
    assert SECRET not in problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "[connection]\npassfile = '/etc/replctl/pgpass'",
        "[connection]\npassword_command = ['pass', 'show', 'pg/replctl']",
        "[connection]\npassword_command = ['sh', '-c', 'PGPASSWORD=$TOKEN exec token']",
        "[failover.hooks]\nbefore = ['ssh', '-p', '22', 'host', '--bypass=1']",
        "[pgbouncer]\nauth_query = 'SELECT usename, passwd FROM pgbouncer.user_lookup($1)'",
        "[pgbouncer]\nauth_query = 'SELECT a, b FROM users WHERE password=$1'",
        "[failover.hooks]\nbefore = ['env', 'PGPASSFILE=/etc/replctl/pgpass', 'x']",
    ],
)
def test_what_only_resembles_a_password_is_accepted(text):
    assert problems_of(f"{CLUSTER}{NODES}{text}\n") == []


def test_twenty_mistakes_are_reported_at_once():
    text = """
schema = 3
[clutser]
[cluster]
name = "my orders"
manager = "pacemaker"
[connection]
password = "hunter2"
sslmode = "verify_full"
connect_timeout_s = "2 minutes"
[[nodes]]
name = "pg1"
host = "10.0.0.1:5432"
port = "5432"
promote = "perfer"
weight = -1
[nodes.commands]
stop = "systemctl stop postgresql"
fence = ["fence_ipmilan", "-a", "{hots}"]
[[nodes]]
name = "pg1"
host = "10.0.0.2"
[[nodes]]
host = "10.0.0.2"
[routing]
max_lag_byte = "16MiB"
readmit_lag_s = 60
[checks]
lag_s = "30s"
[failover]
profile = "quick"
synchronous = "ANY 1 (pg1, pg9)"
"""
    problems = problems_of(text)
    assert [line.partition(": ")[0] for line in problems] == [
        "schema = 3",
        "[clutser]",
        '[cluster] name = "my orders"',
        '[cluster] manager = "pacemaker"',
        "[connection] password = (not shown)",
        '[connection] sslmode = "verify_full"',
        '[connection] connect_timeout_s = "2 minutes"',
        "[[nodes]] pg1",
        "[[nodes]] pg1",
        "[[nodes]] pg1",
        "[[nodes]] pg1",
        "[nodes.commands] pg1",
        "[nodes.commands] pg1",
        "[[nodes]] number 3",
        '[routing] max_lag_byte = "16MiB"',
        '[checks] lag_s = "30s"',
        '[failover] profile = "quick"',
        '[[nodes]] name = "pg1"',
        "[[nodes]] number 3",
        '[failover] synchronous = "ANY 1 (pg1, pg9)"',
        "[routing] readmit_lag_s = 60",
    ]


SECTIONS = [(table, key) for table in TABLES if table.path for key in accepted_keys(table)]
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def put(document: dict[str, Any], path: tuple[str, ...], key: str, value: object) -> None:
    """Set one key; in an array of tables, that of the first row."""
    for name in path:
        inner: Any = document.setdefault(name, [{}] if name in ("nodes", "witnesses") else {})
        document = inner[0] if isinstance(inner, list) else inner
    document[key] = value


@given(inventories, st.sampled_from(SECTIONS), odd)
def test_no_value_of_any_key_is_more_than_a_problem(document, section, value):
    table, key = section
    copy = json.loads(json.dumps(document))
    put(copy, table.path, key.name, value)

    try:
        parse(copy, HERE)
    except InventoryError as error:
        assert error.problems != ()
        assert all(line.isprintable() for line in error.problems)


@given(inventories, st.sampled_from(SECTIONS))
def test_no_key_repeats_a_password(document, section):
    table, key = section
    copy = json.loads(json.dumps(document))
    put(copy, table.path, key.name, f"password={SECRET}")

    with pytest.raises(InventoryError) as refusal:
        parse(copy, HERE)
    assert SECRET not in "\n".join(refusal.value.problems)
