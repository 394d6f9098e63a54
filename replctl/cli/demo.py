"""`replctl demo`: a primary is lost before your eyes, and what that costs. Leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from replctl.cli.lab import YesOption, interruptible

if TYPE_CHECKING:
    from replctl.lab import Lab, LoadReport
    from replctl.lab.ledger import Outage

STATUS_TIMEOUT_S = 30
READY_LIMIT_S = 20.0
FAILOVER_LIMIT_S = 30.0
BEFORE_S = 1.5  # of writing before the primary is killed
AFTER_S = 1.5
STEPS = ("step", "done", "failover")


def demo(_yes: YesOption = False) -> None:
    """Build a cluster, write to it, kill its primary, fail over by itself, count the loss, remove it.

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
        inventory = _with_fast_profile(lab, base)
        environment = os.environ | {"REPLCTL_STATE_DIR": str(base / "state")}
        with Load(lab, ordinary=False) as load, _controller(inventory, environment, base / "log") as log:
            typer.echo("An application writes a row every 20 ms; `replctl failover --auto` watches.")
            load.wait_for_rows()
            log.wait_for("alive", READY_LIMIT_S)
            time.sleep(BEFORE_S)
            typer.echo("")
            show_status(inventory, environment)
            lost = lab.primary() or "pg1"
            typer.echo(f"\nNow {lost} is killed: the postmaster and all its children, SIGKILL.")
            lab.kill(lost)
            log.wait_for("is the primary,", FAILOVER_LIMIT_S)
            load.wait_for_rows()
            time.sleep(AFTER_S)
            report = load.stop()
            typer.echo("")
            for line in log.lines(STEPS):
                typer.echo(f"  {line}")
            typer.echo("")
            show_status(inventory, environment)
    typer.echo("")
    typer.echo(_closing(report, lost))


def _with_fast_profile(lab: Lab, base: Path) -> Path:
    """The lab's inventory with the timings of `profile = "fast"`."""
    from replctl.inventory import dump, load

    document = load(lab.inventory_path).document()
    document.setdefault("failover", {})["profile"] = "fast"
    path = base / "inventory.toml"
    path.write_text(dump(document))
    path.chmod(0o644)
    return path


class _Log:
    """What the controller has said so far."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self.path = path
        self.process = process

    def wait_for(self, words: str, limit_s: float) -> None:
        """Wait until it has said this. Raises LabError with what it said last."""
        import time

        from replctl.errors import LabError

        until_s = time.monotonic() + limit_s
        while words not in self.path.read_text():
            if time.monotonic() > until_s or self.process.poll() is not None:
                said = self.path.read_text().splitlines()[-5:]
                raise LabError("the controller did not act", why="; ".join(said) or "it said nothing")
            time.sleep(0.02)

    def lines(self, events: tuple[str, ...]) -> list[str]:
        """The lines of these events, from the time of day on."""
        found = [line.split(" ", 2) for line in self.path.read_text().splitlines()]
        return [
            f"{line[0][11:23]}  {line[2].partition(': ')[2]}"
            for line in found
            if len(line) == 3 and line[2].partition(":")[0] in events
        ]


@contextlib.contextmanager
def _controller(inventory: Path, environment: dict[str, str], path: Path) -> Iterator[_Log]:
    """`replctl failover --auto` beside us, ended at the end."""
    with path.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "replctl", "failover", "--auto", "-i", str(inventory)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us to pass on
        )
    try:
        yield _Log(path, process)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def show_status(inventory_path: Path, environment: dict[str, str]) -> None:
    """One status screen of the lab, as a user would ask for it."""
    sys.stdout.flush()
    subprocess.run(
        [sys.executable, "-m", "replctl", "status", "-i", str(inventory_path)],
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=STATUS_TIMEOUT_S,
        check=False,
    )


def _closing(report: LoadReport, lost: str) -> str:
    """One sentence with what was measured."""
    outage = max(report.outages, key=_length_s, default=None)
    down = "no outage over 100 ms" if outage is None else f"{outage.length_s * 1000:.0f} ms without writes"
    rows_lost = "an unknown number" if report.rows_lost is None else str(report.rows_lost)
    return (
        f"{lost} was killed under load: {down}, {report.rows_acknowledged} rows acknowledged, "
        f"{rows_lost} lost; "
        f"{report.compared_with or 'nobody'} was promoted, because it had the most WAL of all replicas once "
        "both were cut off from the old primary, and of equals the first by name. The cluster is gone, and "
        "nothing of it is left."
    )


def _length_s(outage: Outage) -> float:
    return outage.length_s
