"""What routing adds to SQLAlchemy: to a SELECT by the ORM, and to taking a connection from its pool.

    python -m benchmarks.sqlalchemy_overhead [--samples 4000] [--print]

Both sides of each comparison run in turn, call by call, on the same server; medians are compared. A session
is made for each SELECT, as a request does it. The table is printed and written to
docs/benchmarks.md (with --print, only printed).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.timing import machine, write_section
from replctl.adapters.sqlalchemy import Router, RoutingSession
from replctl.adapters.sqlalchemy.engines import POOL, URL
from replctl.inventory import load_one
from replctl.lab import Lab
from replctl.pg.monitor import Monitor

CHECKOUTS = 10  # in each sample: one is too short for the clock
ROWS = 1000
WARM_UP = 200
COLLECT_EVERY = 200


class Base(DeclarativeBase):
    """Of the one table."""


class Item(Base):
    """A row like many."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[int]


@contextlib.contextmanager
def cluster() -> Iterator[tuple[Lab, Router]]:
    """A primary and one replica with a table of ROWS rows, and a router that has looked at them."""
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as folder:
        Path(folder).chmod(0o755)  # started as root, the servers run as somebody else
        with Lab.up(Path(folder) / "lab", replicas=1, sync="ANY 1") as lab:
            with psycopg.connect(lab.dsn("pg1"), autocommit=True) as connection:
                # Until it is there: what is measured afterwards reads it from the replica.
                connection.execute("SET synchronous_commit = remote_apply")
                connection.execute("CREATE TABLE item (id int PRIMARY KEY, name text, price int)")
                connection.execute(
                    "INSERT INTO item SELECT n, 'item ' || n, n FROM generate_series(0, %s) AS n", [ROWS]
                )
            with Monitor(load_one(lab.inventory_path)) as monitor, Router(monitor, user="postgres") as router:
                monitor.ensure()
                yield lab, router


def in_turn(works: dict[str, Callable[[int], None]], samples: int) -> dict[str, list[float]]:
    """The microseconds of every call, by title.

    A call of one, of the next one, and so on, again and again: so close together that whatever slows the
    machine down slows down all of them. Some to begin with are not counted.
    """
    taken: dict[str, list[float]] = {title: [] for title in works}
    titles = list(works)
    gc.disable()
    try:
        for number in range(-WARM_UP, samples):
            titles.append(titles.pop(0))  # each follows each
            for title in titles:
                began_s = time.perf_counter()
                works[title](number % ROWS)
                if number >= 0:
                    taken[title].append((time.perf_counter() - began_s) * 1e6)
            if number % COLLECT_EVERY == 0:
                gc.collect()
    finally:
        gc.enable()
    return taken


def selects(engine: Engine, router: Router) -> dict[str, Callable[[int], None]]:
    """A SELECT of one entity by its key: by a plain session, and by routed ones."""

    def plain(n: int) -> None:
        with Session(engine) as session:
            session.scalars(select(Item).where(Item.id == n)).one()

    def routed(n: int) -> None:
        with RoutingSession(router=router, mode="read") as session:
            session.scalars(select(Item).where(Item.id == n)).one()

    def automatic(n: int) -> None:
        with RoutingSession(router=router, mode="automatic") as session:
            session.scalars(select(Item).where(Item.id == n)).one()

    return {"plain session": plain, "`read` session": routed, "`automatic` session": automatic}


def checkouts(guarded: Engine, plain: Engine) -> dict[str, Callable[[int], None]]:
    """Taking a connection from the pool of the writes and giving it back, with the guard and without."""

    def work(engine: Engine) -> None:
        for _ in range(CHECKOUTS):
            engine.pool.connect().close()

    return {"plain pool": lambda _: work(plain), "guarded pool": lambda _: work(guarded)}


def table(samples: int) -> str:
    """All of it, as it stands in docs/benchmarks.md."""
    with cluster() as (lab, router):
        replica = router.engines.get("pg2", replica=True).engine
        writer = router.engines.get("pg1", writes=True)
        unguarded = create_engine(URL, creator=lambda: psycopg.connect(lab.dsn("pg1")), **POOL)
        found = in_turn(selects(replica, router), samples)
        pools = in_turn(checkouts(writer.engine, unguarded), samples)
        with writer.engine.connect() as connection:
            record = connection.connection._connection_record

            def check(_: int) -> None:
                for _ in range(CHECKOUTS):
                    writer.check(None, record, None)

            pools |= in_turn({"of that, the guard": check}, samples)
        unguarded.dispose()
    base = found["plain session"]
    lines = ["| a SELECT of one entity | median | ratio |", "|---|---:|---:|"]
    for title, taken in found.items():
        # Of each pair of neighbours, which fared alike.
        ratio = statistics.median(one / other for one, other in zip(taken, base, strict=True))
        lines.append(f"| {title} | {statistics.median(taken):.0f} µs | {ratio:.3f} |")
    lines += ["", "| a connection from the pool and back | median |", "|---|---:|"]
    lines += [f"| {title} | {statistics.median(us) / CHECKOUTS:.2f} µs |" for title, us in pools.items()]
    tables = "\n".join(lines)
    return f"{tables}\n\n{machine()}, shared with the servers; {samples} of each, in turn."


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--print", action="store_true", dest="only_print", help="do not write the page")
    arguments = parser.parse_args()
    content = table(arguments.samples)
    print(content)
    if not arguments.only_print:
        write_section("sqlalchemy", content)


if __name__ == "__main__":
    main()
