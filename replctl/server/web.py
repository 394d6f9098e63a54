"""From a request to its answer. Paths are compared as they came: nothing is decoded, nothing opened.

What shows something (metrics, status, page) may ask for a token. What only says yes or no to a load balancer
does not, and shows no more than that to whoever has no token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from aiohttp import web

from replctl import __version__
from replctl.core.metrics import CONTENT_TYPES, Format, Run, Samples, collect, render
from replctl.core.units import parse_duration
from replctl.display.document import status_document
from replctl.display.serialize import to_json
from replctl.journal import redacted
from replctl.server.access import Guard
from replctl.server.connections import closing
from replctl.server.page import CONTENT_POLICY, REFRESH_S, page
from replctl.server.places import Places
from replctl.server.roles import ROLES, answer, limits_of, writer_of
from replctl.server.watch import Seen, Watch

WAIT_LIMIT_S = 6.0  # for a look as fresh as asked; Prometheus gives up after ten
SHOWS = ("GET", "HEAD")
TELLS = ("GET", "HEAD", "OPTIONS")
Log = Callable[[str], object]
T = TypeVar("T")


class Refused(Exception):  # noqa: N818 - an answer, not a mistake of ours
    """An answer other than 200, with a sentence."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What is answered with 200."""

    content: bytes
    kind: str
    headers: Mapping[str, str]


