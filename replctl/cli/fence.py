"""`replctl fence` and `unfence`: make writing on an old primary impossible, and possible again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

from replctl.cli.options import ClusterOption, InventoryOption, YesOption, complete_nodes, confirmed
from replctl.errors import PartialError, RefusedError, ReplctlError, UsageError

if TYPE_CHECKING:
    from replctl.core.model import ClusterState, NodeFacts
    from replctl.inventory import Inventory
    from replctl.pg.change import Editor

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node.", autocompletion=complete_nodes)]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")]


def fence(
    node: NodeArgument,
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    stop_writes: Annotated[
        bool,
        typer.Option("--stop-writes", help="Also where it is the only primary: then nobody can write."),
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> int:
    """Make writing on an old primary impossible: by SQL, then by its fence command where there is one.

    Commits there wait for a replica that does not exist, sessions are read-only and those open are ended;
    where the role may write server files, the next start is as a replica.

    Example: replctl fence pg1
    """
    import asyncio

    one = _one(inventory, cluster, node)
    return asyncio.run(_fence(one, node, stop_writes=stop_writes, dry_run=dry_run, yes=yes))


def unfence(
    node: NodeArgument,
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> int:
    """Take the fence off a node. Refused while another node is the primary: then it has to be rejoined.

    Example: replctl unfence pg1 --dry-run
    """
    import asyncio

    return asyncio.run(_unfence(_one(inventory, cluster, node), node, dry_run=dry_run, yes=yes))


def _one(inventory: object, cluster: str | None, node: str) -> Inventory:
    from replctl.inventory import load_one

    one = load_one(inventory, cluster=cluster)  # type: ignore[arg-type]
    names = [n.name for n in one.settings.nodes]
    if node not in names:
        raise UsageError(f"no node {node!r} in the inventory", hint=f"known: {', '.join(names)}")
    if one.settings.manager != "replctl":
        raise RefusedError(
            f"{one.settings.manager} manages this cluster",
            why="what replctl changed, it would change back",
            hint=f"patronictl pause {one.settings.name}, then stop PostgreSQL on {node}",
        )
    return one


async def _fence(inventory: Inventory, node: str, *, stop_writes: bool, dry_run: bool, yes: bool) -> int:
    from replctl.pg.observe import observe_once
    from replctl.pg.statements import fence_statements

    state = await observe_once(inventory)
    facts = next((f for f in state.facts if f.node == node), None)
    command = inventory.commands[node].fence
    _refuse_fence(state, node, facts, has_command=command is not None, stop_writes=stop_writes)
    if facts is not None:
        typer.echo(f"{node}: by SQL:")
        for statement in fence_statements():
            typer.echo(f"  {statement}")
    if command is not None:
        typer.echo(f"{node}: by its fence command: {command[0]}")
    if dry_run:
        return 0
    confirmed(yes, f"Fence {node}?", "fencing")
    async with _editor(inventory, node) as editor:
        problem = await _by_sql(editor, node) if facts is not None else None
        if command is None:
            if problem is not None:
                raise ReplctlError(f"{node} could not be fenced", why=problem, hint="replctl doctor")
        else:
            try:
                await editor.run_fence(node)
            except ReplctlError as error:
                if facts is None or problem is not None:
                    raise
                raise PartialError(
                    f"{node} takes no more writes, but it is not off",
                    why=str(error),
                    hint=f"replctl fence {node}",
                ) from None
            typer.echo(f"{node}: its fence command succeeded: it is off.")
            return 0
    typer.echo(f"{node}: fenced. It takes no more writes.")
    return 0


async def _by_sql(editor: Editor, node: str) -> str | None:
    """What went wrong, or None."""
    try:
        durable = await editor.fence(node)
    except ReplctlError as error:
        return str(error)
    if not durable:
        typer.echo(
            f"replctl: {node}: the role may not write server files, so the fence is a setting that whoever "
            "starts the server can take away (replctl grants --role fencer)",
            err=True,
        )
    return None


def _refuse_fence(
    state: ClusterState, node: str, facts: NodeFacts | None, *, has_command: bool, stop_writes: bool
) -> None:
    from replctl.core.topology import current_primary, is_fenced

    if facts is None:
        if not has_command:
            raise RefusedError(
                f"{node} does not answer, and has no fence command",
                why="nothing can be done to it by SQL",
                hint=f"switch it off, then replctl failover --fenced {node}; or give it a fence command",
            )
        return
    if facts.in_recovery:
        raise RefusedError(f"{node} is a replica", why="it takes no writes as it is", hint="replctl status")
    primary = current_primary(state)
    is_the_primary = primary is not None and primary.node == node and not is_fenced(facts)
    if is_the_primary and not stop_writes:
        raise RefusedError(
            f"{node} is the primary",
            why="fenced, nobody could write any more",
            hint="--stop-writes fences it all the same",
        )


async def _unfence(inventory: Inventory, node: str, *, dry_run: bool, yes: bool) -> int:
    from replctl.core.topology import is_fenced
    from replctl.pg.observe import observe_once
    from replctl.pg.statements import unfence_statements

    state = await observe_once(inventory)
    facts = next((f for f in state.facts if f.node == node), None)
    if facts is None:
        raise ReplctlError(f"{node} does not answer", hint="replctl status")
    if not is_fenced(facts):
        typer.echo(f"{node}: nothing to do, it is not fenced.")
        return 0
    others = [f for f in state.facts if f.node != node]
    newer = [f.node for f in others if not f.in_recovery or (f.timeline or 0) > (facts.timeline or 0)]
    if newer and not facts.in_recovery:
        raise RefusedError(
            f"{', '.join(newer)} went on without {node}",
            why="unfenced, it would be a second primary with an older history",
            hint="pg_rewind or pg_basebackup makes it a replica again: docs/failover.md",
        )
    synchronous = inventory.settings.failover.synchronous
    for statement in unfence_statements(synchronous):
        typer.echo(f"  {statement}")
    if dry_run:
        return 0
    confirmed(yes, f"Unfence {node}?", "unfencing")
    async with _editor(inventory, node) as editor:
        await editor.unfence(node, synchronous)
    typer.echo(f"{node}: the fence is off. If it left a standby.signal file, its next start is as a replica.")
    return 0


@contextlib.asynccontextmanager
async def _editor(inventory: Inventory, node: str) -> AsyncIterator[Editor]:
    """Editor with connections of their own."""
    from replctl.pg.change import Editor
    from replctl.pg.locks import Ballot

    editor = Editor(inventory, Ballot(inventory, (node,)))
    try:
        yield editor
    finally:
        await editor.close()
