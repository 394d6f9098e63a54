"""The mark by which a running HAProxy shows that it has a file's structure."""

from __future__ import annotations

from dataclasses import replace

from replctl.render.placement import from_inventory
from replctl.render.structure import mark_of, skeleton
from tests.unit.render_cases import HAPROXY, Case


def test_states_and_weights_are_no_structure() -> None:
    text = "# a\nlisten x\n    server a 10.0.0.1:5432 check weight 100 disabled\n"
    other = "# b\nlisten x\n    server a 10.0.0.1:5432 check weight 7\n"

    assert skeleton(text) == skeleton(other) == ["listen x", "server a 10.0.0.1:5432 check"]
    assert skeleton(other.replace(" weight 7", " weight 7 backup")) != skeleton(other)


def test_the_mark_is_the_same_for_other_roles_and_another_for_another_structure() -> None:
    plain = mark_of(Case().haproxy.text)
    roles = Case(roles=lambda found: from_inventory(found.settings, "pg2"))
    bind = Case(tables={"haproxy": {"write_bind": "*:5003"}})

    assert plain is not None
    assert (mark_of(roles.haproxy.text), mark_of(bind.haproxy.text) != plain) == (plain, True)


def test_a_fragment_has_none() -> None:
    assert mark_of(HAPROXY["fragment-2.6"].haproxy.text) is None
    assert mark_of(replace(HAPROXY["fragment-2.6"], options={}).haproxy.text) is not None
