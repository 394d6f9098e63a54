"""`replctl route`: where a read or a write would go now, and why; taking nodes out of the read pool."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from replctl.cli.options import (
    ClusterOption,
    InventoryOption,
    JsonOption,
    Output,
    OutputOption,
    TimeoutOption,
    YesOption,
    chosen,
    complete_nodes,
    confirmed,
)
from replctl.errors import UsageError

if TYPE_CHECKING:
    from replctl.core.routing import Claim, Decision, Snapshot
    from replctl.inventory import Inventory


def route(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    write: Annotated[bool, typer.Option("--write/--read", help="What it is that goes somewhere.")] = False,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="TOKEN", help="A read that must have seen what this token names."),
    ] = None,
    zone: Annotated[
        str | None, typer.Option("--zone", metavar="ZONE", help="Whose own zone, for the zone policy.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also every node, with its reason.")] = False,
    drain: Annotated[
        str | None,
        typer.Option("--drain", metavar="NODE", help="Give it no more reads.", autocompletion=complete_nodes),
    ] = None,
    undrain: Annotated[
        str | None,
        typer.Option("--undrain", metavar="NODE", help="Give it reads again.", autocompletion=complete_nodes),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="With --drain: why.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --drain or --undrain: only say what it would do.")
    ] = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
    json: JsonOption = False,
    timeout: TimeoutOption = None,
) -> int:
    """Tell where the policy sends a read or a write now, and why. Applications decide by the same rules.

    One look cannot know what an application has seen before: how often a replica was bad in a row, and
    since when it is out. Exit code 3 where it goes nowhere.

    Example: replctl route --read --explain
    """
    import asyncio

    from replctl.cli.look import limit_of

    if drain is not None or undrain is not None:
        return _drain(inventory, cluster, drain, undrain, reason, dry_run=dry_run, yes=yes)
    from replctl.display.route import explanation, route_document, routes_text
    from replctl.inventory import load_all
    from replctl.pg.monitor import refusal

    claim = _claim(token, write=write)
    limit_s, form = limit_of(timeout), chosen(output, json)
    inventories = load_all(inventory, cluster=cluster)
    found = asyncio.run(_decide_all(inventories, claim, write=write, zone=zone, limit_s=limit_s))
    documents = [
        route_document(one.settings.name, decision, snapshot, age_s=age_s, write=write)
        for one, (decision, snapshot, age_s) in zip(inventories, found, strict=True)
    ]
    if form in (Output.TABLE, Output.WIDE):
        every = explain or form is Output.WIDE
        for document, (decision, snapshot, _) in zip(documents, found, strict=True):
            typer.echo(explanation(document, decision, snapshot, every_node=every))
    else:
        text = routes_text(documents, form.value)
        typer.echo(text, nl=bool(text))
    for decision, _, _ in found:
        if decision.node is None:
            raise refusal(decision)
    return 0


def _claim(token: str | None, *, write: bool) -> Claim | None:
    """What the token says. Its signature is the application's to check, which has the secret."""
    from replctl.core.routing import parse

    if token is None:
        return None
    if write:
        raise UsageError("--token does not go with --write", why="a write goes to the primary in any case")
    claim = parse(token)
    if claim is None:
        raise UsageError(
            "--token is not a token",
            why="expected v1.system.timeline.lsn.issued.signature",
            hint="an application's scope.token, or the cookie or header that it was sent in",
        )
    return claim


async def _decide_all(
    inventories: list[Inventory], claim: Claim | None, *, write: bool, zone: str | None, limit_s: float
) -> list[tuple[Decision, Snapshot, float]]:
    import asyncio

    every = (_decide(one, claim, write=write, zone=zone, limit_s=limit_s) for one in inventories)
    return list(await asyncio.gather(*every))


async def _decide(
    inventory: Inventory, claim: Claim | None, *, write: bool, zone: str | None, limit_s: float
) -> tuple[Decision, Snapshot, float]:
    """The decision of an application that looks for the first time; its snapshot, and how old that is."""
    from replctl.cli.look import look_at_roles
    from replctl.core.routing import READ, WRITE, Scope, decide

    snapshot, observed_at = await look_at_roles(inventory, limit_s=limit_s, zone=zone)
    now_s = snapshot.taken_s
    scope = Scope.of(claim, window_s=snapshot.sticky_s, now_at=observed_at, now_s=now_s)
    decision = decide(WRITE if write else READ, scope, snapshot, now_s)
    return decision, snapshot, time.monotonic() - now_s


def _drain(
    path: InventoryOption,
    cluster: ClusterOption,
    drain: str | None,
    undrain: str | None,
    reason: str | None,
    *,
    dry_run: bool,
    yes: bool,
) -> int:
    """Mark a node, or take the mark away, for every application."""
    from replctl.cli.marks import reason_given, set_mark
    from replctl.core.marks import DRAIN
    from replctl.inventory import load_one

    if drain is not None and undrain is not None:
        raise UsageError("--drain and --undrain do not go together")
    node = drain or undrain or ""
    inventory = load_one(path, cluster=cluster)
    known = [spec.name for spec in inventory.settings.nodes]
    if node not in known:
        raise UsageError(f"no node {node!r} in the inventory", hint=f"known: {', '.join(known)}")
    if undrain is not None:
        value, done = None, f"{node} may serve reads again, as soon as it is fit."
        question = f"Give {node} reads again?"
    else:
        value = {"reason": reason_given(reason), "since_at": time.time(), "until_at": None}
        done = f"{node} gets no more reads, until `replctl route --undrain {node}`."
        question = f"Give {node} no more reads, for every application?"
    if not dry_run:
        confirmed(yes, question, "draining" if drain is not None else "undraining")
    return set_mark(
        inventory, f"{DRAIN}{node}", value, done=done, otherwise=f"{node} is not drained", dry_run=dry_run
    )
