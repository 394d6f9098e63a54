"""`replctl lab`: a real local cluster to try things on, to break, and to throw away."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replctl.cli.options import JsonOption, Output, OutputOption, chosen
from replctl.errors import PartialError, RefusedError, UsageError

if TYPE_CHECKING:
    from replctl.lab import Lab, LabNode, Load

app = typer.Typer(
    help="A real local cluster: build it, break it, mend it, throw it away.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

COLUMNS = ("name", "role", "state", "host", "port", "pid", "data_directory", "log_file")


class LoadOutput(StrEnum):
    """Formats of `lab load`."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def _directory(given: Path | None) -> Path:
    from replctl.lab.layout import default_directory, resolved

    return resolved(default_directory() if given is None else given)


def _complete_nodes(ctx: Any, incomplete: str) -> list[str]:
    """Completion: the names in lab.json. Asks no server."""
    from replctl.errors import ReplctlError
    from replctl.lab import layout

    given = ctx.params.get("directory")
    try:
        plan = layout.load(_directory(None if given is None else Path(given)))
    except ReplctlError:
        return []
    return [server.name for server in plan.servers if server.name.startswith(incomplete)]


DirOption = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="The lab's directory.", show_default="/tmp/replctl-lab-UID"),  # noqa: S108
]
NodesArgument = Annotated[
    list[str], typer.Argument(metavar="NODE", help="Such as pg1.", autocompletion=_complete_nodes)
]
YesOption = Annotated[bool, typer.Option("-y", "--yes", hidden=True, help="Nothing is asked anyway.")]


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt like Ctrl-C; from the first of them on, none interrupts the tidying up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        os.write(2, b"\nInterrupted; removing what was built.\n")
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command(epilog="Example: replctl lab up --replicas 2 --sync 'ANY 1'")
def up(
    directory: DirOption = None,
    replicas: Annotated[int, typer.Option("--replicas", metavar="N", help="How many replicas.")] = 2,
    sync: Annotated[
        str | None,
        typer.Option(
            "--sync",
            metavar="RULE",
            help="Synchronous replication: 'ANY 1', 'FIRST 1', or a whole synchronous_standby_names.",
            show_default="asynchronous",
        ),
    ] = None,
    base_port: Annotated[
        int | None,
        typer.Option("--base-port", metavar="PORT", help="Ports from this one on.", show_default="free ones"),
    ] = None,
    pg_bin: Annotated[
        Path | None,
        typer.Option(
            "--pg-bin",
            metavar="DIR",
            help="Where postgres, initdb and pg_ctl are.",
            show_default="the lab extra's, else the newest installed",
        ),
    ] = None,
    witness: Annotated[bool, typer.Option("--witness", help="Also a server that only votes: w1.")] = False,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="The last replica streams from the one before it.")
    ] = False,
    no_fsync: Annotated[
        bool, typer.Option("--no-fsync", help="Faster; a crash of the machine may ruin the lab.")
    ] = False,
    _yes: YesOption = False,
) -> None:
    """Build a cluster and start it. Ready means that every replica streams."""
    import time

    from replctl.lab import Lab
    from replctl.lab.text import welcome

    began_s = time.monotonic()
    with interruptible():
        lab = Lab.up(
            _directory(directory),
            replicas=replicas,
            sync=sync,
            base_port=base_port,
            pg_bin=pg_bin,
            witness=witness,
            cascade=cascade,
            fsync=not no_fsync,
        )
    took_s = time.monotonic() - began_s
    typer.echo("\n".join(welcome(lab, took_s)))


@app.command(epilog="Example: replctl lab down")
def down(directory: DirOption = None, _yes: YesOption = False) -> None:
    """Remove the lab: no process and no file is left."""
    from replctl.lab import remove

    target = _directory(directory)
    if not remove(target):
        typer.echo(f"There is no lab in {target}.")
    elif target.exists() and (left := sorted(entry.name for entry in target.iterdir())):
        typer.echo(f"The lab in {target} is gone. Kept, since no lab made them: {', '.join(left)}")
    else:
        typer.echo(f"The lab in {target} is gone.")


@app.command(epilog="Example: replctl lab status -o json")
def status(
    directory: DirOption = None, output: OutputOption = Output.TABLE, json: JsonOption = False
) -> None:
    """Show each server's address, process and files."""
    from replctl.display.serialize import to_csv, to_json, to_yaml

    lab = _open(directory)
    rows = [_row(node) for node in (*lab.nodes.values(), *lab.witnesses.values())]
    document = {
        "schema_version": 1,
        "directory": str(lab.directory),
        "inventory": str(lab.inventory_path),
        "server_version": lab.server_version,
        "synchronous": lab.synchronous,
        "nodes": rows,
    }
    form = chosen(output, json)
    if form is Output.JSON:
        typer.echo(to_json(document))
    elif form is Output.YAML:
        typer.echo(to_yaml(document))
    elif form is Output.CSV:
        typer.echo(to_csv(rows, COLUMNS))
    elif form is Output.NAME:
        typer.echo("\n".join(row["name"] for row in rows))
    else:
        columns = COLUMNS if form is Output.WIDE else COLUMNS[:-1]
        typer.echo("\n".join(_table(rows, columns)))


@app.command(epilog="Example: replctl lab start pg1")
def start(nodes: NodesArgument, directory: DirOption = None, _yes: YesOption = False) -> None:
    """Start a server; ready means that it accepts connections."""
    lab = _open(directory)
    _each(lab, nodes, lab.start, "{} runs.", "{} ran already.")


@app.command(epilog="Example: replctl lab stop pg2")
def stop(nodes: NodesArgument, directory: DirOption = None, _yes: YesOption = False) -> None:
    """Shut a server down in order (fast): nothing is lost."""
    lab = _open(directory)
    _each(lab, nodes, lab.stop, "{} is stopped.", "{} did not run.")


