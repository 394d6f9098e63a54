"""`replctl check`: health checks for cron, Nagios and Icinga. Its exit codes are theirs, on every way out."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replctl.cli.options import ClusterOption, InventoryOption, JsonOption, TimeoutOption, complete_nodes
from replctl.errors import UsageError

if TYPE_CHECKING:
    from replctl.core.alerting import Patience
    from replctl.core.report import Report
    from replctl.core.results import CheckResult
    from replctl.core.selection import Selection
    from replctl.display.checks import Outcome
    from replctl.inventory import Inventory


class CheckOutput(StrEnum):
    """Formats of `check`."""

    NAGIOS = "nagios"
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"
    NAME = "name"


class FailOn(StrEnum):
    """From which status on there is an alert."""

    WARNING = "warning"
    CRITICAL = "critical"


def complete_checks(incomplete: str) -> list[str]:
    """Completion: the names of the checks."""
    from replctl.core.checks import CHECKS

    return [name for name in CHECKS if name.startswith(incomplete)]


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Checks to run (default: all).", autocompletion=complete_checks),
    ] = None,
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node", metavar="NODE", help="Only what is about this node.", autocompletion=complete_nodes
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="NAME", help="Not this check.", autocompletion=complete_checks),
    ] = None,
    warn: Annotated[
        str | None,
        typer.Option("--warn", metavar="RANGE", help="Warning threshold of the one check named."),
    ] = None,
    crit: Annotated[
        str | None,
        typer.Option("--crit", metavar="RANGE", help="Critical threshold of the one check named."),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing when all is well.")] = False,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Below this nothing is an alert.")
    ] = FailOn.WARNING,
    for_runs: Annotated[
        int, typer.Option("--for", metavar="N", min=1, help="Alert only after N bad runs in a row.")
    ] = 1,
    notify_changes: Annotated[
        bool, typer.Option("--notify-changes", help="Print only what changed since the last run.")
    ] = False,
    remind: Annotated[
        str | None,
        typer.Option("--remind", metavar="TIME", help="With --notify-changes: say it again after this time."),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(
            "--probe",
            metavar="TIME",
            help="Without a lag history: watch replicas that are behind for so long.",
        ),
    ] = None,
    list_checks: Annotated[
        bool, typer.Option("--list", help="List the checks and their thresholds.")
    ] = False,
    output: Annotated[CheckOutput, typer.Option("-o", "--output", help="Format.")] = CheckOutput.NAGIOS,
    json: JsonOption = False,
    timeout: TimeoutOption = None,
) -> int:
    """Check the health of a cluster: exit code 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.

    Example: replctl check lag-bytes lag-seconds --node pg2 -q
    """
    from replctl.cli.look import limit_of
    from replctl.core.alerting import Patience
    from replctl.core.results import Status, worst
    from replctl.core.selection import Selection
    from replctl.display.checks import render_list, render_outcomes

    form = CheckOutput.JSON if json else output
    selection = Selection(
        names=_known(names), skipped=frozenset(_known(skip)), nodes=tuple(dict.fromkeys(node or ()))
    )
    if list_checks:
        typer.echo(render_list(form.value, selection.names))
        return 0
    if remind is not None and not notify_changes:
        raise UsageError("--remind needs --notify-changes")
    patience = Patience(
        runs=for_runs,
        remind_s=None if remind is None else limit_of(remind, "--remind"),
        ignore_warnings=fail_on is FailOn.CRITICAL,
    )
    limit_s = limit_of(timeout)
    probe_s = None if probe is None else limit_of(probe, "--probe")
    found, unusable = _load(inventory, cluster, selection.nodes)
    changed = [_with_thresholds(i, selection.names, warn, crit) for i in found]
    # Two cron jobs with different options each have their own memory.
    chosen = (selection.names, sorted(selection.skipped), selection.nodes)
    view = repr((chosen, patience, notify_changes, warn, crit)) if for_runs > 1 or notify_changes else None
    outcomes, news, notes = [], bool(unusable), []
    for seen in _look_at_all(changed, limit_s, probe_s):
        outcome, is_news, note = _outcome(seen, selection, patience, view)
        outcomes.append(outcome)
        news = news or is_news
        notes += [note] if note else []
    outcomes += unusable
    status = worst(o.status for o in outcomes)
    silent = (quiet and status is Status.OK) or (notify_changes and not news)
    text = render_outcomes(outcomes, form.value, notes)
    if text and not silent:
        typer.echo(text)
    return int(status)


def _look_at_all(inventories: list[Inventory], limit_s: float, probe_s: float | None) -> list[Report]:
    import asyncio

    from replctl.cli.look import look

    async def at_once() -> list[Report]:
        return await asyncio.gather(*(look(i, limit_s=limit_s, probe_s=probe_s) for i in inventories))

    return asyncio.run(at_once())


def _outcome(
    seen: Report, selection: Selection, patience: Patience, view: str | None
) -> tuple[Outcome, bool, str | None]:
    """What one cluster amounts to, whether that is news, and what is to be noted."""
    from replctl.core.selection import select, status_of
    from replctl.display.checks import Outcome

    results, is_news, note = select(seen, selection), True, None
    if view is not None:
        results, is_news, note = _settled(seen.status.settings.name, view, results, patience)
    outcome = Outcome(
        cluster=seen.status.settings.name,
        nodes=len(selection.nodes) or len(seen.status.nodes),
        results=results,
        status=status_of(results, seen, ignore_warnings=patience.ignore_warnings),
    )
    return outcome, is_news, note


def _settled(
    cluster: str, view: str, results: tuple[CheckResult, ...], patience: Patience
) -> tuple[tuple[CheckResult, ...], bool, str | None]:
    """Count bad runs and tell news, with what earlier runs remembered."""
    import hashlib
    import time

    from replctl.core.alerting import settle
    from replctl.journal import settle_remembering, state_directory

    key = hashlib.sha256(view.encode()).hexdigest()[:16]
    settled, kept = settle_remembering(
        cluster, key, lambda memory: settle(results, memory, now=time.time(), patience=patience)
    )
    note = None if kept else f"nothing can be kept in {state_directory()}, so every run is taken for news"
    return settled.results, settled.is_news, note


def _load(
    path: Path | None, cluster: str | None, nodes: tuple[str, ...]
) -> tuple[list[Inventory], list[Outcome]]:
    """The inventories to look at, and one outcome for each file that cannot be used.

    One broken file among several hides no other cluster. Raises InventoryError where no file can be used,
    and UsageError for a node that none of them has.
    """
    from replctl.core.results import CheckResult, Status
    from replctl.display.checks import Outcome
    from replctl.inventory import find, load_all, survey

    surveyed = [] if cluster is not None else survey(find(path))
    found = [one.inventory for one in surveyed if one.inventory is not None]
    broken = [one for one in surveyed if one.inventory is None]
    if not found:
        found, broken = load_all(path, cluster=cluster), []
    known = sorted({n.name for i in found for n in i.settings.nodes})
    for name in nodes:
        if name not in known:
            raise UsageError(f"no node {name!r} in the inventory", hint=f"known: {', '.join(known)}")
    unusable = [
        CheckResult(name="inventory", status=Status.UNKNOWN, message=problem, hint="replctl config validate")
        for one in broken
        for problem in one.problems[:1]
    ]
    return found, [
        Outcome(cluster=one.path.stem, nodes=0, results=(result,), status=Status.UNKNOWN)
        for one, result in zip(broken, unusable, strict=True)
    ]


def _known(names: list[str] | None) -> tuple[str, ...]:
    """The names of checks, each known. Raises UsageError with the nearest one."""
    import difflib

    from replctl.core.checks import CHECKS

    for name in names or ():
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, 1)
            hint = f"did you mean {near[0]}?" if near else "replctl check --list"
            raise UsageError(f"no check {name!r}", hint=hint)
    return tuple(names or ())


def _with_thresholds(
    inventory: Inventory, names: tuple[str, ...], warn: str | None, crit: str | None
) -> Inventory:
    """The inventory with --warn and --crit in place of its own. Raises UsageError."""
    from replctl.core.settings import CheckSettings, Thresholds
    from replctl.core.thresholds import THRESHOLD_KEYS, in_order, parse_range

    if warn is None and crit is None:
        return inventory
    key = _threshold_key(names, [text for text in (warn, crit) if text is not None])
    settings = inventory.settings
    before = settings.thresholds(key)
    given = Thresholds(warning=warn or before.warning, critical=crit or before.critical)
    unit = THRESHOLD_KEYS[key].unit
    if not in_order(parse_range(given.warning, unit), parse_range(given.critical, unit)):
        raise UsageError(
            f"critical at {given.critical}, but no warning before {given.warning}",
            hint="give --warn and --crit",
        )
    checks = replace(settings.checks, thresholds={**settings.checks.thresholds, key: given})
    # A node's own threshold would be stronger than what was just typed.
    nodes = tuple(replace(n, checks=CheckSettings(unreachable=n.checks.unreachable)) for n in settings.nodes)
    return replace(inventory, settings=replace(settings, checks=checks, nodes=nodes))


def _threshold_key(names: tuple[str, ...], texts: list[str]) -> str:
    """Which key --warn and --crit stand for: that of the one check, or the one whose unit they have."""
    from replctl.core.checks import CHECKS
    from replctl.core.thresholds import THRESHOLD_KEYS, parse_range

    keys = CHECKS[names[0]].thresholds if len(names) == 1 else ()
    if not keys:
        with_one = ", ".join(c.name for c in CHECKS.values() if c.thresholds)
        raise UsageError("--warn and --crit need one check that has thresholds", hint=f"one of {with_one}")
    fitting, why = [], ""
    for key in keys:
        try:
            for text in texts:
                parse_range(text, THRESHOLD_KEYS[key].unit)
        except ValueError as error:
            why = f"{text!r}: {error}"
        else:
            fitting.append(key)
    if not fitting:
        raise UsageError("not a threshold", why=why, hint="for example 16MiB, 30s, 80% or 10:20")
    if len(fitting) > 1:
        raise UsageError(f"a threshold of {names[0]} needs a unit, as in 1GiB or 5min")
    return fitting[0]
