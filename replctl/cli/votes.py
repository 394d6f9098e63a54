"""`replctl votes`: who holds which vote, and ending one that a dead controller left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from replctl.cli.options import (
    ClusterOption,
    InventoryOption,
    JsonOption,
    Output,
    OutputOption,
    YesOption,
    chosen,
    complete_nodes,
    confirmed,
    screen_cells,
)
from replctl.errors import RefusedError, ReplctlError, UsageError

if TYPE_CHECKING:
    from replctl.inventory import Inventory
    from replctl.pg.locks import Holder


def votes(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    break_node: Annotated[
        str | None,
        typer.Option(
            "--break",
            metavar="NODE",
            help="End the session that holds this node's vote.",
            autocompletion=complete_nodes,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --break: only say what it would end.")
    ] = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
    json: JsonOption = False,
) -> int:
    """Show who holds which vote, since when and from where. Votes are held only while a failover runs.

    A server gives a vote back when the holder's connection ends, so a controller that is gone holds one
    only until keepalives notice, some ten seconds after its host was lost.

    Example: replctl votes --break pg2
    """
    import asyncio

    from replctl.inventory import load_one

    one = load_one(inventory, cluster=cluster)
    if break_node is None:
        return asyncio.run(_show(one, chosen(output, json)))
    if break_node not in one.connections:
        raise UsageError(
            f"no voter {break_node!r} in the inventory", hint=f"known: {', '.join(one.connections)}"
        )
    return asyncio.run(_break(one, break_node, dry_run=dry_run, yes=yes))


async def _show(inventory: Inventory, form: Output) -> int:
    from replctl.display.rows import rows_text
    from replctl.pg.locks import holders

    found = await holders(inventory)
    rows = [row for voter, held in found.items() for row in _rows(voter, held)]
    document = {"schema_version": 1, "cluster": inventory.settings.name, "votes": rows}
    columns = ("voter", "state", "holder", "pid", "address", "since")
    cells = screen_cells()
    typer.echo(rows_text(document, "votes", form.value, columns, name="voter", cells=cells))
    return 0 if any(held is not None for held in found.values()) else 1


def _rows(voter: str, held: list[Holder] | None) -> list[dict[str, Any]]:
    from replctl.display.document import iso_time

    row = {"voter": voter, "state": "free", "holder": None, "pid": None, "address": None, "since": None}
    if held is None:
        return [row | {"state": "unreachable"}]
    return [
        row
        | {
            "state": "held",
            "holder": holder.application_name,
            "pid": holder.pid,
            "address": holder.address,
            "since": None if holder.since_at is None else iso_time(holder.since_at),
        }
        for holder in held
    ] or [row]


async def _break(inventory: Inventory, node: str, *, dry_run: bool, yes: bool) -> int:
    from replctl.pg.locks import end_session, holders

    held = (await holders(inventory))[node]
    if held is None:
        raise ReplctlError(f"{node} does not answer", hint="replctl votes")
    if not held:
        raise RefusedError(f"nobody holds the vote of {node}", hint="replctl votes")
    for holder in held:
        who = f"{holder.application_name or 'a session without a name'} from {holder.address or 'a socket'}"
        typer.echo(f"{node}: the vote is held by {who} (backend {holder.pid}).")
        if dry_run:
            continue
        confirmed(yes, "If it is at work, its failover stops. End its session?", "ending a vote")
        if not await end_session(inventory, holder):
            raise ReplctlError(f"{node}: backend {holder.pid} did not end", hint="replctl votes")
        typer.echo(f"{node}: its session was ended.")
    return 0