@app.command(epilog="Example: replctl lab kill pg1")
def kill(nodes: NodesArgument, directory: DirOption = None, _yes: YesOption = False) -> None:
    """SIGKILL a server with all its processes, as a crash does."""
    lab = _open(directory)
    _each(lab, nodes, lab.kill, "{} is killed.", "{} did not run.")


@app.command(epilog="Example: replctl lab freeze pg1")
def freeze(nodes: NodesArgument, directory: DirOption = None, _yes: YesOption = False) -> None:
    """SIGSTOP a server: it is there, and answers nobody."""
    lab = _open(directory)
    _each(lab, nodes, lab.freeze, "{} is frozen.", "{} was frozen already.")


@app.command(epilog="Example: replctl lab thaw pg1")
def thaw(nodes: NodesArgument, directory: DirOption = None, _yes: YesOption = False) -> None:
    """Let a frozen server run on (SIGCONT)."""
    lab = _open(directory)
    _each(lab, nodes, lab.thaw, "{} runs on.", "{} was not frozen.")


@app.command(epilog="Example: replctl lab cut pg3, and later: replctl lab cut --undo pg3")
def cut(
    nodes: NodesArgument,
    directory: DirOption = None,
    undo: Annotated[bool, typer.Option("--undo", help="Let it reach its upstream again.")] = False,
    _yes: YesOption = False,
) -> None:
    """Keep a replica from reaching its upstream."""
    lab = _open(directory)
    if undo:
        _each(lab, nodes, lab.mend, "{} can reach its upstream again.", "{} was not cut.")
    else:
        _each(lab, nodes, lab.cut, "{} is cut from its upstream.", "{} was cut already.")


@app.command(epilog="Example: replctl lab load --duration 30s")
def load(
    directory: DirOption = None,
    interval: Annotated[
        str, typer.Option("--interval", metavar="TIME", help="Time between two rows of a writer.")
    ] = "20ms",
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration", metavar="TIME", help="Stop by itself after this time.", show_default="until Ctrl-C"
        ),
    ] = None,
    writers: Annotated[
        int, typer.Option("--writers", metavar="N", help="Writers that follow the primary.")
    ] = 1,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            "--pin",
            metavar="NODE",
            help="One more writer that knows only this node. May be repeated.",
            autocompletion=_complete_nodes,
        ),
    ] = None,
    output: Annotated[LoadOutput, typer.Option("-o", "--output", help="Format of the report.")] = (
        LoadOutput.TABLE
    ),
    json: JsonOption = False,
) -> None:
    """Write rows, and report outages and lost rows in the end."""
    from replctl.core.units import format_duration
    from replctl.display.serialize import to_json, to_yaml
    from replctl.lab import Load
    from replctl.lab.text import report_lines

    interval_s = _time("--interval", interval)
    duration_s = None if duration is None else _time("--duration", duration)
    lab = _open(directory)
    running = Load(lab, interval_s=interval_s, writers=writers, pinned=tuple(pin or ()))
    until = "until Ctrl-C" if duration_s is None else f"for {format_duration(duration_s)}"
    rows = f"a row every {format_duration(interval_s)}" if interval_s else "rows as fast as it goes"
    typer.echo(f"Writing {rows} to the lab in {lab.directory}, {until}.", err=True)
    _until_told(running, duration_s)
    report = running.stop()
    form = LoadOutput.JSON if json else output
    if form is LoadOutput.TABLE:
        typer.echo("\n".join(report_lines(report)))
    else:
        typer.echo(to_json(report.to_json()) if form is LoadOutput.JSON else to_yaml(report.to_json()))


def _until_told(running: Load, duration_s: float | None) -> None:
    """Let the load run for its time, or until a signal; tell of every outage that ended on stderr."""
    import threading
    import time

    from replctl.lab.text import outage_line

    told = threading.Event()
    before = {n: signal.signal(n, lambda *_: told.set()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        running.start()
        end_s = None if duration_s is None else time.monotonic() + duration_s
        known = 0
        while not told.is_set() and (end_s is None or time.monotonic() < end_s):
            told.wait(0.2 if end_s is None else max(0.0, min(0.2, end_s - time.monotonic())))
            ended = [outage for outage in running.outages_so_far() if outage.over]
            for outage in ended[known:]:
                typer.echo(outage_line(outage), err=True)
            known = len(ended)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open(directory: Path | None) -> Lab:
    from replctl.lab import Lab

    return Lab.open(_directory(directory))


def _each(lab: Lab, names: list[str], act: Callable[[str], bool], changed: str, unchanged: str) -> None:
    """Do it to each node and say so. Names are checked first; `act` returns whether it changed anything."""
    for name in names:
        lab.check(name)
    done: list[str] = []
    for name in dict.fromkeys(names):
        try:
            did = act(name)
        except RefusedError as error:
            if not done:
                raise
            raise PartialError(f"{name} was left as it is", why=str(error), hint=error.hint) from None
        typer.echo((changed if did else unchanged).format(name))
        done += [name] if did else []


def _time(option: str, text: str) -> float:
    from replctl.core.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}", why=str(error), hint=f"for example {option} 30s") from None


def _row(node: LabNode) -> dict[str, Any]:
    return {
        "name": node.name,
        "role": node.role,
        "state": node.state,
        "host": node.host,
        "port": node.port,
        "pid": node.pid,
        "data_directory": str(node.data_directory),
        "log_file": str(node.log_file),
    }


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[str]:
    cells = [[column.upper().replace("_", " ") for column in columns]]
    cells += [["-" if row[column] is None else str(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
