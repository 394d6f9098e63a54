"""What a file's head remembers: whose the writes were on which timeline, the zone, the version."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from replctl.core.model import Cause
from replctl.core.routing import Snapshot
from replctl.errors import NoPrimary
from replctl.proxies.places import Place
from replctl.proxies.roles import Target, Wish
from replctl.render.placement import Reader, from_inventory, from_snapshot, near_to
from replctl.render.rendered import Facts, Tenure, facts_of
from tests.unit.builders import primary, replica, unreachable
from tests.unit.render_cases import HAPROXY, PGBOUNCER, ZONES, inventory
from tests.unit.routing import SYSTEM, Looks

GIVEN = inventory()


def had(writer: str, timeline: int, system: str = SYSTEM) -> Tenure:
    return Tenure(writer=writer, timeline=timeline, system=system)


def alone(name: str, timeline: int) -> Snapshot:
    """A first look at which only this primary answers."""
    silent = (unreachable(n, Cause.TIMEOUT) for n in ("pg1", "pg2", "pg3") if n != name)
    return Looks(GIVEN.settings).look(primary(name, timeline=timeline), *silent)


def writer(snapshot: Snapshot, before: Tenure | None) -> str | None:
    try:
        return from_snapshot(GIVEN.settings, snapshot, before=before).writer
    except NoPrimary:
        return None


@pytest.mark.parametrize(
    ("now", "before", "takes_writes"),
    [
        (("pg1", 1), None, True),
        (("pg1", 1), had("pg1", 1), True),
        (("pg1", 1), had("pg2", 2), False),  # it was replaced, and the new one is silent
        (("pg2", 1), had("pg1", 1), False),  # a promotion makes a timeline: this is none
        (("pg1", 1), had("pg1", 2), False),  # an old backup
        (("pg1", 3), had("pg2", 2), True),
        (("pg1", 1), had("gone", 1), True),  # it has another name now
        (("pg1", 1), had("gone", 2), False),
        (("pg1", 9), had("pg2", 2, "0000000000"), False),  # one stranger is no cluster
    ],
)
def test_a_lone_primary_takes_writes_unless_the_file_knows_a_newer_one(
    now: tuple[str, int], before: Tenure | None, takes_writes: bool
) -> None:
    assert writer(alone(*now), before) == (now[0] if takes_writes else None)


def test_a_cluster_that_was_made_anew_begins_with_a_new_timeline() -> None:
    snapshot = Looks(GIVEN.settings).look(
        primary("pg1", "pg2"), replica("pg2"), unreachable("pg3", Cause.TIMEOUT)
    )

    assert writer(snapshot, had("pg3", 7, "0000000000")) == "pg1"


def test_a_refusal_says_what_the_file_says_and_the_way_out() -> None:
    with pytest.raises(NoPrimary) as caught:
        from_snapshot(GIVEN.settings, alone("pg1", 1), before=had("pg2", 2))
    assert (str(caught.value), caught.value.hint) == (
        "pg1 takes writes on timeline 1, and may have been replaced: "
        f"the file says that writes go to pg2 on timeline 2 of system {SYSTEM}",
        "if it is the right one: --offline --primary pg1",
    )


@pytest.mark.parametrize("case", [PGBOUNCER["seen-1.18"].pgbouncer, HAPROXY["seen-2.6"].haproxy])
def test_what_a_head_says_is_read_again(case: object) -> None:
    text = getattr(case, "text")  # noqa: B009 - of either renderer
    version = "1.18" if text.startswith(";") else "2.6"
    assert facts_of(text) == Facts(version=version, tenure=had("pg1", 3, "0a1b2c3d4e"))


@pytest.mark.parametrize(
    "text",
    [None, "", "\n\n\n", "; x\n; policy 1; for PgBouncer \n; writes go to a b on timeline 1 of system 0\n"],
)
def test_a_file_of_somebody_else_says_nothing(text: str | None) -> None:
    assert facts_of(text) == Facts()


def test_the_zone_and_the_version_of_a_file_stay_whatever_else_of_the_inventory_changes() -> None:
    before = inventory(ZONES, routing={"policy": "zone"})
    after = inventory({**ZONES, "pg2": {"zone": "a", "weight": 7}}, routing={"policy": "zone", "sticky_s": 9})
    placement = from_inventory(after.settings, "pg1")
    for name in ("pgbouncer", "haproxy"):
        first = Target(name=name, inventory=before, place=Place(path="x"), doors=())  # type: ignore[arg-type]
        wish = Wish(zone="b", version="1.20" if name == "pgbouncer" else "2.8")
        text = asyncio.run(first.change(placement, wish, present=None)).rendered.text
        then = replace(first, inventory=after)
        again = asyncio.run(then.change(placement, Wish(), present=text))
        assert (facts_of(again.rendered.text), again.version) == (
            Facts(version=wish.version, zone="b"),
            (1, 20) if name == "pgbouncer" else (2, 8),
        )
        assert again.rendered.text != text
        none = asyncio.run(then.change(placement, Wish(zone=""), present=text))
        assert facts_of(none.rendered.text).zone is None


def test_near_is_what_is_in_the_zone_of_the_proxy() -> None:
    given = inventory(ZONES, routing={"policy": "zone"}).settings
    everywhere = from_inventory(given, "pg1")
    assert near_to(given, everywhere, "b") == replace(
        everywhere, readers=(Reader(name="pg2", weight=1, near=False), Reader(name="pg3", weight=1))
    )
    assert near_to(given, near_to(given, everywhere, "b"), None) == everywhere
