"""`replctl render-prometheus` and `render-grafana`: what watches, from the metric registry and thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from replctl.cli.options import ClusterOption, InventoryOption, YesOption
from replctl.cli.render import CheckOption, ForceOption, OutOption, deliver, present_text
from replctl.errors import UsageError

if TYPE_CHECKING:
    from replctl.render.rendered import Rendered


def render_prometheus(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    out: OutOption = None,
    check: CheckOption = False,
    force: ForceOption = False,
    _yes: YesOption = False,
) -> int:
    """Print recording and alert rules for Prometheus, with the thresholds of every cluster. Asks no server.

    Example: replctl render-prometheus --out /etc/prometheus/replctl.rules.yml
    """
    from replctl.inventory import load_all
    from replctl.render.prometheus import render

    found = load_all(inventory, cluster=cluster)
    return _deliver(render([one.settings for one in found]), out, check=check, force=force)


def render_grafana(
    inventory: InventoryOption = None,
    cluster: ClusterOption = None,
    out: OutOption = None,
    check: CheckOption = False,
    force: ForceOption = False,
    _yes: YesOption = False,
) -> int:
    """Print a dashboard for Grafana, to be imported or provisioned. Asks no server.

    Example: replctl render-grafana --out /var/lib/grafana/dashboards/replctl.json
    """
    from replctl.inventory import load_all
    from replctl.render.grafana import render

    found = load_all(inventory, cluster=cluster)
    return _deliver(render([one.settings for one in found]), out, check=check, force=force)


def _deliver(rendered: Rendered[Any], out: Path | None, *, check: bool, force: bool) -> int:
    if check and out is None:
        raise UsageError("--check needs a file to compare with", hint="--out FILE")
    present = present_text(out, needed=True)
    return deliver(rendered, out=out, place=out, present=present, check=check, force=force)
