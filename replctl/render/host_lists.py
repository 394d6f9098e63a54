"""The lists of hosts that PgBouncer's aliases for reading lead to, one port each."""

from __future__ import annotations

from collections.abc import Mapping

from replctl.core.routing.policies import smooth
from replctl.errors import NoReplica
from replctl.render.placement import Placement, Reader

SLOTS_MAX = 32
"""The longest list that weights are written in; longer ones are rounded."""
Addresses = Mapping[str, tuple[str, int]]
HostList = tuple[list[str], int]


def host_lists(placement: Placement, addresses: Addresses) -> dict[str, HostList]:
    """Hosts and port by the end of the alias's name: "" for all clients and, where nodes differ, `_PORT`.

    Raises NoReplica where nobody may serve reads.
    """
    readers = list(placement.readers)
    if any(reader.near for reader in readers):
        readers = [reader for reader in readers if reader.near]
    if not readers:
        readers = [Reader(name=_spare(placement), weight=1)]
    groups: dict[int, list[Reader]] = {}
    for reader in readers:
        groups.setdefault(addresses[reader.name][1], []).append(reader)
    main = min(groups, key=lambda port: (-sum(r.weight for r in groups[port]), port))
    lists = {port: ([addresses[n][0] for n in slots(group)], port) for port, group in groups.items()}
    ports = sorted({port for _, port in addresses.values()})
    if len(ports) == 1:
        return {"": lists[main]}
    # A port on which nobody is fit now keeps its alias, which then leads to where most reads go.
    return {"": lists[main]} | {f"_{port}": lists.get(port, lists[main]) for port in ports}


def slots(readers: list[Reader]) -> list[str]:
    """The readers' names, each as often as its weight says, evenly mixed; about SLOTS_MAX in all at most.

    Each has one place at least.
    """
    weights = [reader.weight for reader in readers]
    total = sum(weights)
    if total > SLOTS_MAX:
        weights = [max(1, weight * SLOTS_MAX // total) for weight in weights]
    return [readers[index].name for index in smooth(tuple(weights))]


def _spare(placement: Placement) -> str:
    if placement.spare is None:
        raise NoReplica(
            "no replica is fit, and on_all_unfit sends reads nowhere else",
            why="an alias of PgBouncer cannot lead to nowhere, so the file stays as it is",
            hint="replctl route --read --explain",
        )
    return placement.spare
