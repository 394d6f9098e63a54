"""A real local cluster: built in one call, broken and mended on purpose, removed without a trace.

    from replctl.lab import Lab, Load

    with Lab.up(directory, replicas=2, sync="ANY 1") as lab, Load(lab) as load:
        load.wait_for_rows(10)
        lab.kill("pg1")
        ...
        print(load.stop().rows_lost)

The names are imported at first use: completion reads lab.json, and needs no PostgreSQL client for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replctl.lab.cluster import Lab, LabNode
    from replctl.lab.layout import default_directory
    from replctl.lab.ledger import LoadReport, Outage
    from replctl.lab.load import Load
    from replctl.lab.removal import remove

__all__ = ["Lab", "LabNode", "Load", "LoadReport", "Outage", "default_directory", "remove"]

_MODULES = {
    "Lab": "cluster",
    "LabNode": "cluster",
    "Load": "load",
    "LoadReport": "ledger",
    "Outage": "ledger",
    "default_directory": "layout",
    "remove": "removal",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
