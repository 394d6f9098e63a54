"""SQLAlchemy 2.x, sync and async, over psycopg 3: sessions that read from replicas and write to the primary.

    router = Router(monitor, dbname="app", user="app")     # AsyncRouter for asyncio
    with router.scope() as scope:                          # one unit of work; web middleware opens it
        with router.write_session() as session:            # commits, or rolls back and raises
            session.add(Note(text="…"))
        with router.read_session() as session:             # a replica that has seen it, or the primary
            session.scalars(select(Note)).all()
    scope.token                                            # for the next request, job or service

`RoutingSession` is for applications that make their sessions themselves. docs/routing.md has the rules.
"""

from replctl.adapters.sqlalchemy.router import AsyncRouter, Router
from replctl.adapters.sqlalchemy.session import RoutingSession

__all__ = ["AsyncRouter", "Router", "RoutingSession"]
