"""Which node of which cluster a path means: names of the inventory, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from replctl.server.watch import Watch


class Places:
    """Every node under its name, where only one cluster has it, and under CLUSTER/NODE."""

    def __init__(self, watches: Sequence[Watch], *, node: str | None = None) -> None:
        """`node` is whom a path without any name means. Raises KeyError where there is no such node."""
        self.watches = tuple(watches)
        self._nodes: dict[tuple[str, ...], tuple[Watch, str] | None] = {}
        for watch in watches:
            for spec in watch.inventory.settings.nodes:
                found = (watch, spec.name)
                self._nodes[(watch.name, spec.name)] = found
                self._nodes[(spec.name,)] = None if (spec.name,) in self._nodes else found
        if node is not None:
            own = self._nodes.get(tuple(node.split("/")))
            if own is None:
                raise KeyError(node)
            self._nodes[()] = own

    def node(self, words: Sequence[str]) -> tuple[Watch, str] | None:
        """The node of `NODE`, `CLUSTER/NODE`, or the own one of nothing; None = unknown or ambiguous."""
        return self._nodes.get(tuple(words))

    def cluster(self, name: str) -> Watch | None:
        """The cluster of this name."""
        return next((watch for watch in self.watches if watch.name == name), None)
