"""Writes an inventory as TOML with comments, from the schema's own words.

tomli-w writes values and no comments, so the lines are put together here and only the literals are its
own. A key that is commented out stands behind a bare `#`, prose behind `# `.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from replctl.inventory.schema import TABLES, Key, Table, accepted_keys, subtables
from replctl.inventory.servers import ROOT, SCHEMA

WIDTH = 110
COMMENT_COLUMN = 44


def dump(
    document: Mapping[str, Any],
    *,
    header: str = "",
    notes: Mapping[str, str] | None = None,
    optional: bool = False,
) -> str:
    """The document as commented TOML; `load` of it gives what `parse` of the document gives.

    `header` is a comment on top, `notes` are further comments by path (`nodes.pg2`, `failover.synchronous`);
    with `optional` the keys that the document does not give follow commented out. Raises KeyError for a
    table or key that the schema does not know.
    """
    _known(document)
    writer = _Writer(notes or {}, optional)
    writer.prose(header)
    schema = ROOT.keys[0]
    writer.lines += _lines(schema, document.get("schema", SCHEMA))
    for table in (t for t in TABLES if len(t.path) == 1):
        raw = document.get(table.path[0])
        if table.array:
            for number, row in enumerate(raw or ()):
                writer.table(table, row, f"{table.path[0]}.{row['name']}", first=number == 0)
        elif raw is not None:
            writer.table(table, raw, table.path[0], first=True)
        if raw is None and optional:
            writer.commented_table(table)
    return "\n".join(writer.lines) + "\n"


def literal(value: Any) -> str:
    """A value as TOML on one line."""
    import tomli_w

    if isinstance(value, (list, tuple)):
        return f"[{', '.join(literal(one) for one in value)}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")


class _Writer:
    def __init__(self, notes: Mapping[str, str], optional: bool) -> None:
        self.lines: list[str] = []
        self.notes = notes
        self.optional = optional

    def prose(self, text: str) -> None:
        """A comment; nothing where the text is empty."""
        self.lines += _prose(text)

    def table(self, table: Table, raw: Mapping[str, Any], path: str, *, first: bool) -> None:
        """One table with what is given, what else it may hold, and the tables below it."""
        self.lines.append("")
        if first:
            self.prose(table.help)
        self.prose(self.notes.get(path, ""))
        self.lines.append(table.header)
        own = {key.name for key in table.keys}
        for key in accepted_keys(table):
            if key.name in raw:
                self.prose(self.notes.get(f"{path}.{key.name}", ""))
                self.lines += (
                    _lines(key, raw[key.name]) if first else [f"{key.name} = {literal(raw[key.name])}"]
                )
            elif self.optional and first and key.name in own:
                self.lines += _lines(key, key.sample, commented=True)
        for below in subtables(table):
            name = below.path[-1]
            if name in raw:
                self.table(below, raw[name], f"{path}.{name}", first=first)
            elif self.optional and first:
                self.commented_table(below)

    def commented_table(self, table: Table) -> None:
        """A table that is not given, with every key commented out."""
        self.lines.append("")
        self.prose(table.help)
        self.lines.append(f"#{table.header}")
        for key in table.keys:
            self.lines += _lines(key, key.sample, commented=True)
        for below in subtables(table):
            self.commented_table(below)


def _lines(key: Key, value: Any, *, commented: bool = False) -> list[str]:
    """The key with what it means behind it, or above it where that gets too long."""
    text = f"{'#' if commented else ''}{key.name} = {literal(value)}"
    meaning = f"{' | '.join(key.kind.choices)}: {key.help}" if key.kind.choices else key.help
    line = f"{text:<{COMMENT_COLUMN - 1}} # {meaning}"
    return [line] if len(line) <= WIDTH else [*_prose(meaning), text]


def _prose(text: str) -> list[str]:
    return [
        f"# {line}".rstrip()
        for paragraph in text.splitlines()
        for line in textwrap.wrap(paragraph, WIDTH - 2, break_on_hyphens=False) or [""]
    ]


def _known(document: Mapping[str, Any]) -> None:
    for name, raw in document.items():
        if name == ROOT.keys[0].name:
            continue
        table = next(t for t in TABLES if t.path == (name,))
        for row in raw if table.array else (raw,):
            _known_keys(table, row)


def _known_keys(table: Table, raw: Mapping[str, Any]) -> None:
    names = {key.name for key in accepted_keys(table)}
    below = {t.path[-1]: t for t in subtables(table)}
    for name, value in raw.items():
        if name in below:
            _known_keys(below[name], value)
        elif name not in names:
            raise KeyError(f"{table.header} has no key {name}")
