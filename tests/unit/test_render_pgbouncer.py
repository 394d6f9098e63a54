"""PgBouncer's aliases: which nodes they lead to, what each version gets, and that none ever disappears."""

from __future__ import annotations

from typing import Any

import pytest

from replctl.errors import InventoryError, NoPrimary, NoReplica, RefusedError
from replctl.render import ini, pgbouncer
from replctl.render.drift import difference
from replctl.render.host_lists import SLOTS_MAX, slots
from replctl.render.placement import Placement, Reader, from_inventory, from_snapshot
from replctl.render.rendered import Tenure, fingerprint
from tests.unit import proxy_files
from tests.unit.builders import END, primary, replica, unreachable
from tests.unit.render_cases import FILE, KEPT, LOOKUP, PGBOUNCER, USERLIST, Case, inventory, same_as_golden
from tests.unit.routing import MIB, SYSTEM, Looks


def aliases(case: Case) -> dict[str, dict[str, str]]:
    """As an independent reader sees them."""
    return proxy_files.pgbouncer(case.pgbouncer.text)["databases"]


@pytest.mark.parametrize("name", PGBOUNCER)
def test_the_file_is_the_golden_one(name: str) -> None:
    rendered = PGBOUNCER[name].pgbouncer

    same_as_golden(f"pgbouncer-{name}.ini", rendered.text)
    assert rendered.text == PGBOUNCER[name].pgbouncer.text


@pytest.mark.parametrize("name", sorted(set(PGBOUNCER) - {"kept-1.18"}))
def test_an_independent_reader_finds_the_aliases_that_were_planned(name: str) -> None:
    rendered = PGBOUNCER[name].pgbouncer

    found = proxy_files.pgbouncer(rendered.text)["databases"]
    assert found == {alias.name: alias.settings for alias in rendered.plan} == ini.databases(rendered.text)
    assert list(found) == sorted(found)


def test_writes_go_to_one_host_and_reads_to_every_fit_replica() -> None:
    assert aliases(Case()) == {
        "app": {"host": "10.0.0.1", "port": "5432", "dbname": "app", "pool_mode": "transaction"},
        "app_ro": {"host": "10.0.0.2,10.0.0.3", "port": "5432", "dbname": "app", "pool_mode": "transaction"},
    }


def test_roles_come_from_a_look_by_the_rules_of_routing() -> None:
    given = inventory()
    looks = Looks(given.settings)
    snapshot = looks.look(
        primary("pg2", "pg1", "pg3"), replica("pg1", upstream="pg2"), replica("pg3", upstream="pg2")
    )

    assert from_snapshot(given.settings, snapshot) == Placement(
        writer="pg2",
        readers=(Reader(name="pg1", weight=1), Reader(name="pg3", weight=1)),
        spare=None,
        checkable=frozenset({"pg2"}),
        tenure=Tenure(writer="pg2", timeline=1, system=SYSTEM),
    )


def test_two_primaries_are_refused_with_what_each_node_has_to_say() -> None:
    given = inventory()
    snapshot = Looks(given.settings).look(primary("pg1", "pg3"), primary("pg2"), replica("pg3"))

    with pytest.raises(NoPrimary, match="several nodes take writes") as refusal:
        from_snapshot(given.settings, snapshot)
    assert refusal.value.exit_code == 3
    assert "pg1" in (refusal.value.why or "") and "pg2" in (refusal.value.why or "")


@pytest.mark.parametrize(
    ("policy", "readers", "spare"),
    [("primary", (), "pg1"), ("least-lag", (Reader(name="pg3", weight=1),), None), ("error", (), None)],
)
def test_where_no_replica_is_fit_the_policy_decides(
    policy: str, readers: tuple[Reader, ...], spare: str | None
) -> None:
    given = inventory(routing={"on_all_unfit": policy, "max_lag_bytes": "1MiB"})
    nodes = (
        primary("pg1", "pg2", "pg3"),
        replica("pg2", lsn=END - 9 * MIB),
        replica("pg3", lsn=END - 5 * MIB),
    )
    snapshot = Looks(given.settings).look(*nodes)

    assert from_snapshot(given.settings, snapshot) == Placement(
        writer="pg1",
        readers=readers,
        spare=spare,
        checkable=frozenset({"pg1"}),
        tenure=Tenure(writer="pg1", timeline=1, system=SYSTEM),
    )


def test_least_lag_is_rendered_as_equal_shares_and_zones_by_weight() -> None:
    lagging = (primary("pg1", "pg2", "pg3"), replica("pg2", lsn=END - 1000), replica("pg3"))
    given = inventory(routing={"policy": "least-lag"})
    assert from_snapshot(given.settings, Looks(given.settings).look(*lagging)).readers == (
        Reader(name="pg2", weight=1),
        Reader(name="pg3", weight=1),
    )

    zones = {"pg2": {"zone": "a", "weight": 50}, "pg3": {"zone": "b", "weight": 150}}
    given = inventory(zones, routing={"policy": "zone"})
    assert from_snapshot(given.settings, Looks(given.settings).look(*lagging), "a").readers == (
        Reader(name="pg2", weight=1),
        Reader(name="pg3", weight=3, near=False),
    )


