"""`replctl grants`: the least-privilege SQL, to read and to run with psql."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from replctl.errors import UsageError


class GrantRole(StrEnum):
    """Whom the statements are for."""

    OBSERVER = "observer"
    OPERATOR = "operator"
    FENCER = "fencer"
    REWIND = "rewind"


def grants(
    pg: Annotated[int, typer.Option("--pg", metavar="N", help="Major version of the servers: 14 to 18.")],
    role: Annotated[GrantRole, typer.Option("--role", help="What the role may do.")] = GrantRole.OPERATOR,
    name: Annotated[str, typer.Option("--name", metavar="ROLE", help="Name of the login role.")] = "replctl",
) -> int:
    """Print the least-privilege SQL for a role; run it as a superuser on the primary.

    Example: replctl grants --pg 18 --role operator | psql -h pg1 -U postgres -d postgres
    """
    from replctl.pg.grants import ROLES, limits, statements
    from replctl.pg.queries import LAST_TESTED

    try:
        found = statements(pg, role.value, name)
    except ValueError as error:
        raise UsageError("no grants", why=str(error), hint="replctl grants --pg 18 --role observer") from None
    lines = [
        f"-- {role.value} on PostgreSQL {pg}: {ROLES[role.value]}.",
        "-- Run as a superuser on the primary, in the database of the inventory's [connection]; replicas get",
        "-- it by replication. Every statement may be run again. Set a password, or use a certificate.",
        *(f"-- {sentence}" for sentence in limits(pg, role.value)),
        *([f"-- PostgreSQL {LAST_TESTED} is the last that this was tried on."] if pg > LAST_TESTED else []),
        *(f"{statement};" for statement in found),
    ]
    typer.echo("\n".join(lines))
    return 0
