"""PgBouncer's aliases: a name for writing and a name for reading, per database, from the roles.

PgBouncer cannot see roles, knows one port per alias, takes a list of hosts in turn for new connections, and
ends the clients of an alias that disappears. So the alias for writing has one host, that for reading the fit
replicas (as often as their weight says), nodes on other ports get an alias of their own, and an alias that
a file has once stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replctl.core.settings import ClusterSettings
from replctl.errors import InventoryError, RefusedError
from replctl.render import ini
from replctl.render.host_lists import host_lists
from replctl.render.placement import Placement, client_host, client_port
from replctl.render.rendered import Rendered, checked_facts, dotted, fingerprint, head
from replctl.render.tokens import Whitelist, assert_plain, shown

COMMENT = ";"
OLDEST = (1, 18)  # before, a long list of hosts overran its buffer
DEFAULT_VERSION = "1.18"
RESERVED = "pgbouncer"  # the admin console
WHERE = "[pgbouncer]"
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# The first version that knows a key. One that it does not know makes PgBouncer refuse the whole file.
SINCE = {
    "auth_dbname": (1, 19),
    "options": (1, 20),  # as a startup parameter to ignore
    "max_prepared_statements": (1, 21),
    "auth_query of an alias": (1, 22),
    "reserve_pool_size": (1, 24),  # before: reserve_pool
    "load_balance_hosts": (1, 24),
    "verify-full with lists": (1, 25),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for besides the inventory. `present` = the text of the file that this one replaces."""

    version: str = DEFAULT_VERSION
    full: bool = False
    zone: str | None = None
    present: str | None = None
    admin_users: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """One line of [databases]: what SHOW DATABASES must show. `kept` = not ours, left as it was."""

    name: str
    settings: dict[str, str]
    kept: bool = False

    @property
    def line(self) -> str:
        """As it stands in the file."""
        return f"{self.name} = {ini.written(self.settings)}"


def render(
    settings: ClusterSettings,
    table: Mapping[str, Any],
    placement: Placement,
    options: Options,
    *,
    file: str = "the inventory",
) -> Rendered[tuple[Alias, ...]]:
    """The file of these roles. `file` names the inventory in messages.

    Raises InventoryError for values that may not stand in it, NoReplica, and RefusedError where the present
    file cannot be understood.
    """
    whitelist = Whitelist(file)
    work = _Work(settings, table, placement, options, whitelist)
    ours = work.aliases()
    whitelist.settle()
    aliases = tuple(sorted((*ours, *work.kept(ours)), key=lambda alias: alias.name))
    body = ["[databases]", *(alias.line for alias in aliases)]
    if options.full:
        body += ["", "[pgbouncer]", *(f"{key} = {value}" for key, value in work.globals().items())]
    command = "render-pgbouncer --full" if options.full else "render-pgbouncer"
    made_of = fingerprint(settings, table, full=options.full, zone=options.zone)
    facts = checked_facts(whitelist, work.version, options.zone, placement.tenure)
    top = head(COMMENT, command, whitelist.name(settings.name, "[cluster] name"), made_of, facts)
    whitelist.settle()
    text = assert_plain("\n".join([*top, *body]) + "\n")
    return Rendered(text=text, plan=aliases, warnings=tuple(dict.fromkeys(work.warnings)))


def writer_of(settings: ClusterSettings, table: Mapping[str, Any], present: str) -> str | None:
    """The node that the aliases for writing of this file lead to; None where it cannot be told."""
    try:
        found = ini.databases(present)
    except ValueError:
        return None
    names = [_filled(table["write_alias"], database) for database in table["databases"]]
    leads = {(found[n].get("host"), found[n].get("port", "5432")) for n in names if n in found}
    nodes = [s.name for s in settings.nodes if (client_host(s)[0], str(client_port(s)[0])) in leads]
    return nodes[0] if len(leads) == len(nodes) == 1 else None


