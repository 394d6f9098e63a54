"""`replctl render-haproxy`: a listener for writing and one for reading, with checks that know the role."""

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


def render_haproxy(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    fragment: Annotated[
        bool, typer.Option("--fragment", help="Only the listeners, beside another file's global section.")
    ] = False,
    haproxy_version: Annotated[
        str | None,
        typer.Option(
            "--haproxy-version",
            metavar="VERSION",
            help="Version to write for.",
            show_default="the inventory's, else the file's, else asked at its sockets, else 2.6",
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
    """Print HAProxy's configuration, or write it: a listener for writing and one for reading.

    The one for writing has one enabled server, the node that provably takes writes; the one for reading the
    replicas that are fit. Exit code 3, and the file stays, where nobody provably takes writes.

    Example: replctl render-haproxy --out /etc/haproxy/haproxy.cfg
    """
    from replctl.inventory import load_one
    from replctl.render.haproxy import DEFAULT_VERSION, Options, render, writer_of
    from replctl.render.rendered import facts_of

    found = load_one(inventory, cluster=cluster)
    table = table_of(found, "haproxy")
    if apply or watch:
        how = Applying(
            wish=(haproxy_version, False if fragment else None, zone, force),
            out=out,
            check=check,
            watch=watch,
            dry_run=dry_run,
            offline=offline,
            primary=primary,
            timeout=timeout,
        )
        return how.run(found, "haproxy")
    refuse_lone_dry_run(dry_run)
    place = place_of(table, out, check=check)
    present = present_text(place, needed=check or out is not None)
    facts = facts_of(present)
    zone = facts.zone if zone is None else zone or None
    warn_of_zone(found, zone)
    version = version_of(
        haproxy_version,
        table["version"] or facts.version,
        () if offline else table["sockets"],
        _ask,
        DEFAULT_VERSION,
    )
    roles = look_for_roles(found, offline=offline, primary=primary, timeout=timeout)
    writer = writer_of(found.settings, present or "")
    placement = roles.placement(zone, present, writer, any_will_do=table["write_role_checks"])
    users = {found.connections[spec.name].user for spec in found.settings.nodes}
    user = next(iter(users)) if len(users) == 1 else None
    options = Options(version=version, fragment=fragment, zone=zone, check_user=user)
    rendered = render(found.settings, table, placement, options, file=str(found.path))
    return deliver(rendered, out=out, place=place, present=present, check=check, force=force)


def _ask(place: str) -> str:
    from replctl.proxies.runtime import ask_version

    return ask_version(place)
