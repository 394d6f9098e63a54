"""Read after write in the next request: real servers, real cookies, and replicas that stand still."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from replctl.adapters.async_pools import AsyncPools
from replctl.adapters.pools import Pools
from replctl.adapters.web import AsgiRouting, WsgiRouting
from replctl.core.routing import current_scope
from replctl.lab import Lab
from replctl.pg.monitor import Monitor
from tests.live.failover_support import value
from tests.live.pools_support import APP, KEYS, name_of, pause, shop
from tests.live.test_pools import INSERT, NEWEST
from tests.support import wait_until

pytestmark = pytest.mark.live

# The tests' servers speak no TLS, over which alone a Secure cookie would come back.
PLAIN = {"secure": False}


def fastapi_app(lab: Lab, monitor: Monitor) -> Any:
    """Writes and reads, by async and by sync endpoints."""
    app = FastAPI()
    sync_pools = Pools(monitor, APP)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> Any:
        async with AsyncPools(monitor, APP) as pools:
            app.state.pools = pools
            yield
        await run_in_threadpool(sync_pools.close)

    app.router.lifespan_context = lifespan

    @app.post("/async/{n}")
    async def write(n: int) -> None:
        async with app.state.pools.connection() as connection:
            await connection.execute(INSERT, (n,))

    @app.get("/async")
    async def read() -> tuple[Any, str]:
        async with app.state.pools.connection(read=True) as connection:
            row = await (await connection.execute(NEWEST)).fetchone()
            return row[0], name_of(lab, connection)

    @app.post("/sync/{n}")
    def write_sync(n: int) -> None:
        with sync_pools.connection() as connection:
            connection.execute(INSERT, (n,))

    @app.get("/sync")
    def read_sync() -> tuple[Any, str]:
        with sync_pools.connection(read=True) as connection:
            row = connection.execute(NEWEST).fetchone()
            return (row and row[0]), name_of(lab, connection)

    app.add_middleware(AsgiRouting, monitor=monitor, keys=KEYS, **PLAIN)
    return app


@contextlib.contextmanager
def served_by_uvicorn(app: Any) -> Iterator[str]:
    """The address of this application."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_until(lambda: server.started, "it listens")
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


class Quiet(WSGIRequestHandler):
    """Writes no log."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@contextlib.contextmanager
def served_by_wsgiref(lab: Lab, monitor: Monitor) -> Iterator[str]:
    """The same application by WSGI, below /sync; its body is made while it is sent."""
    with Pools(monitor, APP) as pools:

        def app(environ: Any, start: Any) -> Iterator[bytes]:
            if environ["REQUEST_METHOD"] == "POST":
                with pools.connection() as connection:
                    connection.execute(INSERT, (int(environ["PATH_INFO"].rpartition("/")[2]),))
                start("200 OK", [("Content-Type", "application/json")])
                yield b"null"
            else:
                start("200 OK", [("Content-Type", "application/json")])
                with pools.connection(read=True) as connection:
                    row = connection.execute(NEWEST).fetchone()
                    yield json.dumps([row and row[0], name_of(lab, connection)]).encode()

        server = make_server("127.0.0.1", 0, WsgiRouting(app, monitor, KEYS, **PLAIN), handler_class=Quiet)  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)
            server.server_close()


@contextlib.contextmanager
def served(how: str, lab: Lab, monitor: Monitor) -> Iterator[str]:
    serving = (
        served_by_wsgiref(lab, monitor) if how == "wsgi" else served_by_uvicorn(fastapi_app(lab, monitor))
    )
    with serving as address:
        yield f"{address}/{'async' if how == 'async' else 'sync'}"


@pytest.mark.parametrize("how", ["async", "sync", "wsgi"])
def test_the_next_request_reads_what_this_one_wrote_and_other_users_use_the_replicas(
    lab: Lab, how: str
) -> None:
    with shop(lab) as monitor, served(how, lab, monitor) as url:
        pause(lab, "pg2", "pg3")
        with (
            httpx.Client(timeout=20) as user,
            httpx.Client(timeout=20) as other,
            httpx.Client(timeout=20) as api,
        ):
            wrote = user.post(f"{url}/7")
            assert "replctl_lab" in user.cookies
            token = wrote.headers["X-Replctl-lab"]
            mine = [user.get(url) for _ in range(4)]
            theirs = [other.get(url) for _ in range(4)]
            by_header = [api.get(url, headers={"X-Replctl-lab": token}).json() for _ in range(4)]

    assert [answer.json() for answer in mine] == [[7, "pg1"]] * 4
    assert by_header == [[7, "pg1"]] * 4
    assert {answer.json()[1] for answer in theirs} == {"pg2", "pg3"}
    assert {answer.headers.get("set-cookie") for answer in (*mine, *theirs)} == {None}


def test_a_token_lets_one_read_from_the_replica_that_has_it(lab: Lab) -> None:
    with shop(lab) as monitor, served("sync", lab, monitor) as url, httpx.Client(timeout=20) as user:
        pause(lab, "pg2")
        user.post(f"{url}/7")
        wait_until(lambda: value(lab, "pg3", NEWEST) == 7, "pg3 has it")
        wait_until(lambda: user.get(url).json() == [7, "pg3"], "that was seen")
        assert {tuple(user.get(url).json()) for _ in range(6)} == {(7, "pg3")}


def test_requests_at_once_and_one_after_the_other_leave_each_other_alone(lab: Lab) -> None:
    async def storm(app: Any) -> list[bool]:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop", timeout=30) as client:

                async def one(n: int) -> bool:
                    path = "async" if n % 4 < 2 else "sync"
                    request = client.build_request(
                        "POST" if n % 2 else "GET", f"/{path}/{n}" if n % 2 else f"/{path}"
                    )
                    request.headers.pop("cookie", None)
                    answer = await client.send(request)
                    assert answer.status_code == 200
                    return "set-cookie" in answer.headers

                found = await asyncio.gather(*(one(n) for n in range(40)))
                assert current_scope("lab") is None
                return found

    with shop(lab) as monitor:
        assert asyncio.run(storm(fastapi_app(lab, monitor))) == [False, True] * 20
