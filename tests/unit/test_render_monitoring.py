"""`render-prometheus` and `render-grafana` as commands: printed, written, compared, refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import replctl

INVENTORY = """schema = 1
[cluster]
name = "{name}"
[connection]
user = "replctl"
[checks]
lag_s = ["{warning}", "2min"]
[[nodes]]
name = "pg1"
host = "10.0.0.{number}"
"""
COMMANDS = ("render-prometheus", "render-grafana")


def inventory(directory: Path, name: str = "orders", warning: str = "7s", number: int = 1) -> Path:
    path = directory / f"{name}.toml"
    path.write_text(INVENTORY.format(name=name, warning=warning, number=number))
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_written_is_what_is_printed_and_is_found_to_be_the_same(command: str, tmp_path: Path) -> None:
    path, out = inventory(tmp_path), tmp_path / "out"
    printed = replctl(command, "-i", str(path))
    assert (printed.returncode, printed.stderr) == (0, "")
    written = replctl(command, "-i", str(path), "--out", str(out))
    assert (written.returncode, written.stdout) == (0, "")
    assert written.stderr == f"replctl: {out} is written\n"
    assert out.read_text() == printed.stdout
    same = replctl(command, "-i", str(path), "--out", str(out), "--check")
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    again = replctl(command, "-i", str(path), "--out", str(out))
    assert (again.returncode, again.stderr) == (0, f"replctl: {out} is as it should be\n")


@pytest.mark.parametrize(
    ("command", "before", "after"),
    [
        (
            "render-prometheus",
            '-        expr: "node:replctl_lag_seconds:counted{cluster=\\"orders\\"} > 7"',
            "> 9",
        ),
        ("render-grafana", '-                "value": 7.0', '+                "value": 9.0'),
    ],
)
def test_a_threshold_that_was_changed_is_a_difference_and_an_exit_code(
    command: str, before: str, after: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    replctl(command, "-i", str(inventory(tmp_path)), "--out", str(out))
    content = out.read_text()
    done = replctl(command, "-i", str(inventory(tmp_path, warning="9s")), "--out", str(out), "--check")
    assert (done.returncode, done.stderr) == (1, "")
    assert before in done.stdout
    assert after in done.stdout
    assert out.read_text() == content


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_somebody_else_is_left_alone_unless_it_is_forced(command: str, tmp_path: Path) -> None:
    path, out = inventory(tmp_path), tmp_path / "out"
    out.write_text('{\n "mine": 1 }\n')
    done = replctl(command, "-i", str(path), "--out", str(out))
    assert (done.returncode, done.stdout, out.read_text()) == (3, "", '{\n "mine": 1 }\n')
    assert replctl(command, "-i", str(path), "--out", str(out), "--force").returncode == 0
    assert (tmp_path / "out.previous").read_text() == '{\n "mine": 1 }\n'


def test_a_comparison_needs_a_file(tmp_path: Path) -> None:
    done = replctl("render-prometheus", "-i", str(inventory(tmp_path)), "--check")
    assert (done.returncode, done.stderr) == (
        2,
        "replctl: --check needs a file to compare with\nhint: --out FILE\n",
    )


def test_every_cluster_of_a_directory_has_its_group_of_rules(tmp_path: Path) -> None:
    inventory(tmp_path, "orders", number=1)
    inventory(tmp_path, "users", number=2)
    done = replctl("render-prometheus", "-i", str(tmp_path))
    names = [line for line in done.stdout.splitlines() if line.startswith("  - name:")]
    assert names == ['  - name: "replctl orders"', '  - name: "replctl users"', '  - name: "replctl"']
    one = replctl("render-prometheus", "-i", str(tmp_path), "--cluster", "users")
    assert 'cluster: "orders"' not in one.stdout


def test_lines_of_events_go_with_no_other_format(tmp_path: Path) -> None:
    done = replctl("events", "-i", str(inventory(tmp_path)), "--lines", "-o", "csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "replctl: --lines does not go with -o csv\n"
