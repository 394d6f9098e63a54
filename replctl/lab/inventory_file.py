"""Writes the lab's inventory: what somebody with such a cluster would write, with local commands."""

from __future__ import annotations

import sys
from typing import Any

from replctl.inventory import dump
from replctl.lab.account import account_named, command_prefix
from replctl.lab.build import OPERATOR, REPLICATOR
from replctl.lab.layout import INVENTORY, Layout, ServerPlan
from replctl.lab.ports import HOST

_HEADER = """\
A lab of replctl: `replctl lab down` removes it. On this machine nobody needs a password for
  replctl     the operator that replctl connects as (see `replctl grants`),
  app         an application: `replctl lab load` writes as it,
  postgres    the superuser.
"""


def write(layout: Layout) -> None:
    """Write D/inventory.toml, readable by all and writable by its owner."""
    path = layout.directory / INVENTORY
    path.write_text(dump(content(layout), header=_HEADER))
    path.chmod(0o644)


def content(layout: Layout) -> dict[str, Any]:
    """The inventory as a TOML document."""
    document: dict[str, Any] = {
        "schema": 1,
        "cluster": {"name": "lab"},
        "connection": {"user": OPERATOR, "dbname": "postgres", "sslmode": "disable"},
        "replication": {"user": REPLICATOR, "sslmode": "disable", "slot": "{name}"},
        "nodes": [_node(layout, plan) for plan in layout.servers if not plan.witness],
        # Empty = stated to be asynchronous, which is not the same as saying nothing.
        "failover": {"synchronous": layout.synchronous},
    }
    witnesses = [_address(plan) for plan in layout.servers if plan.witness]
    if witnesses:
        document["witnesses"] = witnesses
    return document


def _address(plan: ServerPlan) -> dict[str, Any]:
    return {"name": plan.name, "host": HOST, "port": plan.port}


def _node(layout: Layout, plan: ServerPlan) -> dict[str, Any]:
    data = layout.data_directory(plan.name)
    command = [sys.executable, "-m", "replctl", "lab"]
    target = ["--dir", str(layout.directory), plan.name]
    # The lab's own pg_rewind before any other version's.
    path = {"PATH": f"{layout.bin_directory}:/usr/bin:/bin"}
    return {
        **_address(plan),
        "application_name": plan.name,
        "data_directory": str(data),
        "commands": {
            "stop": [*command, "stop", *target],
            "start": [*command, "start", *target],
            "run": command_prefix(account_named(layout.account), path),
        },
    }
