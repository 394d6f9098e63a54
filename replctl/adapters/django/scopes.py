"""The end of a unit of work that wrote: where was it?"""

from __future__ import annotations

from typing import Any

from django.db import connections

from replctl.adapters import guard
from replctl.adapters.django.clusters import Cluster
from replctl.core.routing import Scope


def settle(cluster: Cluster, scope: Scope) -> None:
    """Where this unit of work wrote, ask for the position: one query, on the connection that wrote.

    Where there is none to ask, the token says "wrote just now", and the next reads go to the primary for
    `sticky_s`.
    """
    if not scope.is_dirty:
        return
    connection: Any = connections[cluster.writer]
    driver = connection.connection
    if driver is None or connection.in_atomic_block or not connection.autocommit:
        return
    if guard.note_commit(driver, cluster.monitor, scope) is None:
        connection.errors_occurred = True  # so that Django looks at it before its next use
