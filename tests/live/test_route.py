"""`replctl route` on real clusters: where to, why, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from typing import Any

import pytest

from replctl.core.routing import KeyRing, fingerprint
from replctl.lab import Lab
from replctl.pg.position import POSITION_SQL, position
from tests.live.failover_support import ask, environment, value, write_inventory
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live

KEYS = KeyRing((b"0123456789abcdef",))


def route(lab: Lab, *options: str, **tables: Any) -> subprocess.CompletedProcess[str]:
    return replctl("route", *options, env=environment(write_inventory(lab, **tables)))


def document(lab: Lab, *options: str, **tables: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(route(lab, "--json", *options, **tables).stdout)
    age_s = found.pop("snapshot_age_s")
    assert 0 <= age_s < 10
    return found


def considered(found: dict[str, Any]) -> dict[str, str]:
    return {row["node"]: row["reason"] for row in found["considered"]}


def caught_up(lab: Lab) -> None:
    end = "SELECT coalesce(pg_last_wal_replay_lsn(), '0/0') - '0/0'::pg_lsn"
    lsn = value(lab, "pg1", "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
    wait_until(
        lambda: all(value(lab, name, end) >= lsn for name in ("pg2", "pg3")), "replicas have caught up"
    )


def test_a_read_goes_to_a_replica_and_a_write_to_the_primary(shared_lab: Lab) -> None:
    nodes = [
        {"node": "pg1", "fit": False, "reason": "primary"},
        {"node": "pg2", "fit": True, "reason": "fit"},
        {"node": "pg3", "fit": True, "reason": "fit"},
    ]
    head = {"schema_version": 1, "cluster": "lab"}

    assert document(shared_lab) == {
        **head,
        "target": "pg2",
        "reason": "round_robin",
        "considered": nodes,
    }
    assert document(shared_lab, "--write") == {
        **head,
        "target": "pg1",
        "reason": "write",
        "considered": [{**node, "fit": node["node"] == "pg1"} for node in nodes],
    }


def test_every_format_says_the_same(shared_lab: Lab) -> None:
    assert route(shared_lab, "-o", "name").stdout == "pg2\n"
    assert route(shared_lab).stdout == "lab: pg2 (round_robin): the next of the fit replicas in turn\n"
    explained = route(shared_lab, "--explain").stdout.splitlines()
    assert [line.split()[:3] for line in explained[1:]] == [
        ["NODE", "FIT", "REASON"],
        ["pg1", "no", "primary"],
        ["pg2", "yes", "fit"],
        ["pg3", "yes", "fit"],
    ]
    assert list(csv.DictReader(io.StringIO(route(shared_lab, "-o", "csv").stdout)))[1] == {
        "cluster": "lab",
        "node": "pg2",
        "fit": "true",
        "reason": "fit",
    }


def test_a_zone_is_preferred(shared_lab: Lab) -> None:
    zones = {"pg2": {"zone": "a"}, "pg3": {"zone": "b"}}
    keys = {"nodes": zones, "routing": {"policy": "zone"}}

    assert [document(shared_lab, "--zone", zone, **keys)["target"] for zone in "ab"] == ["pg2", "pg3"]
    assert document(shared_lab, "--zone", "c", **keys)["reason"] == "other_zone"


def test_a_replica_that_lags_is_not_read_from_and_the_reason_is_said(lab: Lab) -> None:
    ask(lab, "pg2", "SELECT pg_wal_replay_pause()")
    wal = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1 << 20)) FROM generate_series(1, 8)"
    ask(lab, "pg1", wal)
    limits = {"routing": {"max_lag_bytes": "4MiB"}}
    wait_until(lambda: document(lab, **limits)["target"] == "pg3", "pg3 has caught up")

    found = document(lab, **limits)
    assert (found["target"], considered(found)) == (
        "pg3",
        {"pg1": "primary", "pg2": "lag_bytes", "pg3": "fit"},
    )
    assert "is too many bytes behind" in route(lab, "--explain", **limits).stdout


def test_a_token_leads_to_a_node_that_has_it(lab: Lab) -> None:
    caught_up(lab)
    system = json.loads(replctl("status", "--json", env=environment(write_inventory(lab))).stdout)[
        "system_identifier"
    ]
    here = fingerprint(system)
    now_at = value(lab, "pg1", "SELECT extract(epoch FROM clock_timestamp())::float8")
    ask(lab, "pg2", "SELECT pg_wal_replay_pause()")
    ask(lab, "pg1", "CREATE TABLE written ()")
    written = position(here, ask(lab, "pg1", POSITION_SQL)[0])
    wait_until(
        lambda: value(lab, "pg3", "SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn") >= written.lsn,
        "pg3 has replayed it",
    )
    far = written._replace(lsn=type(written.lsn)(written.lsn + (1 << 40)))
    cases = {
        KEYS.issue(written, now_at): ("pg3", "round_robin"),
        KEYS.issue(far, now_at): ("pg1", "lsn_behind"),
        KEYS.issue(far._replace(system="0" * 10), now_at): ("pg1", "other_cluster"),
        KEYS.issue(far._replace(timeline=9), now_at): (None, "timeline_ahead"),
        KEYS.issue_window(here, now_at): ("pg1", "sticky_window"),
    }
    for token, expected in cases.items():
        found = document(lab, "--token", token, routing={"max_lag_s": 3600, "sticky_s": 3600})
        assert (found["target"], found["reason"]) == expected


def test_draining_is_seen_by_route_and_status_and_can_be_taken_back(lab: Lab) -> None:
    dry = route(lab, "--drain", "pg2", "--dry-run")
    assert (dry.returncode, dry.stdout) == (
        0,
        "lab: would be done, by a row of replctl.state on pg1: pg2 gets no more reads, until "
        "`replctl route --undrain pg2`.\n",
    )
    assert considered(document(lab))["pg2"] == "fit"

    assert route(lab, "--drain", "pg2", "--reason", "new disks", "--yes").returncode == 0
    assert considered(document(lab)) == {"pg1": "primary", "pg2": "drained", "pg3": "fit"}
    status = json.loads(replctl("status", "--json", env=environment(write_inventory(lab))).stdout)
    assert [node["routing"] for node in status["nodes"]] == [
        {"in_pool": False, "reason": "primary"},
        {"in_pool": False, "reason": "drained"},
        {"in_pool": True, "reason": "fit"},
    ]
    assert (
        value(lab, "pg3", "SELECT value ->> 'reason' FROM replctl.state WHERE key = 'drain:pg2'")
        == "new disks"
    )

    assert route(lab, "--undrain", "pg2", "--yes").returncode == 0
    assert considered(document(lab))["pg2"] == "fit"
    again = route(lab, "--undrain", "pg2", "--yes")
    assert (again.returncode, again.stdout) == (0, "lab: nothing to do, pg2 is not drained.\n")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--drain", "pg9", "--yes"), "no node 'pg9' in the inventory"),
        (("--drain", "pg2", "--undrain", "pg3", "--yes"), "--drain and --undrain do not go together"),
        (("--drain", "pg2"), "draining needs a confirmation"),
        (("--token", "v1.nonsense"), "--token is not a token"),
        (("--token", "v1.nonsense", "--write"), "--token does not go with --write"),
        (("--drain", "pg2", "--reason", "two\nlines", "--yes"), "--reason"),
        (("--timeout", "0"), "--timeout 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(shared_lab: Lab, options: tuple[str, ...], told: str) -> None:
    done = route(shared_lab, *options)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"replctl: {told}")


def test_without_a_primary_a_write_goes_nowhere_and_the_causes_are_told(lab: Lab) -> None:
    lab.kill("pg1")
    done = route(lab, "--write", "-o", "json")

    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert (found["target"], found["reason"]) == (None, "no_primary")
    assert done.stderr.startswith("replctl: no node answers as primary: pg1 does not answer: refused")


def test_reads_go_nowhere_where_the_primary_is_not_to_serve_them(lab: Lab) -> None:
    for name in ("pg2", "pg3"):
        lab.stop(name)
    done = route(lab, routing={"on_all_unfit": "error"})

    assert (done.returncode, done.stdout) == (
        3,
        "lab: nowhere (all_unfit): no replica is fit (see on_all_unfit)\n",
    )


def test_of_two_primaries_the_old_one_never_gets_a_write(lab: Lab) -> None:
    ask(lab, "pg2", "SELECT pg_promote()")
    ask(lab, "pg2", "CHECKPOINT", "CREATE TABLE went_on ()")

    for _ in range(3):
        found = document(lab, "--write")
        assert (found["target"], found["reason"]) in (("pg2", "write"), (None, "two_primaries"))
        assert considered(found)["pg1"] == "stale_primary"


def test_every_cluster_of_a_directory_is_answered_for(shared_lab: Lab, tmp_path: Any) -> None:
    text = shared_lab.inventory_path.read_text()
    for name in ("bills", "orders"):
        (tmp_path / f"{name}.toml").write_text(text.replace('name = "lab"', f'name = "{name}"', 1))
        (tmp_path / f"{name}.toml").chmod(0o600)
    done = replctl("route", "--json", "-i", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert [(c["cluster"], c["target"]) for c in json.loads(done.stdout)["clusters"]] == [
        ("bills", "pg2"),
        ("orders", "pg2"),
    ]
