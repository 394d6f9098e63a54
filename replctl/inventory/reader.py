"""From TOML to sections: every table and key checked against the schema, all problems collected."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replctl.inventory.problems import (
    LITERAL_REFUSED,
    Problems,
    describe_key,
    holds_password,
    is_secret_name,
    nearest,
)
from replctl.inventory.schema import TABLES, Key, Table, accepted_keys, subtables
from replctl.inventory.servers import NODES, ROOT, SCHEMA


@dataclass(slots=True)
class Section:
    """One table as found: `where` names it in messages, `path` in origins (`nodes`, `pg1`)."""

    table: Table
    where: str
    path: tuple[str, ...]
    present: bool = True
    given: dict[str, Any] = field(default_factory=dict)  # what the file says, read
    below: dict[str, Section] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """What holds for this key of the table: the file's value, else the default, else None."""
        if name in self.given:
            return self.given[name]
        key = self.table.key(name)
        return None if key.default is None else key.kind.read(key.default)


@dataclass(slots=True)
class Sections:
    """A whole file: single tables by path, and the rows of the two arrays."""

    tables: dict[tuple[str, ...], Section]
    nodes: list[Section]
    witnesses: list[Section]


def read(document: dict[str, Any], path: Path, problems: Problems) -> Sections:
    """Read every table of a document; what is wrong goes to `problems`, and its key is left out."""
    top = Section(ROOT, "", ())
    sections = Sections({(): top}, [], [])
    root = [key.name for key in ROOT.keys]
    known = {table.path[0]: table for table in TABLES if len(table.path) == 1}
    for name, value in document.items():
        if name in root:
            _read_schema(top, value, problems)
        elif name not in known:
            _unknown("", name, value, root, list(known.values()), problems)
    for name, table in known.items():
        if table.array:
            rows = _rows(table, document.get(name, []), path, problems)
            (sections.nodes if table is NODES else sections.witnesses).extend(rows)
        else:
            _collect(_single(table, document.get(name), path, problems), sections)
    return sections


def _collect(section: Section, sections: Sections) -> None:
    sections.tables[section.path] = section
    for below in section.below.values():
        _collect(below, sections)


def _read_schema(top: Section, value: Any, problems: Problems) -> None:
    top.given["schema"] = SCHEMA
    if isinstance(value, bool) or value != SCHEMA:
        problems.value("", "schema", value, f"this version of replctl reads schema {SCHEMA}")


def _single(table: Table, raw: Any, base: Path, problems: Problems) -> Section:
    where = table.header
    section = Section(table, where, table.path, present=raw is not None)
    if raw is not None and not isinstance(raw, dict):
        problems.value("", ".".join(table.path), raw, f"expected a table, {where}")
        raw = None
    _fill(section, raw or {}, base, problems)
    return section


def _rows(table: Table, raw: Any, base: Path, problems: Problems) -> list[Section]:
    name = table.path[0]
    if isinstance(raw, dict):
        problems.add(f"[{name}]", f"expected {table.header}, one for each, with two brackets")
        raw = [raw]
    if not isinstance(raw, list) or not all(isinstance(row, dict) for row in raw):
        problems.value("", name, raw, f"expected tables, {table.header}")
        return []
    sections = []
    for number, row in enumerate(raw, 1):
        label = row.get("name")
        try:
            label = table.key("name").kind.read(label)
        except ValueError:
            label = f"number {number}"
        section = Section(table, f"{table.header} {label}:", (name, label))
        _fill(section, row, base, problems)
        sections.append(section)
    return sections


def _fill(section: Section, raw: dict[str, Any], base: Path, problems: Problems) -> None:
    keys = {key.name: key for key in accepted_keys(section.table)}
    tables = {table.path[-1]: table for table in subtables(section.table)}
    for name, value in raw.items():
        if name in tables:
            continue
        if name in keys:
            _read_key(section, keys[name], value, base, problems)
        else:
            _unknown(section.where, name, value, list(keys), list(tables.values()), problems)
    for key in keys.values():
        if key.required and key.name not in raw and (section.present or section.table.path == ("cluster",)):
            problems.add(section.where.rstrip(":"), f"{key.name} is missing; expected {key.kind.expected}")
    for name, table in tables.items():
        section.below[name] = _below(section, table, raw.get(name), base, problems)


def _below(section: Section, table: Table, raw: Any, base: Path, problems: Problems) -> Section:
    label = section.where.removeprefix(section.table.header)
    below = Section(table, f"{table.header}{label}", (*section.path, table.path[-1]), present=raw is not None)
    if raw is not None and not isinstance(raw, dict):
        problems.value(section.where, table.path[-1], raw, f"expected a table, {table.header}")
        raw = None
    _fill(below, raw or {}, base, problems)
    return below


def _read_key(section: Section, key: Key, value: Any, base: Path, problems: Problems) -> None:
    where = section.where
    if holds_password(value):
        problems.value(where, key.name, value, LITERAL_REFUSED)
        return
    try:
        read = key.kind.read(value)
    except ValueError as error:
        message = f"expected {key.kind.expected}"
        close = nearest(value, key.kind.choices) if key.kind.choices and isinstance(value, str) else None
        reason = f"did you mean {close}?" if close else str(error)
        problems.value(where, key.name, value, f"{message}; {reason}" if reason else message)
        return
    section.given[key.name] = _resolved(read, base) if key.kind.local_path else read


def _resolved(name: str, base: Path) -> str:
    """A file of this machine; relative to the inventory's directory, as libpq's own words are not."""
    if name == "system" or ":" in name:  # the system's authorities; a key in an engine
        return name
    return os.path.join(base.parent.absolute(), os.path.expanduser(name))  # noqa: PTH111, PTH118


def _unknown(
    where: str, name: str, value: Any, keys: Sequence[str], tables: Sequence[Table], problems: Problems
) -> None:
    rows = isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)
    if rows or isinstance(value, dict):
        headers = {table.path[-1]: table.header for table in tables}
        close = nearest(name, headers)
        known = f"known are {', '.join(headers.values())}" if headers else "there is none in this one"
        hint = f"did you mean {headers[close]}?" if close else known
        header = f"[[{describe_key(name)}]]" if rows else f"[{describe_key(name)}]"
        problems.add(" ".join((where.rstrip(":"), header)).lstrip(), f"unknown table; {hint}")
        return
    if holds_password(value) or (is_secret_name(name) and nearest(name, keys, cutoff=0.8) is None):
        problems.value(where, name, value, LITERAL_REFUSED)
        return
    homes = [table.header for table in TABLES if table.path and any(key.name == name for key in table.keys)]
    close = nearest(name, keys)
    if homes:
        hint = f"it belongs in {' or '.join(homes)}"
    else:
        hint = f"did you mean {close}?" if close else f"known are {', '.join(keys)}"
    problems.value(where, name, value, f"unknown key; {hint}")
