"""`replctl render-pgbouncer`: a name for writing and a name for reading, for every database."""

from __future__ import annotations

from typing import Annotated

import typer

from replctl.cli.applying import Applying, ApplyOption, DryRunOption, WatchOption, refuse_lone_dry_run
from replctl.cli.options import ClusterOption, InventoryOption, TimeoutOption, YesOption
from replctl.cli.render import (
    CheckOption,
    ForceOption,
    OfflineOption,
    OutOption,
    PrimaryOption,
    ZoneOption,
    deliver,
    look_for_roles,
    place_of,
    present_text,
    table_of,
    version_of,
    warn_of_zone,
)


def render_pgbouncer(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="A whole pgbouncer.ini, not only its databases.")
    ] = False,
    pgbouncer_version: Annotated[
        str | None,
        typer.Option(
            "--pgbouncer-version",
            metavar="VERSION",
            help="Version to write for.",
            show_default="the inventory's, else the file's, else asked at its admin consoles, else 1.18",
        ),
    ] = None,
    out: OutOption = None,
    check: CheckOption = False,
    force: ForceOption = False,
    offline: OfflineOption = False,
    primary: PrimaryOption = None,
    zone: ZoneOption = None,
    apply: ApplyOption = False,
    watch: WatchOption = False,
    dry_run: DryRunOption = False,
    timeout: TimeoutOption = None,
    _yes: YesOption = False,
) -> int:
    """Print PgBouncer's databases, or write them: for each a name for writing and one for reading.

    Writes go to the one node that provably takes them, reads to the replicas that are fit. Aliases that the
    file has once stay. Exit code 3, and the file stays, where nobody provably takes writes.

    Example: replctl render-pgbouncer --out /etc/pgbouncer/databases.ini
    """
    from replctl.inventory import load_one
    from replctl.render.pgbouncer import DEFAULT_VERSION, Options, render, writer_of
    from replctl.render.rendered import facts_of

    found = load_one(inventory, cluster=cluster)
    table = table_of(found, "pgbouncer")
    if apply or watch:
        how = Applying(
            wish=(pgbouncer_version, full or None, zone, force),
            out=out,
            check=check,
            watch=watch,
            dry_run=dry_run,
            offline=offline,
            primary=primary,
            timeout=timeout,
        )
        return how.run(found, "pgbouncer")
    refuse_lone_dry_run(dry_run)
    place = place_of(table, out, check=check)
    present = present_text(place, needed=check or out is not None)
    facts = facts_of(present)
    zone = facts.zone if zone is None else zone or None
    warn_of_zone(found, zone)
    version = version_of(
        pgbouncer_version,
        table["version"] or facts.version,
        () if offline else table["admin"],
        _ask,
        DEFAULT_VERSION,
    )
    roles = look_for_roles(found, offline=offline, primary=primary, timeout=timeout)
    placement = roles.placement(zone, present, writer_of(found.settings, table, present or ""))
    users = _admin_users(table["admin"]) if full else ()
    options = Options(version=version, full=full, zone=zone, present=present, admin_users=users)
    rendered = render(found.settings, table, placement, options, file=str(found.path))
    return deliver(rendered, out=out, place=place, present=present, check=check, force=force)


def _ask(dsn: str) -> str:
    from replctl.proxies.console import ask_version

    return ask_version(dsn)


def _admin_users(consoles: tuple[str, ...]) -> tuple[str, ...]:
    if not consoles:
        return ()
    from replctl.proxies.console import settings_of

    return tuple(user for dsn in consoles if (user := settings_of(dsn).get("user")) is not None)
