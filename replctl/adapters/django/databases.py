"""DATABASES from an inventory: one alias that writes, and one for each node that may be read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from replctl.inventory import load_one
from replctl.pg.monitor import INTERVAL_S, PATIENCE_S

ENGINE = "replctl.adapters.django.backend"
KEY = "REPLCTL"
"""Of an entry of DATABASES: which cluster and node it belongs to. Plain values: Django copies them."""

_FROM_INVENTORY = ("ENGINE", "HOST", "PORT", "TEST")
_OF_THE_WRITER = ("ATOMIC_REQUESTS", "AUTOCOMMIT")


def databases(
    inventory: Path | str,
    *,
    writer: str = "default",
    zone: str | None = None,
    interval_s: float = INTERVAL_S,
    patience_s: float = PATIENCE_S,
    metrics: bool = False,
    **settings: Any,
) -> dict[str, dict[str, Any]]:
    """The entries of DATABASES for one cluster: `writer`, and every node under its own name.

    `settings` are Django's (NAME, USER, PASSWORD, OPTIONS, CONN_MAX_AGE, …) and hold for all of them, except
    ATOMIC_REQUESTS and AUTOCOMMIT, which are for the writer. Host, port and TLS come from the inventory, and
    without USER the role too. `zone` is where this process runs, `interval_s` (seconds) how often it looks
    at the nodes, `patience_s` how long what begins during a failover waits for the new primary, `metrics`
    whether it counts for prometheus_client.

    Nodes that join the inventory later serve reads after a restart; the writer alias follows every failover
    among those that it knows.

    Raises InventoryError, and ImproperlyConfigured for settings that are not for the application to give.
    """
    loaded = load_one(Path(inventory))
    if wrong := sorted({*_FROM_INVENTORY, KEY} & settings.keys()):
        raise ImproperlyConfigured(f"{', '.join(wrong)}: databases() sets this from the inventory")
    names = [node.name for node in loaded.settings.nodes]
    if writer in names:
        raise ImproperlyConfigured(f"a node is named {writer!r}: give the writer another alias, writer=...")
    place = {
        "inventory": str(Path(inventory).absolute()),
        "writer": writer,
        "zone": zone,
        "interval_s": interval_s,
        "patience_s": patience_s,
        "metrics": metrics,
    }
    entries = {writer: {**settings, "ENGINE": ENGINE, KEY: {**place, "node": None}}}
    of_all = {key: value for key, value in settings.items() if key not in _OF_THE_WRITER}
    for name in names:
        entries[name] = {
            **of_all,
            "ENGINE": ENGINE,
            "OPTIONS": dict(settings.get("OPTIONS", {})),
            # Test databases: the one that the writer makes is on every node.
            "TEST": {"MIRROR": writer},
            KEY: {**place, "node": name},
        }
    return entries
