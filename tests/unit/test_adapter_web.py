"""Requests carry tokens: how they come, how they go, and that nothing of one request is left for the next."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from replctl.adapters.web import AsgiRouting, TokenCarrier, WsgiRouting, find_cookie
from replctl.core.model import Lsn
from replctl.core.routing import KeyRing, Position, Scope, current_scope, fingerprint
from replctl.inventory import load_one
from replctl.pg.monitor import Monitor

KEYS = KeyRing((b"0123456789abcdef",))
FORGED = KeyRing((b"another secret!!",))
SYSTEM = fingerprint("7")
ATTRIBUTES = "Max-Age=3600; Path=/; HttpOnly; SameSite=Lax; Secure"


def at(lsn: int) -> Position:
    return Position(SYSTEM, 1, Lsn(lsn))


def token(lsn: int, keys: KeyRing = KEYS, *, age_s: float = 0.0) -> str:
    return keys.issue(at(lsn), time.time() - age_s)


def make_monitor(directory: Path, name: str) -> Monitor:
    path = directory / f"{name}.toml"
    path.write_text(f'schema = 1\n[cluster]\nname = "{name}"\n[[nodes]]\nname = "pg1"\nhost = "127.0.0.1"\n')
    path.chmod(0o600)
    return Monitor(load_one(path))


@pytest.fixture
def monitor(tmp_path: Path) -> Monitor:
    """Of the cluster `a_b.c`; it never looks at anything here."""
    return make_monitor(tmp_path, "a_b.c")


def here() -> Scope:
    scope = current_scope("a_b.c")
    assert scope is not None
    return scope


def write(lsn: int) -> None:
    scope = here()
    scope.note_write()
    scope.note_position(at(lsn), scope.writes)


# ---- carrying


def test_the_names_are_those_of_the_cluster_unless_told_otherwise(monitor: Monitor) -> None:
    usual = TokenCarrier(monitor, KEYS)
    own = TokenCarrier(
        monitor, KEYS, cookie="seen", header=None, secure=False, same_site="Strict", domain="x.org"
    )
    scope = monitor.new_scope(keys=KEYS)
    scope.note_position(at(5), 0)

    assert (usual.cookie, usual.header) == ("replctl_a_b.c", "X-Replctl-a-b-c")
    names = [name for name, _ in usual.headers(scope)]
    ((name, value),) = own.headers(scope)
    assert names == ["Set-Cookie", "X-Replctl-a-b-c"]
    assert name == "Set-Cookie"
    assert value.startswith("seen=v1.")
    assert value.partition("; ")[2] == "Max-Age=3600; Path=/; HttpOnly; SameSite=Strict; Domain=x.org"
    with pytest.raises(ValueError, match="'a b' cannot be the name"):
        TokenCarrier(monitor, KEYS, cookie="a b")


def test_what_was_written_before_the_first_look_makes_a_sticky_window_in_the_next_request(
    monitor: Monitor,
) -> None:
    scope = monitor.new_scope(keys=KEYS)
    scope.note_write()

    following = monitor.new_scope(scope.token, keys=KEYS)

    assert 0 < following.sticky_until_s - time.monotonic() <= monitor.inventory.settings.routing.sticky_s


@pytest.mark.parametrize(
    ("cookies", "header", "expected"),
    [
        (None, None, None),
        ("", "", None),
        ("replctl_a_b.c={5}", None, 5),
        ("x=1; replctl_a_b.c={5} ; y", None, 5),
        (None, "{5}", 5),
        ("replctl_a_b.c={5}", "{7}", 7),
        ("replctl_a_b.c={7}", "{5}", 7),
        ("replctl_a_b.c={5}", "rubbish", 5),
        ("replctl_a_b.c=rubbish", "{5}", 5),
        ("replctl_a_b.c={forged}", "{old}", None),
        ("replctl_other={5}", None, None),
        ("replctl_a_b.c=\x00\xff;=;;==", "\xff" * 9999, None),
    ],
)
def test_a_request_must_see_what_its_tokens_say(
    monitor: Monitor, cookies: str | None, header: str | None, expected: int | None
) -> None:
    filled = {"5": token(5), "7": token(7), "forged": token(9, FORGED), "old": token(9, age_s=4000)}

    def fill(text: str | None) -> str | None:
        for name, value in filled.items():
            text = text and text.replace("{" + name + "}", value)
        return text

    scope = TokenCarrier(monitor, KEYS).scope(fill(cookies), fill(header))

    assert scope.after == (None if expected is None else at(expected))


def test_of_two_tokens_what_goes_on_includes_both(monitor: Monitor) -> None:
    scope = TokenCarrier(monitor, KEYS).scope(f"replctl_a_b.c={token(7)}", token(5))
    claim = KEYS.verify(scope.token, time.time())

    assert claim is not None
    assert claim.position == at(7)


def test_cookies_are_found_in_what_browsers_send() -> None:
    assert [find_cookie(text, "a") for text in ("a=1", "b=2;a=1=2", "aa=1", "a", "", ";;")] == [
        "1",
        "1=2",
        None,
        "",
        None,
        None,
    ]


# ---- ASGI


def request(
    app: Any,
    headers: Sequence[tuple[bytes, bytes]] = (),
    kind: str = "http",
) -> list[dict[str, Any]]:
    """What an ASGI app sends for one request."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": kind, "headers": headers}, receive, send))
    return sent


