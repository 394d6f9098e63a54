"""What PgBouncer and HAProxy make of a file, written from their manuals and apart from what renders it.

A file becomes nested dictionaries of texts. Anything that could mean something else than a plain word
(quotes, escapes, variables, comments behind text) is an error here.
"""

from __future__ import annotations

from typing import Any

PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _.,:;=/@+*()<>|'$-[]{}&?")


def lines_of(text: str, comment: str) -> list[str]:
    """The lines that are no comments. Everything in the file is ASCII without control characters."""
    assert text.endswith("\n")
    lines = text[:-1].split("\n")
    for line in lines:
        assert all(" " <= letter <= "~" for letter in line), line
    return [line for line in lines if line and not line.startswith(comment)]


def pgbouncer(text: str) -> dict[str, dict[str, Any]]:
    """{"databases": {alias: {key: value}}, "pgbouncer": {key: value}}"""
    found: dict[str, dict[str, Any]] = {}
    section = None
    for line in lines_of(text, ";"):
        assert set(line) <= PLAIN, line
        assert line[0] != "%", line
        if line[0] == "[":
            section = line[1:-1]
            assert (line[-1], section in found) == ("]", False)
            found[section] = {}
            continue
        assert section is not None
        key, equals, value = line.partition(" = ")
        assert equals
        assert key not in found[section], key
        assert value == value.strip()
        found[section][key] = connection(value) if section == "databases" else value
    return found


def connection(text: str) -> dict[str, str]:
    """key=value with single blanks between; quoted values have their quotes doubled."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        key, at = text[at : text.index("=", at)], text.index("=", at) + 1
        assert key.isidentifier() and key not in found, key
        value = ""
        if text[at : at + 1] == "'":
            at += 1
            while text[at] != "'" or text[at + 1 : at + 2] == "'":
                value += text[at]
                at += 2 if text[at] == "'" else 1
            at += 1
        else:
            while at < len(text) and text[at] != " ":
                assert text[at] != "'"
                value += text[at]
                at += 1
        assert value, key
        assert text[at : at + 1] in ("", " ")
        at += 1
        found[key] = value
    return found


def haproxy(text: str) -> list[list[Any]]:
    """Sections: the words of the title, then the words of each line, with startup messages unpacked."""
    sections: list[list[Any]] = []
    for line in lines_of(text, "#"):
        assert not set(line) & set("\"'\\#$"), line
        words: list[Any] = line.split(" ")
        if words[0]:
            sections.append([words])
            continue
        words = line.split()
        if words[:2] == ["tcp-check", "send-binary"] and words[2].startswith("0000"):
            words = [*words[:2], startup(bytes.fromhex(words[2]))]
        elif words[0] == "server":
            host, _, port = words[2].rpartition(":")
            words = ["server", words[1], {"host": host.strip("[]"), "port": port}, *words[3:]]
        sections[-1].append(words)
    return sections


def startup(message: bytes) -> dict[str, str]:
    """The pairs of a startup message, whose length and end must be right."""
    assert int.from_bytes(message[:4]) == len(message)
    assert message[4:8] == b"\0\3\0\0"
    words = message[8:].split(b"\0")
    assert words[-2:] == [b"", b""]
    pairs = [word.decode("utf-8") for word in words[:-2]]
    assert len(pairs) % 2 == 0
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def substituted(value: Any, old: str, new: str) -> Any:
    """The same structure with one text replaced where it is a part of a leaf or key."""
    if isinstance(value, dict):
        return {substituted(k, old, new): substituted(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [substituted(one, old, new) for one in value]
    return value.replace(old, new) if isinstance(value, str) else value
