"""`replctl doctor`: is this cluster ready to be failed over, switched over and rejoined?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from replctl.cli.options import (
    ClusterOption,
    InventoryOption,
    JsonOption,
    Output,
    OutputOption,
    TimeoutOption,
    chosen,
)

if TYPE_CHECKING:
    from replctl.core.readiness import Surroundings
    from replctl.core.report import Report
    from replctl.display.doctor import Examination
    from replctl.inventory import Inventory


def doctor(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    output: OutputOption = Output.TABLE,
    json: JsonOption = False,
    timeout: TimeoutOption = None,
) -> int:
    """Tell whether the cluster is ready for failover, switchover and rejoin, and what mends what is not.

    Changes nothing: privileges are asked for, not used. Exit code 1 when something stops a failover, or a
    check is critical.

    Example: replctl doctor -i orders.toml
    """
    import asyncio

    from replctl.cli.look import limit_of
    from replctl.display.doctor import render_examinations
    from replctl.inventory import load_all

    form = chosen(output, json)
    limit_s = limit_of(timeout)
    inventories = load_all(inventory, cluster=cluster)

    async def examine_all() -> list[Examination]:
        return await asyncio.gather(*(_examine(i, limit_s) for i in inventories))

    found = asyncio.run(examine_all())
    if text := render_examinations(found, form.value):
        typer.echo(text)
    return 1 if any(one.stops for one in found) else 0


async def _examine(inventory: Inventory, limit_s: float) -> Examination:
    from replctl.core.coverage import coverage
    from replctl.core.readiness import readiness, unexamined
    from replctl.core.report import report
    from replctl.display.doctor import Examination
    from replctl.journal import load_history
    from replctl.pg.observe import Observer
    from replctl.pg.rights import rights_of

    async with Observer(inventory) as observer:
        state = await observer.observe(limit_s=limit_s)
        seen = report(state, inventory.settings, load_history(inventory.settings.name))
        rights, untold = await rights_of(observer, inventory, limit_s=max(0.1, limit_s - state.took_s))
    around = _surroundings(inventory, seen)
    fences = frozenset(n for n, has in around.commands.items() if "fence" in has)
    return Examination(
        report=seen,
        coverage=coverage(inventory.settings, seen.status.sync, fences),
        findings=(*unexamined(untold), *readiness(seen.status, rights, around)),
        rights=rights,
        around=around,
    )


def _surroundings(inventory: Inventory, seen: Report) -> Surroundings:
    """What the inventory and this machine give beside the core's settings."""
    from replctl.core.readiness import Surroundings

    commands = {
        name: frozenset(
            word for word in ("stop", "start", "run", "fence") if getattr(found, word) is not None
        )
        for name, found in inventory.commands.items()
    }
    return Surroundings(
        commands=commands,
        sslmodes={name: c.sslmode for name, c in inventory.connections.items()},
        conninfo_differences=_differences(inventory, seen),
        missing_programs=_missing_programs(inventory),
    )


def _differences(inventory: Inventory, seen: Report) -> dict[str, tuple[str, ...]]:
    """Replicas whose live primary_conninfo is not what [replication] would write."""
    if inventory.replication is None:
        return {}
    keywords = ("user", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "dbname")
    found: dict[str, tuple[str, ...]] = {}
    for node in seen.status.replicas:
        if node.facts is None or not node.facts.conninfo:
            continue
        live = node.facts.conninfo
        differing = tuple(k for k in keywords if getattr(inventory.replication, k) != live.get(k))
        if differing:
            found[node.name] = differing
    return found


def _missing_programs(inventory: Inventory) -> tuple[str, ...]:
    """First words of hooks and commands that are not programs here."""
    import shutil

    hooks = inventory.settings.failover.hooks
    lines = [hooks.before, hooks.after, hooks.on_failure]
    for commands in inventory.commands.values():
        lines += [argv for argv in (commands.stop, commands.start, commands.run, commands.fence) if argv]
    programs = dict.fromkeys(argv[0] for argv in lines if argv)
    return tuple(p for p in programs if shutil.which(p) is None)
