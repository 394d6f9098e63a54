"""Bad runs in a row, news, reminders; and that a lost memory speaks rather than keeps silent."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.alerting import Bad, Memory, Patience, settle
from replctl.core.results import CheckResult, Status

OK, WARNING, CRITICAL, UNKNOWN = Status.OK, Status.WARNING, Status.CRITICAL, Status.UNKNOWN
NOTHING = Memory(findings={}, said={}, said_at=0.0)


def result(status: Status, name: str = "streaming", node: str | None = "pg2", **keys) -> CheckResult:
    return CheckResult(
        name=name, status=status, message="it is so", node=node, hint=None if status is OK else "do", **keys
    )


def runs(*looks, patience=None, memory=NOTHING, step_s=60.0):
    """What a job with these looks, one a minute, says: the worst rank of each run, and whether it is news."""
    said = []
    for number, look in enumerate(looks):
        results = [look] if isinstance(look, CheckResult) else look
        settled = settle(results, memory, now=number * step_s, patience=patience or Patience())
        memory = settled.memory
        said.append((max(r.status.rank for r in settled.results), settled.is_news))
    return said


def test_without_patience_everything_counts_at_once():
    bad = result(CRITICAL)

    settled = settle([bad, result(OK, "primary", None)], NOTHING, now=5.0, patience=Patience())

    assert settled.results == (bad, result(OK, "primary", None))
    assert settled.is_news
    key = ("streaming", "pg2", "")
    assert settled.memory == Memory(findings={key: Bad(1, CRITICAL)}, said={key: CRITICAL}, said_at=5.0)


def test_a_finding_counts_only_after_so_many_bad_runs_in_a_row():
    bad, well = result(CRITICAL), result(OK)

    statuses = [status for status, _ in runs(bad, bad, well, bad, bad, bad, bad, patience=Patience(runs=3))]

    assert statuses == [OK.rank] * 5 + [CRITICAL.rank] * 2


def test_a_finding_that_is_too_young_says_how_old_it_is():
    settled = settle([result(CRITICAL)], NOTHING, now=0.0, patience=Patience(runs=3))

    assert settled.results == (
        CheckResult(
            name="streaming", status=OK, message="it is so (CRITICAL in 1 of 3 runs)", node="pg2", hint=None
        ),
    )


def test_findings_of_several_nodes_and_subjects_grow_old_apart():
    first, second = result(WARNING, "slots", "pg1", subject="a"), result(WARNING, "slots", "pg1", subject="b")

    statuses = [status for status, _ in runs([first], [second], [first, second], patience=Patience(runs=2))]

    assert statuses == [OK.rank, OK.rank, WARNING.rank]


def test_getting_worse_does_not_start_the_count_again():
    assert runs(result(WARNING), result(CRITICAL), patience=Patience(runs=2)) == [
        (OK.rank, False),
        (CRITICAL.rank, True),
    ]


def test_news_is_what_differs_from_what_was_said():
    bad, worse, well = result(WARNING), result(CRITICAL), result(OK)

    news = [is_news for _, is_news in runs(well, bad, bad, worse, worse, bad, well, well)]

    assert news == [False, True, False, True, False, True, True, False]


def test_another_slot_of_the_same_node_is_news():
    first, second = result(WARNING, "slots", "pg1", subject="a"), result(WARNING, "slots", "pg1", subject="b")

    assert [is_news for _, is_news in runs(first, second)] == [True, True]


def test_what_has_not_changed_is_said_again_after_a_while():
    bad = result(WARNING)

    news = [is_news for _, is_news in runs(*[bad] * 8, patience=Patience(remind_s=180.0))]

    assert news == [True, False, False, True, False, False, True, False]


def test_that_all_is_well_is_not_said_again():
    assert [n for _, n in runs(*[result(OK)] * 3, patience=Patience(remind_s=60.0))] == [False] * 3


def test_a_clock_that_was_set_back_does_not_silence_reminders():
    ahead = Memory(
        findings={("streaming", "pg2", ""): Bad(1, WARNING)},
        said={("streaming", "pg2", ""): WARNING},
        said_at=1e9,
    )

    settled = settle([result(WARNING)], ahead, now=5.0, patience=Patience(remind_s=60.0))

    assert (settled.is_news, settled.memory.said_at) == (True, 5.0)


def test_a_warning_that_is_ignored_is_neither_news_nor_counted():
    patience = Patience(runs=2, ignore_warnings=True)

    settled = settle(
        [result(WARNING), result(CRITICAL, "primary", None)], NOTHING, now=0.0, patience=patience
    )

    assert settled.results[0] == result(WARNING)
    assert settled.memory.findings == {("primary", "", ""): Bad(1, CRITICAL)}
    assert not settled.is_news


@pytest.mark.parametrize("status", [WARNING, CRITICAL, UNKNOWN])
def test_without_a_memory_what_is_bad_alerts_at_once(status):
    settled = settle([result(status)], None, now=0.0, patience=Patience(runs=5))

    assert (settled.results, settled.is_news) == ((result(status),), True)


statuses = st.sampled_from(Status)
findings = st.builds(
    result, statuses, st.sampled_from(["slots", "streaming"]), st.sampled_from([None, "pg1", "pg2"])
)
looks = st.lists(
    st.lists(findings, max_size=4, unique_by=lambda r: (r.name, r.node)), min_size=1, max_size=30
)
patiences = st.builds(Patience, runs=st.integers(1, 4), remind_s=st.none() | st.floats(1.0, 600.0))


@given(looks, patiences, st.sets(st.integers(0, 29)))
def test_no_finding_stays_unsaid_for_longer_than_it_has_patience(history, patience, losses):
    """Whatever is lost: what was bad in enough runs in a row has been said, as bad as it was."""
    memory, said, streak = NOTHING, {}, {}
    for number, results in enumerate(history):
        if number in losses:
            memory = None
        settled = settle(results, memory, now=number * 60.0, patience=patience)
        memory = settled.memory
        if settled.is_news:
            said = {(r.name, r.node): r.status for r in settled.results if r.status is not OK}
        streak = {
            (r.name, r.node): streak.get((r.name, r.node), 0) + 1 for r in results if r.status is not OK
        }
        due = {
            (r.name, r.node): r.status for r in results if streak.get((r.name, r.node), 0) >= patience.runs
        }
        assert due.items() <= said.items()


@given(looks, patiences)
def test_nothing_is_said_that_is_not_so(history, patience):
    memory = NOTHING
    for number, results in enumerate(history):
        settled = settle(results, memory, now=number * 60.0, patience=patience)
        memory = settled.memory
        for before, after in zip(results, settled.results, strict=True):
            assert after in (before, replace(before, status=OK, message=after.message, hint=None))
