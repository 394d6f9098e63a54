"""The inventory's documents, made from the schema: the example file, and the tables of docs/inventory.md."""

from __future__ import annotations

from typing import Any

from replctl.inventory.kinds import Kind
from replctl.inventory.schema import TABLES, Key, Table
from replctl.inventory.writer import dump, literal

BEGIN = "<!-- keys: begin, made from replctl/inventory -->"
END = "<!-- keys: end -->"

_EXAMPLE: dict[str, Any] = {
    "schema": 1,
    "cluster": {"name": "orders"},
    "connection": {"user": "replctl", "dbname": "postgres", "sslmode": "verify-full"},
    "replication": {"user": "replicator", "slot": "{name}"},
    "nodes": [
        {"name": "pg1", "host": "10.0.0.1", "port": 5432, "zone": "eu-1a"},
        {"name": "pg2", "host": "10.0.0.2", "port": 5432, "zone": "eu-1b"},
        {"name": "pg3", "host": "10.0.0.3", "port": 5432, "zone": "eu-1c"},
    ],
    "failover": {"synchronous": "ANY 1 (pg1, pg2, pg3)"},
}
_HEADER = """\
An inventory of replctl with every key there is: one file describes one cluster.
A key behind a bare # is commented out; what stands there is its default, or an example.
Copy it to ./replctl.toml, ~/.config/replctl/NAME.toml or /etc/replctl/NAME.toml; `replctl init DSN`
writes one from a running cluster. `replctl config validate` says what is wrong with it.

Sizes: 16MiB, 1GB (1024s, as PostgreSQL counts) or bytes. Times: 5, 500ms, 30s, 5min, 2h.
"""


def example() -> str:
    """The text of inventory.example.toml."""
    return dump(_EXAMPLE, header=_HEADER, optional=True)


def document(text: str) -> str:
    """docs/inventory.md with the tables between its two marks made anew. Raises ValueError without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the marks of the generated part are missing")
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def tables() -> str:
    """Every table with its keys, as Markdown."""
    return "\n".join(_section(table) for table in TABLES if table.path)


def _section(table: Table) -> str:
    rows = "\n".join(_row(key) for key in table.keys)
    return (
        f"### `{table.header}`\n\n{_escaped(table.help)}\n\n"
        f"| key | value | default | meaning |\n|---|---|---|---|\n{rows}\n"
    )


def _row(key: Key) -> str:
    return f"| `{key.name}` | {_value(key.kind)} | {_default(key)} | {_escaped(key.help)} |"


def _value(kind: Kind) -> str:
    return " ".join(f"`{choice}`" for choice in kind.choices) or _escaped(kind.expected)


def _default(key: Key) -> str:
    if key.required:
        return "required"
    if key.default is None:
        variable = f"`{key.environment}`, else " if key.environment else ""
        return f"{variable}{_escaped(key.absent)}"
    return f"`{literal(key.default)}`" + (", by profile" if key.absent == "profile" else "")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
