"""A strict consumer (icinga.py) accepts every line that `check` can print, and reads what was meant."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.alerting import Patience, settle
from replctl.core.checks import CHECKS
from replctl.core.model import Cause
from replctl.core.results import CheckResult, Metric, Status, worst
from replctl.core.thresholds import NEVER, Range, Unit, parse_range
from replctl.display.checks import Outcome, render_outcomes
from replctl.display.plugin import first_line, plugin_output
from tests.unit import icinga
from tests.unit.builders import (
    END,
    assessed,
    primary,
    receiver,
    replica,
    sender,
    slot,
    trio,
    unreachable,
    without_receiver,
)

OK, WARNING, CRITICAL, UNKNOWN = Status.OK, Status.WARNING, Status.CRITICAL, Status.UNKNOWN
LAG = Metric(
    label="pg2_lag_bytes",
    value=512.0,
    unit=Unit.BYTES,
    warning=parse_range("16MiB", Unit.BYTES),
    critical=parse_range("1GiB", Unit.BYTES),
)


def result(status=OK, message="pg2 0 B behind", name="lag-bytes", node="pg2", **keys) -> CheckResult:
    return CheckResult(name=name, status=status, message=message, node=node, **keys)


def seen(*results: CheckResult, nodes: int = 3, notes: tuple[str, ...] = ()) -> icinga.Seen:
    """What a monitoring server has of these results."""
    status = worst(r.status for r in results)
    return icinga.read(int(status), plugin_output(status, results, nodes=nodes, notes=notes) + "\n")


# ---- what a person reads


def test_when_all_is_well_the_line_says_how_much_was_looked_at():
    found = seen(result(metrics=(LAG,)), result(node="pg3"), result(name="primary", node=None))

    assert found == icinga.Seen(
        state="OK",
        text="REPL OK: 2 checks of 3 nodes are fine",
        details=(),
        data={
            "pg2_lag_bytes": icinga.Datum(
                value=Decimal(512),
                unit="B",
                warn=icinga.Range(0, 16 * 1024**2, False),
                crit=icinga.Range(0, 1024**3, False),
                low=Decimal(0),
            )
        },
    )


def test_one_check_says_what_it_found():
    assert seen(result(), result(message="pg3 2.0 KiB behind", node="pg3")).text == (
        "REPL OK: pg2 0 B behind; pg3 2.0 KiB behind"
    )


def test_one_check_of_many_nodes_names_as_many_as_fit():
    many = [result(message=f"pg{number} 0 B behind", node=f"pg{number}") for number in range(1, 12)]

    assert seen(*many).text == ("REPL OK: pg1 0 B behind; pg2 0 B behind; pg3 0 B behind (+8 more)")


def test_the_worst_is_named_first_then_the_others_each_with_its_hint():
    found = seen(
        result(WARNING, "pg2 replay is paused", "replay-paused", hint="SELECT pg_wal_replay_resume();"),
        result(UNKNOWN, "pg1 hides replication", "privileges", "pg1"),
        result(CRITICAL, "pg3 stalled: no WAL from pg1", "streaming", "pg3", hint="look at its log"),
        result(OK),
    )

    assert (found.text, found.details) == (
        "REPL CRITICAL: pg3 stalled: no WAL from pg1 (+2 more)",
        (
            "CRITICAL streaming: pg3 stalled: no WAL from pg1",
            "HINT: look at its log",
            "WARNING replay-paused: pg2 replay is paused",
            "HINT: SELECT pg_wal_replay_resume();",
            "UNKNOWN privileges: pg1 hides replication",
        ),
    )


def test_when_a_run_was_cut_short_the_reason_of_the_code_comes_first():
    results = [result(WARNING, "pg2 replay is paused"), result(UNKNOWN, "pg3: the run's time was over")]

    lines = plugin_output(UNKNOWN, results, nodes=3).split("\n")

    assert lines == [
        "REPL UNKNOWN: pg3: the run's time was over (+1 more)",
        "UNKNOWN lag-bytes: pg3: the run's time was over",
        "WARNING lag-bytes: pg2 replay is paused",
    ]


def test_warnings_that_do_not_count_are_counted():
    results = [result(WARNING, "pg2 replay is paused", "replay-paused"), result()]

    assert plugin_output(OK, results, nodes=1).split("\n")[0] == "REPL OK: 1 of 2 checks of 1 node are fine"


def test_a_long_message_is_cut_in_the_first_line_only():
    long = "pg2 " + "x" * 200

    found = seen(result(CRITICAL, long))

    assert found.text == "REPL CRITICAL: " + long[:61] + "..."
    assert found.details == (f"CRITICAL lag-bytes: {long}",)


def test_notes_come_last():
    assert seen(result(), notes=("nothing can be kept",)).details == ("NOTE: nothing can be kept",)


def test_what_is_said_of_an_error_is_one_line():
    assert first_line(UNKNOWN, "no |\n such\x1b[31m  file") == "REPL UNKNOWN: no /  such?[31m  file"


# ---- what a graph reads


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.1 + 0.2, Unit.SECONDS, "a=0.3s;;;0"),
        (1e-9, Unit.SECONDS, "a=0s;;;0"),
        (-1e-9, Unit.COUNT, "a=0"),
        (1e18, Unit.BYTES, "a=1000000000000000000B;;;0"),
        (20.0, Unit.PERCENT, "a=20%;;;0;100"),
        (-1, Unit.COUNT, "a=-1"),
        (7, Unit.COUNTER, "a=7c"),
        (None, Unit.SECONDS, "a=U;;;0"),
        (math.nan, Unit.COUNT, "a=U"),
        (math.inf, Unit.BYTES, "a=U;;;0"),
    ],
)
def test_numbers_are_plain_digits_in_the_base_unit(value, unit, text):
    metric = Metric(label="a", value=value, unit=unit)

    assert plugin_output(OK, [result(metrics=(metric,))], nodes=1).partition(" | ")[2] == text


@pytest.mark.parametrize(
    ("label", "written"),
    [
        ("pg2_lag_bytes", "pg2_lag_bytes"),
        ("orders/pg2_lag_s", "orders/pg2_lag_s"),
        ("it's", "it_s"),
        ("a = b|c", "a___b_c"),
        ("käse", "k_se"),
        ("", "_"),
    ],
)
def test_a_label_needs_no_quotes(label, written):
    metric = Metric(label=label, value=1, unit=Unit.COUNT)

    assert list(seen(result(metrics=(metric,))).data) == [written]


def test_two_metrics_that_would_have_one_label_are_told_apart():
    metrics = tuple(
        Metric(label=label, value=n, unit=Unit.COUNT) for n, label in enumerate(["a b", "a_b", "a-b"])
    )

    data = seen(result(metrics=metrics)).data

    assert {label: int(datum.value) for label, datum in data.items()} == {"a_b": 0, "a_b_2": 1, "a-b": 2}


@pytest.mark.parametrize("text", ["10", "10:", "~:10", "@10:20", "@10", "10:20", "0:", "16MiB", "never", "0"])
def test_thresholds_are_written_as_they_alert(text):
    ours = parse_range(text, Unit.BYTES)

    theirs = str(ours)

    values = [0, 1, 9, 10, 11, 20, 21, 16 * 1024**2, 16 * 1024**2 + 1]
    expected = [ours.alerts(v) for v in values]
    assert [bool(theirs) and icinga.Range.parse(theirs).alerts(v) for v in values] == expected


# ---- anything at all

texts = st.text(max_size=120) | st.sampled_from(["a|b", "it's = 5%", "x\ny", "\x1b[31m", "\ud800", "|", ""])
numbers = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**63), 2**63)
ranges = (
    st.none()
    | st.just(NEVER)
    | st.builds(
        lambda a, b, inverted: Range(min(a, b), max(a, b), inverted),
        st.floats(-1e15, 1e15) | st.just(-math.inf),
        st.floats(-1e15, 1e15) | st.just(math.inf),
        st.booleans(),
    )
)
metrics = st.builds(
    Metric, label=texts, value=numbers, unit=st.sampled_from(Unit), warning=ranges, critical=ranges
)
messages = texts.filter(lambda text: any(c.isprintable() and not c.isspace() for c in text))
results = st.builds(
    CheckResult,
    name=st.sampled_from([*CHECKS]),
    status=st.sampled_from(Status),
    message=messages,
    node=st.none() | st.sampled_from(["pg1", "pg2"]),
    hint=st.none() | messages,
    metrics=st.lists(metrics, max_size=3).map(tuple),
)


def non_negative(metric: Metric) -> bool:
    """Sizes, times and shares that the checks hand over are never below 0: what is, is another finding."""
    return metric.unit in (Unit.COUNT, Unit.COUNTER) or not (metric.value or 0) < 0


@given(st.lists(results, min_size=1, max_size=8), st.booleans(), st.lists(messages, max_size=2))
def test_whatever_a_check_says_a_monitoring_server_reads_it(found, several, notes):
    found = [r for r in found if all(map(non_negative, r.metrics))] or [result()]
    status = worst(r.status for r in found)
    one = Outcome(cluster="orders", nodes=3, results=tuple(found), status=status)
    other = Outcome(cluster="käse", nodes=1, results=(result(),), status=OK)

    text = render_outcomes([one, other] if several else [one], "nagios", notes)

    read = icinga.read(int(status), text + "\n", limit_bytes=None)
    assert len(read.data) == sum(len(r.metrics) for r in found)
    assert sum(line.startswith("HINT: ") for line in read.details) == sum(
        r.hint is not None and r.status is not OK for r in found
    )


# ---- every state of a cluster

STATES = {
    "healthy": trio(),
    "primary refused": trio(pg1=unreachable("pg1")),
    "primary silent": trio(pg1=unreachable("pg1", Cause.TIMEOUT, "no answer within 2 s")),
    "all unreachable": tuple(
        unreachable(n, Cause.DNS, "cannot resolve 'a|b'\n") for n in ("pg1", "pg2", "pg3")
    ),
    "another cluster": trio(pg3=unreachable("pg3", Cause.WRONG_CLUSTER, "its system identifier is 7")),
    "replica stalled": trio(pg1=primary("pg1", "pg3"), pg2=without_receiver("pg2", lsn=END - 2**30)),
    "replica paused": trio(pg2=replica("pg2", replay_pause="paused", lsn=END - 5000)),
    "paused without a receiver": trio(pg2=without_receiver("pg2", replay_pause="paused")),
    "ahead of the primary": trio(pg2=replica("pg2", lsn=END + 100)),
    "two primaries": trio(pg2=primary("pg2")),
    "stale primary": trio(pg2=primary("pg2", timeline=2)),
    "no privilege": trio(
        pg2=replica(
            "pg2", receiver=receiver(status=None), monitor_privilege=False, settings={}, archiver=None
        )
    ),
    "slots in every state": trio(
        pg1=primary(
            "pg1",
            "pg2",
            "pg3",
            slots=(
                slot("a", wal_status="lost", active=False, retained_bytes=None),
                slot("b", active=False, inactive_s=4000.0, retained_bytes=20 * 2**30),
                slot("c", wal_status="unreserved", active=False, invalidation_reason="wal_removed"),
            ),
        )
    ),
    "stranger": trio(
        pg1=primary("pg1", "pg2", "pg3", senders=(sender("pg2"), sender("a|b\n'=", sync_state="quorum")))
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_every_state_of_a_cluster_is_read(name):
    from replctl.core.checks import evaluate

    found = evaluate(assessed(*STATES[name]))

    assert seen(*found).state == worst(r.status for r in found).name
    settled = settle(found, None, now=0.0, patience=Patience(runs=3))
    assert seen(*settled.results).state == worst(r.status for r in found).name
