"""Whatever stands in an inventory, a rendered file says what was meant, or is not made at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from replctl.core.settings import ClusterSettings
from replctl.errors import InventoryError, RefusedError
from replctl.proxies.console import VERSION as CONSOLE_VERSION
from replctl.proxies.runtime import VERSION as RUNTIME_VERSION
from replctl.render import haproxy, ini, pgbouncer
from replctl.render.placement import from_inventory
from tests.unit import proxy_files
from tests.unit.hostile import TEXTS, TOKENS
from tests.unit.render_cases import FILE, LOOKUP, NAMED, POOLS, TLS, USERLIST, inventory

Values = tuple[ClusterSettings, dict[str, Any], dict[str, Any]]
GIVEN = inventory(
    NAMED,
    pgbouncer={"databases": ["app"], **POOLS, **LOOKUP, **TLS, **USERLIST},
    haproxy={
        "check_user": "who",
        "stats_socket": "/run/x.sock",
        "stats_group": "admins",
        "resolvers": ["10.0.0.2:53"],
        "maxconn": 77,
    },
)
PGBOUNCER_KEYS = [
    "write_alias",
    "read_alias",
    "version",
    "auth_user",
    "auth_query",
    "auth_dbname",
    "auth_file",
    "pool_mode",
    "pool_size",
    "read_pool_size",
    "reserve_pool_size",
    "max_db_connections",
    "listen_addr",
    "listen_port",
    "server_tls_sslmode",
    "server_tls_ca_file",
]
HAPROXY_KEYS = [
    "version",
    "write_bind",
    "read_bind",
    "check",
    "check_user",
    "check_dbname",
    "check_interval_s",
    "fall",
    "rise",
    "maxconn",
    "stats_socket",
    "stats_group",
    "hard_stop_after_s",
]
NODE_KEYS = ("name", "host", "port", "client_host", "client_port")
# Fields whose value stands in the file as a whole word, and what stands there before.
MARKS = {
    "pgbouncer.auth_user": "pgbouncer",
    "pgbouncer.auth_query": LOOKUP["auth_query"],
    "pgbouncer.auth_dbname": "postgres",
    "pgbouncer.auth_file": "/etc/pgbouncer/userlist.txt",
    "pgbouncer.server_tls_ca_file": "/etc/pgbouncer/root.crt",
    "pgbouncer.listen_addr": "127.0.0.1",
    "pgbouncer.databases[]": "app",
    "haproxy.check_user": "who",
    "haproxy.check_dbname": "postgres",
    "haproxy.stats_socket": "/run/x.sock",
    "haproxy.stats_group": "admins",
    "haproxy.resolvers[]": "10.0.0.2:53",
    "haproxy.write_bind": "*:5000",
    "haproxy.read_bind": "*:5001",
    "node.client_host": "pg2.internal",
}


def with_key(table: str, key: str) -> Callable[[Any], Values]:
    def put(token: Any) -> Values:
        tables = {"pgbouncer": dict(GIVEN.pgbouncer or {}), "haproxy": dict(GIVEN.haproxy or {})}
        name = key.removesuffix("[]")
        tables[table][name] = (token,) if key.endswith("[]") else token
        return GIVEN.settings, tables["pgbouncer"], tables["haproxy"]

    return put


def with_node_key(key: str) -> Callable[[Any], Values]:
    def put(token: Any) -> Values:
        settings = GIVEN.settings
        nodes = [replace(n, **{key: token}) if n.name == "pg2" else n for n in settings.nodes]
        return replace(settings, nodes=tuple(nodes)), dict(GIVEN.pgbouncer or {}), dict(GIVEN.haproxy or {})

    return put


def with_cluster_name(token: Any) -> Values:
    return replace(GIVEN.settings, name=token), dict(GIVEN.pgbouncer or {}), dict(GIVEN.haproxy or {})


FIELDS: dict[str, Callable[[Any], Values]] = {
    **{f"pgbouncer.{key}": with_key("pgbouncer", key) for key in [*PGBOUNCER_KEYS, "databases[]"]},
    **{f"haproxy.{key}": with_key("haproxy", key) for key in [*HAPROXY_KEYS, "resolvers[]"]},
    **{f"node.{key}": with_node_key(key) for key in NODE_KEYS},
    "cluster.name": with_cluster_name,
}


def pgbouncer_text(values: Values) -> str:
    settings, table, _ = values
    options = pgbouncer.Options(version=table["version"] or "1.24", full=True, admin_users=("replctl",))
    return pgbouncer.render(settings, table, from_inventory(settings, "pg1"), options, file=str(FILE)).text


def haproxy_text(values: Values) -> str:
    settings, _, table = values
    options = haproxy.Options(version=table["version"] or "3.1")
    return haproxy.render(settings, table, from_inventory(settings, "pg1"), options, file=str(FILE)).text


def but_its_mark(text: str) -> Any:
    """HAProxy's file as an independent reader has it, without the hash of the rest that it begins with."""
    frame, *rest = proxy_files.haproxy(text)
    assert (frame[1][0], re.fullmatch("replctl-[0-9a-f]{12}", frame[1][1]) is not None) == (
        "description",
        True,
    )
    return [[frame[0], *frame[2:]], *rest]


def shape(value: Any) -> Any:
    """The structure with every text that may differ left out: what a value can never change."""
    if isinstance(value, dict):
        return sorted((shape(v) for v in value.values()), key=repr)
    return [shape(one) for one in value] if isinstance(value, list) else None


def test_the_corpus_is_large() -> None:
    assert len(TOKENS) >= 300
    assert len(FIELDS) >= 34


