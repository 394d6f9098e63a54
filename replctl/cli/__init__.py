"""The command line: parse, call, print, exit code. Decides nothing; imported by nothing.

Heavy imports (psycopg, rich, asyncio) stand inside the commands, so that `--help`, `--version` and
completion stay close to what Typer alone costs.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from replctl import __version__
from replctl.cli.lazy import Entry, group_of
from replctl.errors import InventoryError, ReplctlError

INTERRUPTED = 130
# Typer vendors its Click since 0.26; the public BadParameter leads to the base class in both worlds.
_ClickError: Any = typer.BadParameter.__mro__[2]

# One entry per command, in the order of `--help`.
COMMANDS: tuple[Entry, ...] = (
    Entry(
        name="status",
        section="See",
        target="replctl.cli.status:app",
        help="Show every node: role, state, lag, problems.",
    ),
    Entry(
        name="check",
        section="See",
        target="replctl.cli.check:check",
        help="Check the health of a cluster, as monitoring plugins do.",
    ),
    Entry(
        name="route",
        section="See",
        target="replctl.cli.route:route",
        help="Tell where a read or a write would go, and why.",
    ),
    Entry(
        name="doctor",
        section="See",
        target="replctl.cli.doctor:doctor",
        help="Tell whether the cluster is ready to be failed over.",
    ),
    Entry(
        name="events",
        section="See",
        target="replctl.cli.events:events",
        help="Show what happened, and each failover step by step.",
    ),
    Entry(
        name="metrics",
        section="See",
        target="replctl.cli.metrics:metrics",
        help="Print metrics for Prometheus once, or write them to a file.",
    ),
    Entry(
        name="serve",
        section="See",
        target="replctl.cli.serve:serve",
        help="Serve metrics, role endpoints, the status and a page.",
    ),
    Entry(
        name="failover",
        section="Act",
        target="replctl.cli.failover:failover",
        help="Replace a lost primary by its most advanced replica.",
    ),
    Entry(
        name="pause",
        section="Act",
        target="replctl.cli.marks:pause",
        help="Turn automatic failover off for every controller.",
    ),
    Entry(
        name="resume",
        section="Act",
        target="replctl.cli.marks:resume",
        help="Turn automatic failover on again.",
    ),
    Entry(
        name="ack",
        section="Act",
        target="replctl.cli.marks:ack",
        help="Allow the next automatic failover after one that happened.",
    ),
    Entry(
        name="fence",
        section="Act",
        target="replctl.cli.fence:fence",
        help="Make writing on an old primary impossible.",
    ),
    Entry(
        name="unfence",
        section="Act",
        target="replctl.cli.fence:unfence",
        help="Take the fence off a node again.",
    ),
    Entry(
        name="votes",
        section="Act",
        target="replctl.cli.votes:votes",
        help="Show who holds which vote; end a dead controller's.",
    ),
    Entry(
        name="init",
        section="Set up",
        target="replctl.cli.init:init",
        help="Find a cluster from its DSNs and write its inventory.",
    ),
    Entry(
        name="grants",
        section="Set up",
        target="replctl.cli.grants:grants",
        help="Print the least-privilege SQL for a role.",
    ),
    Entry(
        name="config",
        section="Set up",
        target="replctl.cli.config:app",
        help="Show and validate the inventory.",
    ),
    Entry(
        name="render-pgbouncer",
        section="Set up",
        target="replctl.cli.render_pgbouncer:render_pgbouncer",
        help="Print PgBouncer's databases: one for writing, one for reading.",
    ),
    Entry(
        name="render-haproxy",
        section="Set up",
        target="replctl.cli.render_haproxy:render_haproxy",
        help="Print HAProxy's configuration, with checks that know roles.",
    ),
    Entry(
        name="render-systemd",
        section="Set up",
        target="replctl.cli.render_systemd:render_systemd",
        help="Print systemd units: controller, checks, server, proxies.",
    ),
    Entry(
        name="render-prometheus",
        section="Set up",
        target="replctl.cli.render_monitoring:render_prometheus",
        help="Print alert rules with the inventory's thresholds.",
    ),
    Entry(
        name="render-grafana",
        section="Set up",
        target="replctl.cli.render_monitoring:render_grafana",
        help="Print a dashboard for Grafana.",
    ),
    Entry(
        name="lab",
        section="Try out",
        target="replctl.cli.lab:app",
        help="Build, break and mend a real local cluster.",
    ),
    Entry(
        name="demo",
        section="Try out",
        target="replctl.cli.demo:demo",
        help="Show a real cluster at work, and clean up.",
    ),
)

app = typer.Typer(
    name="replctl",
    cls=group_of(COMMANDS),
    help="See, check and fail over PostgreSQL primary/replica clusters, by SQL alone.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"replctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("-V", "--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def complain(error: ReplctlError) -> None:
    """Print an error on stderr: what, why, and the hint."""
    print(f"replctl: {error}", file=sys.stderr)
    if isinstance(error, InventoryError):
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Prints errors; never a traceback for a known one.

    `check` speaks to monitoring systems: whatever ends it early is UNKNOWN, in one line on stdout.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if _means_check(given):
        from replctl.cli.plugin import run_as_plugin

        return run_as_plugin(lambda: app(args=given, prog_name="replctl", standalone_mode=False), _ClickError)
    return _run(given)


def _means_check(arguments: Sequence[str]) -> bool:
    """Whether the command is `check`, also where options that stand too early hide it: `-i FILE check`."""
    words = [word for word in arguments if not word.startswith("-")]
    command = next((word for word in words if any(word == entry.name for entry in COMMANDS)), None)
    return command == "check"


def _run(arguments: list[str]) -> int:
    _bear_closed_streams()
    stdout = sys.stdout
    try:
        result = app(args=arguments, prog_name="replctl", standalone_mode=False)
        stdout.flush()
        if result == INTERRUPTED:  # Typer's word for Ctrl-C
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except ReplctlError as error:
        complain(error)
        return error.exit_code
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("replctl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_gone(stdout)
    except SystemExit:
        if sys.stdout is stdout:
            raise
        return _reader_gone(stdout)  # Typer met the broken pipe, and put a wrapper there
    except OSError as error:
        complain(ReplctlError("the operating system refused", why=str(error)))
        _discard(stdout)
        return 1
    except _ClickError as error:
        error.show()
        return 2


def _bear_closed_streams() -> None:
    """Python has None for a stream that the caller closed (`>&-`); what is written there goes nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # to the end


def _reader_gone(stdout: TextIO) -> int:
    """`replctl status | head -1`: not an error of ours. The exit code is what a signal would have given."""
    _discard(stdout)
    return 128 + signal.SIGPIPE


def _discard(stdout: TextIO) -> None:
    """Let nothing that is still buffered be tried again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())


def main() -> None:
    """Entry point of the console script."""
    if "_REPLCTL_COMPLETE" in os.environ:
        # For zsh and fish, Typer would import rich to strip a markup that our help has not.
        sys.modules["rich"] = None  # type: ignore[assignment]
    # Importing makes next to no garbage, and looking for it takes a fifth of a short command's time: once
    # in a while at first, and not at all in what is about to end.
    gc.set_threshold(100_000, 20, 20)
    try:
        sys.exit(run())
    finally:
        gc.freeze()
