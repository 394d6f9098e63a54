"""The failure detector: what counts, what resets, what is waited for, what vetoes. No tick is ever late."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replctl.core.detector import Detector, Finding, Tick, Verdict, Word, advance
from replctl.core.settings import FailoverSettings

TIMINGS = FailoverSettings(failures=3, interval_s=1.0, restart_grace_s=15.0, stop_grace_s=10.0)
FAILURES = (Word.REFUSED, Word.SILENT, Word.BROKEN)


def ticks(*words: Word, **keys: object) -> list[Tick]:
    """One tick a second, all voters reached."""
    given_: dict[str, object] = {"voters_reached": 2, "majority": 2}
    return [Tick(at_s=float(at), word=word, **given_ | keys) for at, word in enumerate(words)]  # type: ignore[arg-type]


def judged(*seen: Tick) -> list[Finding]:
    """The findings of these ticks, from a fresh start."""
    detector, found = Detector(), []
    for tick in seen:
        detector, finding = advance(detector, tick, TIMINGS)
        found.append(finding)
    return found


def verdicts(*words: Word, **keys: object) -> list[Verdict]:
    return [finding.verdict for finding in judged(*ticks(*words, **keys))]


S, D, A = Verdict.SUSPECT, Verdict.DEAD, Verdict.ALIVE


def test_a_refused_primary_is_dead_after_as_many_failures_as_are_wanted():
    assert verdicts(*[Word.REFUSED] * 4) == [S, S, D, D]


@pytest.mark.parametrize("word", [Word.SILENT, Word.BROKEN])
def test_silence_is_never_death_by_itself(word: Word):
    assert verdicts(*[word] * 3) == [S, S, Verdict.SILENT]


def test_refused_is_not_death_while_a_replica_has_a_connection():
    assert verdicts(*[Word.REFUSED] * 3, connected=("pg2",)) == [S, S, Verdict.SILENT]


def test_an_answer_begins_the_count_anew():
    assert verdicts(Word.SILENT, Word.SILENT, Word.ANSWERED, Word.REFUSED, Word.REFUSED, Word.REFUSED) == [
        *(S, S, A),
        *(S, S, D),
    ]


def test_what_says_nothing_about_the_server_neither_counts_nor_resets():
    words = (Word.REFUSED, Word.REFUSED, Word.UNCLEAR, Word.UNCLEAR, Word.REFUSED)

    assert verdicts(*words) == [S, S, S, S, D]
    assert verdicts(*[Word.UNCLEAR] * 50)[-1] is S


def test_a_replica_that_still_hears_from_the_primary_vetoes():
    (*_, last) = judged(*ticks(*[Word.SILENT] * 3, streaming=("pg2",), connected=("pg2",)))

    assert last == Finding(Verdict.VETOED, "3 of 3 failures in a row (silent), but it still streams to pg2")


def test_a_veto_lasts_until_as_many_failures_again_without_a_message():
    heard = {"streaming": ("pg2",), "connected": ("pg2",)}
    first = ticks(*[Word.SILENT] * 3, **heard)
    then = [replace(tick, at_s=tick.at_s + 3, streaming=()) for tick in ticks(*[Word.SILENT] * 3, **heard)]

    found = judged(*first, *then)

    vetoed = Finding(Verdict.VETOED, "3 of 3 failures in a row (silent), but it still streams to pg2")
    silent = "3 of 3 failures in a row (silent), and nothing moves; it may still be running"
    assert found[2:] == [vetoed, vetoed, vetoed, Finding(Verdict.SILENT, silent)]


def test_a_controller_without_a_majority_is_the_one_that_is_cut_off():
    (*_, last) = judged(*ticks(*[Word.SILENT] * 3, voters_reached=1, streaming=("pg2",)))

    assert last == Finding(
        Verdict.ISOLATED,
        "3 of 3 failures in a row (silent), but we reach 1 of 2 voters needed: it is we who are cut off",
    )


def test_a_restart_is_waited_for_and_then_counted():
    found = verdicts(*[Word.STARTING_UP] * 19)

    assert found == [Verdict.GRACE] * 15 + [S, S, Verdict.SILENT, Verdict.SILENT]


def test_a_restart_that_succeeds_is_forgotten():
    words = [*[Word.STARTING_UP] * 10, Word.ANSWERED, *[Word.STARTING_UP] * 10]

    assert set(verdicts(*words)) == {Verdict.GRACE, A}


def test_an_orderly_stop_is_waited_for_also_when_the_server_is_gone_by_then():
    words = [Word.STOPPING, *[Word.REFUSED] * 12]

    assert verdicts(*words) == [Verdict.GRACE] * 10 + [S, S, D]


def test_a_stop_that_does_not_come_to_its_end_is_counted_when_the_grace_is_over():
    assert verdicts(*[Word.STOPPING] * 14) == [Verdict.GRACE] * 10 + [S, S, Verdict.SILENT, Verdict.SILENT]


def test_a_stop_after_which_the_server_answers_is_forgotten():
    words = [Word.STOPPING, Word.REFUSED, Word.ANSWERED, Word.REFUSED, Word.REFUSED, Word.REFUSED]

    assert verdicts(*words) == [Verdict.GRACE, Verdict.GRACE, A, S, S, D]


def test_a_kill_is_not_given_the_grace_of_a_stop():
    assert verdicts(Word.BROKEN, Word.REFUSED, Word.REFUSED) == [S, S, D]


def test_the_first_failure_is_remembered_for_the_outage():
    detector = Detector()
    for tick in ticks(Word.ANSWERED, Word.ANSWERED, Word.BROKEN, Word.REFUSED, Word.REFUSED):
        detector, _ = advance(detector, tick, TIMINGS)

    assert (detector.first_failure_s, detector.failures) == (2.0, 3)


# ---- whatever comes

some_ticks = st.lists(
    st.builds(
        Tick,
        at_s=st.floats(0.01, 8.0),  # the time since the one before
        word=st.sampled_from(list(Word)),
        streaming=st.sampled_from([(), (), ("pg2",)]),
        connected=st.sampled_from([(), ("pg2",)]),
        voters_reached=st.integers(0, 3),
        majority=st.just(2),
    ),
    max_size=40,
)
ACTS = (Verdict.DEAD, Verdict.SILENT)


def timed(gaps: list[Tick]) -> list[Tick]:
    at_s, found = 0.0, []
    for tick in gaps:
        at_s += tick.at_s
        found.append(replace(tick, at_s=at_s))
    return found


@given(some_ticks)
def test_nothing_is_done_without_enough_failures_since_the_last_answer(gaps: list[Tick]):
    seen = timed(gaps)
    for number, finding in enumerate(judged(*seen)):
        since = next((i for i in range(number, -1, -1) if seen[i].word is Word.ANSWERED), -1)
        against = [t for t in seen[since + 1 : number + 1] if t.word is not Word.UNCLEAR]
        if finding.verdict in ACTS:
            assert len(against) >= TIMINGS.failures


@given(some_ticks)
def test_nothing_is_done_against_a_veto_without_a_majority_or_on_an_unclear_word(gaps: list[Tick]):
    seen = timed(gaps)
    for tick, finding in zip(seen, judged(*seen), strict=True):
        if finding.verdict in ACTS:
            assert tick.voters_reached >= tick.majority
            assert tick.streaming == ()
            assert tick.word not in (Word.ANSWERED, Word.UNCLEAR)


@given(some_ticks)
def test_dead_is_only_who_refuses_with_nobody_connected(gaps: list[Tick]):
    seen = timed(gaps)
    for tick, finding in zip(seen, judged(*seen), strict=True):
        if finding.verdict is Verdict.DEAD:
            assert (tick.word, tick.connected) == (Word.REFUSED, ())


@given(some_ticks)
def test_an_answer_is_life_at_once_and_wipes_everything_out(gaps: list[Tick]):
    detector = Detector()
    for tick in timed(gaps):
        detector, _ = advance(detector, tick, TIMINGS)
    answer = Tick(at_s=1e6, word=Word.ANSWERED)

    assert advance(detector, answer, TIMINGS) == (
        Detector(last_word=Word.ANSWERED),
        Finding(Verdict.ALIVE, "the primary answers"),
    )


@given(some_ticks, st.sampled_from(FAILURES))
def test_a_primary_that_stays_away_is_always_given_up_in_the_end(gaps: list[Tick], word: Word):
    before = timed(gaps)
    at_s = before[-1].at_s if before else 0.0
    graces_s = int(TIMINGS.restart_grace_s + TIMINGS.stop_grace_s)
    after = [
        Tick(at_s=at_s + n, word=word, voters_reached=2, majority=2)
        for n in range(1, graces_s + TIMINGS.failures + 2)
    ]

    assert judged(*before, *after)[-1].verdict in ACTS
