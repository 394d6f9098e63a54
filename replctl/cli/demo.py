"""`replctl demo`: everything in half a minute, by itself, leaving nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from replctl.cli.lab import YesOption, interruptible

if TYPE_CHECKING:
    from replctl.lab import LoadReport

WATCH_S = 3
_STATUS_TIMEOUT_S = 30


def demo(_yes: YesOption = False) -> None:
    """Build a cluster, write to it, watch it for three seconds, remove it. Nothing to answer.

    Example: replctl demo
    """
    with interruptible(), tempfile.TemporaryDirectory(prefix="replctl-demo-") as name:
        base = Path(name)
        base.chmod(0o755)  # the servers' account has to pass, if that is not ours
        _run(base)


def _run(base: Path) -> None:
    import time

    from replctl.lab import Lab, Load

    typer.echo("Building a primary and two replicas; a commit waits for one of them (ANY 1).")
    began_s = time.monotonic()
    with Lab.up(base / "lab", replicas=2, sync="ANY 1") as lab:
        typer.echo(f"PostgreSQL {lab.server_version}, ready in {time.monotonic() - began_s:.1f} s.")
        typer.echo("An application writes a row every 20 ms.")
        with Load(lab, ordinary=False) as load:
            load.wait_for_rows()
            start_s = time.monotonic()
            for frame in range(1, WATCH_S + 1):
                time.sleep(max(0.0, start_s + frame - time.monotonic()))
                typer.echo("")
                sys.stdout.flush()
                show_status(lab.inventory_path, state=base / "state")
            report = load.stop()
    typer.echo("")
    typer.echo(_closing(report))


def show_status(inventory_path: Path, *, state: Path) -> None:
    """One status screen of the lab, as a user would ask for it; its history goes to `state`."""
    subprocess.run(
        [sys.executable, "-m", "replctl", "status", "-i", str(inventory_path)],
        env=os.environ | {"REPLCTL_STATE_DIR": str(state)},
        stdin=subprocess.DEVNULL,
        timeout=_STATUS_TIMEOUT_S,
        check=False,
    )


def _closing(report: LoadReport) -> str:
    """One sentence with what was measured."""
    by = " and ".join(report.acknowledged_by)
    lost = {None: "unknown whether any was lost", 0: "none of them lost"}.get(
        report.rows_lost, f"{report.rows_lost} of them lost"
    )
    gap_s = report.longest_gap_s or 0.0
    return (
        f"In {report.took_s:.1f} s {by} acknowledged {report.rows_acknowledged} rows, {lost}, and never more "
        f"than {gap_s * 1000:.0f} ms went by between two; the cluster is gone, and nothing of it is left."
    )
