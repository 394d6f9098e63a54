"""What docs/cron.md says to write into other programs' files is right, and does what the page says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from replctl.lab import Lab
from tests.support import ROOT, need
from tests.unit import icinga
from tools import docs

PAGE = (ROOT / "docs" / "cron.md").read_text(encoding="utf-8")
INSTALLED = "/usr/local/bin/replctl"
HERE = str(Path(sys.executable).parent / "replctl")


def fences(language: str) -> list[str]:
    """The blocks of the page that are in this language, with replctl as it is installed here."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"no {language} on the page"
    return [text.replace(INSTALLED, HERE) for text in found]


def cron_commands() -> list[str]:
    """What cron hands to the shell: /etc/cron.d has five columns of time and one of the user."""
    lines = [line for text in fences("cron") for line in text.splitlines() if not re.match(r"\w+=", line)]
    return [re.fullmatch(r"(?:[\d*/,-]+ ){5}[a-z]+ (.+)", line)[1] for line in lines]


@pytest.fixture
def home(shared_lab: Lab, tmp_path: Path) -> Path:
    """An account with the cluster `orders` in its ~/.config, and a curl that leaves a mark."""
    directory = tmp_path / ".config" / "replctl"
    directory.mkdir(parents=True)
    text = shared_lab.inventory_path.read_text()
    (directory / "orders.toml").write_text(text.replace('name = "lab"', 'name = "orders"'))
    (directory / "orders.toml").chmod(0o600)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "curl").write_text('#!/bin/sh\necho "$@" >"$HOME/called"\n')
    (tmp_path / "bin" / "curl").chmod(0o755)
    return tmp_path


def run(words: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    """In the environment that cron gives."""
    env = {"HOME": str(home), "LOGNAME": "nagios", "SHELL": "/bin/sh", "PATH": f"{home}/bin:/usr/bin:/bin"}
    return subprocess.run(
        words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, cwd=home
    )


@pytest.mark.live
@pytest.mark.parametrize("command", cron_commands())
def test_a_cron_job_is_silent_while_all_is_well(command, home):
    assert "%" not in command, "a newline to cron"
    first = run(["/bin/sh", "-c", command], home)
    second = run(["/bin/sh", "-c", command], home)

    assert (first.returncode, first.stderr) == (0, "")
    if "--notify-changes" in command:
        assert icinga.read(0, first.stdout).state == "OK"  # the first word of a job that is to be heard
    else:
        assert first.stdout == ""
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert (home / "called").exists() == ("curl" in command)


def test_the_units_are_right(tmp_path):
    program = shutil.which("systemd-analyze")
    need("systemd-analyze", program, "apt-get install systemd")
    for text in fences("ini"):
        name = re.match(r"# /etc/systemd/system/(\S+)\n", text)[1]
        (tmp_path / name).write_text(text)
    names = sorted(path.name for path in tmp_path.iterdir())

    done = run([program, "verify", *(str(tmp_path / name) for name in names)], tmp_path)

    assert names == ["replctl-alert.service", "replctl-check.service", "replctl-check.timer"]
    said = [line for line in done.stderr.splitlines() if "replctl" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.live
def test_what_the_unit_runs_is_silent_while_all_is_well(home):
    (command,) = re.findall(r"^ExecStart=(.*replctl.*)$", "\n".join(fences("ini")), re.MULTILINE)[:1]

    done = run(shlex.split(command), home)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def nagios_objects() -> list[dict[str, str]]:
    """The objects of the configuration, each with its kind as `define`."""
    objects = []
    for kind, body in re.findall(
        r"^define (\w+) \{\n(.*?)^\}", fences("nagios")[0], re.MULTILINE | re.DOTALL
    ):
        pairs = [line.split(None, 1) for line in body.splitlines() if line.strip()]
        objects.append({"define": kind, **dict(pairs)})
    return objects


@pytest.mark.live
def test_the_services_of_nagios_run_what_they_name(home):
    objects = nagios_objects()
    commands = {o["command_name"]: o["command_line"] for o in objects if o["define"] == "command"}
    services = {
        o["service_description"]: o["check_command"].split("!") for o in objects if o["define"] == "service"
    }
    assert set(services) == {"cluster orders", "replication"}
    for name, *arguments in services.values():
        line = commands[name]
        for number, argument in enumerate(arguments, 1):
            line = line.replace(f"$ARG{number}$", argument)
        assert "$" not in line

        done = run(shlex.split(line), home)

        assert icinga.read(done.returncode, done.stdout, done.stderr).state == "OK"


def test_the_arguments_of_icinga_are_options_of_check():
    (check,) = (c.click for c in docs.commands() if c.path == ("check",))
    options = {option for parameter in check.params for option in parameter.opts}

    named = set(re.findall(r'"(--[\w-]+)"', fences("icinga2")[0]))

    assert named
    assert named <= options
