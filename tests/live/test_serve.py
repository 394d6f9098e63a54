"""`replctl serve` on real servers over real HTTP: what each role endpoint says while nodes fail."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from replctl.core.metrics import BY_NAME
from replctl.lab import Lab
from replctl.server.watch import RECENT_S
from tests.live.failover_support import (
    GRACES,
    ask,
    configure,
    environment,
    fail_over,
    value,
    wait_streaming,
    write_inventory,
)
from tests.live.serve_support import Serve
from tests.live.test_failover_refusals import full_disk
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live

# So that a test does not wait for what it does not test.
QUICK = {"hold_s": 0, "readmit_after": 1, "eject_after": 1, "max_lag_s": 60, "readmit_lag_s": 30}
STALE_S = 2 * (0.3 + 3)  # with --interval 0.3
FAST = ("--interval", "0.3")
SECRET = "correct-horse-battery"


def inventory_of(lab: Lab, **tables: object) -> Path:
    return write_inventory(lab, failover=GRACES, routing={**QUICK, **tables})


PRIMARY = ["primary", "read-only", "health", "readiness"]
ASYNC = ["replica", "read-only", "async", "health", "readiness"]
SYNC = ["replica", "read-only", "sync", "health", "readiness"]


# ---- role endpoints


def test_every_node_is_what_it_is_by_every_method(lab: Lab) -> None:
    with Serve(inventory_of(lab), *FAST) as server:
        assert server.codes("pg1", "pg2", "pg3") == {"pg1": PRIMARY, "pg2": ASYNC, "pg3": ASYNC}
        assert server.codes("lab/pg1") == {"lab/pg1": PRIMARY}
        for method in ("OPTIONS", "HEAD"):
            for path, code in (("/pg1/primary", 200), ("/pg2/primary", 503)):
                answer = server.ask(path, method)
                assert (answer.code, answer.text) == (code, "")
        told = server.ask("/pg2/primary").json
        assert (told["node"], told["role"], told["state"]) == ("pg2", "replica", "streaming")
        assert told["reason"] == "pg1 is the primary"
        assert [server.code(path) for path in ("/pg9/primary", "/other/pg1/primary", "/pg1/owner")] == [
            404
        ] * 3
        assert [server.code(f"/{path}") for path in ("primary", "", "liveness", "readiness")] == [
            503,
            503,
            200,
            200,
        ]


@pytest.mark.lab(replicas=2, sync="FIRST 1")
def test_a_synchronous_replica_is_told_from_others(lab: Lab) -> None:
    configure(lab, "pg1", synchronous_standby_names="FIRST 1 (pg2, pg3)")
    wait_until(
        lambda: value(lab, "pg1", "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"),
        "sync",
    )
    with Serve(inventory_of(lab), *FAST) as server:
        assert server.codes("pg1", "pg2", "pg3") == {"pg1": PRIMARY, "pg2": SYNC, "pg3": ASYNC}


def test_a_lagging_replica_is_out_unless_as_much_was_allowed(lab: Lab) -> None:
    with Serve(inventory_of(lab, max_lag_bytes="4MiB", readmit_lag_bytes="1MiB"), *FAST) as server:
        ask(lab, "pg2", "SELECT pg_wal_replay_pause()")
        ask(
            lab,
            "pg1",
            "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1 << 20)) FROM generate_series(1, 8)",
        )
        server.wait_code("/pg2/replica", 503)
        asked = {lag: server.code(f"/pg2/replica?lag={lag}") for lag in ("1MB", "4MB", "64MB", "1GB", "x")}
        assert asked == {"1MB": 503, "4MB": 503, "64MB": 200, "1GB": 200, "x": 400}
        assert server.codes("pg3") == {"pg3": ASYNC}
        ask(lab, "pg2", "SELECT pg_wal_replay_resume()")
        server.wait_code("/pg2/replica", 200)


def test_a_drained_replica_is_out_whatever_lag_is_allowed(lab: Lab) -> None:
    path = inventory_of(lab)
    with Serve(path, *FAST) as server:
        assert replctl("route", "--drain", "pg2", "--yes", env=environment(path)).returncode == 0
        server.wait_code("/pg2/replica", 503)
        assert server.code("/pg2/replica?lag=1GB") == 503
        assert server.code("/pg2/health") == 200


@pytest.mark.parametrize("how", ["stop", "kill", "freeze"])
def test_a_node_that_does_not_answer_is_nothing(lab: Lab, how: str) -> None:
    with Serve(inventory_of(lab), *FAST) as server:
        getattr(lab, how)("pg2")
        server.wait_code("/pg2/health", 503)
        assert server.codes("pg2", "pg3") == {"pg2": [], "pg3": ASYNC}
        getattr(lab, how)("pg1")
        server.wait_code("/pg1/primary", 503)
        assert server.codes("pg1", "pg2")["pg1"] == []
        assert server.code("/pg1/liveness") == 200  # of the server, which goes on looking


def test_a_fenced_primary_is_no_primary(lab: Lab) -> None:
    path = inventory_of(lab)
    with Serve(path, *FAST) as server:
        done = replctl("fence", "pg1", "--stop-writes", "--yes", env=environment(path))
        assert done.returncode == 0, done.stderr
        server.wait_code("/pg1/primary", 503)
        assert server.code("/pg1/read-only") == 503
        assert server.ask("/pg1/primary").json["reason"] == "no node answers as primary"


def test_a_stale_primary_is_none_and_a_later_run_knows_that_too(lab: Lab) -> None:
    with Serve(inventory_of(lab), *FAST) as server:
        lab.kill("pg1")
        server.wait_code("/pg1/primary", 503)
        ask(lab, "pg2", "SELECT pg_promote()")
        server.wait_code("/pg2/primary", 200)
        lab.start("pg1")  # as it was: on the older timeline, and it takes writes
        wait_until(lambda: server.ask("/pg1/primary").json["state"] == "stale_primary", "the old one is seen")
        assert (server.code("/pg1/primary"), server.code("/pg1/read-only")) == (503, 503)
        lab.freeze("pg2")
        server.wait_code("/pg2/primary", 503)
        assert server.code("/pg1/primary") == 503  # it is alone now, and still not the newest
        # Another run on this machine knows of the newer timeline, too.
        lab.thaw("pg2")
    lab.stop("pg2")
    with Serve(inventory_of(lab), *FAST) as server:
        assert server.code("/pg1/primary") == 503


def test_two_primaries_of_one_timeline_are_none(lab: Lab) -> None:
    with Serve(inventory_of(lab), *FAST) as server:
        lab.stop("pg1")
        for name in ("pg2", "pg3"):
            ask(lab, name, "SELECT pg_promote()")
        wait_until(
            lambda: [server.ask(f"/{n}/primary").json["role"] for n in ("pg2", "pg3")] == ["primary"] * 2,
            "both are seen as primaries",
        )
        codes = {(server.code("/pg2/primary"), server.code("/pg3/primary")) for _ in range(10)}
        assert (200, 200) not in codes
        assert server.ask("/pg3/primary").json["reason"].startswith(("several nodes", "pg2 is"))


def test_a_server_that_stood_still_says_no_until_it_has_looked_again(lab: Lab) -> None:
    with Serve(inventory_of(lab), *FAST) as server:
        assert server.code("/pg1/primary") == 200
        for name in lab.nodes:
            lab.freeze(name)
        server.process.send_signal(signal.SIGSTOP)
        threading.Event().wait(STALE_S + 0.5)
        with ThreadPoolExecutor() as pool:
            asked = [
                pool.submit(server.code, f"/{n}/{r}")
                for n in lab.nodes
                for r in ("primary", "replica", "liveness")
            ]
            server.process.send_signal(signal.SIGCONT)
            codes = [one.result() for one in asked]
        assert 200 not in codes[:2]
        for name in lab.nodes:
            lab.thaw(name)
        server.wait_code("/pg1/primary", 200)


def test_with_a_node_bare_paths_mean_it(lab: Lab) -> None:
    path = inventory_of(lab)
    with Serve(path, *FAST, "--node", "pg2") as server:
        assert server.codes("pg1")["pg1"] == PRIMARY
        assert [server.code(f"/{r}") for r in ("replica", "primary", "", "health", "async")] == [
            200,
            503,
            503,
            200,
            200,
        ]
        assert server.raw(b"OPTIONS /replica?lag=10MB HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 OK\r\n")
    with Serve(path, *FAST, "--node", "lab/pg1") as server:
        # What `option httpchk` alone sends; and a GET of it, for which a page would be a yes.
        assert server.raw(b"OPTIONS / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 OK\r\n")
        assert server.raw(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 OK\r\n")
        assert server.ask("/", Accept="text/html").headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("accept", ["*/*", "", "application/json", "text/plain", "text/*"])
def test_a_checker_that_accepts_anything_is_told_the_role_and_shown_no_page(lab: Lab, accept: str) -> None:
    path = inventory_of(lab)
    with Serve(path, *FAST, "--node", "pg2") as server:
        assert server.ask("/", Accept=accept).code == 503
    with Serve(path, *FAST, "--node", "pg1") as server:
        assert server.ask("/", Accept=accept).json["reason"] == "it takes writes"
    with Serve(path, *FAST) as server:
        assert server.ask("/", Accept=accept).code == 503


def test_the_endpoints_follow_a_failover(lab: Lab) -> None:
    path = inventory_of(lab)
    with Serve(path, *FAST) as server:
        assert server.codes("pg1")["pg1"] == PRIMARY
        lab.kill("pg1")
        done = fail_over(path)
        assert done.returncode == 0, done.stderr
        new = lab.primary()
        other = next(iter({"pg2", "pg3"} - {new}))
        server.wait_code(f"/{new}/primary", 200)
        server.wait_code(f"/{other}/replica", 200)
        assert server.codes("pg1", new) == {"pg1": [], new: PRIMARY}
        wait_until(
            lambda: 'db_failover_total{cluster="lab"} 1\n' in server.ask("/metrics").text, "it is counted"
        )


# ---- metrics, status


def test_metrics_come_in_the_format_that_is_asked_for_and_every_name_is_of_the_registry(lab: Lab) -> None:
    with Serve(inventory_of(lab), *FAST) as server:
        plain = server.ask("/metrics")
        opened = server.ask("/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.1")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert opened.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert (opened.text.endswith("\n# EOF\n"), "# EOF" in plain.text) == (True, False)
    for answer in (plain, opened):
        samples = [line for line in answer.text.splitlines() if not line.startswith("#")]
        assert {line.replace("{", " ").split(" ")[0] for line in samples} <= set(BY_NAME)
        assert 'replctl_node_up{cluster="lab",node="pg1"} 1' in samples


def test_a_probe_tells_of_one_node_and_of_names_of_the_inventory_only(lab: Lab) -> None:
    lab.stop("pg3")
    with Serve(inventory_of(lab), *FAST) as server:
        lines = server.ask("/probe?target=pg3").text.splitlines()
        assert 'replctl_node_up{cluster="lab",node="pg3"} 0' in lines
        assert not [line for line in lines if 'node="pg1"' in line or 'node="pg2"' in line]
        assert server.ask("/probe?target=lab/pg1").code == 200
        both = server.ask("/probe?target=pg1&target=pg2")
        assert (both.code, both.text) == (
            400,
            "target: one node for each request; /metrics has all of them\n",
        )
        assert {path: server.ask(path).text for path in ("/pg2/replica?lag=-1", "/metrics?max_age=soon")} == {
            "/pg2/replica?lag=-1": "lag: not a number and a unit; expected a size such as 16MB\n",
            "/metrics?max_age=soon": "max_age: not a number and a unit; expected a time such as 500ms\n",
        }
        for target in (
            "",
            "pg9",
            "host=evil",
            "postgresql://u:p@evil/",
            "127.0.0.1:5432",
            "pg1%00",
            "../pg1",
            "pg1/",
        ):
            answer = server.ask(f"/probe?target={target}")
            assert (answer.code, answer.text) == (
                404,
                "target: no such node in the inventory (NODE, or CLUSTER/NODE)\n",
            )


def test_the_status_is_the_document_of_the_command(lab: Lab) -> None:
    path = inventory_of(lab)
    with Serve(path, *FAST) as server:
        served = server.ask("/status.json?max_age=0").json
    printed = json.loads(replctl("status", "--json", env=environment(path)).stdout)

    def shape(document: object) -> object:
        if isinstance(document, dict):
            return {key: shape(inner) for key, inner in document.items()}
        return [shape(inner) for inner in document] if isinstance(document, list) else None

    assert shape(served) == shape(printed)
    assert (served["cluster"], served["primary"], served["verdict"]) == ("lab", "pg1", printed["verdict"])


def test_several_clusters_are_served_together_or_each_by_its_name(lab: Lab) -> None:
    path = inventory_of(lab)
    folder = path.parent / "clusters"
    folder.mkdir(mode=0o755)
    for name in ("one", "two"):
        (folder / f"{name}.toml").write_text(path.read_text().replace('name = "lab"', f'name = "{name}"'))
        (folder / f"{name}.toml").chmod(0o644)
    with Serve(folder, *FAST, env={"REPLCTL_STATE_DIR": str(path.parent / "state")}) as server:
        both, one = server.ask("/status.json").json, server.ask("/status.json?cluster=two").json
        assert [cluster["cluster"] for cluster in both["clusters"]] == ["one", "two"]
        assert one["cluster"] == "two"
        assert server.ask("/status.json?cluster=three").code == 404
        assert [server.code(p) for p in ("/one/pg1/primary", "/two/pg1/primary", "/pg1/primary")] == [
            200,
            200,
            404,
        ]
        text = server.ask("/metrics").text
        assert all(f'replctl_cluster_primaries{{cluster="{name}"}} 1' in text for name in ("one", "two"))


def test_a_frozen_node_delays_no_scrape_and_is_told(lab: Lab) -> None:
    with Serve(inventory_of(lab)) as server:
        lab.freeze("pg2")
        slowest_s = 0.0
        until_s = time.monotonic() + 6
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            text = server.ask("/metrics").text
            slowest_s = max(slowest_s, time.monotonic() - began_s)
        assert 'replctl_node_up{cluster="lab",node="pg2"} 0' in text
        assert 'replctl_node_up{cluster="lab",node="pg1"} 1' in text
        assert slowest_s < 1


def test_a_full_state_disk_costs_history_and_no_answer(lab: Lab) -> None:
    path = inventory_of(lab)
    with full_disk(Path(environment(path)["REPLCTL_STATE_DIR"])), Serve(path, *FAST) as server:
        assert server.ask("/metrics").code == 200
        lab.stop("pg3")
        server.wait_code("/pg3/health", 503)
        assert server.codes("pg1")["pg1"] == PRIMARY
        wait_until(lambda: "cannot be saved" in server.log, "it says so")
    assert server.log.count("cannot be saved") == 1


def test_ten_who_ask_at_once_cost_one_look(lab: Lab) -> None:
    with Serve(inventory_of(lab), "--interval", "60s") as server, ThreadPoolExecutor(10) as pool:
        first = server.ask("/status.json").json["observed_at"]
        assert server.ask("/status.json").json["observed_at"] == first  # young enough
        for age in ("max_age=0", "max_age=1ms"):
            asked = [pool.submit(server.ask, f"/status.json?{age}") for _ in range(10)]
            looks = {one.result().json["observed_at"] for one in asked}
            assert 1 <= len(looks) <= 2
            assert first not in looks


@pytest.mark.slow
def test_a_load_balancer_is_told_of_now_however_seldom_the_nodes_are_looked_at(lab: Lab) -> None:
    options = ("--interval", "1h", "--agent-listen", "127.0.0.1:0", "--node", "pg1")
    with Serve(inventory_of(lab), *options) as server:
        assert server.codes("pg1")["pg1"] == PRIMARY
        lab.stop("pg1")
        server.wait_code("/pg1/primary", 503, limit_s=RECENT_S + 1)
        lab.start("pg1")
        server.wait_code("/pg1/primary", 200, limit_s=RECENT_S + 1)
        lab.freeze("pg3")  # so that a look takes its time
        threading.Event().wait(STALE_S + 2)
        assert [server.code(path) for path in ("/pg1/primary", "/liveness", "/readiness")] == [200] * 3
        assert server.ask("/pg1/primary").json["age_s"] < RECENT_S
        threading.Event().wait(STALE_S + 2)
        assert server.agent("pg2") == "up ready 100%\n"


def test_an_answer_is_never_older_than_asked(lab: Lab) -> None:
    with Serve(inventory_of(lab), "--interval", "60s") as server:
        lab.stop("pg3")
        nodes = server.ask("/status.json?max_age=0").json["nodes"]
        assert [node["reachable"] for node in nodes] == [True, True, False]
        assert server.ask("/metrics?max_age=soon").code == 400


def test_it_tells_systemd_when_it_answers_and_when_it_ends(lab: Lab) -> None:
    address = lab.directory.parent / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10)
        with Serve(
            inventory_of(lab), *FAST, env={"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "1000000"}
        ) as server:
            assert manager.recv(1000) == b"READY=1\nSTATUS=answering"
            assert manager.recv(1000) == b"WATCHDOG=1"
            began_s = time.monotonic()
            assert server.end(signal.SIGTERM) == 0
            assert time.monotonic() - began_s < 5
        told = set()
        while b"STOPPING=1" not in told:
            told.add(manager.recv(1000))


def test_an_address_that_is_taken_is_one_sentence(lab: Lab) -> None:
    path = inventory_of(lab)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = replctl("serve", "--listen", f"127.0.0.1:{port}", env=environment(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.splitlines()[-1]
        == f"replctl: --listen 127.0.0.1:{port} cannot be had: Address already in use"
    )


def test_no_answer_holds_a_password(lab: Lab) -> None:
    wait_streaming(lab, "pg1", "pg2", "pg3")
    command = lab.directory.parent / "password"
    command.write_text(f"#!/bin/sh\necho {SECRET}\n")
    command.chmod(0o755)
    path = write_inventory(lab, connection={"password_command": [str(command)]}, failover=GRACES)
    configure(lab, "pg2", primary_conninfo=f"host=127.0.0.1 port=1 user=x password={SECRET}")
    with Serve(path, *FAST, "--access-log") as server:
        lab.stop("pg3")
        server.wait_code("/pg3/health", 503)
        paths = (
            "/metrics",
            "/status.json",
            "/",
            "/probe?target=pg2",
            "/pg2/replica",
            "/pg3/health",
            f"/{SECRET}",
        )
        answers = [server.ask(path, Accept="text/html") for path in paths]
    assert [answer.code for answer in answers] == [200, 200, 200, 200, 503, 503, 404]
    for answer in answers:
        assert SECRET not in answer.text
        assert "host=" not in answer.text
    assert os.environ.get("PGPASSWORD") is None
