"""How replctl starts and ends: quickly, with the right exit code, and never with a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from replctl import __version__
from tests.support import ROOT, replctl, run

HEAVY = {"psycopg", "rich", "asyncio", "pydantic", "tomli_w", "ssl"}
COMPLETION = {
    "bash": {"COMP_WORDS": "replctl --v", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "replctl --v"},
    "fish": {"_TYPER_COMPLETE_ARGS": "replctl --v", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


def imported_by(*arguments: str, env: dict[str, str] | None = None) -> set[str]:
    """The top-level packages that a run imports."""
    done = run([sys.executable, "-X", "importtime", "-m", "replctl", *arguments], env=env)

    assert done.returncode == 0, done.stderr
    modules = re.findall(r"^import time:.*\|\s*(\S+)$", done.stderr, re.MULTILINE)
    return {module.partition(".")[0] for module in modules}


def test_the_list_of_imports_shows_what_is_imported():
    assert {"typer", "replctl"} <= imported_by("--help")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"]])
def test_help_and_version_import_nothing_heavy(arguments):
    assert imported_by(*arguments) & HEAVY == set()


@pytest.mark.parametrize("shell", COMPLETION)
def test_completion_imports_nothing_heavy(shell):
    env = {"_REPLCTL_COMPLETE": f"complete_{shell}", **COMPLETION[shell]}

    assert imported_by(env=env) & HEAVY == set()


@pytest.mark.parametrize("shell", COMPLETION)
def test_completion_offers_what_begins_like_the_word(shell):
    done = replctl(env={"_REPLCTL_COMPLETE": f"complete_{shell}", **COMPLETION[shell]})

    assert (done.returncode, done.stderr) == (0, "")
    assert "--version" in done.stdout
    assert "--help" not in done.stdout


def test_version_is_printed_on_stdout():
    done = replctl("--version")

    assert (done.returncode, done.stdout, done.stderr) == (0, f"replctl {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [["statsu"], ["--no-such-option"], ["-Z"], [""], ["--version=1"], ["é\udcff"]]
)
def test_a_wrong_command_line_is_a_usage_error_on_stderr(arguments):
    done = replctl(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_command_the_help_is_shown():
    done = replctl()

    assert "Usage: replctl" in done.stdout + done.stderr
    assert done.returncode == 2


def test_a_reader_that_goes_away_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "replctl", "--help"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()  # before it can have written anything
        messages = process.stderr.read()

    assert (process.returncode, messages) == (141, "")


def test_output_that_cannot_be_written_is_told_in_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "replctl", "--help"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "replctl: the operating system refused: [Errno 28] No space left on device"
    ]


@pytest.mark.parametrize(("arguments", "code"), [("--version", 0), ("config path", 2), ("status", 2)])
def test_a_closed_stdout_is_borne(arguments, code, tmp_path):
    missing = tmp_path / "missing.toml"
    done = run(["sh", "-c", f'REPLCTL_INVENTORY={missing} "$0" -m replctl {arguments} >&-', sys.executable])

    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


def test_a_message_for_a_closed_stderr_does_not_end_up_among_the_data():
    done = run(["sh", "-c", '"$0" -m replctl status -i /missing.toml 2>&-', sys.executable])

    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_replctl_is_installed_beside_the_interpreter_as_a_command():
    done = run([str(Path(sys.executable).parent / "replctl"), "--version"])

    assert done.stdout == f"replctl {__version__}\n"