def test_a_lone_primary_serves_reads_too() -> None:
    given = inventory()
    snapshot = Looks(given.settings).look(primary("pg1"), unreachable("pg2"), unreachable("pg3"))

    assert from_snapshot(given.settings, snapshot) == Placement(
        writer="pg1",
        readers=(),
        spare="pg1",
        checkable=frozenset({"pg1", "pg2", "pg3"}),
        tenure=Tenure(writer="pg1", timeline=1, system=SYSTEM),
    )


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((100, 100), ["pg2", "pg3"]),
        ((300, 100), ["pg2", "pg2", "pg3", "pg2"]),
        ((10000, 1), ["pg2"] * 31 + ["pg3"]),
    ],
)
def test_weights_are_repetitions_evenly_mixed_and_bounded(
    weights: tuple[int, int], expected: list[str]
) -> None:
    readers = [Reader(name=f"pg{n}", weight=weight) for n, weight in enumerate(weights, 2)]
    found = slots(readers)

    assert sorted(found) == sorted(expected)
    assert len(found) <= SLOTS_MAX
    if len(found) == 4:
        assert found != ["pg2", "pg2", "pg2", "pg3"]


def test_five_hundred_replicas_of_any_weight_are_each_in_the_list() -> None:
    readers = [Reader(name=f"pg{n}", weight=1 + n % 100) for n in range(500)]

    assert set(slots(readers)) == {reader.name for reader in readers}


def test_each_port_has_an_alias_and_one_without_a_fit_replica_leads_to_where_reads_go() -> None:
    found = aliases(PGBOUNCER["ports-1.18"])

    assert {name: (a["host"], a["port"]) for name, a in found.items()} == {
        "app": ("10.0.0.1", "5432"),
        "app_ro": ("10.0.0.2", "5433"),
        "app_ro_5432": ("10.0.0.2", "5433"),
        "app_ro_5433": ("10.0.0.2", "5433"),
        "app_ro_5434": ("10.0.0.3", "5434"),
    }


def test_the_same_aliases_exist_whoever_is_the_primary() -> None:
    case = PGBOUNCER["ports-1.18"]
    names = [
        list(aliases(Case(nodes=case.nodes, roles=lambda given, w=writer: from_inventory(given.settings, w))))
        for writer in ("pg1", "pg2", "pg3")
    ]

    assert names[0] == names[1] == names[2]


def test_aliases_of_the_present_file_stay_and_follow_the_roles_where_they_are_ours() -> None:
    rendered = PGBOUNCER["kept-1.18"].pgbouncer
    found = ini.databases(rendered.text)

    assert {name: a["host"] for name, a in found.items()} == {
        "app": "10.0.0.1",
        "app_ro": "10.0.0.2,10.0.0.3",
        "metrics": "10.9.0.1",
        "old": "10.0.0.1",
        "old_ro": "10.0.0.2,10.0.0.3",
    }
    assert found["metrics"] == ini.databases(KEPT)["metrics"]
    assert rendered.warnings == (
        "alias metrics is not from the inventory: it is kept, and does not follow roles",
    )


def test_rendering_again_over_its_own_file_changes_nothing() -> None:
    for case in PGBOUNCER.values():
        text = case.pgbouncer.text
        again = Case(
            nodes=case.nodes,
            tables=case.tables,
            options={**case.options, "present": text},
            zone=case.zone,
            roles=case.roles,
        )
        assert again.pgbouncer.text == text


@pytest.mark.parametrize(
    ("present", "why"),
    [
        ("[databases]\napp = host=a\tport=1\n", "line 2 is neither a section nor key = value"),
        ("[databases]\napp = host=a # note\n", "alias app: its connection string is not key=value"),
        ("[databases]\napp = host='a\n", "alias app: its connection string is not key=value"),
        ("[databases]\n'app' = host=a\n", "line 2 is neither a section nor key = value"),
        ("[databases]\napp = host=a host=b\n", "alias app: its connection string has host twice"),
    ],
)
def test_a_present_file_that_cannot_be_understood_is_left_alone(present: str, why: str) -> None:
    with pytest.raises(RefusedError, match="the present file cannot be read") as refusal:
        Case(options={"present": present}).pgbouncer  # noqa: B018 - it raises

    assert (refusal.value.why or "").startswith(why)


def test_an_alias_of_the_file_that_is_not_plain_is_refused() -> None:
    present = "[databases]\nx = host=a connect_query='SET x = ''é'''\n"
    with pytest.raises(InventoryError) as refusal:
        Case(options={"present": present}).pgbouncer  # noqa: B018 - it raises

    assert refusal.value.problems[0].startswith(f"{FILE}: alias x of the file: connect_query = ")


