"""The usual recipe for reading from replicas, piece by piece, as careful people write it.

Nothing here is a straw man: each piece works on a quiet day. test_usual_recipe.py and
test_usual_recipe_failover.py show the days on which it does not; docs/from-the-usual-recipe.md is the page.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connections, router
from sqlalchemy import Engine, create_engine, exc
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import UpdateBase

RECOVERY_LOOK_S = 0.2
FAILURES = 3


def engine_at(dsn: str) -> Engine:
    """An engine that looks whether a connection is alive before it gives it out."""
    return create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn, connect_timeout=2), pool_pre_ping=True
    )


class SplittingSession(Session):
    """Flushes and DML go to the primary, every other statement to the next replica."""

    def __init__(self, primary: Engine, replicas: Iterable[Engine]) -> None:
        super().__init__()
        self.primary = primary
        self.replicas = itertools.cycle(replicas)

    def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Engine:  # type: ignore[override]
        """The engine of this statement."""
        if self._flushing or isinstance(clause, UpdateBase):
            return self.primary
        return next(self.replicas)


class StickyUsers:
    """Who wrote within the last seconds reads from the primary."""

    def __init__(self, window_s: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.window_s = window_s
        self.clock = clock
        self.wrote_s: dict[str, float] = {}

    def wrote(self, user: str) -> None:
        """To be called after each write."""
        self.wrote_s[user] = self.clock()

    def reads_from_primary(self, user: str) -> bool:
        """Whether a read of this user has to go there."""
        return self.clock() - self.wrote_s.get(user, float("-inf")) < self.window_s


REPLAY_AGE_S = "SELECT extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8"
# The mend that is passed on for an idle primary.
REPLAY_AGE_OR_ZERO_S = """
SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
       ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END::float8"""


def lag_s(replica: str, query: str = REPLAY_AGE_S) -> float:
    """How many seconds the replica with this address is behind, by one of these queries."""
    with psycopg.connect(replica, connect_timeout=2) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return float(row[0])


class RandomRouter:
    """A Django router: writes to one alias, reads to any of the others."""

    primary = "usual_primary"
    replicas = ("usual_replica_1", "usual_replica_2")

    def db_for_read(self, _model: Any, **_hints: Any) -> str:
        """Where a query goes."""
        return random.choice(self.replicas)

    def db_for_write(self, _model: Any, **_hints: Any) -> str:
        """Where a write goes."""
        return self.primary


@contextmanager
def drawing_lots(addresses: Sequence[tuple[str, int]]) -> Iterator[None]:
    """In a running project: the router, with plain aliases for these hosts and ports, the primary first."""
    plain = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres"}
    names = (RandomRouter.primary, *RandomRouter.replicas)
    added = {
        name: {**plain, "HOST": host, "PORT": port}
        for name, (host, port) in zip(names, addresses, strict=True)
    }
    settled = connections.configure_settings({"default": {}, **added})
    connections.settings.update({name: settled[name] for name in names})
    before, router.routers = router.routers, [RandomRouter()]
    try:
        yield
    finally:
        router.routers = before
        for name in names:
            connections[name].close()
            del connections[name]
            del connections.settings[name]


def watch(primary: str, replicas: Sequence[str]) -> str:
    """Ask the primary again and again; after three failures promote the replica that has replayed most.

    All are addresses. Returns that of the new primary. Each process of the application runs this.
    """
    failures = 0
    while failures < FAILURES:
        try:
            psycopg.connect(primary, connect_timeout=2).close()
            failures = 0
        except psycopg.OperationalError:
            failures += 1
        threading.Event().wait(RECOVERY_LOOK_S)
    new = max(replicas, key=_replayed)
    with psycopg.connect(new, autocommit=True, connect_timeout=2) as connection:
        connection.execute("SELECT pg_promote()")
    return new


def _replayed(replica: str) -> int:
    with psycopg.connect(replica, connect_timeout=2) as connection:
        row = connection.execute("SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return int(row[0])


def with_retries(engine: Engine, work: Callable[[Any], None], attempts: int = 3) -> None:
    """Run a transaction; run it again where the database was not available, or refused."""
    for attempt in range(1, attempts + 1):
        try:
            with engine.begin() as connection:
                work(connection)
            return
        except (exc.OperationalError, exc.InternalError):
            if attempt == attempts:
                raise
