"""The database router: reads to the replica that the monitor chooses, everything else to the primary."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.utils import DatabaseError

from replctl.adapters.django.blocks import Choice, choice
from replctl.adapters.django.clusters import Cluster, cluster_of
from replctl.adapters.django.errors import NoReplica
from replctl.core.model import Lsn
from replctl.core.routing import READ, Decision, Reason, Scope, current_scope
from replctl.pg.position import wait_replayed

_log = logging.getLogger("replctl.django")

TRIES = 3
"""Replicas that a read tries to connect to before it goes to the primary."""

_BY_POLICY = frozenset(
    {Reason.ROUND_ROBIN, Reason.LEAST_LAG, Reason.WEIGHTED, Reason.ZONE, Reason.OTHER_ZONE}
)


class Router:
    """For DATABASE_ROUTERS. For a second cluster, or for some models only, subclass it.

        class ArchiveRouter(Router):
            writer = "archive"

            def handles(self, model):
                return model._meta.app_label == "archive"

    - Reads inside `atomic` on the writer, and of instances that were loaded from it, stay there.
    - Reads outside of any unit of work (a command, a shell, a bare thread) go to the primary: nobody knows
      what they must see. `unit_of_work()` makes one, `read_replica()` says that they may be stale.
    - The reads of one unit of work go to one replica, the first that it was given.
    """

    writer: str = DEFAULT_DB_ALIAS

    def handles(self, model: Any) -> bool:  # noqa: ARG002 - for subclasses
        """Whether this model lives in this cluster."""
        return True

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """The alias that a read goes to. Raises NoPrimary, NoReplica."""
        if not self.handles(model):
            return None
        instance = hints.get("instance")
        if _is_in_transaction(self.writer) or (instance is not None and instance._state.db == self.writer):
            return self.writer
        chosen = choice.get()
        cluster = cluster_of(self.writer)
        scope = current_scope(cluster.name)
        if chosen is Choice.PRIMARY or (chosen is None and scope is None):
            return self.writer
        if chosen is Choice.REPLICA:
            scope = None
        if cluster.monitor.snapshot is None and _is_in_event_loop():
            return self.writer  # whose connection is made in a thread, which may wait for the first look
        return _read(cluster, scope)

    def db_for_write(self, model: Any, **_: Any) -> str | None:
        """The writer's alias."""
        return self.writer if self.handles(model) else None

    def allow_relation(self, one: Any, other: Any, **_: Any) -> bool | None:
        """Any two objects of the cluster may be related, whichever nodes they were read from."""
        aliases = {None, *cluster_of(self.writer).aliases}
        return True if {one._state.db, other._state.db} <= aliases else None

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:  # noqa: ARG002 - Django's
        """Not on nodes: what the writer migrates, they replay."""
        return False if db != self.writer and db in cluster_of(self.writer).aliases else None


def _read(cluster: Cluster, scope: Scope | None) -> str:
    for _ in range(TRIES):
        decision = cluster.decide(READ, scope)
        if not decision.replica or _serves(cluster, decision, scope):
            if cluster.metrics is not None:
                cluster.metrics.count(decision)
            _remember(decision, scope)
            return cluster.alias_of(decision)
        if decision.wait_s:
            return cluster.writer
        if scope is not None and decision.reason is Reason.MONOTONIC:
            scope.last_read = None  # that one is gone: choose again
    if cluster.monitor.inventory.settings.routing.on_all_unfit == "error":
        raise NoReplica("no replica can be connected to", hint="replctl route --explain")
    return cluster.writer


def _remember(decision: Decision, scope: Scope | None) -> None:
    """Stay there; not with a replica that is not fit, since later reads may find a better one."""
    if scope is None or scope.last_read is not None or decision.node is None:
        return
    if not decision.replica or decision.reason in _BY_POLICY:
        scope.note_read(decision.node)


def _serves(cluster: Cluster, decision: Decision, scope: Scope | None) -> bool:
    """Whether this replica can be connected to, and has what must be seen.

    In an event loop nothing can be waited for: there, what would need it goes to the primary.
    """
    connection = connections[cluster.alias_of(decision)]
    if _is_in_event_loop():
        return decision.wait_lsn is None
    try:
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        lsn = decision.wait_lsn or _unsure(cluster, decision, scope, connection.connected_s)
        if lsn is None or connection.replayed_lsn >= lsn:
            return True
        if not _has_replayed(connection, lsn, decision.wait_s):
            return False
        connection.replayed_lsn = lsn
    except DatabaseError as error:
        # Said aloud: a replica that never lets anybody in would otherwise go unnoticed.
        _log.warning("%s: a read goes elsewhere: %s", cluster.name, error)
        return False
    return True


def _unsure(cluster: Cluster, decision: Decision, scope: Scope | None, connected_s: float) -> Lsn | None:
    """What to ask it for: one that restarted after the look may be where it was before the look."""
    snapshot = cluster.monitor.snapshot
    if snapshot is None or scope is None or scope.after is None or connected_s < snapshot.taken_s:
        return None
    required = None if decision.reason is Reason.LSN_STALE else snapshot.required(scope.after)
    return None if required is None else Lsn(required)


def _has_replayed(connection: Any, lsn: Lsn, limit_s: float) -> bool:
    driver = connection.connection
    with connection.wrap_database_errors:
        return wait_replayed(
            lambda text: driver.execute(text).fetchone(),
            lsn,
            limit_s,
            server_version_num=driver.info.server_version,
        )


def _is_in_transaction(alias: str) -> bool:
    connection = connections[alias]
    # `autocommit` is False before the first connection, too.
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
