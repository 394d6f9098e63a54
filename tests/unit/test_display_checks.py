"""The formats of `check` for people and programs; its plugin output has tests of its own (test_plugin.py)."""

from __future__ import annotations

from replctl.core.results import CheckResult, Metric, Status
from replctl.core.thresholds import Unit, parse_range
from replctl.display.checks import Outcome, render_outcomes

LAG = Metric(
    label="pg2_lag_bytes",
    value=2048.0,
    unit=Unit.BYTES,
    warning=parse_range("1KiB", Unit.BYTES),
    critical=parse_range("1GiB", Unit.BYTES),
)
RESULTS = (
    CheckResult(name="primary", status=Status.OK, message="pg1 is the primary"),
    CheckResult(
        name="lag-bytes",
        status=Status.WARNING,
        message="pg2 2.0 KiB behind",
        node="pg2",
        hint="replctl status",
        metrics=(LAG,),
    ),
)
ORDERS = Outcome(cluster="orders", nodes=2, results=RESULTS, status=Status.WARNING)
STOCK = Outcome(cluster="stock", nodes=1, results=RESULTS[:1], status=Status.OK)


def test_the_table_has_the_worst_first_with_its_hint():
    assert (
        render_outcomes([ORDERS], "table", ["all is new"])
        == """\
STATUS   CHECK      NODE  MESSAGE
WARNING  lag-bytes  pg2   pg2 2.0 KiB behind
          hint: replctl status
OK       primary    -     pg1 is the primary
note: all is new"""
    )


def test_the_wide_table_has_the_numbers_too_and_with_several_clusters_their_names():
    assert (
        render_outcomes([ORDERS, STOCK], "wide")
        == """\
STATUS   CLUSTER  CHECK      NODE  MESSAGE             PERFDATA
WARNING  orders   lag-bytes  pg2   pg2 2.0 KiB behind  pg2_lag_bytes=2048B;1024;1073741824;0
          hint: replctl status
OK       orders   primary    -     pg1 is the primary  -
OK       stock    primary    -     pg1 is the primary  -"""
    )


def test_as_csv_every_result_is_a_line():
    assert render_outcomes([ORDERS, STOCK], "csv").split("\n") == [
        "cluster,name,node,status,message,hint",
        "orders,primary,,OK,pg1 is the primary,",
        "orders,lag-bytes,pg2,WARNING,pg2 2.0 KiB behind,replctl status",
        "stock,primary,,OK,pg1 is the primary,",
    ]


def test_by_name_are_the_checks_that_are_not_fine():
    assert render_outcomes([ORDERS, STOCK], "name") == "lag-bytes"
