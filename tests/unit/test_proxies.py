"""Applying to proxies, as far as it needs none that runs: files, userlists, trials, what needs a reload."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from replctl.errors import RefusedError, ReplctlError
from replctl.inventory import load
from replctl.proxies.aliases import checked, differences
from replctl.proxies.places import Moved, Place
from replctl.proxies.roles import Wish, after_promotion, targets
from replctl.proxies.trial import try_haproxy, try_pgbouncer
from replctl.proxies.userlist import broken_line, check_userlist
from replctl.render.pgbouncer import Alias

INVENTORY = """\
schema = 1
[cluster]
name = "orders"
[connection]
user = "replctl"
[[nodes]]
name = "pg1"
host = "10.0.0.1"
[[nodes]]
name = "pg2"
host = "10.0.0.2"
zone = "b"
[[nodes]]
name = "pg3"
host = "10.0.0.3"
[routing]
policy = "zone"
on_all_unfit = "error"
[pgbouncer]
databases = ["app"]
file = "/etc/pgbouncer/databases.ini"
admin = ["host=10.0.0.5 port=6432", "host=10.0.0.6 port=6432", "host=10.0.0.5 port=6433"]
run = ["ssh", "{host}"]
[haproxy]
file = "/etc/haproxy/haproxy.cfg"
sockets = ["10.0.0.7:9999"]
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "orders.toml"
    path.write_text(INVENTORY)
    path.chmod(0o644)
    return path


# ---- userlists


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", None),
        ('"a" "b"\n', None),
        ('; a comment\n\n  "a" "x""y" whatever\n"c" ""\n', None),
        ('"a" "b"\n"c "d"\n', 2),
        ('"a" "b"\nc d\n', 2),
        ('"a"\n', 1),
        ('"a" "b\n"\n', 1),
        (f'"{"u" * 127}" "s"\n"{"u" * 128}" "s"\n', 2),
        (f'"a" "{"s" * 2047}"\n"b" "{"s" * 2048}"\n', 2),
    ],
)
def test_a_userlist_is_broken_in_the_line_after_which_pgbouncer_reads_no_more(
    text: str, line: int | None
) -> None:
    assert broken_line(text) == line


def test_a_broken_userlist_is_refused_without_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "userlist.txt"
    path.write_text('"a" "geheim\n')
    with pytest.raises(RefusedError) as caught:
        check_userlist(str(path), readable_here=True)
    assert str(caught.value) == (
        f"{path} is broken in line 1: a reload would lock out everybody after it: "
        'expected "user" "secret" in double quotes, a quote inside doubled'
    )
    check_userlist(str(path), readable_here=False)
    check_userlist(str(tmp_path / "none"), readable_here=True)
    check_userlist(None, readable_here=True)


# ---- places


def test_a_file_on_another_machine_is_replaced_by_plain_commands(tmp_path: Path) -> None:
    path = tmp_path / "databases.ini"
    place = Place(path=path, run=("env", "--"))
    assert place.read() is None
    place.write("one\n")
    path.chmod(0o640)
    place.write("two\n")
    assert (place.read(), path.stat().st_mode & 0o777) == ("two\n", 0o640)
    assert (tmp_path / "databases.ini.previous").read_text() == "one\n"
    place.put_back("one\n")
    assert place.read() == "one\n"
    place.put_back(None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["databases.ini.previous"]


def test_two_who_write_to_another_machine_at_once_never_mix_their_texts(tmp_path: Path) -> None:
    place, texts = Place(path=tmp_path / "x", run=("env", "--")), [letter * 300_000 for letter in "ab"]
    place.write(texts[0])
    seen: list[str | None] = []

    def write(text: str) -> None:
        for _ in range(15):
            place.write(text)
            seen.append(place.read())

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, text) for text in texts]:
            done.result(60)
    assert set(seen) <= set(texts)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "x.previous"]


def test_what_somebody_writes_meanwhile_on_another_machine_stays(tmp_path: Path) -> None:
    path, program = tmp_path / "x", tmp_path / "run"
    program.write_text(f'#!/bin/sh\n[ "$1" != sync ] || echo theirs >{path}\nexec "$@"\n')
    program.chmod(0o755)
    path.write_text("before\n")
    with pytest.raises(Moved):
        Place(path=path, run=(str(program),)).replace("before\n", "ours\n")
    assert path.read_text() == "theirs\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "x"]


