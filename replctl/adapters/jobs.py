"""Jobs that see what was written before they were sent: the token goes with them in their headers.

    tokens = JobTokens(monitor, KeyRing((secret,)))
    send(job, headers=tokens.outgoing_headers())      # where it is sent
    with tokens.restored(headers):                    # where it runs: a unit of work of its own
        …

And the same by the hooks of three job queues, each imported only when asked for:

    connect_celery(tokens)                            # in the process that sends and in the worker
    broker.add_middleware(dramatiq_middleware(tokens))
    Queue(job_class=rq_job_class(tokens)), Worker(…, job_class=rq_job_class(tokens))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replctl.adapters.web import header_name
from replctl.core.routing import KeyRing, current_scope, entered
from replctl.pg.monitor import Monitor


class JobTokens:
    """Carries the tokens of one cluster. `header`: under which name; default: that of the web's header."""

    def __init__(
        self, monitor: Monitor, keys: KeyRing, *, header: str | None = None, monotonic: bool = False
    ) -> None:
        self.monitor = monitor
        self.header = header or header_name(monitor.cluster)
        self._keys = keys
        self._monotonic = monotonic

    def outgoing_headers(self) -> dict[str, str]:
        """What a job that is sent now must carry: nothing where there is nothing that it must see.

        Send it after the commit: before, there is nothing yet that a token could name.
        """
        scope = current_scope(self.monitor.cluster)
        token = None if scope is None else scope.token
        return {} if token is None else {self.header: token}

    def restored(self, headers: Mapping[str, Any] | None) -> entered:
        """The scope of a job that came with these headers, to be entered. Nothing in them raises."""
        token = None if headers is None else headers.get(self.header)
        token = token if isinstance(token, str) else None
        scope = self.monitor.new_scope(token, keys=self._keys, monotonic=self._monotonic)
        return entered(self.monitor.cluster, scope)


class _Running:
    """The scopes of jobs that run, by the job's id: begun and ended by two hooks."""

    def __init__(self, tokens: JobTokens) -> None:
        self._tokens = tokens
        self._entered: dict[str, entered] = {}

    def begin(self, job: str, headers: Mapping[str, Any] | None) -> None:
        self.end(job)
        scope = self._tokens.restored(headers)
        scope.__enter__()
        self._entered[job] = scope

    def end(self, job: str) -> None:
        scope = self._entered.pop(job, None)
        if scope is not None:
            scope.__exit__()


def connect_celery(tokens: JobTokens) -> None:
    """By Celery's signals, for every task of this process. Raises ImportError without Celery.

    A task that is called eagerly stays in the caller's unit of work.
    """
    from celery.signals import before_task_publish, task_postrun, task_prerun

    running = _Running(tokens)

    def publish(headers: dict[str, Any] | None = None, **_: Any) -> None:
        if headers is not None:
            headers.update(tokens.outgoing_headers())

    def prerun(task_id: str, task: Any, **_: Any) -> None:
        request = task.request
        if not request.is_eager:
            running.begin(task_id, {tokens.header: request.get(tokens.header)})

    def postrun(task_id: str, **_: Any) -> None:
        running.end(task_id)

    name = f"replctl.{tokens.header}"
    before_task_publish.connect(publish, weak=False, dispatch_uid=name)
    task_prerun.connect(prerun, weak=False, dispatch_uid=name)
    task_postrun.connect(postrun, weak=False, dispatch_uid=name)


def dramatiq_middleware(tokens: JobTokens) -> Any:
    """A middleware for Dramatiq's broker. Raises ImportError without Dramatiq."""
    import dramatiq

    running = _Running(tokens)

    class RoutingMiddleware(dramatiq.Middleware):  # type: ignore[misc]
        def before_enqueue(self, _broker: Any, message: Any, _delay: Any) -> None:
            message.options.update(tokens.outgoing_headers())

        def before_process_message(self, _broker: Any, message: Any) -> None:
            running.begin(message.message_id, message.options)

        def after_process_message(self, _broker: Any, message: Any, **_: Any) -> None:
            running.end(message.message_id)

        def after_skip_message(self, _broker: Any, message: Any) -> None:
            running.end(message.message_id)

    return RoutingMiddleware()


def rq_job_class(tokens: JobTokens) -> type[Any]:
    """A job class for RQ's queues and workers; the token is in `meta`. Raises ImportError without RQ."""
    from rq.job import Job

    class RoutedJob(Job):  # type: ignore[misc]
        @classmethod
        def create(cls, *args: Any, meta: dict[str, Any] | None = None, **kwargs: Any) -> Any:
            return super().create(*args, meta={**(meta or {}), **tokens.outgoing_headers()}, **kwargs)

        def perform(self) -> Any:
            with tokens.restored(self.meta):
                return super().perform()

    return RoutedJob
