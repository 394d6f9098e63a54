"""What role endpoints and agent checks say of each node, after looks that never happened."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replctl.core.model import FENCE_NAME, Cause, Lsn, Observation
from replctl.core.settings import RoutingSettings
from replctl.inventory import Inventory
from replctl.journal import StateFile
from replctl.server.agent import Agent, state_line
from replctl.server.places import Places
from replctl.server.roles import ROLES, Limits, answer, limits_of
from replctl.server.watch import INTERVAL_S, TIMELINES, Watch
from tests.support import wait_until
from tests.unit.builders import (
    END,
    primary,
    receiver,
    replica,
    sender,
    settings,
    spec,
    state,
    trio,
    unreachable,
    without_receiver,
)
from tests.unit.routing import drained

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLCTL_STATE_DIR", str(tmp_path / "state"))


def watch_of(
    name: str = "orders", *names: str, nodes: Any = None, interval_s: float = INTERVAL_S, **routing: Any
) -> Watch:
    keys: dict[str, Any] = {"name": name, "routing": RoutingSettings(**routing)}
    found = settings(*names, **keys | ({"nodes": nodes} if nodes else {}))
    inventory = Inventory(path=Path("orders.toml"), settings=found, connections={}, commands={})
    return Watch(inventory, interval_s=interval_s, log=print)


def look(watch: Watch, *nodes: Observation, age_s: float = 0.0, **keys: Any) -> Watch:
    watch.learn(
        state(
            *nodes, **{"observed_at_s": time.monotonic() - age_s, "observed_at": time.time() - age_s} | keys
        )
    )
    return watch


def yes(watch: Watch, name: str, limits: Limits | None = None) -> set[str]:
    """The questions that this node is a yes to."""
    return {role for role in ROLES if answer(role, name, watch.current, limits or Limits()).yes}


PRIMARY = {
    "primary",
    "leader",
    "master",
    "read-write",
    "read-only",
    "read-only-sync",
    "read-only-synchronous",
    "read-only-quorum",
}
ALIVE = {"health", "liveness"}
ASYNC = {"replica", "read-only", "async", "asynchronous"}


def test_nobody_leads_a_cluster_that_follows_another_one() -> None:
    watch = look(watch_of(), *trio())

    for word in ("standby-leader", "standby_leader"):
        found = answer(word, "pg1", watch.current, Limits())
        assert (found.yes, found.why) == (False, "no cluster of an inventory follows another cluster")


def test_a_healthy_cluster_has_one_primary_and_asynchronous_replicas() -> None:
    watch = look(watch_of(), *trio())

    assert {name: yes(watch, name) for name in ("pg1", "pg2", "pg3")} == {
        "pg1": PRIMARY | ALIVE | {"readiness"},
        "pg2": ASYNC | ALIVE | {"readiness"},
        "pg3": ASYNC | ALIVE | {"readiness"},
    }


@pytest.mark.parametrize(
    ("sync_state", "expected"),
    [
        ("sync", {"sync", "synchronous", "read-only-sync", "read-only-synchronous"}),
        ("quorum", {"quorum", "read-only-quorum"}),
        ("potential", {"async", "asynchronous"}),
        ("async", {"async", "asynchronous"}),
        (None, set()),
    ],
)
def test_a_replica_confirms_as_the_primary_says(sync_state: str | None, expected: set[str]) -> None:
    first = primary("pg1", "pg3", senders=(sender("pg2", sync_state=sync_state), sender("pg3")))
    watch = look(watch_of(), *trio(pg1=first))

    assert yes(watch, "pg2") == {"replica", "read-only", "readiness", *ALIVE, *expected}


def test_without_a_look_and_with_one_that_is_too_old_nobody_is_anything() -> None:
    watch = watch_of()
    assert yes(watch, "pg1") == yes(watch, "pg2") == set()
    look(watch, *trio(), age_s=watch.stale_after_s + 0.1)
    assert yes(watch, "pg1") == yes(watch, "pg2") == set()
    assert "too old" in answer("primary", "pg1", watch.current, Limits()).why
    assert watch.stale_after_s == watch_of(interval_s=3600.0).stale_after_s == 8
    look(watch, *trio())
    assert "primary" in yes(watch, "pg1")


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"pg1": unreachable("pg1")}, "no node answers as primary"),
        ({"pg1": unreachable("pg1", Cause.TIMEOUT)}, "it does not answer (timeout)"),
        (
            {"pg1": primary("pg1", "pg2", "pg3", synchronous_standby_names=f'2 ("{FENCE_NAME}", x)')},
            "no node answers as primary",
        ),
        (
            {"pg2": primary("pg2", timeline=1, lsn=END + 8)},
            "several nodes take writes, and none is proven to be the successor of the others",
        ),
        (
            {"pg1": primary("pg1"), "pg2": primary("pg2", "pg3", timeline=2, lsn=END + 8)},
            "several nodes take writes, and none is proven to be the successor of the others",
        ),
    ],
    ids=["refused", "silent", "fenced", "two", "stale"],
)
def test_a_primary_that_is_gone_fenced_doubtful_or_stale_is_none(spoilt: dict[str, Any], why: str) -> None:
    watch = look(watch_of(), *trio())
    look(watch, *trio(**spoilt))

    assert "primary" not in yes(watch, "pg1")
    assert answer("primary", "pg1", watch.current, Limits()).why == why


def test_the_promoted_one_is_the_primary_once_it_has_gone_on_and_the_old_one_never_again() -> None:
    watch = look(watch_of(), *trio())
    new = primary("pg2", timeline=2, lsn=END + 8)
    look(watch, unreachable("pg1"), new, without_receiver("pg3"))
    assert "primary" in yes(watch, "pg2")
    look(watch, primary("pg1"), new, without_receiver("pg3"))
    assert ("primary" in yes(watch, "pg1"), "primary" in yes(watch, "pg2")) == (False, True)
    look(watch, primary("pg1"), unreachable("pg2"), without_receiver("pg3"))
    assert yes(watch, "pg1") == ALIVE
    assert "older timeline" in answer("primary", "pg1", watch.current, Limits()).why


def test_a_run_that_comes_after_a_failover_does_not_believe_the_old_primary() -> None:
    new, alone = primary("pg2", timeline=2), (primary("pg1"), unreachable("pg2"), without_receiver("pg3"))
    earlier = look(look(watch_of(), unreachable("pg1"), new, without_receiver("pg3")), *alone)
    wait_until(lambda: kept().get("pg2") == 2, "it is kept")
    assert "primary" not in yes(earlier, "pg1")

    assert "primary" not in yes(look(watch_of(), *alone), "pg1")
    assert "primary" in yes(look(watch_of("another"), *alone), "pg1")


def kept() -> dict[str, int]:
    """The newest timeline of each node, as later runs will find it."""
    return StateFile("orders", TIMELINES).read().get("timelines", {})


def has_written_of_silence() -> bool:
    """Whether a look with a silent node has been written down, which is done after the timelines."""
    return "unreachable" in str(StateFile("orders", "seen").read())


def test_what_was_promoted_by_accident_and_follows_again_is_forgotten_by_later_runs_too() -> None:
    accident = trio(pg3=primary("pg3", timeline=2, lsn=END + 8))
    watch = look(look(watch_of(), *trio()), *accident)
    wait_until(lambda: kept().get("pg3") == 2, "it is kept")
    late = look(watch_of(), *trio(pg3=unreachable("pg3")))
    assert {name: yes(late, name) - ALIVE for name in ("pg1", "pg2")} == {"pg1": set(), "pg2": {"readiness"}}
    (problem,) = [one for one in late.newest.report.problems if one.name == "primary"] if late.newest else []
    assert problem.message.startswith("pg1 is on timeline 1, and pg3 was seen on 2: ")
    wait_until(has_written_of_silence, "the later run has nothing to write any more")

    look(watch, *trio())
    wait_until(lambda: kept() == {"pg1": 1, "pg2": 1, "pg3": 1}, "it is forgotten")
    assert "primary" in yes(watch, "pg1")
    assert "primary" in yes(look(watch_of(), *trio(pg3=unreachable("pg3"))), "pg1")


def test_a_run_that_has_seen_less_takes_nothing_from_what_another_has_left() -> None:
    early = look(watch_of(), *trio())
    look(watch_of(), *trio(pg3=primary("pg3", timeline=2, lsn=END + 8)))
    wait_until(lambda: kept().get("pg3") == 2, "it is kept")
    look(early, *trio(pg2=unreachable("pg2"), pg3=unreachable("pg3")))
    wait_until(has_written_of_silence, "it has written that down")

    assert kept() == {"pg1": 1, "pg2": 1, "pg3": 2}


def test_a_node_of_another_cluster_is_nothing() -> None:
    watch = look(watch_of(), *trio())
    look(watch, *trio(pg3=unreachable("pg3", Cause.WRONG_CLUSTER)))

    assert yes(watch, "pg3") == {"liveness"}


@pytest.mark.parametrize(
    ("lag", "expected"), [(None, False), ("8MB", False), ("32MB", True), ("1GB", True), ("33554431", False)]
)
def test_who_gives_a_lag_is_answered_by_that_and_else_by_the_policy(lag: str | None, expected: bool) -> None:
    behind = replica("pg2", lsn=END - 32 * MIB)
    watch = watch_of(max_lag_s=3600, eject_after=1)
    for _ in range(2):
        look(watch, *trio(pg2=behind))

    limits = limits_of({} if lag is None else {"lag": lag})
    assert answer("replica", "pg2", watch.current, limits).yes is expected
    assert answer("asynchronous", "pg2", watch.current, limits).yes is expected
    assert "replica" in yes(watch, "pg3", limits)


@pytest.mark.parametrize("lag", ["", "x", "-1", "1MBB", "1e999", "NaN"])
def test_a_lag_that_is_no_size_is_refused(lag: str) -> None:
    with pytest.raises(ValueError):
        limits_of({"lag": lag})


def test_a_lag_admits_no_replica_that_is_out_for_another_reason() -> None:
    watch = look(watch_of(), *trio(), marks=drained("pg2"))
    assert "replica" not in yes(watch, "pg2", limits_of({"lag": "1GB"}))
    ahead = look(watch_of(max_lag_s=3600), *trio(pg3=replica("pg3", lsn=END + 8 * MIB)))
    assert "replica" not in yes(ahead, "pg3", limits_of({"lag": "1GB"}))
    zero = watch_of(nodes=(spec("pg1"), spec("pg2", weight=0), spec("pg3")))
    assert "replica" not in yes(look(zero, *trio()), "pg2", limits_of({"lag": "1GB"}))


def test_readiness_counts_what_is_replayed_or_with_mode_write_what_is_received() -> None:
    behind = replace(replica("pg2", lsn=END - 32 * MIB), received_lsn=Lsn(END))
    watch = look(watch_of(), *trio(pg2=behind))

    ready = {
        query: "readiness" in yes(watch, "pg2", limits_of(dict(query)))
        for query in ((), (("lag", "64MB"),), (("mode", "write"),), (("mode", "write"), ("lag", "1")))
    }
    assert ready == {
        (): False,
        (("lag", "64MB"),): True,
        (("mode", "write"),): True,
        (("mode", "write"), ("lag", "1")): True,
    }


def test_a_replica_without_a_receiver_is_not_ready() -> None:
    watch = look(watch_of(), *trio(pg2=without_receiver("pg2")))

    assert "readiness" not in yes(watch, "pg2")


def test_tags_are_asked_of_replicas_and_not_of_the_primary() -> None:
    watch = look(watch_of(nodes=(spec("pg1"), spec("pg2", zone="a"), spec("pg3"))), *trio())

    for query, expected in (
        ({"tag_zone": "a"}, {"pg2"}),
        ({"tag_zone": "b"}, set()),
        ({"tag_clonefrom": "true"}, set()),
    ):
        limits = limits_of(query)
        assert {n for n in ("pg2", "pg3") if "replica" in yes(watch, n, limits)} == expected
        assert "primary" in yes(watch, "pg1", limits)


def test_a_replication_state_is_compared() -> None:
    catching_up = replica("pg3", receiver=receiver(status="waiting"))
    watch = look(watch_of(), *trio(pg3=catching_up))

    streaming = limits_of({"replication_state": "streaming"})
    assert {n: "replica" in yes(watch, n, streaming) for n in ("pg2", "pg3")} == {"pg2": True, "pg3": False}
    assert "replica" not in yes(watch, "pg2", limits_of({"replication_state": "anything"}))


# ---- agent checks


def test_the_agent_gives_weights_drains_and_downs() -> None:
    nodes = (spec("pg1"), spec("pg2", weight=25), spec("pg3", weight=250))
    watch = look(watch_of(nodes=nodes, max_lag_s=3600, eject_after=1), *trio())
    assert [state_line("replica", n, watch.current) for n in ("pg1", "pg2", "pg3")] == [
        "down #primary",
        "up ready 25%",
        "up ready 100%",
    ]
    assert [state_line("primary", n, watch.current) for n in ("pg1", "pg2")] == [
        "up ready 100%",
        "down #not_the_primary",
    ]
    look(watch, *trio(pg2=replica("pg2", lsn=END - 32 * MIB), pg3=unreachable("pg3")))
    assert [state_line("replica", n, watch.current) for n in ("pg2", "pg3")] == [
        "up drain",
        "down #unreachable",
    ]
    assert state_line("primary", "pg1", None) == state_line("replica", "pg2", None) == "down #stale"


def test_the_agent_knows_names_of_the_inventory_only() -> None:
    one = look(watch_of("one", "pg1", "pg2"), primary("pg1", "pg2"), replica("pg2"))
    two = look(watch_of("two", "pg1", "db2"), primary("pg1", "db2"), replica("db2"))
    agent = Agent(Places([one, two]))

    asked = [
        "pg2\n",
        "one/pg2 replica\r\n",
        "two/pg1 primary",
        "db2 async",
        "pg1 primary",
        "x",
        "",
        "pg2 x",
        "a/b/c",
    ]
    assert {line: asyncio.run(agent.reply(line)) for line in asked} == {
        "pg2\n": "up ready 100%",
        "one/pg2 replica\r\n": "up ready 100%",
        "two/pg1 primary": "up ready 100%",
        "db2 async": "up ready 100%",
        "pg1 primary": "down #unknown_name",
        "x": "down #unknown_name",
        "": "down #unknown_name",
        "pg2 x": "down #unknown_name",
        "a/b/c": "down #unknown_name",
    }
