"""`replctl events` with several clusters, and with lines that nothing can be made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from replctl.journal import events_path
from tests.support import replctl

INVENTORY = 'schema = 1\n[cluster]\nname = "{name}"\n[[nodes]]\nname = "pg1"\nhost = "127.0.0.1"\n'
AT = 1_900_000_000
SHOP, ORDERS, OLD = "20300317-174000-aaaa", "20300317-174100-bbbb", "20300317-173900-abcd"


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of three clusters: two had failovers, `users` had nothing."""
    monkeypatch.setenv("REPLCTL_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "state").mkdir(mode=0o700)
    directory = tmp_path / "inventories"
    directory.mkdir(mode=0o755)
    for name in ("orders", "shop", "users"):
        (directory / f"{name}.toml").write_text(INVENTORY.format(name=name))
        (directory / f"{name}.toml").chmod(0o600)
    leave(
        "orders", happened(60, ORDERS, "failover"), happened(63, ORDERS, "step"), happened(64, ORDERS, "done")
    )
    leave("shop", happened(-60, OLD, "failover"), happened(0, SHOP, "failover"), happened(90, None, "state"))
    return directory


def happened(after_s: float, run: str | None, event: str) -> dict[str, Any]:
    return {"at": AT + after_s, "id": run, "event": event, "node": "pg1", "message": f"{event} of pg1"}


def leave(cluster: str, *events: object) -> None:
    text = "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in events)
    events_path(cluster).write_text(text)


def told(directory: Path, *arguments: str) -> list[tuple[str, str, str]]:
    done = replctl("events", *arguments, "-i", str(directory), "--lines")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [(row["cluster"], row["id"], row["event"]) for row in rows]


@pytest.mark.parametrize("wanted", [ORDERS, "20300317-1741", "last"])
def test_a_failover_is_found_in_whichever_cluster_it_was(clusters: Path, wanted: str) -> None:
    steps = [("orders", ORDERS, "failover"), ("orders", ORDERS, "step"), ("orders", ORDERS, "done")]
    assert told(clusters, wanted) == steps


def test_last_is_the_newest_failover_of_all_clusters_or_of_the_one_that_is_named(clusters: Path) -> None:
    assert told(clusters, "last", "--cluster", "shop") == [("shop", SHOP, "failover")]
    leave("users", happened(3600, "20300317-184000-cccc", "failover"))
    assert told(clusters, "last") == [("users", "20300317-184000-cccc", "failover")]


def test_a_failover_is_shown_under_its_cluster_and_is_one_document_to_programs(clusters: Path) -> None:
    shown = replctl("events", "last", "-i", str(clusters))
    assert (shown.returncode, shown.stdout.splitlines()[0], len(shown.stdout.splitlines())) == (
        0,
        "orders:",
        5,
    )
    document = json.loads(replctl("events", "last", "-i", str(clusters), "-o", "json").stdout)
    assert (document["cluster"], len(document["events"])) == ("orders", 3)


def test_events_of_several_clusters_are_one_list_to_programs(clusters: Path) -> None:
    def shown(form: str) -> list[str]:
        return replctl("events", "-i", str(clusters), "-o", form).stdout.splitlines()

    assert shown("name") == [ORDERS, OLD, SHOP]
    assert [line.split(",")[0] for line in shown("csv")] == ["cluster", *["orders"] * 2, *["shop"] * 3]
    documents = json.loads("\n".join(shown("json")))["clusters"]
    assert [(d["cluster"], len(d["events"])) for d in documents] == [("orders", 2), ("shop", 3), ("users", 0)]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("1999", "no event with ID '1999'"), ("20300317-17", "3 failovers with ID '20300317-17'")],
)
def test_an_id_of_no_failover_or_of_several_is_refused_with_those_of_all_clusters(
    clusters: Path, wanted: str, said: str
) -> None:
    done = replctl("events", wanted, "-i", str(clusters))
    hint = f"hint: the last ones: {OLD}, {SHOP}, {ORDERS}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"replctl: {said}\n{hint}")


def test_without_any_failover_the_place_is_named_where_they_would_be(clusters: Path) -> None:
    for name in ("orders", "shop"):
        leave(name)
    done = replctl("events", "last", "-i", str(clusters))
    expected = (
        f"replctl: no failover has been written down on this machine: in {events_path('shop').parent}\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.parametrize("at", ["1e300", "-1e300", "NaN", "Infinity", "9" * 400, "-1", '"now"', "null", "[]"])
def test_an_event_of_no_time_that_can_be_shown_is_left_out(clusters: Path, at: str) -> None:
    leave("users", f'{{"at": {at}, "event": "state"}}', happened(0, None, "role"))
    done = replctl("events", "-i", str(clusters), "--cluster", "users", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["event"] for row in json.loads(done.stdout)["events"]] == ["role"]


@pytest.mark.parametrize("took_s", ["1e300", "NaN", "-Infinity", "9" * 400, '"long"', "-1"])
def test_an_event_that_took_an_impossible_time_is_shown_without_that(clusters: Path, took_s: str) -> None:
    leave("users", f'{{"at": {AT}, "event": "state", "took_s": {took_s}}}')
    done = replctl("events", "-i", str(clusters), "--cluster", "users", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["took_s"] for row in json.loads(done.stdout)["events"]] == [None]
