"""What `replctl lab` tells people: the greeting of a new lab, and the report of a load."""

from __future__ import annotations

import shlex
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from replctl.lab.layout import option
from replctl.lab.ledger import LoadReport, Outage

if TYPE_CHECKING:
    from replctl.lab.cluster import Lab


def welcome(lab: Lab, took_s: float) -> list[str]:
    """What was built, and what to type next."""
    nodes = [*lab.nodes.values(), *lab.witnesses.values()]
    where = option(lab.directory)
    inventory = shlex.quote(str(lab.inventory_path))
    lines = [f"PostgreSQL {lab.server_version} in {lab.directory}", ""]
    lines += [f"  {node.name:<6}{node.role:<9}{node.host}:{node.port}" for node in nodes]
    replication = lab.synchronous or "asynchronous"
    psql = "psql" if shutil.which("psql") else lab.bin_directory / "psql"
    return [
        *lines,
        "",
        f"Ready in {took_s:.1f} s. Replication: {replication}",
        "",
        f"Look at it:  replctl status -i {inventory}",
        f"Or first:    export REPLCTL_INVENTORY={inventory}",
        f"Connect:     {psql} 'host=127.0.0.1 port={nodes[0].port} user=postgres'",
        f"Write:       replctl lab load{where}",
        f"Break it:    replctl lab kill{where} pg1",
        f"Remove it:   replctl lab down{where}",
    ]


def report_lines(report: LoadReport) -> list[str]:
    by = ", ".join(f"{name} {count}" for name, count in report.acknowledged_by.items()) or "by nobody"
    lines = [f"Rows acknowledged: {report.rows_acknowledged} in {report.took_s:.1f} s ({by})"]
    if report.rows_unanswered:
        lines.append(
            f"Rows refused or not answered in time: {report.rows_unanswered} (written or not: unknown)"
        )
    if report.rows_unconfirmed:
        lines.append(f"Commits with the warning that no replica has them: {report.rows_unconfirmed}")
    lines += _outages("Write outages", report.outages)
    if report.ordinary_outages is not None:
        lines += _outages("Outages of an ordinary libpq client", report.ordinary_outages)
    if report.rows_lost is None:
        lines.append("Acknowledged rows lost: unknown, no primary answers")
    else:
        lines.append(f"Acknowledged rows lost: {report.rows_lost} (compared with {report.compared_with})")
        lines.append(f"Acknowledged late, by a node that was no longer the primary: {report.rows_late}")
    return [*lines, f"Ledger: {report.ledger_file}"]


def _outages(title: str, outages: tuple[Outage, ...]) -> list[str]:
    if not outages:
        return [f"{title} over 100 ms: none"]
    total_s = sum(outage.length_s for outage in outages)
    return [
        f"{title} over 100 ms: {len(outages)}, together {total_s:.3f} s",
        *(f"  {outage_line(o)}" for o in outages),
    ]


def outage_line(outage: Outage) -> str:
    at = datetime.fromtimestamp(outage.started_at, UTC).strftime("%H:%M:%S.%f")[:-3]
    return (
        f"{at} UTC  no row acknowledged for {outage.length_s:.3f} s{'' if outage.over else ', and going on'}"
    )
