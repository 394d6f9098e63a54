"""Clients of a proxy that keep a ledger: what was acknowledged to them, by which server, and when."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from types import TracebackType

import psycopg

from replctl.lab import Lab
from tests.live.failover_support import ask

TABLE = "CREATE TABLE kept (client int, n int, PRIMARY KEY (client, n))"
PAUSE_S = 0.01
AGAIN_S = 0.02  # after an error
END_S = 15.0


@dataclass(frozen=True, slots=True)
class Ack:
    """One acknowledged row. `at_s` is monotonic."""

    client: int
    n: int
    server: int  # the port of the server that took it
    at_s: float


@dataclass
class Clients:
    """So many threads, each with one psycopg connection to this port, writing until the end."""

    port: int
    count: int = 8
    dbname: str = "postgres"
    acks: list[Ack] = field(default_factory=list)
    errors: list[tuple[int, float, str]] = field(default_factory=list)  # client, monotonic, what it said

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(self.count)
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(END_S)
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"

    def _work(self, client: int) -> None:
        n = 0
        while not self._stopping.is_set():
            try:
                with closing(self._connect()) as connection:
                    while not self._stopping.wait(PAUSE_S):
                        n += 1
                        query = (
                            f"INSERT INTO kept VALUES ({client}, {n}) RETURNING current_setting('port')::int"
                        )
                        row = connection.execute(query.encode()).fetchone()
                        assert row is not None
                        self.acks.append(Ack(client, n, row[0], time.monotonic()))
            except psycopg.Error as error:
                self.errors.append((client, time.monotonic(), str(error).strip()))
                self._stopping.wait(AGAIN_S)

    def _connect(self) -> psycopg.Connection[tuple[int]]:
        return psycopg.connect(  # type: ignore[return-value]
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            dbname=self.dbname,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=10,
            sslmode="disable",
        )

    def taken_by(self, server: int) -> list[Ack]:
        """What this server acknowledged so far."""
        return [ack for ack in list(self.acks) if ack.server == server]

    def back(self, server: int) -> bool:
        """Whether every client has written to this server."""
        return {ack.client for ack in self.taken_by(server)} == set(range(self.count))

    def returned_s(self, server: int) -> list[float]:
        """When each client wrote to this server first, monotonic, sorted."""
        first: dict[int, float] = {}
        for ack in self.taken_by(server):
            first.setdefault(ack.client, ack.at_s)
        return sorted(first.values())

    def lost(self, lab: Lab, primary: str) -> list[Ack]:
        """Acknowledged rows that this node does not have."""
        acks = list(self.acks)  # those that come meanwhile are not in the rows
        rows = set(ask(lab, primary, "SELECT client, n FROM kept"))
        return [ack for ack in acks if (ack.client, ack.n) not in rows]


def prepare(lab: Lab) -> None:
    """The table that clients write to."""
    with suppress(psycopg.errors.DuplicateTable):
        ask(lab, "pg1", TABLE)
