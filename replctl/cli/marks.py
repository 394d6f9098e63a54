"""`replctl pause`, `resume`, `ack`: what must hold for every controller, written into the cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replctl.cli.options import ClusterOption, InventoryOption, YesOption
from replctl.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from replctl.core.marks import Mark, Marks
    from replctl.inventory import Inventory

REASON_MAX = 200
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")]


def pause(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    for_time: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TIME", help="Until then, such as 2h. Default: until `replctl resume`."
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="What the others are to know.")] = None,
    dry_run: DryRunOption = False,
    _yes: YesOption = False,
) -> int:
    """Turn automatic failover off for every controller. It goes on watching and saying what it sees.

    Example: replctl pause --for 2h --reason "kernel updates"
    """
    from replctl.cli.look import limit_of
    from replctl.core.units import utc

    length_s = None if for_time is None else limit_of(for_time, "--for")
    now = time.time()
    until_at = None if length_s is None else now + length_s
    mark = {"reason": reason_given(reason), "since_at": now, "until_at": until_at}
    until = "until `replctl resume`" if until_at is None else f"until {utc(until_at)}"
    return set_mark(
        _one(inventory, cluster),
        "pause",
        mark,
        done=f"Automatic failover is paused {until}.",
        dry_run=dry_run,
    )


def resume(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    dry_run: DryRunOption = False,
    _yes: YesOption = False,
) -> int:
    """Turn automatic failover on again after `replctl pause`.

    Example: replctl resume
    """
    return set_mark(
        _one(inventory, cluster),
        "pause",
        None,
        done="Automatic failover is no longer paused.",
        otherwise="it is not paused",
        dry_run=dry_run,
    )


def ack(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    dry_run: DryRunOption = False,
    _yes: YesOption = False,
) -> int:
    """Allow the next automatic failover: one that happened blocks others until you have seen it.

    Example: replctl ack
    """
    return set_mark(
        _one(inventory, cluster),
        "block",
        None,
        done="The next automatic failover is allowed.",
        otherwise="it is not blocked",
        dry_run=dry_run,
    )


def _one(inventory: Any, cluster: str | None) -> Inventory:
    from replctl.inventory import load_one

    one = load_one(inventory, cluster=cluster)
    if one.settings.manager != "replctl":
        name = one.settings.name
        raise RefusedError(
            f"{one.settings.manager} manages this cluster",
            why="it would not heed what is written here",
            hint=f"patronictl pause {name}; patronictl resume {name}",
        )
    return one


def reason_given(given: str | None) -> str:
    """The operator's words, else who it was."""
    if given is None:
        import getpass
        import socket

        try:
            who = getpass.getuser()
        except (KeyError, OSError):  # no such user, as in a container
            who = "somebody"
        return f"by {who} on {socket.gethostname()}"
    if not given.strip() or not given.isprintable() or len(given) > REASON_MAX:
        raise UsageError(
            "--reason", why=f"expected 1 to {REASON_MAX} letters in one line", hint="--reason upgrade"
        )
    return given.strip()


def set_mark(
    inventory: Inventory,
    key: str,
    value: dict[str, Any] | None,
    *,
    done: str,
    otherwise: str = "",
    dry_run: bool,
) -> int:
    """Set a mark, or (None) take it away; says what is `done`, or that nothing is to do `otherwise`."""
    import asyncio

    return asyncio.run(_write(inventory, key, value, done, otherwise, dry_run=dry_run))


async def _write(
    inventory: Inventory, key: str, value: dict[str, Any] | None, done: str, otherwise: str, *, dry_run: bool
) -> int:
    from replctl.cli.look import DEFAULT_LIMIT_S
    from replctl.pg.marks import keeper, until_replayed, write_mark
    from replctl.pg.observe import Observer

    name = inventory.settings.name
    async with Observer(inventory) as observer:
        state = await observer.observe(limit_s=DEFAULT_LIMIT_S)
        primary = keeper(state, inventory.connections)
        before = _holding(state.marks, key)
        if value is None and before is None:
            typer.echo(f"{name}: nothing to do, {otherwise}.")
            return 0
        if dry_run:
            typer.echo(f"{name}: would be done, by a row of replctl.state on {primary.node}: {done}")
            return 0
        connection = observer.probes[primary.node].connection
        assert connection is not None  # it has just answered
        lsn = await write_mark(connection, key, value)
        replicas = {
            f.node: c
            for f in state.facts
            if f.in_recovery and (c := observer.probes[f.node].connection) is not None
        }
        waiting = await until_replayed(replicas, lsn)
    typer.echo(f"{name}: {done}")
    silent = [n.name for n in inventory.settings.nodes if n.name not in {f.node for f in state.facts}]
    if missing := [*waiting, *silent]:
        note = "a controller that reaches nobody else does not see it"
        typer.echo(f"replctl: not on {', '.join(missing)} yet: {note}", err=True)
    return 0


def _holding(marks: Marks | None, key: str) -> Mark | None:
    mark = None if marks is None else marks.of(key)
    return mark if mark is not None and mark.holds(time.time()) else None
