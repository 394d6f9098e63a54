"""Every drawn cluster is answered as its file says, and the files leave nothing out.

`pytest tests/scenarios --rewrite` writes the answers anew: read the difference.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from replctl.core.detector import Verdict
from replctl.core.diagnose import Code
from replctl.core.refusals import REFUSALS, RefusalCode
from replctl.core.settings import FailoverSettings
from replctl.core.situation import Request
from tests.scenarios.answers import request_of, situation_of, whole_text
from tests.scenarios.drawing import PHRASES, Drawing, read
from tests.unit.step_laws import assert_step_laws
from tools import docs

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*.txt"))
# What the ranking says of nodes that may not be promoted: each of these somewhere, and nothing else.
REJECTIONS = (
    r"does not answer \(\w+\)",
    r"is not a replica",
    r'has promote = "never"',
    r"does not show its upstream \(the role lacks pg_monitor\)",
    r"does not tell its position",
    r"does not tell its position: it was restarted and has not replayed its own WAL yet",
    r"cannot be compared with \w+, which does not tell how it came to timeline \d+",
    r"is on timeline \d+, which is not in the history of \w+",
    r"has replayed past \S+, where timeline \d+ of \w+ began",
    r"came to timeline \d+ by another way than \w+",
    r"is delayed by \d+ s \(recovery_min_apply_delay\)",
    r"streams from another replica",
    r"does not let go of its upstream",
)
STEPS = (
    r"take the votes of a majority",
    r"make \w+ reconnect, to see whether the primary is really silent",
    r"switch \w+ off with its fence command",
    r"cut \w+ from its upstream",
    r"cut \w+ from its upstream by wal_receiver_timeout, since its replay does not let go",
    r"cut \w+ from its upstream, changing its replay for that",
    r"let \w+ catch up with \w+ to \S+, and cut it again",
    r"set synchronous_standby_names of \w+ to '.+'",
    r"promote \w+",
    r"create slot \w+ on \w+",
    r"repoint \w+ to \w+",
    r"checkpoint \w+",
)


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def lines_with(pattern: str) -> list[str]:
    """The first group of every line of any scenario that is like this."""
    return [found for path in FILES for found in re.findall(pattern, text_of(path), re.MULTILINE)]


def unmatched(patterns: tuple[str, ...], texts: list[str]) -> tuple[list[str], list[str]]:
    """Patterns that no text is like, and texts that are like no pattern."""
    return (
        [p for p in patterns if not any(re.fullmatch(p, text) for text in texts)],
        [text for text in texts if not any(re.fullmatch(p, text) for p in patterns)],
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_answer_is_the_one_in_the_file(path: Path, request: pytest.FixtureRequest) -> None:
    answered = whole_text(read(text_of(path)))
    if request.config.getoption("--rewrite"):
        path.write_text(answered, encoding="utf-8")
        text_of.cache_clear()

    assert text_of(path) == answered


def asked() -> list[tuple[str, Drawing, Request]]:
    """Every failover that a scenario asks for, by hand and by a controller."""
    found = []
    for path in FILES:
        drawing = read(text_of(path))
        for command in drawing.commands:
            if command[1] == "failover":
                found.append(
                    (f"{path.stem} {' '.join(command[2:])}", drawing, request_of(drawing, command[2:]))
                )
    return found


@pytest.mark.parametrize(("drawing", "request_"), [pytest.param(*rest, id=name) for name, *rest in asked()])
def test_the_plan_keeps_the_step_laws(drawing: Drawing, request_: Request) -> None:
    assert_step_laws(situation_of(drawing, request_))


# ---- nothing is left out


def test_every_refusal_has_a_scenario_and_a_line_in_the_documents():
    codes = {str(code) for code in RefusalCode}
    documented = re.findall(r"^\| `([A-Z_]+)` \| .+ \| .+ \|$", text_of(docs.FAILOVER), re.MULTILINE)

    assert set(lines_with(r"^Refused \(([A-Z_]+)\): ")) == codes
    assert {str(code) for code in REFUSALS} == codes
    assert codes <= set(documented)


def test_every_diagnosis_has_a_scenario():
    assert set(lines_with(r"^([A-Z_]+)$")) == set(Code)


def test_every_verdict_of_the_detector_has_a_scenario():
    verdicts = lines_with(r"^\$ replctl failover --auto\n(\w+): ")

    assert set(verdicts) == set(Verdict)


def test_every_reason_not_to_promote_a_node_has_a_scenario():
    assert unmatched(REJECTIONS, lines_with(r"not eligible: (.+)$")) == ([], [])


def test_every_kind_of_step_has_a_scenario():
    assert unmatched(STEPS, lines_with(r"^ +\d+\. (.+)$")) == ([], [])


def test_every_setting_that_a_failover_depends_on_has_a_scenario():
    # Timings are the detector's, tests/unit/test_detector.py; the others do not change what is planned.
    timings = {"profile", "interval_s", "probe_timeout_s", "burst_interval_s", "failures"}
    timings |= {"restart_grace_s", "stop_grace_s"}
    elsewhere = {"on_sync_short", "block_s", "hook_timeout_s", "fence_timeout_s", "hooks"}
    keys = set(FailoverSettings.__dataclass_fields__) - timings - elsewhere

    assert set(lines_with(r"^\[failover\] (\w+) = ")) == keys


def test_every_phrase_is_used():
    said = [p.strip() for line in lines_with(r"^ *(?:witness )?\w+  +(\S.*)$") for p in _phrases(line)]

    assert unmatched(tuple(PHRASES), said)[0] == []


def _phrases(line: str) -> list[str]:
    return re.findall(r"(?:\([^)]*\)|[^,(])+", line)


def test_every_file_says_first_what_is_feared():
    assert [path.name for path in FILES if not re.match(r"# \S.+[.:]\n\n", text_of(path))] == []


def test_every_command_of_a_remedy_exists_with_its_options():
    commands = {command.path: command for command in docs.commands()}
    for line in lines_with(r"^hint: (.+)$") + lines_with(r"^(?:Afterwards|Left to do): (.+)$"):
        for name, options in re.findall(r"replctl ([a-z-]+)((?: --[a-z-]+)*)", line):
            known = {option for p in commands[name,].click.params for option in p.opts}
            assert set(options.split()) <= known, line


def test_a_phrase_that_nobody_knows_is_an_error():
    with pytest.raises(ValueError, match="pg1: 'on holiday' is none of: "):
        read("pg1  on holiday\n$ replctl status\n")