def test_a_password_of_the_present_file_is_neither_kept_nor_shown() -> None:
    present = "[databases]\nx = host=a password='hush ''hush' port=1\n"
    with pytest.raises(RefusedError, match="alias x of the present file has a password") as refusal:
        Case(options={"present": present}).pgbouncer  # noqa: B018 - it raises
    assert "hush" not in f"{refusal.value}{refusal.value.hint}"

    assert difference(present, "[databases]\n", "x.ini").splitlines()[-1] == (
        "-x = host=a password=(not shown) port=1"
    )


def test_nothing_of_the_present_file_steers_a_terminal() -> None:
    present = "[databases]\nx\t= \x1b]0;owned\x07 \x9b2J\u202e\xe4\n"

    assert difference(present, "[databases]\n", "x.ini").splitlines()[-1] == (
        "-x\t= \\x1b]0;owned\\x07 \\x9b2J\\u202e\xe4"
    )


def test_with_nobody_to_read_from_the_file_stays() -> None:
    case = Case(roles=lambda _: Placement(writer="pg1", readers=(), spare=None))
    with pytest.raises(NoReplica, match="no replica is fit"):
        case.pgbouncer  # noqa: B018 - it raises


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"databases": []}, "[pgbouncer] databases = []: expected the databases to offer"),
        (
            {"databases": ["app", "app_ro"]},
            '[pgbouncer] write_alias, read_alias = "app_ro": two aliases of one name',
        ),
        ({"databases": ["pgbouncer"]}, "this is the name of the admin console"),
        ({"version": "1.17"}, '[pgbouncer] version = "1.17": nothing is rendered for versions before 1.18'),
    ],
)
def test_what_pgbouncer_would_misunderstand_is_refused(keys: dict[str, Any], problem: str) -> None:
    case = Case(tables={"pgbouncer": keys}, options={"version": keys.get("version", "1.18")})
    with pytest.raises(InventoryError) as refusal:
        case.pgbouncer  # noqa: B018 - it raises

    assert any(problem in line for line in refusal.value.problems), refusal.value.problems


def test_full_without_any_way_to_log_in_is_refused() -> None:
    with pytest.raises(InventoryError, match="--full needs to know how clients log in"):
        Case(options={"full": True}).pgbouncer  # noqa: B018 - it raises


def test_a_key_that_the_version_does_not_know_is_left_out_and_said() -> None:
    assert PGBOUNCER["lookup-1.18"].pgbouncer.warnings == (
        "[pgbouncer] auth_query is left out: auth_query of an alias needs PgBouncer 1.22, not 1.18"
        "; --full, or set it in pgbouncer.ini",
        "[pgbouncer] auth_dbname is left out: auth_dbname needs PgBouncer 1.19, not 1.18",
    )
    assert PGBOUNCER["lookup-1.22"].pgbouncer.warnings == ()
    assert "verify-full fails with lists of hosts" in PGBOUNCER["full-lookup-1.21"].pgbouncer.warnings[0]


def test_the_writer_of_a_file_is_read_from_it() -> None:
    given = inventory({"pg2": {"client_port": 6432}})
    table = given.pgbouncer or {}
    cases = {
        "[databases]\napp = host=10.0.0.1 port=5432\n": "pg1",
        "[databases]\napp = host=10.0.0.2 port=6432\n": "pg2",
        "[databases]\napp = host=10.0.0.2 port=5432\n": None,
        "[databases]\napp = host=10.0.0.1,10.0.0.2 port=5432\n": None,
        "[databases]\n": None,
        "nonsense\n": None,
    }

    assert {text: pgbouncer.writer_of(given.settings, table, text) for text in cases} == cases


def test_the_policy_hash_is_of_the_inventory_and_not_of_the_roles() -> None:
    def printed(**keys: Any) -> str:
        given = inventory(**keys)
        return fingerprint(given.settings, given.pgbouncer or {})

    assert printed() == printed(pgbouncer={"admin": ["host=10.0.0.5"], "file": "/etc/x", "run": ["ssh", "x"]})
    assert printed() != printed(routing={"policy": "weighted"})
    assert printed() != printed(pgbouncer={"pool_size": 5})
    assert (
        Case(roles=lambda g: from_inventory(g.settings, "pg2")).pgbouncer.text.splitlines()[:2]
        == Case().pgbouncer.text.splitlines()[:2]
    )


def test_no_secret_and_no_console_reaches_the_file() -> None:
    tables = {"pgbouncer": {**USERLIST, **LOOKUP, "admin": ["host=10.0.0.5 user=console"]}}
    text = Case(tables=tables, options={"full": True, "admin_users": ("console",)}).pgbouncer.text

    assert "10.0.0.5" not in text
    assert "admin_users = console" in text.splitlines()