@pytest.mark.parametrize("field", FIELDS)
def test_a_hostile_value_is_refused_by_name_or_stands_for_itself(field: str) -> None:
    table, _, key = field.removesuffix("[]").partition(".")
    renderers = {"pgbouncer": pgbouncer_text, "haproxy": haproxy_text}
    parsers: dict[str, Callable[[str], Any]] = {
        "pgbouncer": proxy_files.pgbouncer,
        "haproxy": but_its_mark,
    }
    for program in (table,) if table in renderers else tuple(renderers):
        whole = parsers[program](
            renderers[program]((GIVEN.settings, GIVEN.pgbouncer or {}, GIVEN.haproxy or {}))
        )
        for token in TEXTS if field == "node.name" else TOKENS:
            try:
                text = renderers[program](FIELDS[field](token))
            except InventoryError as error:
                assert error.problems
                for problem in error.problems:
                    assert problem.startswith(f"{FILE}: ")
                    assert key in problem.replace("write_alias, read_alias", key)
                    assert problem.isprintable() and len(problem) < 300
                continue
            found = parsers[program](text)
            if field in MARKS and program == table.replace("node", program) and isinstance(token, str):
                mark = MARKS[field]
                expected = substituted_at(field, whole, mark, token)
                assert found == expected, (field, token)
            else:
                assert shape(found) == shape(whole) or field in RESHAPING, (field, token)


# A version, a mode and a kind of check decide which lines there are; so does a host that needs no resolver.
RESHAPING = {
    "pgbouncer.version",
    "pgbouncer.client_port",
    "haproxy.version",
    "haproxy.check",
    "node.host",
    "node.port",
    "node.client_port",
    "node.name",
    "pgbouncer.server_tls_sslmode",
}


def substituted_at(field: str, whole: Any, mark: str, token: str) -> Any:
    """What the parsed file must be, when this field alone is another text."""
    if field == "pgbouncer.auth_user":
        return {**whole, "pgbouncer": {**whole["pgbouncer"], "auth_user": token}}
    if field == "pgbouncer.auth_dbname":
        return {**whole, "pgbouncer": {**whole["pgbouncer"], "auth_dbname": token}}
    if field == "pgbouncer.listen_addr":
        return {**whole, "pgbouncer": {**whole["pgbouncer"], "listen_addr": token}}
    if field == "pgbouncer.databases[]":
        aliases = proxy_files.substituted(whole["databases"], "app", token)
        return {**whole, "databases": aliases}
    if field == "node.client_host" and isinstance(whole, list):
        return with_server_at(whole, token)
    if field == "node.client_host":
        return proxy_files.substituted(whole, mark, token)
    if field.startswith("haproxy.check_"):
        key = {"haproxy.check_user": "user", "haproxy.check_dbname": "database"}[field]
        return [[with_startup(line, key, token) for line in section] for section in whole]
    return proxy_files.substituted(whole, mark, token)


def with_startup(line: list[Any], key: str, token: str) -> list[Any]:
    return [{**word, key: token} if isinstance(word, dict) and key in word else word for word in line]


def with_server_at(whole: list[Any], token: str) -> list[Any]:
    """pg2's server at this host: a name is looked up, an address is not, a path is a socket's."""
    name = not (token.startswith("/") or ":" in token or token.replace(".", "").isdigit())

    def one(line: list[Any]) -> list[Any]:
        if line[:2] != ["server", "pg2"]:
            return line
        place = {"host": token, "port": "5432"}
        if token.startswith("/"):
            place = {"host": "", "port": f"unix@{token}/.s.PGSQL.5432"}
        looked_up = ["resolvers", "orders_dns", "init-addr", "last,libc,none"]
        rest = [word for word in line[3:] if name or word not in looked_up]
        return [*line[:2], place, *rest]

    return [[one(line) for line in section] for section in whole]


@pytest.mark.parametrize(
    "place", ["x = {}", "{} = host=10.0.0.2", "x = host={} port=5432", "x = {} dbname=y"]
)
def test_what_the_present_file_holds_is_kept_as_it_was_or_refused(place: str) -> None:
    settings, table = GIVEN.settings, dict(GIVEN.pgbouncer or {})
    for token in TEXTS:
        present = f"[databases]\n{place.format(token)}\n"
        options = pgbouncer.Options(version="1.24", present=present)
        try:
            text = pgbouncer.render(settings, table, from_inventory(settings, "pg1"), options).text
        except (InventoryError, RefusedError):
            continue
        before, after = ini.databases(present), ini.databases(text)
        assert text.splitlines()[3:] == ["[databases]", *text.splitlines()[4:]]
        assert set(after) == {*before, "app", "app_ro"}
        assert all(after[name] == before[name] for name in set(before) - {"app", "app_ro"})


@pytest.mark.parametrize("token", TEXTS[:150])
def test_a_console_s_user_is_one_of_the_admins_or_refused(token: str) -> None:
    options = pgbouncer.Options(full=True, admin_users=(token,))
    table = dict(GIVEN.pgbouncer or {})
    try:
        text = pgbouncer.render(GIVEN.settings, table, from_inventory(GIVEN.settings, "pg1"), options).text
    except InventoryError as error:
        assert all("[pgbouncer] admin: user = " in problem for problem in error.problems)
        return
    assert proxy_files.pgbouncer(text)["pgbouncer"]["admin_users"] == token


def test_of_what_a_program_answers_only_two_numbers_reach_a_file() -> None:
    """Roles are names of the inventory; a version is digits and a dot."""
    for token in TEXTS:
        for pattern, text in (
            (CONSOLE_VERSION, f"PgBouncer 1.18{token}"),
            (RUNTIME_VERSION, f"Name: HAProxy\nVersion: 2.6{token}\n"),
        ):
            found = pattern.search(text)
            assert found is None or re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", found[1], re.ASCII)