class _Work:
    """One rendering: the values, and what was found to say about them."""

    def __init__(
        self,
        settings: ClusterSettings,
        table: Mapping[str, Any],
        placement: Placement,
        options: Options,
        whitelist: Whitelist,
    ) -> None:
        self.table, self.options, self.placement, self.take = table, options, placement, whitelist
        self.version = whitelist.version(options.version, f"{WHERE} version", OLDEST)
        self.warnings: list[str] = []
        self.addresses = {
            s.name: (
                whitelist.host(client_host(s)[0], f"[[nodes]] {shown(s.name)} {client_host(s)[1]}"),
                whitelist.port(client_port(s)[0], f"[[nodes]] {shown(s.name)} {client_port(s)[1]}"),
            )
            for s in settings.nodes
        }
        self.lists = host_lists(placement, self.addresses)

    def knows(self, key: str) -> bool:
        """Whether the version has this."""
        return self.version >= SINCE[key]

    # ---- aliases

    def aliases(self) -> list[Alias]:
        """Those of the configured databases."""
        if not self.table["databases"]:
            self.take.refuse([], f"{WHERE} databases", 'expected the databases to offer, such as ["app"]')
        found: list[Alias] = []
        for value in self.table["databases"]:
            database = self.take.name(value, f"{WHERE} databases")
            found.append(self._writing(self._name("write_alias", database), database))
            reading = self._name("read_alias", database)
            found += [
                self._reading(f"{reading}{suffix}" if reading else "", database, suffix)
                for suffix in self.lists
            ]
        for name, count in Counter(alias.name for alias in found if alias.name).items():
            if len(name) > 63:
                self.take.refuse(name, f"{WHERE} read_alias", "longer than 63 bytes with its port")
            if count > 1:
                self.take.refuse(name, f"{WHERE} write_alias, read_alias", "two aliases of one name")
            if name == RESERVED:
                where = f"{WHERE} databases, write_alias, read_alias"
                self.take.refuse(name, where, "this is the name of the admin console")
        return found

    def _name(self, key: str, database: str) -> str:
        template = self.table[key]
        if not database:
            return ""  # refused already
        name = _filled(template, database) if isinstance(template, str) else template
        return self.take.name(name, f"{WHERE} {key} for one of databases")

    def _writing(self, name: str, database: str) -> Alias:
        host, port = self.addresses[self.placement.writer]
        settings = {"host": host, "port": str(port), "dbname": database}
        return Alias(name=name, settings=settings | self._pool("pool_size"))

    def _reading(self, name: str, database: str, suffix: str = "") -> Alias:
        hosts, port = self.lists.get(suffix, self.lists[""])
        settings = {"host": ",".join(hosts), "port": str(port), "dbname": database}
        if self.knows("load_balance_hosts"):
            settings["load_balance_hosts"] = "round-robin"
        size = "pool_size" if self.table["read_pool_size"] is None else "read_pool_size"
        return Alias(name=name, settings=settings | self._pool(size))

    def _pool(self, size_key: str) -> dict[str, str]:
        """What an alias has besides its servers."""
        found: dict[str, str] = {}
        if not self.options.full:
            found |= self._lookup(alias=True)
        found["pool_mode"] = self.take.choice(
            self.table["pool_mode"], f"{WHERE} pool_mode", ("session", "transaction", "statement")
        )
        reserve = "reserve_pool_size" if self.knows("reserve_pool_size") else "reserve_pool"
        keys = {
            size_key: "pool_size",
            "reserve_pool_size": reserve,
            "max_db_connections": "max_db_connections",
        }
        for key, word in keys.items():
            if self.table[key] is not None:
                found[word] = str(self.take.integer(self.table[key], f"{WHERE} {key}", 0, 100000))
        return found

    def _lookup(self, *, alias: bool) -> dict[str, str]:
        """How users are looked up. In an alias some of it came later than in the [pgbouncer] section."""
        found: dict[str, str] = {}
        if self.table["auth_user"] is not None:
            found["auth_user"] = self.take.user(self.table["auth_user"], f"{WHERE} auth_user")
        if self.table["auth_query"] is not None:
            query = self.take.query(self.table["auth_query"], f"{WHERE} auth_query")
            if not alias or self.knows("auth_query of an alias"):
                found["auth_query"] = query
            else:
                self._left_out("auth_query", "auth_query of an alias", "; --full, or set it in pgbouncer.ini")
        if self.table["auth_dbname"] is not None:
            database = self.take.user(self.table["auth_dbname"], f"{WHERE} auth_dbname")
            if self.knows("auth_dbname"):
                found["auth_dbname"] = database
            else:
                self._left_out("auth_dbname", "auth_dbname")
        return found

    def _left_out(self, key: str, what: str, hint: str = "") -> None:
        since, here = dotted(SINCE[what]), dotted(self.version)
        self.warnings.append(f"{WHERE} {key} is left out: {what} needs PgBouncer {since}, not {here}{hint}")

    # ---- aliases that the file has already

    def kept(self, ours: list[Alias]) -> list[Alias]:
        """Aliases of the present file that the inventory does not name (any more): they stay.

        Those that were made from the templates, and lead to one of the nodes, follow the roles; others are
        left as they are.
        """
        names = {alias.name for alias in ours}
        try:
            found = ini.databases(self.options.present or "")
        except ValueError as error:
            raise RefusedError(
                "the present file cannot be read, so its aliases cannot be kept",
                why=str(error),
                hint="mend it, or move it away",
            ) from None
        return [self._kept(name, old) for name, old in found.items() if name not in names]

    def _kept(self, name: str, old: dict[str, str]) -> Alias:
        database = old.get("dbname", name)
        hosts = {host for host, _ in self.addresses.values()}
        ours = not hosts.isdisjoint(old.get("host", "").split(","))
        if ours and name == _filled(self.table["write_alias"], database):
            return self._writing(name, self.take.name(database, f"alias {name} of the file: dbname"))
        reading = re.escape(_filled(self.table["read_alias"], database))
        if ours and (match := re.fullmatch(rf"{reading}(_[0-9]{{1,5}})?", name)) is not None:
            database = self.take.name(database, f"alias {name} of the file: dbname")
            return self._reading(name, database, match[1] or "")
        if "password" in old:
            raise RefusedError(
                f"alias {name} of the present file has a password",
                why="no secret goes into a rendered file",
                hint="put it into the userlist, or the alias into another file",
            )
        for key, value in old.items():
            if not (value.isascii() and value.isprintable()):
                self.take.refuse(value, f"alias {name} of the file: {key}", "expected plain characters")
        self.warnings.append(f"alias {name} is not from the inventory: it is kept, and does not follow roles")
        return Alias(name=name, settings=old, kept=True)

    # ---- the rest of pgbouncer.ini

    def globals(self) -> dict[str, str]:
        """The [pgbouncer] section, for --full."""
        table, take = self.table, self.take
        if table["auth_file"] is None and table["auth_user"] is None:
            raise InventoryError(
                "--full needs to know how clients log in",
                problems=(f"{take.file}: {WHERE} auth_file, auth_user: at least one of them is needed",),
            )
        found = {
            "listen_addr": take.listen_addresses(table["listen_addr"], f"{WHERE} listen_addr"),
            "listen_port": str(take.port(table["listen_port"], f"{WHERE} listen_port")),
            "auth_type": "scram-sha-256",
        }
        if table["auth_file"] is not None:
            found["auth_file"] = take.path(table["auth_file"], f"{WHERE} auth_file")
        found |= self._lookup(alias=False)
        if self.options.admin_users:
            users = [take.user(user, f"{WHERE} admin: user") for user in self.options.admin_users]
            found["admin_users"] = ", ".join(sorted(set(users)))
        found |= self._tls()
        if self.knows("max_prepared_statements"):
            found["max_prepared_statements"] = "200"
        ignored = ["extra_float_digits", *(["options"] if self.knows("options") else [])]
        return found | {
            "ignore_startup_parameters": ", ".join(ignored),
            # A reader that comes back gets its share of connections again.
            "server_round_robin": "1",
            # For so long after a failed connection clients get an error at once; 15 by default.
            "server_login_retry": "1",
        }

    def _tls(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.table["server_tls_sslmode"] is not None:
            mode = self.take.choice(
                self.table["server_tls_sslmode"], f"{WHERE} server_tls_sslmode", _SSLMODES
            )
            found["server_tls_sslmode"] = mode
            lists = any(len(set(hosts)) > 1 for hosts, _ in self.lists.values())
            if mode == "verify-full" and lists and not self.knows("verify-full with lists"):
                since = dotted(SINCE["verify-full with lists"])
                self.warnings.append(f"verify-full fails with lists of hosts before PgBouncer {since}")
        if self.table["server_tls_ca_file"] is not None:
            file = self.take.path(self.table["server_tls_ca_file"], f"{WHERE} server_tls_ca_file")
            found["server_tls_ca_file"] = file
        return found


def _filled(template: str, database: str) -> str:
    return template.replace("{database}", database)
