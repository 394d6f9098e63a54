"""`replctl status` as a user types it, with servers that refuse: its options, formats and exit codes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replctl.cli.status import WATCH_DEFAULT, _with_watch_value
from tests.support import ROOT, replctl

INVENTORY = """
schema = 1
[cluster]
name = "{name}"
[[nodes]]
name = "{name}1"
host = "127.0.0.1"
port = {first}
[[nodes]]
name = "{name}2"
host = "127.0.0.1"
port = {second}
"""


@pytest.fixture
def refusing() -> Iterator[tuple[int, int]]:
    """Two ports that nobody listens on and nobody else can take."""
    with socket.socket() as one, socket.socket() as two:
        for held in (one, two):
            held.bind(("127.0.0.1", 0))
        yield one.getsockname()[1], two.getsockname()[1]


@pytest.fixture
def inventory(tmp_path: Path, refusing: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("REPLCTL_STATE_DIR", str(tmp_path / "state"))
    path = tmp_path / "shop.toml"
    path.write_text(INVENTORY.format(name="shop", first=refusing[0], second=refusing[1]))
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("--watch", f"--watch {WATCH_DEFAULT}"),
        ("-w", f"-w {WATCH_DEFAULT}"),
        ("-w 5", "-w 5"),
        ("--watch 500ms", "--watch 500ms"),
        ("--watch=5", "--watch=5"),
        ("-w5 --json", "-w5 --json"),
        ("--watch --json", f"--watch {WATCH_DEFAULT} --json"),
        ("-o json -w -i x.toml", f"-o json -w {WATCH_DEFAULT} -i x.toml"),
        ("-- -w", "-- -w"),
        ("", ""),
    ],
)
def test_watch_stands_alone_or_with_a_time(typed, parsed):
    assert _with_watch_value(typed.split()) == parsed.split()


def test_a_cluster_in_which_no_node_answers_is_shown_with_exit_code_1(inventory):
    shown = replctl("status", "-i", inventory)

    assert shown.returncode == 1
    assert shown.stderr == ""
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("shop  CRITICAL   UNKNOWN   no primary   0 of 2 nodes answer   at ")
    rows = [line.split() for line in lines if line.startswith("shop") and "unreachable" in line]
    assert [row[:4] for row in rows] == [
        ["shop1", "?", "unreachable", "(refused)"],
        ["shop2", "?", "unreachable", "(refused)"],
    ]


def test_each_format_is_what_it_says(inventory):
    def shown(form: str) -> str:
        return replctl("status", "-i", inventory, "-o", form).stdout

    document = json.loads(shown("json"))
    assert (document["cluster"], [n["error"]["cause"] for n in document["nodes"]]) == (
        "shop",
        ["refused"] * 2,
    )
    assert json.loads(replctl("status", "-i", inventory, "--json").stdout).keys() == document.keys()
    assert shown("name") == "shop1\nshop2\n"
    assert shown("yaml").startswith("schema_version: 1\ncluster: shop\n")
    header, *rows = shown("csv").splitlines()
    assert header.startswith("cluster,observed_at,name,host,port,")
    assert [row.split(",")[2] for row in rows] == ["shop1", "shop2"]
    assert "ADDRESS" in shown("wide")


def test_a_directory_of_inventories_is_shown_whole_and_one_by_name(inventory, refusing):
    directory = Path(inventory).parent
    other = directory / "store.toml"
    other.write_text(INVENTORY.format(name="store", first=refusing[0], second=refusing[1]))
    other.chmod(0o600)

    both = json.loads(replctl("status", "-i", str(directory), "--json").stdout)
    one = json.loads(replctl("status", "-i", str(directory), "--cluster", "store", "--json").stdout)

    assert [c["cluster"] for c in both["clusters"]] == ["shop", "store"]
    assert one["cluster"] == "store"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tree", "--json"], "--tree does not go with -o json"),
        (["--watch", "0.1"], "--watch 0.1: expected at least 0.5 s"),
        (["--watch", "5m"], "--watch 5m"),
        (["--timeout", "soon"], "--timeout soon"),
        (["--cluster", "nosuch"], "no cluster 'nosuch' in the inventory"),
    ],
)
def test_what_does_not_fit_together_is_a_usage_error(inventory, arguments, complaint):
    shown = replctl("status", "-i", inventory, *arguments)

    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith(f"replctl: {complaint}")


def test_colour_is_added_only_when_asked_for(inventory):
    assert "\x1b" not in replctl("status", "-i", inventory).stdout
    assert "\x1b[1;31m" in replctl("status", "-i", inventory, "--color", "always").stdout
    forced = replctl("status", "-i", inventory, env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[1;31m" in forced
    assert "\x1b" not in replctl("status", "-i", inventory, "--color=never", env={"FORCE_COLOR": "1"}).stdout


def watching(inventory: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "replctl", "status", "-i", inventory, "-w", "0.5", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_watching_on_a_pipe_gives_a_document_a_line_until_interrupted(inventory):
    with watching(inventory, "-o", "json") as process:
        documents = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)

    assert [d["cluster"] for d in documents] == ["shop", "shop"]
    assert documents[0]["observed_at"] < documents[1]["observed_at"]
    assert (process.returncode, errors) == (0, "")


def test_watching_on_a_pipe_gives_frames_with_their_time(inventory):
    with watching(inventory) as process:
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)

    assert lines[0][10:11] == "T" and lines[0].endswith("Z\n")
    assert lines[1].startswith("shop  CRITICAL")


def test_watching_as_csv_has_one_header(inventory):
    with watching(inventory, "-o", "csv") as process:
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)

    assert [line.split(",")[2] for line in lines] == ["name", "shop1", "shop2", "shop1", "shop2"]


def test_watching_ends_quietly_when_nobody_reads_any_more(inventory):
    with watching(inventory, "-o", "name") as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=20)

    assert (process.returncode, errors) == (128 + signal.SIGPIPE, "")


def test_a_printed_status_needs_neither_rich_nor_the_dashboard(inventory):
    script = (
        "import sys; from replctl.cli import run; run(['status', '-i', sys.argv[1]]);"
        "print(sorted(m for m in sys.modules if m in"
        " ('rich', 'replctl.display.dashboard', 'replctl.display.serialize', 'curses', 'pydantic')))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, inventory], cwd=ROOT, capture_output=True, text=True, timeout=30
    )

    assert shown.stdout.splitlines()[-1] == "[]"