class Site:
    """All that is served. `handle` is what aiohttp calls for each request."""

    def __init__(
        self, places: Places, guard: Guard, *, max_age_s: float, log: Log, access: bool = False
    ) -> None:
        self._places = places
        self._guard = guard
        self._max_age_s = max_age_s
        self._log = log
        self._access = access
        self._made: dict[str, tuple[list[Seen], Any]] = {}
        self._shown = {
            "/": self._page,
            "/metrics": self._metrics,
            "/probe": self._probe,
            "/status.json": self._status,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer, whatever was asked."""
        began_s = time.monotonic()
        try:
            response = await self._answer(request)
        except Refused as refused:
            response = web.Response(status=refused.status, text=f"{refused}\n", headers=refused.headers)
        except Exception as error:
            self._log(redacted(f"a request failed: {type(error).__name__}: {error}"))
            response = web.Response(status=500, text="that went wrong; the log has more\n")
        if self._access:
            took_s = time.monotonic() - began_s
            path = request.raw_path.partition("?")[0]
            self._log(f"{request.remote} {request.method} {path!a} {response.status} {took_s:.3f}")
        return closing(response)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.partition("?")[0]
        if request.can_read_body:
            raise Refused(413, "a request with a body is not understood here")
        if request.method not in TELLS:
            raise Refused(405, "only GET, HEAD and OPTIONS", Allow=", ".join(TELLS))
        if path in self._shown and not _is_check_of_the_root(path, request):
            return await self._show(path, request)
        return await self._tell(path, request)

    # ---- yes or no

    async def _tell(self, path: str, request: web.BaseRequest) -> web.Response:
        if not path.startswith("/"):  # an address elsewhere, or `*`
            raise Refused(404, "no such path: it begins with /")
        *place, role = path.split("/")[1:]
        role = role or "primary"  # as Patroni takes the root
        found = self._places.node(place)
        if role not in ROLES or (found is None and place):
            raise Refused(404, "no such path: the names are those of the inventory")
        if found is None:
            return await self._tell_of_all(role)
        watch, name = found
        try:
            limits = limits_of(request.query)
        except ValueError as error:
            raise Refused(400, f"lag: {error}; expected a size such as 16MB") from None
        seen = await watch.recent()
        found_answer = answer(role, name, seen, limits)
        status = 200 if found_answer.yes else 503
        if request.method != "GET" or not self._may_read(request):
            return web.Response(status=status)
        node = seen.status[name] if seen is not None else None
        document = {
            "cluster": watch.name,
            "node": name,
            "role": str(node.role) if node is not None and node.role else None,
            "state": str(node.state) if node is not None else None,
            "timeline": node.timeline if node is not None else None,
            "lag_bytes": node.lag.lag_bytes if node is not None else None,
            "reason": found_answer.why,
            "age_s": round(seen.age_s(), 3) if seen is not None else None,
        }
        return web.Response(status=status, text=to_json(document) + "\n", content_type="application/json")

    def _may_read(self, request: web.BaseRequest) -> bool:
        """Whether an answer may say more than yes or no."""
        guard, headers = self._guard, request.headers
        return guard.knows(headers.get("Host")) and guard.admits(headers.get("Authorization"))

    async def _tell_of_all(self, role: str) -> web.Response:
        """Without a node: how this server itself is. To anything else the answer is no, for everybody."""
        if ROLES[role] in ("liveness", "readiness"):
            looks = await asyncio.gather(*(watch.recent() for watch in self._places.watches))
            well = all(seen is not None for seen in looks)
            return web.Response(status=200 if well else 503)
        raise Refused(503, f"of which node? /NODE/{role}, or start it with --node NODE")

    # ---- what is shown

    async def _show(self, path: str, request: web.BaseRequest) -> web.Response:
        if not self._guard.knows(request.headers.get("Host")):
            raise Refused(421, "this Host is not one of ours: --allow-host NAME")
        if not self._guard.admits(request.headers.get("Authorization")):
            raise Refused(401, "a token is needed", WWW_Authenticate='Basic realm="replctl", charset="UTF-8"')
        if request.method not in SHOWS:
            raise Refused(405, "only GET and HEAD", Allow=", ".join(SHOWS))
        body = await self._shown[path](request)
        headers = {**body.headers, "Content-Type": body.kind}
        return web.Response(body=body.content, headers=headers)

    async def _metrics(self, request: web.BaseRequest) -> Body:
        seen = await self._seen(request, self._chosen(request))
        form = _format(request)
        content = self._cached(f"metrics {form}", seen, lambda: render(self._samples(seen), form).encode())
        return Body(content=content, kind=CONTENT_TYPES[form], headers={"Vary": "Accept"})

    async def _probe(self, request: web.BaseRequest) -> Body:
        targets = request.query.getall("target", [])
        if len(targets) > 1:
            raise Refused(400, "target: one node for each request; /metrics has all of them")
        found = self._places.node("".join(targets).split("/"))
        if found is None:
            raise Refused(404, "target: no such node in the inventory (NODE, or CLUSTER/NODE)")
        watch, name = found
        form = _format(request)
        seen = await self._seen(request, [watch])
        samples = self._cached(f"samples {watch.name}", seen, lambda: self._samples(seen))
        text = render(_of_node(samples, name), form)
        return Body(content=text.encode(), kind=CONTENT_TYPES[form], headers={"Vary": "Accept"})

    async def _status(self, request: web.BaseRequest) -> Body:
        seen = await self._seen(request, self._chosen(request))
        content = self._cached(
            "status", seen, lambda: (to_json(status_document([one.report for one in seen])) + "\n").encode()
        )
        return Body(content=content, kind="application/json", headers={})

    async def _page(self, request: web.BaseRequest) -> Body:
        watches = self._chosen(request)
        await asyncio.gather(*(watch.recent() for watch in watches))  # the page says how old what it has is
        refresh_s = _seconds(request, "refresh", REFRESH_S)
        text = page(watches, refresh_s=round(refresh_s), now_at=time.time())
        headers = {"Content-Security-Policy": CONTENT_POLICY, "X-Frame-Options": "DENY"}
        return Body(content=text.encode(), kind="text/html; charset=utf-8", headers=headers)

    def _chosen(self, request: web.BaseRequest) -> list[Watch]:
        names = request.query.getall("cluster", [])
        found = [self._places.cluster(name) for name in names] if names else list(self._places.watches)
        if None in found:
            raise Refused(404, "cluster: no such cluster in the inventory")
        return [watch for watch in self._places.watches if watch in found]

    async def _seen(self, request: web.BaseRequest, watches: Sequence[Watch]) -> list[Seen]:
        """A look at each of these clusters, none older than asked."""
        max_age_s = _seconds(request, "max_age", self._max_age_s)
        looks = await asyncio.gather(*(watch.fresh(max_age_s, WAIT_LIMIT_S) for watch in watches))
        missing = [watch.name for watch, seen in zip(watches, looks, strict=True) if seen is None]
        if missing:
            raise Refused(503, f"no look at {', '.join(missing)} within {WAIT_LIMIT_S:g} s")
        return [seen for seen in looks if seen is not None]

    def _samples(self, seen: Sequence[Seen]) -> list[Samples]:
        oldest = min(seen, key=lambda one: one.status.observed_at)
        watches = {watch.name: watch for watch in self._places.watches}
        names = [one.status.settings.name for one in seen]
        run = Run(
            version=__version__,
            at=oldest.status.observed_at,
            took_s=max(one.status.took_s for one in seen),
            success=all(any(node.reachable for node in one.status.nodes) for one in seen),
            failovers={n: count for n in names if (count := watches[n].failovers) is not None},
            writers={one.status.settings.name: writer_of(one) for one in seen},
        )
        return collect([one.report for one in seen], run)

    def _cached(self, what: str, seen: list[Seen], make: Callable[[], T]) -> T:
        """What was made from these very looks, made once."""
        before = self._made.get(what)
        if before is not None and before[0] == seen:
            return cast(T, before[1])
        made = make()
        self._made[what] = (seen, made)
        return made


def _is_check_of_the_root(path: str, request: web.BaseRequest) -> bool:
    """Whether it asks who is the primary, as load balancers and other checkers do.

    A page that is always there would be a yes for every server behind it: only who asks for a page gets it,
    as every browser does. `*/*`, which curl, Kubernetes and Consul send, does not.
    """
    return path == "/" and (request.method != "GET" or "text/html" not in request.headers.get("Accept", ""))


def _format(request: web.BaseRequest) -> Format:
    wanted = request.headers.get("Accept", "")
    return Format.OPENMETRICS if "application/openmetrics-text" in wanted else Format.TEXT


def _seconds(request: web.BaseRequest, key: str, default_s: float) -> float:
    try:
        return parse_duration(request.query[key]) if key in request.query else default_s
    except ValueError as error:
        raise Refused(400, f"{key}: {error}; expected a time such as 500ms") from None


def _of_node(samples: list[Samples], name: str) -> list[Samples]:
    """Only what is said of this node, and of the run."""
    found: list[Samples] = []
    for family, values in samples:
        label = next((one for one in ("node", "replica") if one in family.labels), None)
        if label is not None:
            place = family.labels.index(label)
            values = [value for value in values if value[0][place] == name]
        elif family.labels and "cluster" in family.labels:
            continue
        if values:
            found.append((family, values))
    return found
