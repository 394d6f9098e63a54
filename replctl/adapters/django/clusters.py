"""The clusters of this process: for each writer alias one monitor, made when it is first asked for."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections

from replctl.adapters.django.databases import KEY
from replctl.adapters.django.errors import as_django
from replctl.adapters.metrics import RouteMetrics, metrics_of
from replctl.adapters.web import TokenCarrier
from replctl.core.routing import WRITE, Decision, KeyRing, Need, Scope, current_scope
from replctl.errors import ReplctlError
from replctl.inventory import load_one
from replctl.pg.monitor import Monitor


class Cluster:
    """One cluster as Django knows it: its monitor, and which alias stands for which node."""

    def __init__(self, place: dict[str, Any]) -> None:
        self.place = place
        self.writer: str = place["writer"]
        inventory = load_one(Path(place["inventory"]))
        self.monitor = Monitor(inventory, zone=place["zone"], interval_s=place["interval_s"])
        self.patience_s: float = place["patience_s"]
        self.metrics: RouteMetrics | None = metrics_of(self.monitor) if place["metrics"] else None

    @property
    def name(self) -> str:
        """The cluster's name: also that of its scopes."""
        return self.monitor.cluster

    @cached_property
    def carrier(self) -> TokenCarrier:
        """How its tokens travel. A unit of work stays with the replica that it first read from."""
        return TokenCarrier(self.monitor, key_ring(), monotonic=True)

    @property
    def aliases(self) -> set[str]:
        """The aliases of this cluster: the writer's and the nodes'."""
        entries = connections.settings
        return {alias for alias in entries if entries[alias].get(KEY, {}).get("writer") == self.writer}

    def decide(self, need: Need, scope: Scope | None) -> Decision:
        """Where this goes now; waits for the first look, and for a primary during a failover.

        Raises NoPrimary or NoReplica where it goes nowhere, MonitorClosed.
        """
        try:
            if self.monitor.snapshot is None:
                self.monitor.ensure()
            return self.monitor.route_soon(need, scope, self.patience_s)
        except ReplctlError as error:
            raise as_django(error) from None

    def writer_node(self) -> str:
        """The node that takes writes now. Raises NoPrimary, MonitorClosed."""
        node = self.decide(WRITE, current_scope(self.name)).node
        assert node is not None  # it would have been refused
        return node

    def alias_of(self, decision: Decision) -> str:
        """The alias that leads there. The primary has the writer's, whichever node it is."""
        return decision.node if decision.replica and decision.node is not None else self.writer

    def close(self) -> None:
        """End its monitor; the next use makes another."""
        with _lock:
            if _clusters.get(self.writer) is self:
                del _clusters[self.writer]
        if self.metrics is not None:
            self.metrics.close()
        self.monitor.close()


_clusters: dict[str, Cluster] = {}
_lock = threading.RLock()


def cluster_of(alias: str = DEFAULT_DB_ALIAS) -> Cluster:
    """The cluster of this alias. Raises ImproperlyConfigured where `databases()` did not make it."""
    place = connections.settings[alias].get(KEY)
    if place is None:
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}] was not made by replctl.adapters.django.databases()"
        )
    return cluster_at(place)


def cluster_at(place: dict[str, Any]) -> Cluster:
    """The cluster that an entry of DATABASES names."""
    found = _clusters.get(place["writer"])
    if found is None or found.place["inventory"] != place["inventory"]:
        with _lock:
            found = _clusters.get(place["writer"])
            if found is None or found.place["inventory"] != place["inventory"]:
                if found is not None:
                    found.close()
                found = _clusters[place["writer"]] = Cluster(place)
    return found


def all_clusters() -> list[Cluster]:
    """Every cluster of DATABASES."""
    writers = {entry[KEY]["writer"] for entry in connections.settings.values() if KEY in entry}
    return [cluster_of(writer) for writer in sorted(writers)]


def key_ring() -> KeyRing:
    """Signs with SECRET_KEY, accepts SECRET_KEY_FALLBACKS. Raises ImproperlyConfigured if one is short."""
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    try:
        return KeyRing(tuple(s.encode() if isinstance(s, str) else s for s in secrets))
    except ValueError as error:
        raise ImproperlyConfigured(f"SECRET_KEY and SECRET_KEY_FALLBACKS sign tokens: {error}") from None


def _locked_anew() -> None:
    global _lock
    _lock = threading.RLock()


# A lock that another thread held at the fork would be held in the child for ever.
os.register_at_fork(after_in_child=_locked_anew)
