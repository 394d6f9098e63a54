"""A healthy cluster with one bad node: what is said of that, and that nothing else is spoilt or late."""

from __future__ import annotations

import time
from typing import Any

from replctl.core.model import Cause, NodeFacts
from replctl.core.status import ClusterStatus, NodeState
from replctl.lab import Lab
from tests.live.failover_support import value
from tests.live.looks import Address, Looks, addresses, inventory
from tests.support import wait_until

LIMITS: dict[str, Any] = {"connect_timeout_s": 1, "query_timeout_s": 1}
DEADLINE_S = 3.0  # what one node may cost at most: to connect, to ask, to ask again
BEHIND = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS DISTINCT FROM pg_current_wal_lsn()"
SLACK_S = 4.0  # of a busy machine
HEALTHY = {"pg1": NodeState.PRIMARY, "pg2": NodeState.STREAMING, "pg3": NodeState.STREAMING}


def look_at(lab: Lab, bad: Address | dict[str, Any], **connection: Any) -> tuple[Cause | None, str | None]:
    """Look at a healthy cluster with one bad node. Returns what is said of it; all else is asserted here."""
    node = bad if isinstance(bad, dict) else {"host": bad[0], "port": bad[1]}
    nodes: dict[str, Any] = {**addresses(lab), "bad": node | connection}
    wait_until(lambda: value(lab, "pg1", BEHIND) == 0, "nothing is left of what other tests wrote")
    with Looks(inventory(nodes, **LIMITS)) as looks:
        began_s = time.monotonic()
        found = looks.status()
        took_s = time.monotonic() - began_s
        again_s = time.monotonic()
        looks.status()
        again_s = time.monotonic() - again_s
    assert_others_are_right(found)
    assert took_s < DEADLINE_S + SLACK_S
    assert again_s < SLACK_S
    return found["bad"].cause, found["bad"].message


def assert_others_are_right(found: ClusterStatus) -> None:
    states = {name: found[name].state for name in HEALTHY}
    assert (found.primary, states) == ("pg1", HEALTHY)
    assert all(found[name].in_pool for name in ("pg2", "pg3"))


def alias(lab: Lab) -> dict[str, Any]:
    """pg1 by another address than pg1 has."""
    return {"host": "localhost", "port": lab.nodes["pg1"].port}


def is_let_in(node: dict[str, Any], **connection: Any) -> bool:
    """Whether a node that is looked at alone gives its facts."""
    with Looks(inventory({"alone": node}, **LIMITS | connection)) as looks:
        return isinstance(looks.look()["alone"], NodeFacts)
