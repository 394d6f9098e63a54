"""`replctl metrics`: one look, as metrics, to standard output or into a file for node_exporter."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replctl.cli.options import ClusterOption, InventoryOption, TimeoutOption
from replctl.errors import InventoryError, ReplctlError, UsageError

if TYPE_CHECKING:
    from replctl.core.report import Report
    from replctl.inventory import Inventory

TEXTFILE_MODE = 0o644  # node_exporter is another user


class MetricsFormat(StrEnum):
    """Formats of `metrics`."""

    OPENMETRICS = "openmetrics"
    TEXT = "text"


def metrics(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    textfile: Annotated[
        Path | None,
        typer.Option(
            "--textfile",
            metavar="PATH",
            help="Write them there for node_exporter's textfile collector, atomically.",
        ),
    ] = None,
    output: Annotated[
        MetricsFormat, typer.Option("-o", "--output", help="Format; a textfile always has `text`.")
    ] = MetricsFormat.OPENMETRICS,
    timeout: TimeoutOption = None,
) -> int:
    """Print the metrics of every cluster once, for Prometheus.

    Exit code 0 whatever the nodes' state, 1 when no node of a cluster answered; the metrics are there then,
    too.

    Example: replctl metrics --textfile /var/lib/prometheus/node-exporter/replctl.prom
    """
    import asyncio
    import time

    from replctl import __version__
    from replctl.cli.look import limit_of
    from replctl.core.metrics import Format, Run, collect, render
    from replctl.noticed import failovers_seen

    began_s, limit_s = time.monotonic(), limit_of(timeout)
    found, problem = _load(inventory, cluster)
    if problem is not None and not found and textfile is None:
        raise problem
    reports = asyncio.run(_look_at_all(found, limit_s))
    answered = all(any(n.reachable for n in r.status.nodes) for r in reports)
    seen = {i.settings.name: failovers_seen(i.settings.name) for i in found}
    run = Run(
        version=__version__,
        at=time.time(),
        took_s=round(time.monotonic() - began_s, 6),
        success=answered and problem is None,
        failovers={name: count for name, count in seen.items() if count is not None},
    )
    samples = collect(reports, run)
    if textfile is None:
        sys.stdout.write(render(samples, Format(output)))
    else:
        _replace(textfile, render(samples, Format.TEXT))
    if problem is not None:
        raise problem
    return 0 if answered else 1


def _load(path: Path | None, cluster: str | None) -> tuple[list[Inventory], ReplctlError | None]:
    """The inventories that can be used, and what is wrong with the others: one of several hides no other."""
    from replctl.inventory import find, load_all, survey, unusable

    try:
        if cluster is not None:
            return load_all(path, cluster=cluster), None
        surveyed = survey(find(path))
    except (InventoryError, UsageError) as error:
        return [], error
    problems = [line for one in surveyed for line in one.problems]
    usable = [one.inventory for one in surveyed if one.inventory is not None]
    return usable, unusable(problems) if problems else None


async def _look_at_all(inventories: list[Inventory], limit_s: float) -> list[Report]:
    import asyncio

    from replctl.cli.look import look

    return await asyncio.gather(*(look(i, limit_s=limit_s) for i in inventories))


def _replace(path: Path, text: str) -> None:
    """Put the file in the place of the one before, so that no reader sees half of it. Raises ReplctlError."""
    target = Path(os.path.realpath(path))
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(target.stat().st_mode):
            raise UsageError(f"--textfile {path}", why="it is there, and not a file")
    temporary = None
    try:
        # Not NAME.prom: node_exporter reads every such file, this one half written, too.
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(descriptor, TEXTFILE_MODE)
        Path(temporary).replace(target)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        why = error.strerror or str(error)
        raise ReplctlError(f"{path} cannot be written", why=why, hint="what is there is as it was") from None
