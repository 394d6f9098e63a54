"""HAProxy's listeners: which servers are enabled, what the checks send, and what each version gets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replctl.errors import InventoryError
from replctl.render import haproxy, role_checks
from replctl.render.placement import Placement, Reader, from_inventory, from_snapshot
from tests.unit import proxy_files
from tests.unit.builders import END, primary, replica, unreachable
from tests.unit.hostile import TOKENS
from tests.unit.render_cases import HAPROXY, Case, inventory, same_as_golden
from tests.unit.routing import MIB, Looks

State = dict[str, tuple[bool, int, bool]]


def states(case: Case, backend: str) -> State:
    """Enabled, weight and backup of each server, as an independent reader sees them."""
    sections = proxy_files.haproxy(case.haproxy.text)
    section = next(s for s in sections if s[0] == ["listen", backend])
    return {
        line[1]: ("disabled" not in line, int(line[line.index("weight") + 1]), "backup" in line)
        for line in section
        if line[0] == "server"
    }


def lines(case: Case) -> list[str]:
    return [line.strip() for line in case.haproxy.text.splitlines()]


@pytest.mark.parametrize("name", HAPROXY)
def test_the_file_is_the_golden_one(name: str) -> None:
    rendered = HAPROXY[name].haproxy

    same_as_golden(f"haproxy-{name}.cfg", rendered.text)
    assert rendered.text == HAPROXY[name].haproxy.text


@pytest.mark.parametrize("name", HAPROXY)
def test_an_independent_reader_finds_the_servers_that_were_planned(name: str) -> None:
    for backend in ("orders_rw", "orders_ro"):
        planned = {
            s.name: (s.enabled, s.weight, s.backup)
            for s in HAPROXY[name].haproxy.plan
            if s.backend == backend
        }
        assert states(HAPROXY[name], backend) == planned


def test_one_server_takes_writes_and_the_replicas_reads() -> None:
    assert states(Case(), "orders_rw") == {
        "pg1": (True, 100, False),
        "pg2": (False, 100, False),
        "pg3": (False, 100, False),
    }
    assert states(Case(), "orders_ro") == {
        "pg1": (False, 100, False),
        "pg2": (True, 100, False),
        "pg3": (True, 100, False),
    }


@pytest.mark.parametrize("name", sorted(set(HAPROXY) - {"role-checks-2.6"}))
def test_exactly_one_server_is_enabled_for_writing(name: str) -> None:
    assert [n for n, (enabled, *_) in states(HAPROXY[name], "orders_rw").items() if enabled] == ["pg1"]


def test_with_role_checks_every_node_may_be_the_writer_and_the_check_tells() -> None:
    case = HAPROXY["role-checks-2.6"]

    assert all(enabled for enabled, *_ in states(case, "orders_rw").values())
    assert all(enabled for enabled, *_ in states(case, "orders_ro").values())


def test_with_role_checks_a_node_that_is_not_fit_for_another_reason_serves_no_reads() -> None:
    case = Case(
        tables={"haproxy": {"write_role_checks": True}},
        roles=lambda _: Placement(
            writer="pg1", readers=(Reader(name="pg2", weight=1),), spare=None, checkable=frozenset({"pg1"})
        ),
    )

    assert [n for n, (enabled, *_) in states(case, "orders_ro").items() if enabled] == ["pg1", "pg2"]


def test_with_role_checks_a_node_of_another_history_is_not_written_to_whatever_it_says() -> None:
    settings = inventory().settings
    looks = Looks(settings)
    looks.look(primary("pg1", "pg2", "pg3"), replica("pg2"), replica("pg3"))
    for lsn in (END + MIB, END + 2 * MIB):  # it goes on, so it is the successor
        snapshot = looks.look(primary("pg1"), primary("pg2", timeline=2, lsn=lsn), unreachable("pg3"))
    case = Case(
        tables={"haproxy": {"write_role_checks": True}}, roles=lambda _: from_snapshot(settings, snapshot)
    )

    assert states(case, "orders_rw") == {
        "pg1": (False, 100, False),
        "pg2": (True, 100, False),
        "pg3": (True, 100, False),
    }


def test_weights_are_scaled_to_what_haproxy_takes() -> None:
    nodes = {"pg2": {"weight": 9000}, "pg3": {"weight": 30}}
    found = states(Case(nodes=nodes, tables={"routing": {"policy": "weighted"}}), "orders_ro")

    assert {name: weight for name, (enabled, weight, _) in found.items() if enabled} == {"pg2": 100, "pg3": 1}


def test_other_zones_are_backups_unless_nobody_is_near() -> None:
    assert states(HAPROXY["zone-2.6"], "orders_ro") == {
        "pg1": (False, 100, False),
        "pg2": (True, 100, True),
        "pg3": (True, 100, False),
    }
    far = states(replace(HAPROXY["zone-2.6"], zone="c"), "orders_ro")
    assert not any(backup for *_, backup in far.values())


def test_without_a_replica_reads_go_to_the_writer_only_where_the_policy_says_so() -> None:
    rule = "use_backend orders_rw if { nbsrv(orders_ro) lt 1 }"

    assert rule in lines(Case())
    assert rule not in lines(HAPROXY["error-2.6"])
    assert rule not in lines(Case(tables={"routing": {"on_all_unfit": "least-lag"}}))


def test_the_startup_message_has_right_lengths_and_keys() -> None:
    message = role_checks.startup("haproxy_check", "postgres")

    assert proxy_files.startup(message) == {
        "user": "haproxy_check",
        "database": "postgres",
        "application_name": "haproxy check",
    }


def test_what_is_expected_is_a_whole_message_of_the_protocol() -> None:
    assert role_checks.parameter("in_hot_standby", "off") == b"S\0\0\0\x17in_hot_standby\0off\0"
    assert role_checks.row_of_one("t").hex() == "440000000b00010000000174"
    assert role_checks.READY.hex() == "5a0000000549"
    assert role_checks.query("SELECT 1") == b"Q\0\0\0\x0dSELECT 1\0"
    assert role_checks.TERMINATE.hex() == "5800000004"


@pytest.mark.parametrize("text", ["a\0b", "\0"])
def test_a_text_that_would_end_early_is_no_message(text: str) -> None:
    for make in (lambda: role_checks.query(text), lambda: role_checks.startup(text, "x")):
        with pytest.raises(ValueError, match="ends at its NUL"):
            make()


def test_the_lag_limits_reach_the_query() -> None:
    tables = {"haproxy": {"check": "sql"}, "routing": {"max_lag_bytes": "3MiB", "max_lag_s": 1.5}}
    sent = [
        bytes.fromhex(line.split()[-1])[5:-1].decode()
        for line in lines(Case(tables=tables))
        if line.startswith("tcp-check send-binary 51")
    ]

    assert len(sent) == 2
    assert "<= 3145728 AND" in sent[1] and "interval '1500 ms'" in sent[1]
    assert "replctl_fenced" in sent[0]


def test_a_server_behind_a_pooler_is_checked_at_its_own_port() -> None:
    found = [line for line in lines(HAPROXY["clients-2.6"]) if line.startswith("server")][:3]

    assert found == [
        "server pg1 10.0.0.1:5432 check weight 100",
        "server pg2 10.0.0.2:6432 check port 5432 weight 100 disabled",
        "server pg3 10.1.0.3:6432 check addr 10.0.0.3 port 5432 weight 100 disabled",
    ]


def test_one_server_for_all_nodes_is_asked_for_each_by_its_name() -> None:
    def checks(name: str) -> list[str]:
        words = ("http-check send", "server pg3")
        return [line for line in lines(HAPROXY[name]) if line.startswith(words)]

    assert checks("serve-2.6") == [
        "http-check send meth OPTIONS uri-lf /orders/%[srv_name]/primary",
        "server pg3 10.0.0.3:5432 check addr 10.0.0.6 port 8008 weight 100 disabled",
        "http-check send meth OPTIONS uri-lf /orders/%[srv_name]/replica",
        "server pg3 10.0.0.3:5432 check addr 10.0.0.6 port 8008 weight 100",
    ]
    assert checks("http-clients-2.6") == [
        "http-check send meth OPTIONS uri /primary",
        "server pg3 10.1.0.3:6432 check addr 10.0.0.3 port 8009 weight 100 disabled",
        "http-check send meth OPTIONS uri /replica?lag=16777216",
        "server pg3 10.1.0.3:6432 check addr 10.0.0.3 port 8009 weight 100",
    ]


@pytest.mark.parametrize("token", TOKENS)
def test_where_the_server_is_is_an_address_or_refused(token: Any) -> None:
    given = inventory(haproxy={"check": "http"})
    table = {**(given.haproxy or {}), "check_addr": token}
    where = from_inventory(given.settings, "pg1")
    try:
        text = haproxy.render(given.settings, table, where, haproxy.Options(), file="o.toml").text
    except InventoryError as error:
        assert [problem.startswith("o.toml: [haproxy] check_addr = ") for problem in error.problems] == [True]
        return
    shown = "" if token is None else f" addr {f'[{token}]' if ':' in token else token}"
    assert text.count(f" check{shown} port 8008 ") == 6


def test_servers_start_down_where_the_version_can() -> None:
    def has(version: str) -> bool:
        return any("init-state down" in line for line in lines(Case(options={"version": version})))

    assert {version: has(version) for version in ("2.2", "2.8", "3.0", "3.1", "3.2.4")} == {
        "2.2": False,
        "2.8": False,
        "3.0": False,
        "3.1": True,
        "3.2.4": True,
    }


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"haproxy": {"read_bind": "*:5000"}}, '[haproxy] read_bind = "*:5000": this is write_bind already'),
        ({"haproxy": {"read_bind": "*:99999"}}, '[haproxy] read_bind = "*:99999": expected an address'),
        (
            {"haproxy": {"check": "http", "check_addr": "serve"}},
            '[haproxy] check_addr = "serve": expected an address such as "10.0.0.6" or "::1"',
        ),
        ({"haproxy": {"resolvers": ["dns:53"]}}, '[haproxy] resolvers = "dns:53": expected an address'),
        ({"haproxy": {"check_user": "é" * 31 + "x"}}, None),
    ],
)
def test_what_haproxy_would_misunderstand_is_refused(tables: dict[str, Any], problem: str | None) -> None:
    case = Case(tables=tables)
    if problem is None:
        assert case.haproxy.text
        return
    with pytest.raises(InventoryError) as refusal:
        case.haproxy  # noqa: B018 - it raises

    assert any(problem in line for line in refusal.value.problems), refusal.value.problems


def test_every_problem_is_told_at_once_and_by_name() -> None:
    given = inventory()
    table = {**(given.haproxy or {}), "fall": "3", "write_bind": "*:5000\nbind *:1", "check_user": ""}
    with pytest.raises(InventoryError) as refusal:
        haproxy.render(
            given.settings, table, from_inventory(given.settings, "pg1"), haproxy.Options(), file="o.toml"
        )

    assert refusal.value.problems == (
        'o.toml: [haproxy] write_bind = "*:5000\\nbind *:1": expected an address such as "*:5000" or '
        '"[::1]:5000"',
        'o.toml: [haproxy] check_user = "": expected 1 to 63 bytes without control characters',
        'o.toml: [haproxy] fall = "3": expected a whole number from 1 to 100',
    )


def test_the_writer_of_a_file_is_read_from_it() -> None:
    settings = inventory().settings
    text = Case().haproxy.text

    assert haproxy.writer_of(settings, text) == "pg1"
    assert haproxy.writer_of(settings, HAPROXY["role-checks-2.6"].haproxy.text) is None
    assert haproxy.writer_of(settings, text.replace("pg1", "gone")) is None
    assert haproxy.writer_of(settings, "nonsense\n") is None
