"""Documents as JSON, YAML and CSV: the formats that programs read.

A document is made of None, bool, int, float, str, lists and dicts with text keys. Numbers that are not
finite are refused: what is not known is None. JSON and YAML escape what could move a terminal's cursor.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Plain in YAML 1.1 and 1.2; the words below are booleans and nulls to one of them.
_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9_./ +-]*[A-Za-z0-9_./+-])?")
_SPECIAL = re.compile(r'[",\r\n]')
_RESERVED = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def to_json(document: Any, *, one_line: bool = False) -> str:
    """JSON in ASCII, without a newline at the end. Raises ValueError for a number that is not finite."""
    if one_line:
        return json.dumps(document, allow_nan=False, separators=(",", ":"))
    return json.dumps(document, allow_nan=False, indent=2)


def to_yaml(document: Any) -> str:
    """YAML, block style, without a newline at the end. Raises ValueError and TypeError as JSON does."""
    if isinstance(document, (Mapping, list, tuple)) and document:
        return "\n".join(_block(document))
    return _scalar(document)


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A header and one line per row, without a newline at the end. None is empty; nested values are JSON."""
    lines = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    return "\n".join(_csv_line(line) for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else to_json(value, one_line=True)


def _csv_line(cells: Sequence[str]) -> str:
    # Not the csv module's: before Python 3.13 it leaves a carriage return unquoted.
    if list(cells) == [""]:
        return '""'  # an empty line would be no row
    return ",".join('"' + cell.replace('"', '""') + '"' if _SPECIAL.search(cell) else cell for cell in cells)


def _block(value: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """The lines of a list or dict that is not empty."""
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"keys are texts, not {type(key).__name__}")
            if isinstance(item, (Mapping, list, tuple)) and item:
                indent = "  " if isinstance(item, Mapping) else ""
                lines.append(f"{_text(key)}:")
                lines += [indent + line for line in _block(item)]
            else:
                lines.append(f"{_text(key)}: {_scalar(item)}")
        return lines
    for item in value:
        inner = _block(item) if isinstance(item, (Mapping, list, tuple)) and item else [_scalar(item)]
        lines.append(f"- {inner[0]}")
        lines += ["  " + line for line in inner[1:]]
    return lines


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, (list, tuple)):
        return "[]"
    raise TypeError(f"{type(value).__name__} has no place in a document")


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError("a number that is not finite has no place in a document")
    mantissa, e, exponent = float.__repr__(value).partition("e")
    # YAML 1.1 takes 1e-05 for a text, 1.0e-05 for a number.
    return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else f"{mantissa}{e}{exponent}"


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return str(value)
    return '"' + "".join(_escaped(character) for character in value) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character == "\n":
        return "\\n"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
