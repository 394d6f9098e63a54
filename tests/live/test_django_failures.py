"""Django when nodes fail: failover under load, lost connections and what their errors say, forks, pools."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import OperationalError, connection, connections, transaction

from replctl import errors
from replctl.adapters.django import (
    NodeSwitched,
    NoPrimary,
    NoReplica,
    NotReplicated,
    TransactionOutcomeUnknown,
    cluster_of,
    read_replica,
    unit_of_work,
)
from replctl.core.routing import parse
from replctl.lab import Lab
from tests.live.django_project.running import REPLICAS, caught_up, paused, running
from tests.live.failover_support import GRACES, Auto, ask, configure, value
from tests.support import ROOT, run, wait_until

pytestmark = pytest.mark.live

NAMED = {"NodeSwitched", "TransactionOutcomeUnknown", "NoPrimary"}
RECOVERY_S = 2.0
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query !~ 'pg_stat_activity'"
BACKENDS = (
    "SELECT {}(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = 'postgres'"
)
OF_OTHERS = " AND pid <> pg_backend_pid()"
TITLES = "SELECT title FROM django_project_article"


def articles() -> Any:
    from tests.live.django_project.models import Article

    return Article.objects


def end_backends(lab: Lab, node: str, how: str = "pg_terminate_backend") -> None:
    """End the sessions of the application, or (pg_cancel_backend) what they do."""
    ask(lab, node, BACKENDS.format(how) + OF_OTHERS)


@contextmanager
def meanwhile(action: Callable[[], Any]) -> Iterator[None]:
    thread = threading.Thread(target=action)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)


# ---- failover


class Load:
    """Threads that write, in autocommit and in `atomic` by turns, and what each was told."""

    def __init__(self, threads: int = 4) -> None:
        self.acknowledged: list[tuple[float, str]] = []
        self.failed: list[tuple[float, str]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _write(self, thread: int) -> None:
        number = 0
        while not self._stop.wait(0.005):
            number += 1
            title = f"{thread}-{number}"
            try:
                with unit_of_work():
                    if number % 2:
                        articles().create(title=title)
                    else:
                        with transaction.atomic():
                            articles().create(title=title)
                    assert articles().filter(title=title).exists()
                self.acknowledged.append((time.monotonic(), title))
            except Exception as error:
                self.failed.append((time.monotonic(), type(error).__name__))
        connections.close_all()


def promoted_at(lab: Lab, replicas: tuple[str, ...], found: list[tuple[float, str]]) -> None:
    """When one of these became the primary, and which."""
    until_s = time.monotonic() + 40
    while not found and time.monotonic() < until_s:
        for name in replicas:
            if not value(lab, name, "SELECT pg_is_in_recovery()"):
                found.append((time.monotonic(), name))
                return
        threading.Event().wait(0.02)


@pytest.mark.slow
@pytest.mark.lab(sync="ANY 1")
def test_under_load_a_failover_loses_nothing_and_is_over_soon(lab: Lab) -> None:
    switched: list[tuple[float, str]] = []
    with running(lab, failover=GRACES, max_lag_s=5) as inventory, Auto(inventory) as auto, Load() as load:
        wait_until(lambda: len(load.acknowledged) > 100, "writes flow")
        with meanwhile(lambda: promoted_at(lab, REPLICAS, switched)):
            lab.kill("pg1")
        assert switched
        at_s, new = switched[0]
        auto.wait_for("done", limit_s=30)
        wait_until(lambda: load.acknowledged[-1][0] > at_s + RECOVERY_S + 1, "writes flow again", limit_s=20)
        lab.start("pg1")  # as the stale primary that it is
        of_old = {row[0] for row in ask(lab, "pg1", TITLES)}
        before = len(load.acknowledged)
        wait_until(lambda: len(load.acknowledged) > before + 100, "writes flow still")

        assert {row[0] for row in ask(lab, "pg1", TITLES)} == of_old
        acknowledged = {title for _, title in list(load.acknowledged)}
        kept = {row[0] for row in ask(lab, new, TITLES)}
        after = [done_s for done_s, _ in load.acknowledged if done_s > at_s]
        late = [kind for failed_s, kind in load.failed if failed_s > at_s + RECOVERY_S]
    print(f"recovery {after[0] - at_s:.2f} s after the promotion; {len(load.failed)} errors")
    assert acknowledged - kept == set()
    assert {kind for _, kind in load.failed} - NAMED == set()
    assert (after[0] - at_s < RECOVERY_S, late) == (True, [])


@pytest.mark.parametrize("old", ["gone", "alive"])
def test_the_writer_follows_a_switch_between_two_uses_of_its_connection(lab: Lab, old: str) -> None:
    """Also where the old primary goes on, and its connection too."""
    with running(lab):
        articles().create(title="before")
        caught_up(lab)
        if old == "gone":
            lab.kill("pg1")
        ask(lab, "pg2", "SELECT pg_promote()", "CREATE TABLE written ()")
        monitor = cluster_of().monitor
        wait_until(
            lambda: monitor.wait(monitor.snapshot, 1) and monitor.snapshot.writer == "pg2", "it is seen"
        )
        assert articles().create(title="after").pk > 0
        assert (connection.node, articles().count()) == ("pg2", 2)
        if old == "alive":
            assert [row[0] for row in ask(lab, "pg1", TITLES)] == ["before"]


# ---- lost connections


def test_an_idle_connection_that_the_server_ended_is_replaced_without_a_word(lab: Lab) -> None:
    with running(lab):
        for _ in range(2):
            articles().create(title=f"{time.monotonic()}")
            with read_replica():
                list(articles().all())
            for node in lab.nodes:
                end_backends(lab, node)
        assert articles().count() == 2


def test_a_transaction_that_lost_its_connection_may_begin_again(lab: Lab) -> None:
    with running(lab):
        with pytest.raises(NodeSwitched) as caught, transaction.atomic():
            articles().create(title="lost")
            end_backends(lab, "pg1")
            with transaction.atomic():
                articles().create(title="lost too")
        assert isinstance(caught.value, errors.NodeSwitched)
        assert isinstance(caught.value, OperationalError)
        with transaction.atomic():
            articles().create(title="lost")
        assert [row[0] for row in ask(lab, "pg1", TITLES)] == ["lost"]


@pytest.mark.lab(sync="ANY 1")
@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize(
    ("how", "kind"),
    [("pg_terminate_backend", TransactionOutcomeUnknown), ("pg_cancel_backend", NotReplicated)],
)
def test_a_commit_that_was_interrupted_while_it_waited_for_replicas_says_so(
    lab: Lab, atomic: bool, how: str, kind: type[Exception]
) -> None:
    def interrupt() -> None:
        wait_until(lambda: value(lab, "pg1", WAITS), "the commit waits for replicas")
        end_backends(lab, "pg1", how)

    with running(lab):
        called: list[str] = []
        for name in REPLICAS:
            lab.freeze(name)
        try:
            with unit_of_work() as scope:
                with meanwhile(interrupt), pytest.raises(kind):
                    if atomic:
                        with transaction.atomic():
                            articles().create(title="waited")
                            transaction.on_commit(lambda: called.append("on_commit"))
                    else:
                        articles().create(title="waited")
                assert scope.is_dirty
                assert articles().get()._state.db == "default"
        finally:
            for name in REPLICAS:
                lab.thaw(name)
        assert called == []
        wait_until(
            lambda: value(lab, "pg2", "SELECT count(*) FROM django_project_article") == 1, "replicated"
        )


@pytest.mark.lab(sync="ANY 1")
def test_the_outcome_is_unknown_also_where_there_is_no_other_primary_to_connect_to(lab: Lab) -> None:
    """What hides it elsewhere: Django connects again at the end of `atomic`."""

    def interrupt() -> None:
        wait_until(lambda: value(lab, "pg1", WAITS), "the commit waits for replicas")
        lab.kill("pg1")

    with running(lab):
        for name in REPLICAS:
            lab.freeze(name)
        try:
            with meanwhile(interrupt), pytest.raises(TransactionOutcomeUnknown), transaction.atomic():
                articles().create(title="waited")
            with pytest.raises(NoPrimary):
                articles().create(title="next")
        finally:
            for name in REPLICAS:
                lab.thaw(name)


def test_a_read_that_lost_its_connection_is_not_taken_for_a_write(lab: Lab) -> None:
    with running(lab), meanwhile(lambda: _end_when_sleeping(lab)), pytest.raises(NodeSwitched):
        from django.db.models import Func, Value

        articles().create(title="one")
        list(articles().annotate(slept=Func(Value(20), function="pg_sleep")).values_list("title", "slept"))


def _end_when_sleeping(lab: Lab) -> None:
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: value(lab, "pg1", asleep), "a query sleeps")
    end_backends(lab, "pg1")


def test_a_primary_that_was_made_read_only_is_left_and_says_why(lab: Lab) -> None:
    with running(lab):
        articles().create(title="before")
        configure(lab, "pg1", default_transaction_read_only="on")
        shown = "SHOW default_transaction_read_only"
        wait_until(lambda: value(lab, "pg1", shown) == "on", "it takes no writes")
        for said in (
            "the node takes no writes any more: .*read-only transaction",
            "pg1 takes no writes any more",
        ):
            with pytest.raises(NodeSwitched, match=said):
                articles().create(title="refused")
        with pytest.raises(NodeSwitched), transaction.atomic():
            articles().create(title="refused")
        configure(lab, "pg1", default_transaction_read_only=None)
        wait_until(lambda: value(lab, "pg1", shown) == "off", "it takes writes")
        articles().create(title="after")
        assert [row[0] for row in ask(lab, "pg1", TITLES)] == ["before", "after"]


def test_reads_of_a_replica_that_is_gone_go_elsewhere_without_an_error(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    with running(lab):
        articles().create(title="one")
        caught_up(lab)
        lab.kill("pg2")
        served = set()
        for _ in range(8):
            with unit_of_work():
                served.add(articles().get()._state.db)
        assert served <= {"pg3", "default"}
        assert "pg3" in served
        said = {
            record.getMessage().split(": ")[1] for record in caplog.records if record.name == "replctl.django"
        }
        assert said <= {"a read goes elsewhere"}


def test_where_the_primary_may_not_serve_reads_none_are_sent_there(lab: Lab) -> None:
    with running(lab, on_all_unfit="error"):
        articles().create(title="one")
        caught_up(lab)
        for name in REPLICAS:
            lab.kill(name)
        with pytest.raises(NoReplica, match="no replica"), unit_of_work():
            articles().get()
        monitor = cluster_of().monitor
        wait_until(lambda: monitor.wait(monitor.snapshot, 1) and not monitor.snapshot.wheel, "it is seen")
        with pytest.raises(NoReplica, match="no replica is fit"), unit_of_work():
            articles().get()
        assert articles().get().title == "one"  # outside of any request


def test_behind_a_pooler_a_query_tells_the_role(lab: Lab) -> None:
    """The server's own port as the pooler's: what is asked is the same."""
    ports = {name: {"client_port": node.port} for name, node in lab.nodes.items()}
    with running(lab, nodes=ports):
        articles().create(title="one")
        caught_up(lab)
        with unit_of_work():
            assert articles().get()._state.db in REPLICAS
        connection.close()
        configure(lab, "pg1", default_transaction_read_only="on")
        wait_until(
            lambda: value(lab, "pg1", "SHOW default_transaction_read_only") == "on", "it takes no writes"
        )
        with pytest.raises(NodeSwitched, match="pg1 takes no writes any more"):
            articles().create(title="refused")


def test_without_any_node_the_first_use_tells_the_causes(lab: Lab) -> None:
    with running(lab):
        connections.close_all()
        cluster_of().close()
        for name in lab.nodes:
            lab.kill(name)
        with pytest.raises(NoPrimary) as caught:
            articles().count()
        assert "pg1 does not answer: refused" in (caught.value.why or "")
        for name in lab.nodes:
            lab.start(name)
        monitor = cluster_of().monitor
        wait_until(
            lambda: monitor.wait(monitor.snapshot, 1) and monitor.snapshot.writer == "pg1", "all are back"
        )
        assert articles().count() == 0


# ---- processes and pools


def test_forked_workers_route_for_themselves(lab: Lab) -> None:
    """As gunicorn's with preload: the application is loaded, and used, before the fork."""
    program = """
        import os, sys
        import django
        django.setup()
        from django.db import connections
        from django.test import Client
        from replctl.adapters.django import cluster_of
        Client().post("/sync/", {"title": "of the parent"})
        connections.close_all()

        def work(number):
            browser = Client()
            browser.post("/sync/", {"title": f"of worker {number}"})
            seen = browser.get("/sync/").json()["titles"]
            monitor = cluster_of().monitor
            looked = monitor.wait(monitor.snapshot, 5) is not None
            return f"of worker {number}" in seen and "of the parent" in seen and looked

        workers = []
        for number in range(2):
            pid = os.fork()
            if pid == 0:
                try:
                    right = work(number)
                finally:
                    connections.close_all()
                os._exit(0 if right else 1)
            workers.append(pid)
        print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers], work(9))
        connections.close_all()
    """
    with running(lab) as inventory:
        done = run([sys.executable, "-c", textwrap.dedent(program)], env=environment(inventory), limit_s=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 0] True\n", "")


