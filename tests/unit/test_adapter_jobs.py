"""Tokens go with jobs, by the real hooks of three queues, and no scope is left for the next job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from replctl.adapters.jobs import JobTokens, connect_celery, dramatiq_middleware, rq_job_class
from replctl.core.model import Lsn
from replctl.core.routing import KeyRing, Position, current_scope, entered, fingerprint
from replctl.inventory import load_one
from replctl.pg.monitor import Monitor
from tests.support import need

KEYS = KeyRing((b"0123456789abcdef",))
FORGED = KeyRing((b"another secret!!",))
SYSTEM = fingerprint("7")
Seen = list[tuple[int | None, bool]]


def at(lsn: int) -> Position:
    return Position(SYSTEM, 1, Lsn(lsn))


@pytest.fixture
def tokens(tmp_path: Path) -> JobTokens:
    path = tmp_path / "shop.toml"
    path.write_text('schema = 1\n[cluster]\nname = "shop"\n[[nodes]]\nname = "pg1"\nhost = "127.0.0.1"\n')
    path.chmod(0o600)
    return JobTokens(Monitor(load_one(path)), KEYS)


def having_written(tokens: JobTokens, lsn: int) -> entered:
    """A unit of work that has written."""
    scope = tokens.monitor.new_scope(keys=KEYS)
    scope.note_write()
    scope.note_position(at(lsn), scope.writes)
    return entered("shop", scope)


def look(seen: Seen) -> None:
    """What a job must see, and whether it has news. Then it writes: the next one must not find that."""
    scope = current_scope("shop")
    assert scope is not None
    seen.append((None if scope.after is None else int(scope.after.lsn), scope.has_changed))
    scope.note_write()
    scope.note_position(at(99), scope.writes)


def needed(name: str) -> None:
    need(name, find_spec(name), f"pip install {name}")


# ---- without any queue


def test_a_job_must_see_what_its_sender_wrote_or_had_to_see(tokens: JobTokens) -> None:
    seen: Seen = []
    with having_written(tokens, 5):
        headers = tokens.outgoing_headers()
    with tokens.restored(headers):
        passed_on = tokens.outgoing_headers()
        look(seen)

    assert (list(headers), passed_on, seen) == (["X-Replctl-shop"], headers, [(5, False)])
    assert current_scope("shop") is None


def test_there_is_nothing_to_carry_outside_of_units_of_work_and_for_those_that_saw_nothing(
    tokens: JobTokens,
) -> None:
    with tokens.restored(None):
        assert tokens.outgoing_headers() == {}
    assert tokens.outgoing_headers() == {}


@pytest.mark.parametrize("value", [None, "", "rubbish", b"bytes", 5, "forged", "old"])
def test_a_token_that_is_not_ours_is_as_good_as_none(tokens: JobTokens, value: Any) -> None:
    made = {"forged": FORGED.issue(at(5), time.time()), "old": KEYS.issue(at(5), time.time() - 9999)}
    with tokens.restored({tokens.header: made.get(value, value)}) as scope:
        assert (scope.after, scope.token) == (None, None)


# ---- Celery


@pytest.fixture
def celery_app(tokens: JobTokens) -> Iterator[Any]:
    needed("celery")
    from celery import Celery
    from celery.signals import before_task_publish, task_postrun, task_prerun

    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=False)
    connect_celery(tokens)
    yield app
    for signal in (before_task_publish, task_prerun, task_postrun):
        signal.disconnect(dispatch_uid=f"replctl.{tokens.header}")


@pytest.mark.filterwarnings("ignore")  # Celery's and its worker's own
def test_a_celery_task_has_the_token_of_whoever_sent_it(tokens: JobTokens, celery_app: Any) -> None:
    from celery.contrib.testing.worker import start_worker

    seen: Seen = []

    @celery_app.task(name="job")
    def job(fail: bool = False) -> None:
        look(seen)
        if fail:
            raise ZeroDivisionError

    with start_worker(celery_app, pool="solo", concurrency=1, perform_ping_check=False, shutdown_timeout=10):
        with having_written(tokens, 5):
            results = [job.delay(fail=True), job.delay()]
        results.append(job.delay())
        for result in results:
            result.get(timeout=20, propagate=False)

    assert seen == [(5, False), (5, False), (None, False)]
    assert current_scope("shop") is None


def test_a_celery_task_that_runs_eagerly_stays_in_its_callers_unit_of_work(
    tokens: JobTokens, celery_app: Any
) -> None:
    seen: Seen = []

    @celery_app.task(name="eager")
    def job() -> None:
        look(seen)

    with having_written(tokens, 5) as scope:
        job.apply()
        assert scope.after == at(99)
    assert seen == [(5, True)]


# ---- Dramatiq


def test_a_dramatiq_message_has_the_token_of_whoever_sent_it(tokens: JobTokens) -> None:
    needed("dramatiq")
    import dramatiq
    from dramatiq.brokers.stub import StubBroker

    broker = StubBroker()
    broker.add_middleware(dramatiq_middleware(tokens))
    seen: Seen = []

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=1)
    def job(fails: bool = False) -> None:
        look(seen)
        if fails and len(seen) == 1:
            raise ZeroDivisionError

    with having_written(tokens, 5):
        job.send(fails=True)
    worker = dramatiq.Worker(broker, worker_timeout=50, worker_threads=1)
    worker.start()
    try:
        broker.join(job.queue_name, timeout=20_000, fail_fast=False)
        worker.join()
        job.send()
        broker.join(job.queue_name, timeout=20_000)
        worker.join()
    finally:
        worker.stop()

    # The one that is tried again must see at least what it had to see, or wrote, before.
    assert seen[0] == (5, False)
    assert seen[1][0] in (5, 99)
    assert seen[2:] == [(None, False)]


# ---- RQ


_rq_seen: Seen = []


def rq_job() -> None:
    look(_rq_seen)


def test_an_rq_job_has_the_token_of_whoever_enqueued_it(tokens: JobTokens) -> None:
    needed("rq")
    needed("fakeredis")
    from fakeredis import FakeStrictRedis
    from rq import Queue, SimpleWorker

    _rq_seen.clear()
    connection = FakeStrictRedis()
    routed = rq_job_class(tokens)
    queue = Queue("shop", connection=connection, job_class=routed)
    with having_written(tokens, 5):
        job = queue.enqueue(rq_job, meta={"own": 1})
    queue.enqueue(rq_job)
    SimpleWorker([queue], connection=connection, job_class=routed).work(burst=True)

    assert (job.meta["own"], _rq_seen) == (1, [(5, False), (None, False)])
    assert current_scope("shop") is None