async def respond(send: Any, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [*headers]})
    await send({"type": "http.response.body", "body": b"ok"})


def routed(monitor: Monitor, work: Callable[[], Any]) -> AsgiRouting:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await work()
        await respond(send, [(b"x", b"y")])

    return AsgiRouting(app, monitor, KEYS)


def carried(message: Any) -> dict[bytes, str]:
    """The headers that were added, tokens as the LSN they name or as a window."""
    shown = {}
    for name, value in message["headers"]:
        text = value.decode()
        found, _, rest = text.removeprefix("replctl_a_b.c=").partition("; ")
        claim = KEYS.verify(found, time.time())
        lsn = text
        if claim is not None:
            lsn = "window" if claim.position is None else str(int(claim.position.lsn))
        shown[name] = f"{lsn}; {rest}" if rest else lsn
    return shown


def test_a_request_that_wrote_gets_a_token_and_another_one_none(monitor: Monitor) -> None:
    async def writes() -> None:
        write(9)

    async def reads() -> None:
        assert here().after == at(5)

    given = [(b"cookie", b"x=1"), (b"cookie", f"replctl_a_b.c={token(5)}".encode())]
    wrote = request(routed(monitor, writes))
    read = request(routed(monitor, reads), given)

    assert carried(wrote[0]) == {b"x": "y", b"set-cookie": f"9; {ATTRIBUTES}", b"x-replctl-a-b-c": "9"}
    assert carried(read[0]) == {b"x": "y"}
    assert [m["type"] for m in wrote] == ["http.response.start", "http.response.body"]


def test_writes_are_seen_in_whatever_task_or_thread_they_are_made(monitor: Monitor) -> None:
    async def in_tasks() -> None:
        await asyncio.gather(asyncio.to_thread(write, 7), asyncio.create_task(_later(lambda: write(8))))

    assert carried(request(routed(monitor, in_tasks))[0])[b"x-replctl-a-b-c"] == "8"


async def _later(work: Callable[[], None]) -> None:
    await asyncio.sleep(0)
    work()


def test_what_is_written_after_the_response_began_is_not_in_it(monitor: Monitor) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        write(5)
        await respond(send)
        write(9)

    started = request(AsgiRouting(app, monitor, KEYS))[0]
    assert carried(started)[b"x-replctl-a-b-c"] == "5"


def test_a_write_whose_position_is_not_known_makes_a_sticky_window(monitor: Monitor) -> None:
    async def writes() -> None:
        here().note_write()

    assert carried(request(routed(monitor, writes))[0])[b"x-replctl-a-b-c"] == "window"


def test_websockets_have_scopes_and_tell_what_was_written_before_they_were_accepted(monitor: Monitor) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        write(4)
        await send({"type": "websocket.accept"})

    accepted = request(AsgiRouting(app, monitor, KEYS), kind="websocket")[0]
    assert carried(accepted)[b"x-replctl-a-b-c"] == "4"


def test_the_lifespan_of_an_application_is_no_unit_of_work(monitor: Monitor) -> None:
    seen: list[Scope | None] = []

    async def app(*_: Any) -> None:
        seen.append(current_scope("a_b.c"))

    request(AsgiRouting(app, monitor, KEYS), kind="lifespan")
    assert seen == [None]