def test_an_asgi_server_keeps_the_scopes_of_requests_apart_that_run_at_once(lab: Lab) -> None:
    """The position is asked for in the thread of each request, which alone has the connection."""

    async def user(browser: httpx.AsyncClient, number: int) -> bool:
        title = f"of {number}"
        if number % 2:
            response = await browser.post("/async/", data={"title": title})
            claim = parse(response.headers["X-Replctl-lab"])
            assert claim is not None
            assert claim.position is not None
        seen = (await browser.get("/async/")).json()["titles"]
        return title in seen if number % 2 else seen == ["old"]

    async def users(address: str) -> list[bool]:
        async with contextlib.AsyncExitStack() as stack:
            opened = [httpx.AsyncClient(base_url=address, timeout=20) for _ in range(16)]
            browsers = [await stack.enter_async_context(browser) for browser in opened]
            return await asyncio.gather(*(user(b, number) for number, b in enumerate(browsers)))

    with running(lab) as inventory, socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        program = [sys.executable, "-m", "uvicorn", "--log-level", "warning", "--fd", str(descriptor)]
        server = subprocess.Popen(
            [*program, "tests.live.django_project.asgi:application"],
            cwd=ROOT,
            env={**os.environ, **environment(inventory)},
            pass_fds=[descriptor],
        )
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            articles().create(title="old")
            caught_up(lab)
            for _ in range(4):  # its monitor has to know the replicas before they stand still
                wait_until(lambda: _served_by(address) in REPLICAS, "a replica serves")
            with paused(lab):
                assert asyncio.run(users(address)) == [True] * 16
        finally:
            server.terminate()
            server.wait(15)


