"""What keys must be to each other: names, addresses, slots, the synchronous members, hysteresis."""

from __future__ import annotations

import re
from typing import Any

from replctl.core.quorum import parse_sync_rule
from replctl.core.settings import ClusterSettings
from replctl.core.units import exact_bytes, exact_duration
from replctl.inventory.kinds import PLACEHOLDER
from replctl.inventory.problems import Problems, nearest
from replctl.inventory.reader import Section, Sections

_SLOT = re.compile(r"[a-z0-9_]{1,63}")


def disagreements(sections: Sections, problems: Problems) -> list[str]:
    """Add what does not fit together to `problems`; return what is allowed but worth knowing."""
    if not sections.nodes:
        problems.add("[[nodes]]", "the cluster has no nodes; expected one table for each server")
    voters = [*sections.nodes, *sections.witnesses]
    _unique_names(voters, problems)
    _unique_addresses(voters, problems)
    _slots(sections, problems)
    _commands(sections.nodes, problems)
    _synchronous(sections, problems)
    _hysteresis(sections.tables["routing",], problems)
    _aliases(sections.tables["pgbouncer",], problems)
    return _shared_application_names(sections.nodes)


def _unique_names(voters: list[Section], problems: Problems) -> None:
    seen: dict[str, str] = {}
    for row in voters:
        name = row.given.get("name")
        if name is None:
            continue
        if name.lower() in seen:
            first = seen[name.lower()]
            message = (
                "is the name of another node or witness too"
                if first == name
                else f"differs from {first} only in case"
            )
            problems.value(row.table.header, "name", name, f"expected a name of its own; this {message}")
        seen.setdefault(name.lower(), name)


def _unique_addresses(voters: list[Section], problems: Problems) -> None:
    seen: dict[tuple[str, int], str] = {}
    for row in voters:
        if "host" not in row.given:
            continue
        address = (row.given["host"].lower().rstrip("."), row.get("port"))
        if address in seen:
            message = (
                f"with port {address[1]} the address of {seen[address]} too; expected one table per server"
            )
            problems.value(row.where, "host", row.given["host"], message)
        seen.setdefault(address, row.path[1])


def _slots(sections: Sections, problems: Problems) -> None:
    slot = sections.tables["replication",].get("slot")
    if slot is None:
        return
    where = sections.tables["replication",].where
    # The core's own rule, so that what is checked is what will be created.
    rule = ClusterSettings(name="", nodes=(), slot=slot)
    seen: dict[str, str] = {}
    for row in sections.nodes:
        name = row.given.get("name")
        if name is None:
            continue
        made = rule.slot_name(name) or ""
        if not _SLOT.fullmatch(made):
            problems.value(
                where, "slot", slot, f"for {name} this is {made}, longer than the 63 bytes of a slot"
            )
        elif seen.setdefault(made, name) != name:
            problems.value(where, "slot", slot, f"{seen[made]} and {name} would share the slot {made}")


def _commands(nodes: list[Section], problems: Problems) -> None:
    for row in nodes:
        if row.get("data_directory") is not None:
            continue
        commands = row.below["commands"]
        for name, argv in commands.given.items():
            if any(match[1] == "data_directory" for word in argv for match in PLACEHOLDER.finditer(word)):
                problems.value(
                    commands.where,
                    name,
                    list(argv),
                    "{data_directory} is used, but the node has no data_directory",
                )


def _synchronous(sections: Sections, problems: Problems) -> None:
    section = sections.tables["failover",]
    rule = parse_sync_rule(section.given.get("synchronous") or "")
    if rule is None:
        return
    names = [row.given.get("application_name") or row.given.get("name") for row in sections.nodes]
    known = {name.lower(): name for name in names if name is not None}
    for member in rule.members:
        if member.lower() not in known:
            close = nearest(member, known)
            hint = f"did you mean {known[close]}?" if close else f"known are {', '.join(known.values())}"
            message = f"{member} is no node's application_name; {hint}"
            problems.value(section.where, "synchronous", section.given["synchronous"], message)


def _hysteresis(section: Section, problems: Problems) -> None:
    given = section.given
    limits: tuple[tuple[str, str, Any], ...] = (
        ("readmit_lag_bytes", "max_lag_bytes", exact_bytes),
        ("readmit_lag_s", "max_lag_s", exact_duration),
    )
    for readmit, leave, text in limits:
        if readmit in given and given[readmit] > section.get(leave):
            key = section.table.key(readmit)
            message = (
                f"expected at most {leave}, {text(section.get(leave))}, or a replica returns to leave at once"
            )
            problems.value(section.where, readmit, key.kind.write(given[readmit]), message)


def _aliases(section: Section, problems: Problems) -> None:
    if section.get("write_alias") == section.get("read_alias"):
        problems.value(
            section.where, "read_alias", section.get("read_alias"), "expected another name than write_alias"
        )


def _shared_application_names(nodes: list[Section]) -> list[str]:
    names = [row.given.get("application_name") or row.given.get("name") for row in nodes]
    shared = sorted({name for name in names if name is not None and names.count(name) > 1})
    return [
        f'application_name "{name}" is shared by {names.count(name)} nodes: '
        "a synchronous quorum over it proves nothing"
        for name in shared
    ]