def test_requests_that_run_at_once_know_nothing_of_each_other(monitor: Monitor) -> None:
    async def main() -> list[Any]:
        meet = asyncio.Barrier(6)

        async def one(n: int) -> Any:
            async def work() -> None:
                await meet.wait()
                if n % 2:
                    write(n)
                await meet.wait()
                assert here().after == (at(n) if n % 2 else None)

            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            await routed(monitor, work)({"type": "http", "headers": []}, None, send)  # type: ignore[arg-type]
            return carried(sent[0]).get(b"x-replctl-a-b-c")

        found = await asyncio.gather(*(one(n) for n in range(6)))
        assert current_scope("a_b.c") is None
        return found

    assert asyncio.run(main()) == [None, "1", None, "3", None, "5"]


def test_every_cluster_has_its_own_around_the_other(monitor: Monitor, tmp_path: Path) -> None:
    other = make_monitor(tmp_path, "logs")

    async def work() -> None:
        write(3)
        scope = current_scope("logs")
        assert scope is not None
        assert not scope.has_changed

    both = AsgiRouting(routed(monitor, work), other, KEYS)
    assert set(carried(request(both)[0])) == {b"x", b"set-cookie", b"x-replctl-a-b-c"}


# ---- WSGI


def call(app: Any, **environ: str) -> tuple[dict[str, str], bytes]:
    """The headers and the body of one WSGI request, by the letter of the standard."""
    setup_testing_defaults(environ)
    environ["QUERY_STRING"] = ""
    started: dict[str, str] = {}

    def start(_status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        started.update(headers)
        return lambda _data: None

    body = validator(app)(environ, start)
    try:
        return started, b"".join(body)
    finally:
        body.close()  # type: ignore[attr-defined]


def lsn_of(headers: dict[str, str]) -> int | None:
    claim = KEYS.verify(headers.get("X-Replctl-a-b-c"), time.time())
    return None if claim is None or claim.position is None else int(claim.position.lsn)


TEXT = [("Content-Type", "text/plain")]


def test_the_same_by_wsgi(monitor: Monitor) -> None:
    def app(_environ: Any, start: Any) -> list[bytes]:
        before = here().after
        write(9)
        start("200 OK", TEXT)
        return [repr(before).encode()]

    routing = WsgiRouting(app, monitor, KEYS)
    headers, body = call(routing, HTTP_COOKIE=f"replctl_a_b.c={token(5)}")

    assert (lsn_of(headers), body) == (9, repr(at(5)).encode())
    assert headers["Set-Cookie"].partition("; ")[2] == ATTRIBUTES
    assert call(routing, HTTP_X_REPLCTL_A_B_C=token(6))[1] == repr(at(6)).encode()
    assert current_scope("a_b.c") is None


def test_a_body_that_is_made_while_it_is_sent_sees_its_scope_and_leaves_none(monitor: Monitor) -> None:
    closed: list[Position | None] = []

    class Body:
        def __init__(self, parts: Iterable[bytes]) -> None:
            self.parts = parts

        def __iter__(self) -> Iterator[bytes]:
            for part in self.parts:
                write(int(part))
                yield part

        def close(self) -> None:
            closed.append(here().after)

    def app(_environ: Any, start: Any) -> Any:
        start("200 OK", TEXT)
        return Body([b"1", b"2"])

    between: list[Scope | None] = []

    def server(environ: Any, start: Any) -> Any:
        body = WsgiRouting(app, monitor, KEYS)(environ, start)
        parts = []
        for part in body:
            between.append(current_scope("a_b.c"))
            parts.append(part)
        body.close()  # type: ignore[attr-defined]
        return parts

    headers, body = call(server)
    assert (lsn_of(headers), body, between, closed) == (None, b"12", [None, None], [at(2)])


def test_threads_of_a_server_never_hand_a_scope_on(monitor: Monitor) -> None:
    def app(environ: Any, start: Any) -> list[bytes]:
        assert here().after is None
        if "wrote" in environ:
            write(5)
        start("200 OK", TEXT)
        return [b""]

    found: list[tuple[int | None, int | None]] = []

    def serve() -> None:
        routing = WsgiRouting(app, monitor, KEYS)
        found.append((lsn_of(call(routing, wrote="yes")[0]), lsn_of(call(routing)[0])))

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
        thread.join(10)
    assert found == [(5, None)] * 4
