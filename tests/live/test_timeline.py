"""The timeline of a replica that has lost its upstream: its control file may not know of it yet."""

from __future__ import annotations

import json

import pytest

from replctl.lab import Lab
from tests.live.failover_support import environment, fail_over, receiver_count, wait_streaming
from tests.support import replctl, wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1")]


def test_an_old_primary_is_not_taken_for_the_primary_when_the_new_one_dies(lab: Lab):
    inventory = lab.inventory_path
    lab.kill("pg1")
    wait_until(lambda: receiver_count(lab, "pg3") == 0, "pg3 has lost pg1")
    assert fail_over(inventory, "--yes", "--to", "pg2").returncode == 0
    wait_streaming(lab, "pg2", "pg3")
    lab.kill("pg2")
    wait_until(lambda: receiver_count(lab, "pg3") == 0, "pg3 has lost pg2")
    lab.start("pg1")

    shown = replctl("status", "-i", str(inventory), "-o", "json", env=environment(inventory))
    status = json.loads(shown.stdout)

    assert {n["name"]: (n["state"], n["timeline"]) for n in status["nodes"]} == {
        "pg1": ("stale_primary", 1),
        "pg2": ("unreachable", None),
        "pg3": ("stalled", 2),
    }
    assert (status["primary"], status["diagnosis"]["code"]) == (None, "STALE_PRIMARY")
