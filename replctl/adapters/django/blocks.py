"""Where the reads of one block or view go, and units of work outside of requests."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from enum import Enum, auto
from types import TracebackType
from typing import Any

from django.db import DEFAULT_DB_ALIAS

from replctl.adapters.django.clusters import cluster_of
from replctl.adapters.django.scopes import settle
from replctl.core.routing import Scope, entered


class Choice(Enum):
    """What a block asks for."""

    PRIMARY = auto()
    REPLICA = auto()


choice: ContextVar[Choice | None] = ContextVar("replctl_django_choice", default=None)


class _Block:
    """A context manager (`with`), and a decorator of views and functions, sync and async."""

    def __init__(self, chosen: Choice) -> None:
        self._chosen = chosen
        self._tokens: list[Token[Choice | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(choice.set(self._chosen))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        choice.reset(self._tokens.pop())

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # A new block for each call: calls overlap, and each has its own context.
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                with _Block(self._chosen):
                    return await function(*args, **kwargs)

            return run_async

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with _Block(self._chosen):
                return function(*args, **kwargs)

        return run


def use_primary(function: Callable[..., Any] | None = None) -> Any:
    """Reads inside go to the primary.

    `with use_primary():`, or `@use_primary` above a view, sync or async.
    """
    block = _Block(Choice.PRIMARY)
    return block if function is None else block(function)


def read_replica(function: Callable[..., Any] | None = None) -> Any:
    """Reads inside may be stale, also those of somebody who has just written; in `atomic` they are not.

    `with read_replica():`, or `@read_replica` above a view. What a view returns to be rendered or streamed
    later is read outside of it.
    """
    block = _Block(Choice.REPLICA)
    return block if function is None else block(function)


@contextlib.contextmanager
def unit_of_work(token: str | None = None, *, writer: str = DEFAULT_DB_ALIAS) -> Iterator[Scope]:
    """One job, message or command: what it writes, its later reads see; so do those of others with its token.

    with unit_of_work(message.headers.get("replctl")) as scope:
        handle(message)
    reply.headers["replctl"] = scope.token
    """
    cluster = cluster_of(writer)
    scope = cluster.carrier.scope(None, token)
    with entered(cluster.name, scope):
        yield scope
        settle(cluster, scope)
