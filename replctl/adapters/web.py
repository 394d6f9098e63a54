"""One scope for each request, in ASGI and in WSGI: who writes reads it again, in the next request too.

    app = AsgiRouting(app, monitor, KeyRing((secret,)))
    app = WsgiRouting(app, monitor, KeyRing((secret,)))

The token comes with a cookie or a header and goes back in both, only after a request that wrote. It goes with
the first line of the response: what is written later, while a body is streamed or in a background task, is
not in it. With several clusters each has its own around the other.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any, Literal

from replctl.core.routing import KeyRing, Scope, entered
from replctl.core.routing.token import later
from replctl.pg.monitor import Monitor

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_STARTS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def cookie_name(cluster: str) -> str:
    """The cookie of a cluster's tokens."""
    return f"replctl_{cluster}"


def header_name(cluster: str) -> str:
    """The header of a cluster's tokens, also in jobs: without what proxies drop."""
    return "X-Replctl-" + re.sub("[^A-Za-z0-9]", "-", cluster)


class TokenCarrier:
    """How the tokens of one cluster travel with requests.

    - `cookie`, `header`: their names; None = not used. Default: those of `cookie_name`, `header_name`.
    - `secure`, `same_site`, `domain`, `path`: the cookie's. It is HttpOnly and lives as long as tokens.

    Raises ValueError for a name that is none.
    """

    def __init__(
        self,
        monitor: Monitor,
        keys: KeyRing,
        *,
        cookie: str | None = "",
        header: str | None = "",
        secure: bool = True,
        same_site: Literal["Lax", "Strict", "None"] = "Lax",
        domain: str | None = None,
        path: str = "/",
        monotonic: bool = False,
    ) -> None:
        self.monitor = monitor
        self.keys = keys
        self.cookie = cookie_name(monitor.cluster) if cookie == "" else cookie
        self.header = header_name(monitor.cluster) if header == "" else header
        for name in (self.cookie, self.header):
            if name is not None and not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a cookie or a header")
        self._monotonic = monotonic
        self._attributes = f"; Max-Age={int(keys.max_age_s)}; Path={path}; HttpOnly; SameSite={same_site}"
        if domain is not None:
            self._attributes += f"; Domain={domain}"
        if secure:
            self._attributes += "; Secure"

    def scope(self, cookies: str | None, header: str | None) -> Scope:
        """The scope of a request with these two headers. Nothing in them raises."""
        token = None if cookies is None or self.cookie is None else find_cookie(cookies, self.cookie)
        if header is None or token is None or token == header:
            return self._new_scope(header or token)
        scope, other = self._new_scope(header), self._new_scope(token)
        if scope.received is None:
            return other
        # The user's and the calling service's: it must see both.
        scope.sticky_until_s = max(scope.sticky_until_s, other.sticky_until_s)
        if other.after is not None and later(scope.after, other.after) != scope.after:
            scope.note_position(other.after, 0)
        return scope

    def _new_scope(self, token: str | None) -> Scope:
        return self.monitor.new_scope(token, keys=self.keys, monotonic=self._monotonic)

    def headers(self, scope: Scope) -> list[tuple[str, str]]:
        """What a response must carry; nothing unless the request wrote."""
        token = scope.token if scope.has_changed else None
        if token is None:
            return []
        carried = []
        if self.cookie is not None:
            carried.append(("Set-Cookie", f"{self.cookie}={token}{self._attributes}"))
        if self.header is not None:
            carried.append((self.header, token))
        return carried


def find_cookie(cookies: str, name: str) -> str | None:
    """The value of the first cookie of this name."""
    if name not in cookies:
        return None
    for pair in cookies.split(";"):
        key, _, value = pair.partition("=")
        if key.strip() == name:
            return value.strip()
    return None


class AsgiRouting:
    """Pure ASGI: the scope is seen by everything inside, in tasks and in threads, and by nothing outside.

    Options are those of TokenCarrier.
    """

    def __init__(self, app: AsgiApp, monitor: Monitor, keys: KeyRing, **options: Any) -> None:
        self.app = app
        self._carrier = TokenCarrier(monitor, keys, **options)
        self._header = None if self._carrier.header is None else self._carrier.header.lower().encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request, websocket, or lifespan."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        cookies, header = self._given(scope["headers"])
        carrier = self._carrier
        unit = carrier.scope(cookies, header)

        async def carrying(message: Message) -> None:
            if message["type"] in _STARTS and unit.has_changed:
                added = [(k.lower().encode(), v.encode("latin-1")) for k, v in carrier.headers(unit)]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        with entered(carrier.monitor.cluster, unit):
            await self.app(scope, receive, carrying)

    def _given(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, str | None]:
        cookies: str | None = None
        header: str | None = None
        for name, value in headers:
            if name == b"cookie":  # HTTP/2 may split it
                text = value.decode("latin-1")
                cookies = text if cookies is None else f"{cookies}; {text}"
            elif name == self._header:
                header = value.decode("latin-1")
        return cookies, header


class WsgiRouting:
    """The same for WSGI. A body that is made while it is sent sees the scope too."""

    def __init__(self, app: WsgiApp, monitor: Monitor, keys: KeyRing, **options: Any) -> None:
        self.app = app
        self._carrier = TokenCarrier(monitor, keys, **options)
        name = self._carrier.header
        self._header = None if name is None else "HTTP_" + name.upper().replace("-", "_")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """One request."""
        carrier = self._carrier
        header = None if self._header is None else environ.get(self._header)
        unit = carrier.scope(environ.get("HTTP_COOKIE"), header)

        def carrying(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            sent = [*headers, *carrier.headers(unit)]
            return (
                start_response(status, sent) if exc_info is None else start_response(status, sent, exc_info)
            )

        with entered(carrier.monitor.cluster, unit):
            body = self.app(environ, carrying)
        if isinstance(body, list | tuple):
            return body
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(body, wrapper):
            return body  # the server sends the file by itself
        return _Body(body, carrier.monitor.cluster, unit)


class _Body:
    """A body whose parts are made inside the scope, and which leaves nothing of it between them."""

    def __init__(self, body: Iterable[bytes], cluster: str, unit: Scope) -> None:
        self._body = body
        self._cluster = cluster
        self._unit = unit
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with entered(self._cluster, self._unit):
            if self._parts is None:
                self._parts = iter(self._body)
            return next(self._parts)

    def close(self) -> None:
        """For the server: in the end, whether all was sent or not."""
        close = getattr(self._body, "close", None)
        if close is not None:
            with entered(self._cluster, self._unit):
                close()
