"""One file on each of several machines, of which one does not answer: the others are moved all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from replctl.lab import Lab
from tests.live.failover_support import ask, write_inventory
from tests.live.proxies import free_ports, node_at, pgbouncer
from tests.live.test_apply import apply, at, console, leads_to, promoted
from tests.live.test_proxy_watch import Watch
from tests.live.test_render import caught_up
from tests.support import wait_until

pytestmark = pytest.mark.live

# A machine is a folder; `broken` in it says what becomes of commands there.
RUN = """\
#!/bin/bash
machine=$(dirname "$0")/$1
shift
[ ! -e "$machine/broken" ] || . "$machine/broken"
exec "${@//\\/machine/$machine}"
"""


@contextmanager
def machines(lab: Lab, count: int = 2) -> Iterator[tuple[Path, dict[int, Path]]]:
    """PgBouncers with a file each, which was applied; the inventory, and the folders by port."""
    caught_up(lab)
    beside = lab.directory.parent
    run = beside / "run"
    run.write_text(RUN)
    run.chmod(0o755)
    folders = {port: beside / str(port) for port in free_ports(count)}
    keys = {"databases": ["postgres"], "version": "1.18", "file": "/machine/databases.ini"}
    keys |= {"admin": [console(port) for port in folders], "run": [str(run), "{port}"]}
    inventory = write_inventory(lab, pgbouncer=keys)
    with ExitStack() as stack:
        for port, folder in folders.items():
            folder.mkdir()
            folder.chmod(0o755)
            (folder / "databases.ini").write_text("")
            stack.enter_context(pgbouncer(lab, folder / "databases.ini", port))
        done = apply(inventory, "pgbouncer")
        assert done.returncode == 0, done.stderr
        yield inventory, folders


def test_each_machine_has_its_own_file(lab: Lab) -> None:
    with machines(lab) as (inventory, folders):
        texts = {(folder / "databases.ini").read_text() for folder in folders.values()}
        assert ([node_at(lab, port) for port in folders], len(texts)) == (["pg1", "pg1"], 1)
        promoted(lab)
        assert apply(inventory, "pgbouncer").returncode == 0
        assert [node_at(lab, port) for port in folders] == ["pg2", "pg2"]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["exit 255", '[ "$1" != tee ] || exit 1'], ids=["not reached", "no room"])
def test_one_that_fails_stops_no_other_and_the_change_is_done_in_part(lab: Lab, which: int, how: str) -> None:
    with machines(lab) as (inventory, folders):
        broken, well = list(folders)[which], list(folders)[1 - which]
        (folders[broken] / "broken").write_text(how)
        promoted(lab)
        done = apply(inventory, "pgbouncer")
        assert (done.returncode, node_at(lab, well), leads_to(broken)) == (4, "pg2", at(lab, "pg1"))
        assert f"/machine/databases.ini by {lab.directory.parent / 'run'} {broken}: " in done.stderr
        (folders[broken] / "broken").unlink()
        assert apply(inventory, "pgbouncer").returncode == 0
        assert node_at(lab, broken) == "pg2"


def test_where_none_is_reached_it_failed_and_where_nothing_is_to_do_too(lab: Lab) -> None:
    with machines(lab) as (inventory, folders):
        first, second = folders.values()
        (first / "broken").write_text("exit 255")
        assert apply(inventory, "pgbouncer").returncode == 1  # the other is as it should be
        (second / "broken").write_text("exit 255")
        assert apply(inventory, "pgbouncer").returncode == 1


def test_who_keeps_them_waits_for_no_machine_that_says_nothing(lab: Lab) -> None:
    with machines(lab) as (inventory, folders):
        (silent, folder), (port, _) = folders.items()
        (folder / "broken").write_text("exec sleep 60")
        with Watch(inventory, "pgbouncer") as watch:
            wait_until(lambda: watch.said("is not reached"), "it is said", limit_s=30)
            time_s = time.monotonic()
            lab.kill("pg1")
            ask(lab, "pg2", "SELECT pg_promote()")
            wait_until(lambda: leads_to(port) == at(lab, "pg2"), "the other is moved", limit_s=20)
            assert time.monotonic() - time_s < 8  # a command there has 10 s
            assert leads_to(silent) == at(lab, "pg1")
            (folder / "broken").unlink()
