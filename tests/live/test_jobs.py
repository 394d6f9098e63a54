"""A job reads what was written before it was sent, in another thread and while the replicas stand still."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from replctl.adapters.jobs import JobTokens, dramatiq_middleware
from replctl.adapters.pools import Pools
from replctl.core.routing import current_scope, entered
from replctl.lab import Lab
from tests.live.pools_support import APP, KEYS, name_of, pause, shop
from tests.live.test_pools import INSERT, NEWEST
from tests.support import need

pytestmark = pytest.mark.live


def test_a_job_sees_what_its_sender_wrote_and_the_next_one_reads_from_replicas(lab: Lab) -> None:
    need("Dramatiq", find_spec("dramatiq"), "pip install dramatiq")
    import dramatiq
    from dramatiq.brokers.stub import StubBroker

    found: list[tuple[Any, bool]] = []
    broker = StubBroker()
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        broker.add_middleware(dramatiq_middleware(JobTokens(monitor, KEYS)))

        @dramatiq.actor(broker=broker, max_retries=0)
        def report() -> None:
            with pools.connection(read=True) as connection:
                row = connection.execute(NEWEST).fetchone()
                found.append((row and row[0], name_of(lab, connection) == "pg1"))

        pause(lab, "pg2", "pg3")
        with entered("lab", monitor.new_scope(keys=KEYS)):
            with pools.connection() as connection:
                connection.execute(INSERT, (7,))
            report.send()
        report.send()
        worker = dramatiq.Worker(broker, worker_timeout=50, worker_threads=1)
        worker.start()
        try:
            broker.join(report.queue_name, timeout=20_000)
            worker.join()
        finally:
            worker.stop()
        assert current_scope("lab") is None

    assert found == [(7, True), (None, False)]


def test_a_job_without_a_queue_does_so_too(lab: Lab) -> None:
    with shop(lab) as monitor, Pools(monitor, APP) as pools:
        tokens = JobTokens(monitor, KEYS)
        pause(lab, "pg2", "pg3")
        with entered("lab", monitor.new_scope(keys=KEYS)):
            with pools.connection() as connection:
                connection.execute(INSERT, (7,))
            headers = tokens.outgoing_headers()
        with tokens.restored(headers) as scope, pools.connection(read=True) as connection:
            assert connection.execute(NEWEST).fetchone() == (7,)
            assert not scope.has_changed
