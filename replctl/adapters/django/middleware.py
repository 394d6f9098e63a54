"""The middleware: a scope for each request, and the token that lets the next one see its writes.

The token comes in a cookie (browsers) or a header (services), and goes back in both, only when the request
has written: a cookie makes a response uncacheable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings

from replctl.adapters.django.clusters import Cluster, all_clusters
from replctl.adapters.django.scopes import settle
from replctl.core.routing import Scope, entered

Scopes = list[tuple[Cluster, Scope]]


class ReadYourWrites:
    """For MIDDLEWARE, above everything that uses the database (sessions, authentication). Sync and async.

    The names of cookie and header are those of `replctl.adapters.web`. The cookie follows
    SESSION_COOKIE_SECURE, SESSION_COOKIE_DOMAIN and SESSION_COOKIE_PATH; it is HttpOnly and SameSite=Lax.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """The response to this request."""
        if self.is_async:
            return self._answer_async(request)
        with contextlib.ExitStack() as stack:
            scopes = _entered(request, stack)
            response = self.get_response(request)
            for cluster, scope in scopes:
                settle(cluster, scope)
            _tell(response, scopes)
        return response

    async def _answer_async(self, request: Any) -> Any:
        with contextlib.ExitStack() as stack:
            scopes = _entered(request, stack)
            response = await self.get_response(request)
            for cluster, scope in scopes:
                if scope.is_dirty:
                    # In the thread of this request's synchronous code, which has the connection.
                    await sync_to_async(settle, thread_sensitive=True)(cluster, scope)
            _tell(response, scopes)
        return response


def _entered(request: Any, stack: contextlib.ExitStack) -> Scopes:
    scopes = []
    for cluster in all_clusters():
        carrier = cluster.carrier
        scope = carrier.scope(request.META.get("HTTP_COOKIE"), request.headers.get(carrier.header))
        stack.enter_context(entered(cluster.name, scope))
        scopes.append((cluster, scope))
    return scopes


def _tell(response: Any, scopes: Scopes) -> None:
    for cluster, scope in scopes:
        token = scope.token if scope.has_changed else None
        if token is None:
            continue
        carrier = cluster.carrier
        response.headers[carrier.header] = token
        response.set_cookie(
            carrier.cookie,
            token,
            max_age=int(carrier.keys.max_age_s),
            path=settings.SESSION_COOKIE_PATH,
            domain=settings.SESSION_COOKIE_DOMAIN,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )
