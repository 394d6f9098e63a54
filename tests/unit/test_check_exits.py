"""Every way out of `check` that needs no server: one line on stdout, nothing on stderr, exit code 3."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replctl.cli import run
from replctl.cli.plugin import run_as_plugin
from replctl.errors import UsageError
from tests.support import ROOT
from tests.unit import icinga

CHECK = [sys.executable, "-m", "replctl", "check"]
GOOD = """
[cluster]
name = "orders"
[connection]
connect_timeout_s = 20
[[nodes]]
name = "pg1"
host = "127.0.0.1"
port = {port}
"""


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where somebody accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def refusing() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def inventory(tmp_path: Path, refusing: int) -> Path:
    return written(tmp_path / "replctl.toml", refusing)


def written(path: Path, port: int, more: str = "") -> Path:
    path.write_text(GOOD.format(port=port) + more)
    path.chmod(0o600)
    return path


@pytest.fixture
def check(capfd, monkeypatch, tmp_path):
    """Run `replctl …` in this process; gives the code and what was printed."""
    monkeypatch.setenv("REPLCTL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        return code, *capfd.readouterr()

    return call


USAGE = [
    (["check", "--nope"], "No such option: --nope (Possible options: --node, --probe)"),
    (["check", "nope"], "no check 'nope'; replctl check --list"),
    (["check", "lagbytes"], "no check 'lagbytes'; did you mean lag-bytes?"),
    (["check", "--skip", "primry"], "no check 'primry'; did you mean primary?"),
    (["check", "--node", "pg7"], "no node 'pg7' in the inventory; known: pg1"),
    (["check", "--cluster", "stock"], "no cluster 'stock' in the inventory; known are orders"),
    (["check", "--timeout", "soon"], "--timeout soon: not a number and a unit"),
    (["check", "--timeout", "0"], "--timeout 0: expected more than 0; for example --timeout 10s"),
    (["check", "--for", "0"], "--for: Input should be greater than or equal to 1"),
    (["check", "--fail-on", "ok"], "--fail-on: 'ok' is not one of warning, critical."),
    (["check", "-o", "xml"], "--output: 'xml' is not one of nagios, table, wide, json, yaml,..."),
    (["check", "--remind", "1h"], "--remind needs --notify-changes"),
    (["check", "--warn", "5"], "--warn and --crit need one check that has thresholds"),
    (["check", "primary", "--warn", "5"], "--warn and --crit need one check that has thresholds"),
    (["check", "lag-bytes", "--crit", "1MB"], "critical at 1MB, but no warning before 16MiB"),
    (["check", "lag-s", "--warn", "5"], "no check 'lag-s'; did you mean lag-bytes?"),
    (["check", "slots", "--warn", "1"], "a threshold of slots needs a unit, as in 1GiB or 5min"),
    (
        ["check", "lag-seconds", "--warn", "9:1"],
        "not a threshold: '9:1': the range from '9' up to '1' is empty",
    ),
    (["-i", "replctl.toml", "check"], "No such option: -i"),
    (["--nope", "check"], "No such option: --nope"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_a_wrong_command_line_is_unknown(check, inventory, arguments, said):
    assert check(*arguments) == (3, f"REPL UNKNOWN: {said}\n", "")


def test_that_the_usage_errors_are_read_by_a_monitoring_server(check, inventory):
    for arguments, _ in USAGE:
        assert icinga.read(*check(*arguments)).details == ()


def test_no_inventory_is_unknown(check):
    assert check("check") == (3, "REPL UNKNOWN: no inventory found\n", "")


def test_an_inventory_that_is_named_and_missing_is_unknown(check):
    assert check("check", "-i", "/no/such/file") == (
        3,
        "REPL UNKNOWN: /no/such/file: not found (named by --inventory)\n",
        "",
    )


def test_one_mistake_in_the_inventory_is_named(check, tmp_path):
    path = written(tmp_path / "orders.toml", 5432, "weigth = 1\n")

    code, out, err = check("check", "-i", str(path))

    assert (code, err) == (3, "")
    assert out.startswith("REPL UNKNOWN: orders.toml: [[nodes]] pg1: weigth = 1: unknown key; ")
    assert len(icinga.read(code, out).details) == 0


def test_twenty_mistakes_in_the_inventory_are_counted(check, tmp_path):
    path = written(tmp_path / "orders.toml", 5432, "".join(f"wrong_{n} = 1\n" for n in range(20)))

    assert check("check", "-i", str(path)) == (
        3,
        "REPL UNKNOWN: the inventory has 20 problems; replctl config validate lists them\n",
        "",
    )


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[cluster", b"", b"\0" * 100])
def test_a_file_that_is_no_inventory_is_unknown(check, tmp_path, content):
    path = tmp_path / "orders.toml"
    path.write_bytes(content)
    path.chmod(0o600)

    code, out, err = check("check", "-i", str(path))

    assert (icinga.read(code, out, err).state, icinga.read(code, out, err).details) == ("UNKNOWN", ())


def test_a_broken_inventory_hides_no_other_cluster(check, tmp_path, refusing):
    written(tmp_path / "inventories.d", 1).unlink()
    directory = tmp_path / "inventories.d"
    directory.mkdir()
    written(directory / "orders.toml", refusing)
    written(directory / "stock.toml", 5432, "weigth = 1\n")

    code, out, err = check("check", "-i", str(directory))

    read = icinga.read(code, out, err)
    assert (read.state, read.text[:48]) == ("CRITICAL", "REPL CRITICAL: orders: pg1 unreachable, refused:")
    assert any(line.startswith("UNKNOWN inventory: stock: ") for line in read.details)


def test_a_primary_that_does_not_answer_is_critical(check, inventory):
    read = icinga.read(*check("check"))

    assert (read.state, read.data) == ("CRITICAL", {})


def test_help_shows_an_example(check):
    code, out, err = check("check", "--help")

    assert (code, err) == (0, "")
    assert "Example: replctl check " in out


def test_list_shows_the_named_checks(check):
    assert check("check", "--list", "-o", "name", "lag-bytes", "primary") == (0, "primary\nlag-bytes\n", "")


def test_when_the_time_is_over_the_line_says_where(check, tmp_path, silent):
    path = written(tmp_path / "orders.toml", silent)

    code, out, err = check("check", "-i", str(path), "--timeout", "300ms")

    read = icinga.read(code, out, err)
    assert (read.state, read.text) == (
        "UNKNOWN",
        "REPL UNKNOWN: pg1: the run's time was over while connecting (+1 more)",
    )


def test_an_internal_error_is_unknown(capfd):
    def broken() -> None:
        raise ZeroDivisionError("a bug\nof two lines | and a bar")

    code = run_as_plugin(broken, UsageError)

    assert (code, *capfd.readouterr()) == (
        3,
        "REPL UNKNOWN: internal error: ZeroDivisionError: a bug of two lines / and a bar\n",
        "",
    )


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, "ended by SIGHUP"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_signal_is_unknown(tmp_path, number, said):
    with socket.create_server(("127.0.0.1", 0)) as server:
        path = written(tmp_path / "orders.toml", server.getsockname()[1])
        process = subprocess.Popen(
            [*CHECK, "-i", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        server.settimeout(20)
        client, _ = server.accept()  # it is waiting for an answer now
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        client.close()

    assert (process.returncode, out, err) == (3, f"REPL UNKNOWN: {said}\n", "")


@pytest.mark.parametrize("arguments", [[], ["--nope"]])
def test_a_closed_stdout_is_unknown(arguments, inventory):
    done = shell(arguments, ">&-", inventory)

    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("arguments", [[], ["--nope"]])
def test_a_full_disk_below_stdout_is_unknown(arguments, inventory):
    done = shell(arguments, ">/dev/full", inventory)

    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("arguments", [[], ["--list"], ["--nope"], ["--help"]])
def test_a_reader_that_went_away_is_unknown(arguments, inventory):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*CHECK, "-i", str(inventory), *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("redirection", ["<&-", "2>&-", "2>/dev/full"])
def test_other_streams_do_not_matter(redirection, inventory):
    done = shell([], redirection, inventory)

    assert icinga.read(done.returncode, done.stdout).state == "CRITICAL"


def shell(arguments: list[str], redirection: str, inventory: Path) -> subprocess.CompletedProcess[str]:
    """Run `check` with a stream that only a shell can give it."""
    words = ["sh", "-c", f'exec "$@" {redirection}', "sh", *CHECK, "-i", str(inventory), *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=30, cwd=ROOT)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": "xterm-256color", "FORCE_COLOR": "1"},
    ],
)
def test_whatever_the_environment_the_output_is_read(tmp_path, inventory, env):
    done = subprocess.run(
        [*CHECK, "--cluster", "käse\x1b[31m", "-i", str(inventory)],
        env={**env, "HOME": str(tmp_path)},
        capture_output=True,
        timeout=30,
        cwd=ROOT,
    )

    read = icinga.read(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert (read.state, read.details) == ("UNKNOWN", ())
