"""A stale primary that is the only one to answer: files and proxies stay with the one that replaced it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replctl.lab import Lab
from tests.live.failover_support import ask, environment
from tests.live.proxies import node_at
from tests.live.test_apply import apply, at, balanced, databases, leads_to, pooled, writers
from tests.live.test_proxy_watch import Watch
from tests.support import replctl, wait_until

pytestmark = pytest.mark.live


@pytest.fixture
def moved(lab: Lab) -> Iterator[tuple[Path, int]]:
    """Writes go to pg2 through a PgBouncer; but for pg1, which takes writes too, nobody answers now."""
    with pooled(lab) as (inventory, (port,)):
        ask(lab, "pg2", "SELECT pg_promote()", "CHECKPOINT")
        done = apply(inventory, "pgbouncer")
        assert (done.returncode, leads_to(port)) == (0, at(lab, "pg2")), done.stderr
        lab.freeze("pg2")
        lab.freeze("pg3")
        yield inventory, port


@pytest.mark.parametrize("how", ["--out", "--apply", "--check"])
def test_one_look_does_not_send_writes_back(lab: Lab, moved: tuple[Path, int], how: str) -> None:
    inventory, port = moved
    before = databases(lab).read_text()
    options = [how, str(databases(lab))] if how == "--out" else [how]
    done = replctl("render-pgbouncer", *options, "--timeout", "4s", env=environment(inventory))
    assert (done.returncode, databases(lab).read_text()) == (3, before)
    assert done.stderr.startswith("replctl: pg1 takes writes on timeline 1, and may have been replaced")
    assert "the file says that writes go to pg2 on timeline 2" in done.stderr
    assert leads_to(port) == at(lab, "pg2")


def test_a_process_that_has_just_begun_to_watch_does_not_either_and_goes_on_when_it_knows_more(
    lab: Lab, moved: tuple[Path, int]
) -> None:
    inventory, port = moved
    with Watch(inventory, "pgbouncer") as watch:
        wait_until(lambda: watch.said("may have been replaced"), "it is said", limit_s=20)
        assert leads_to(port) == at(lab, "pg2")
        lab.thaw("pg2")
        wait_until(lambda: watch.said("all is well again"), "it is over", limit_s=40)
        assert leads_to(port) == at(lab, "pg2")


def test_who_names_the_primary_knows_better_than_the_file(lab: Lab, moved: tuple[Path, int]) -> None:
    inventory, port = moved
    said = apply(inventory, "pgbouncer", "--offline", "--primary", "pg1")
    assert (said.returncode, leads_to(port)) == (0, at(lab, "pg1")), said.stderr
    looked = apply(inventory, "pgbouncer", "--timeout", "4s")
    assert (looked.returncode, leads_to(port)) == (0, at(lab, "pg1")), looked.stderr


def test_haproxy_stays_with_the_new_primary_too(lab: Lab) -> None:
    with balanced(lab) as (inventory, rw, _ro, door):
        ask(lab, "pg2", "SELECT pg_promote()", "CHECKPOINT")
        assert apply(inventory, "haproxy").returncode == 0
        lab.freeze("pg2")
        lab.freeze("pg3")
        done = apply(inventory, "haproxy", "--timeout", "4s")
        assert (done.returncode, writers(door)) == (3, {"lab_rw/pg2"})
        lab.thaw("pg2")
        wait_until(lambda: node_at(lab, rw) == "pg2", "its checks find it alive again", limit_s=20)
