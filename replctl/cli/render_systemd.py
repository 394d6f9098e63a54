"""`replctl render-systemd`: units for the controller, the checks, the server and the proxies' files."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replctl.cli.options import ClusterOption, InventoryOption, YesOption
from replctl.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from replctl.inventory import Inventory
    from replctl.render.systemd import Deployment

UNITS = "/etc/systemd/system"
# Programs that gain rights, which NoNewPrivileges=yes makes impossible.
_GAINING = {"sudo", "su", "doas", "pkexec"}
_UNSEEN = ("/tmp/", "/var/tmp/")  # noqa: S108 - PrivateTmp=yes hides them


def render_systemd(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write one file for each unit there.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --out: only compare; exit code 1 if a file differs.")
    ] = False,
    program: Annotated[
        str | None,
        typer.Option("--program", metavar="PATH", help="What the units run.", show_default="this replctl"),
    ] = None,
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="User that the units run as.")
    ] = "replctl",
    passfile: Annotated[
        str | None,
        typer.Option(
            "--passfile",
            metavar="PATH",
            help="Password file that root may read; systemd hands it to the units.",
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="ADDR:PORT", help="Where the server's unit answers.")
    ] = "127.0.0.1:8008",
    token_file: Annotated[
        str | None,
        typer.Option(
            "--token-file",
            metavar="PATH",
            help="The server's tokens, one a line, in a file that root may read; systemd hands it over.",
        ),
    ] = None,
    on_failure: Annotated[
        str | None, typer.Option("--on-failure", metavar="UNIT", help="Start this unit when a check fails.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --out: also replace a unit that was not rendered by this.")
    ] = False,
    _yes: YesOption = False,
) -> int:
    """Print hardened systemd units, or write them: controller, checks, server, and what keeps the proxies.

    The user is made up by systemd at each start (DynamicUser) unless the inventory names what only a real
    one can use: private files, commands, files to write. The units say which.

    Example: replctl render-systemd --out /etc/systemd/system
    """
    from replctl.inventory import load_all
    from replctl.render.systemd import units

    if check and out is None:
        raise UsageError("--check needs --out DIR", why="it compares what is there")
    _refuse_open_door(listen)
    found: dict[str, str] = {}
    inventories = load_all(inventory, cluster=cluster)
    if len(inventories) > 1:
        _say(
            f"the servers of {len(inventories)} clusters would all be at {listen}: start one of them, or"
            " render each with --cluster and a --listen of its own"
        )
    for one in inventories:
        deployment = dataclasses.replace(
            _deployment(one, program or _this_program(), user=user),
            passfile=passfile,
            tokens=token_file,
            listen=listen,
            on_failure=on_failure,
        )
        _warn(one, deployment)
        try:
            found |= units(deployment)
        except ValueError as error:
            raise UsageError(f"no units for {one.settings.name}", why=str(error)) from None
    if out is None:
        typer.echo("\n".join(f"# {UNITS}/{name}\n{text}" for name, text in found.items()), nl=False)
        return 0
    return _compare(out, found) if check else _write(out, found, force=force)


def _this_program() -> str:
    beside = Path(sys.executable).parent / "replctl"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("replctl")
    if found is None:
        raise UsageError(
            "no program replctl was found for the units to run", hint="name it with --program PATH"
        )
    return str(Path(found).absolute())


def _refuse_open_door(listen: str) -> None:
    from replctl.server.access import Address

    if not Address.parse(listen, "--listen").is_loopback:
        raise UsageError(
            f"--listen {listen} is not a loopback address",
            why="there the server needs a certificate",
            hint="render it for 127.0.0.1 and give serve the rest in a drop-in: docs/deploy.md",
        )


def _deployment(inventory: Inventory, program: str, *, user: str) -> Deployment:
    """What the inventory says of it."""
    from replctl.render.systemd import Deployment

    tables = {"pgbouncer": inventory.pgbouncer, "haproxy": inventory.haproxy}
    proxies = {name: table for name, table in tables.items() if table is not None and not _lacks(name, table)}
    here = [t["file"] for t in proxies.values() if t.get("file") and not t.get("run")]
    return Deployment(
        cluster=inventory.settings.name,
        program=program,
        inventory=str(inventory.path.absolute()),
        user=user,
        account=_account(inventory, here),
        # Where Patroni fails over, replctl only looks.
        controller=inventory.settings.manager == "replctl",
        proxies=tuple(proxies),
        writable=tuple(sorted({str(Path(file).parent) for file in here})),
    )


def _lacks(name: str, table: dict[str, Any]) -> list[str]:
    """The keys without which a file cannot be kept applied."""
    from replctl.cli.applying import DOORS

    return [key for key in ("file", DOORS[name]) if not table[key]]


def _account(inventory: Inventory, written: list[str]) -> str | None:
    """Why the user has to be a real one, if so."""
    for place, connection in sorted(inventory.connections.items()):
        for key in ("passfile", "sslkey"):
            name = getattr(connection, key)
            if name is not None:
                return f"{name} ({key} of {place}) is readable by its owner alone"
    if written:
        return f"it writes {written[0]}"
    commands = _commands(inventory)
    if commands:
        return f"{next(iter(commands))} runs a command, which may need a home with keys"
    return None


def _commands(inventory: Inventory) -> dict[str, tuple[str, ...]]:
    """Everything that the inventory has run here, by where it stands."""
    hooks = inventory.settings.failover.hooks
    found = {f"failover.hooks.{name}": getattr(hooks, name) for name in ("before", "after", "on_failure")}
    for name, connection in sorted(inventory.connections.items()):
        found[f"password_command of {name}"] = connection.password_command
    for name, commands in sorted(inventory.commands.items()):
        for key in ("fence", "run", "start", "stop"):
            found[f"nodes.{name}.commands.{key}"] = getattr(commands, key)
    for name, table in (("pgbouncer", inventory.pgbouncer), ("haproxy", inventory.haproxy)):
        for key in ("run", "reload"):
            found[f"{name}.{key}"] = (table or {}).get(key)
    return {place: tuple(argv) for place, argv in found.items() if argv}


def _warn(inventory: Inventory, deployment: Deployment) -> None:
    """Say on stderr what will keep these units from working on this machine."""
    from replctl.render.systemd import HOMES

    notes = []
    for path in (deployment.program, deployment.inventory):
        if path.startswith(_UNSEEN):
            notes.append(f"{path}: the units have a /tmp of their own and do not see it")
        elif path.startswith(HOMES):
            notes.append(f"{path}: {deployment.user} may have no way into that home")
    mode = stat.S_IMODE(inventory.path.stat().st_mode)
    if deployment.account is None and not mode & stat.S_IROTH:
        notes.append(f"{deployment.inventory}: mode {mode:04o}, but {deployment.user} has to read it")
    for name, table in (("pgbouncer", inventory.pgbouncer), ("haproxy", inventory.haproxy)):
        if table is not None and (lacks := _lacks(name, table)):
            missing = " and ".join(f"`{key}`" for key in lacks)
            notes.append(f"[{name}] has no {missing}: no unit for render-{name} --watch; see docs/proxies.md")
    notes += _of_proxies(inventory, deployment.user)
    for place, argv in _commands(inventory).items():
        if Path(argv[0]).name in _GAINING:
            notes.append(f"{place}: {argv[0]} gains no rights in these units; see docs/deploy.md")
    for note in notes:
        _say(note)


def _say(note: str) -> None:
    typer.echo(f"replctl: warning: {note}", err=True)


def _of_proxies(inventory: Inventory, user: str) -> list[str]:
    """What this user may not do to the proxies that run here."""
    import pwd

    notes = []
    for table in (inventory.pgbouncer, inventory.haproxy):
        path = table["file"] if table is not None and not table["run"] else None
        if path is None or not Path(path).exists():
            continue
        try:
            owner = pwd.getpwuid(Path(path).stat().st_uid).pw_name
        except KeyError:  # of nobody who has a name
            owner = str(Path(path).stat().st_uid)
        if owner != user:
            notes.append(
                f"{path} belongs to {owner}, and only its owner can replace it: chown {user}: {path}"
            )
    table = inventory.haproxy
    if table and table["stats_socket"] in table["sockets"] and table["stats_group"] is None:
        notes.append(
            f"[haproxy] stats_socket is for the user alone who starts HAProxy; "
            f'`stats_group = "{user}"` lets {user} use it'
        )
    return notes


def _write(directory: Path, found: dict[str, str], *, force: bool) -> int:
    """Write what differs; refuses before the first one where somebody else's unit is in the way."""
    from replctl.files import previous_of, read, replace
    from replctl.render.rendered import mark_of

    for name, text in found.items():
        present = read(directory / name)
        if present and mark_of(present) != mark_of(text) and not force:
            raise RefusedError(
                f"{directory / name} was not rendered by this command for this cluster",
                why="its first line is another",
                hint=f"--force replaces it, and keeps it as {previous_of(Path(name))}",
            )
    for name, text in found.items():
        if replace(directory / name, text).changed:
            typer.echo(str(directory / name))
    return 0


def _compare(directory: Path, found: dict[str, str]) -> int:
    """Print how the files differ. 1 if any does."""
    from replctl.files import read
    from replctl.render.drift import difference

    places = {directory / name: text for name, text in found.items()}
    differences = [difference(read(path), text, str(path)) for path, text in places.items()]
    for one in filter(None, differences):
        typer.echo(one)
    return 1 if any(differences) else 0