def test_a_machine_that_is_not_reached_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReplctlError, match="is not reached"):
        Place(path=tmp_path / "x", run=("/nonexistent/ssh",)).read()
    with pytest.raises(ReplctlError, match="tee failed"):
        Place(path=tmp_path / "none" / "x", run=("env",)).write("x")


def test_two_processes_change_a_file_one_after_the_other(tmp_path: Path) -> None:
    place, order = Place(path=tmp_path / "x"), []

    async def one(name: str) -> None:
        async with place.held():
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    async def both() -> None:
        await asyncio.gather(one("a"), one("b"))

    asyncio.run(both())
    assert order in (
        ["a begins", "a ends", "b begins", "b ends"],
        ["b begins", "b ends", "a begins", "a ends"],
    )
    assert list(tmp_path.iterdir()) == []


def test_consoles_on_one_machine_share_its_file(inventory: Path) -> None:
    found = targets(load(inventory), "pgbouncer")
    assert [(t.place.run, t.doors) for t in found] == [
        (("ssh", "10.0.0.5"), ("host=10.0.0.5 port=6432", "host=10.0.0.5 port=6433")),
        (("ssh", "10.0.0.6"), ("host=10.0.0.6 port=6432",)),
    ]


# ---- what is tried


def test_a_text_that_is_not_its_plan_is_refused() -> None:
    plan = (Alias(name="app", settings={"host": "10.0.0.1", "port": "5432", "dbname": "app"}),)
    good = "[databases]\napp = host=10.0.0.1 port=5432 dbname=app\n"
    try_pgbouncer(good, plan, (1, 18))
    for text in (good.replace("10.0.0.1", "10.0.0.2"), good + "more = host=x\n", good + "nonsense\n"):
        with pytest.raises(ReplctlError, match="is not as it should be"):
            try_pgbouncer(text, plan, (1, 18))
    with pytest.raises(ReplctlError, match="its servers are others"):
        try_haproxy("listen x\n    server a 10.0.0.1:5432 check weight 100\n", (), (2, 6))


def test_differences_name_the_alias_and_both_values() -> None:
    plan = [
        Alias(name="app", settings={"host": "10.0.0.1", "port": "5433"}),
        Alias(name="b", settings={"host": "h"}),
    ]
    rows = {"app": {"host": "10.0.0.2", "port": 5433, "database": "app"}}
    assert differences(plan, rows) == [
        "alias app has host 10.0.0.2, not 10.0.0.1",
        "alias b is not there",
    ]


@pytest.mark.parametrize("name", ['a"b', "a b", "a;b", "", "a\nb", "ä" * 40, "x" * 64])
def test_no_other_alias_reaches_a_console(name: str) -> None:
    with pytest.raises(ReplctlError):
        checked(name)


def test_an_alias_is_quoted_for_a_console() -> None:
    assert checked("app-1.ro") == '"app-1.ro"'


# ---- roles


def test_after_a_promotion_reads_go_to_whoever_answered_and_writes_never_wait_for_a_reader(
    inventory: Path,
) -> None:
    settings = load(inventory).settings
    some = after_promotion(settings, "pg2", lost="pg1", answering=["pg2", "pg3"], drained=[])
    assert (some.writer, [r.name for r in some.readers], some.spare) == ("pg2", ["pg3"], None)
    none = after_promotion(settings, "pg2", lost="pg1", answering=["pg1", "pg2", "pg3"], drained=["pg3"])
    assert (none.writer, none.readers, none.spare) == ("pg2", (), "pg2")
    assert none.barred == {"pg1"}


def test_a_change_is_rendered_as_the_present_file_was(inventory: Path) -> None:
    (target,) = targets(load(inventory), "haproxy")
    placement = after_promotion(
        target.inventory.settings, "pg1", lost=None, answering=["pg1", "pg2", "pg3"], drained=[]
    )
    wish = Wish(version="2.8", whole=False, zone="b")
    first = asyncio.run(target.change(placement, wish, present=None))
    again = asyncio.run(target.change(placement, Wish(), present=first.rendered.text))
    assert again.version == (2, 8)
    assert again.rendered.text == first.rendered.text
    with pytest.raises(RefusedError, match="was not rendered by this command"):
        asyncio.run(target.change(placement, Wish(), present="global\n"))