def _served_by(address: str) -> str:
    served: list[str] = httpx.get(f"{address}/async/", timeout=20).json()["from"]
    return served[0]


def environment(inventory: Path) -> dict[str, str]:
    """What another process needs to run the project."""
    return {
        "DJANGO_PROJECT_INVENTORY": str(inventory),
        "DJANGO_SETTINGS_MODULE": "tests.live.django_project.settings",
        "PYTHONPATH": f"{':'.join(filter(None, sys.path))}:{ROOT}",
    }


def test_djangos_own_pool_is_filled_anew_where_the_primary_is(lab: Lab) -> None:
    options = connections.settings["default"]["OPTIONS"]
    with running(lab):
        connections.close_all()
        options["pool"] = {"min_size": 1, "max_size": 2, "timeout": 5}
        try:
            articles().create(title="before")
            caught_up(lab)
            connection.close()
            lab.kill("pg1")
            ask(lab, "pg2", "SELECT pg_promote()")
            monitor = cluster_of().monitor
            wait_until(lambda: monitor.wait(monitor.snapshot, 1) and monitor.snapshot.writer == "pg2", "seen")
            articles().create(title="after")
            assert (connection.node, articles().count()) == ("pg2", 2)
        finally:
            connection.close()
            connection.close_pool()
            del options["pool"]
