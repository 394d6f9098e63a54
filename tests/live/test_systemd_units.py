"""What the units of `replctl render-systemd` run does its work: run as they run it, but without systemd.

An unprivileged user without capabilities that no program can regain, with no memory both writable and
executable, and with a file system of which only the state directory can be written.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from replctl.lab import Lab
from replctl.render import systemd
from tests.live.everybody import NOBODY, program, unprivileged
from tests.live.failover_support import GRACES, value, write_inventory
from tests.live.places import open_directory
from tests.live.proxies import free_ports
from tests.support import need, replctl, wait_until

pytestmark = [pytest.mark.live, pytest.mark.lab(sync="ANY 1")]

# ProtectSystem=strict in short: all is read-only but what was bound onto itself before. Then, where the
# kernel knows it (6.3), PR_SET_MDWE stands for MemoryDenyWriteExecute=yes.
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro / && shift && exec "$@"'
CONFINED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture(scope="module")
def command() -> Iterator[str]:
    """A replctl that an unprivileged user can run."""
    with open_directory() as place:
        yield str(program(place))


@pytest.fixture
def units(lab: Lab, command: str) -> dict[str, str]:
    """The text of each unit."""
    inventory = write_inventory(lab, failover=GRACES)
    done = replctl("render-systemd", "-i", str(inventory), "--program", command)
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^# /etc/systemd/system/(\S+)\n", done.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@contextlib.contextmanager
def started(lab: Lab, unit: str, *tracer: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """The unit's command as its service would run. Ended with SIGKILL if it is still there."""
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    state = lab.directory.parent / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    command = [*tracer, *shlex.split(line.replace("$$", "$"))]
    words = [*unprivileged(), "/usr/bin/python3", "-c", CONFINED, *command]
    if os.geteuid() == 0:
        os.chown(state, NOBODY, NOBODY)
        words = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(state), *words]
    process = subprocess.Popen(
        words,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "REPLCTL_STATE_DIR": str(state), "LANG": "C.UTF-8", **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0o077,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


def test_the_check_is_silent_while_all_is_well_and_fails_while_it_is_not(
    lab: Lab, units: dict[str, str]
) -> None:
    def check() -> tuple[int, str]:
        with started(lab, units["replctl-lab-check.service"]) as process:
            said = process.communicate(timeout=30)[0]
        return process.returncode, said

    first, second = check(), check()
    lab.kill("pg3")
    bad = [check() for _ in range(3)]

    assert first[0] == 0 and second == (0, "")
    assert [code for code, _ in bad] == [0, 0, 2], bad
    assert (bad[0][1], "pg3" in bad[2][1]) == ("", True)
    assert sorted(path.name for path in (lab.directory.parent / "state").iterdir()) != []


def test_a_failover_needs_no_system_call_that_the_unit_forbids(lab: Lab, units: dict[str, str]) -> None:
    strace = shutil.which("strace")
    need("strace", strace, "apt-get install strace")
    unit = units["replctl-lab-controller.service"]
    trace = lab.directory.parent / "state" / "trace"
    tracer = (str(strace), "-f", "-qq", "-s", "200", "-e", "signal=none", "-o", str(trace))

    def shows(text: str) -> bool:
        return trace.exists() and text in trace.read_text(errors="replace")

    with started(lab, unit, *tracer):
        wait_until(lambda: shows("verdict: alive"), "the controller watches", limit_s=30)
        lab.kill("pg1")
        wait_until(lambda: shows(" is the primary, "), "it has failed over", limit_s=60)

    calls = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))
    assert {"connect", "execve", "sendto"} <= calls
    assert calls - allowed(unit) == set()


def allowed(unit: str) -> set[str]:
    """The system calls that the unit's filter lets through, as this machine's systemd has its groups."""
    program = shutil.which("systemd-analyze")
    need("systemd-analyze", program, "apt-get install systemd")
    text = subprocess.run(
        [str(program), "syscall-filter", "--no-pager"], capture_output=True, text=True, timeout=20, check=True
    ).stdout
    groups: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("@"):
            words = groups.setdefault(line.strip(), [])
        elif line.strip() and not line.strip().startswith("#"):
            words.append(line.strip())

    def expand(name: str) -> set[str]:
        return set().union(*map(expand, groups[name])) if name.startswith("@") else {name}

    found: set[str] = set()
    for name in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        found = found - expand(name[1:]) if name.startswith("~") else found | expand(name)
    return found


@contextlib.contextmanager
def service_manager(lab: Lab) -> Iterator[tuple[Callable[[str], None], dict[str, str]]]:
    """What waits until a service has told this, at an abstract address; and the variables of the service."""
    address = f"\0replctl-{lab.directory.parent.name}"
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)

        def wait_told(word: str) -> None:
            while word not in told:
                told.append(manager.recv(4096).decode())

        yield wait_told, {"NOTIFY_SOCKET": f"@{address[1:]}", "WATCHDOG_USEC": "600000"}


def test_the_controller_tells_systemd_that_it_is_ready_fails_over_and_ends_on_sigterm(
    lab: Lab, units: dict[str, str]
) -> None:
    unit = units["replctl-lab-controller.service"]
    assert "Type=notify" in unit
    with service_manager(lab) as (wait_told, variables), started(lab, unit, **variables) as process:
        wait_told("READY=1")
        wait_told("WATCHDOG=1")
        wait_told("STATUS=alive: the primary answers")
        lab.kill("pg1")
        promoted = "SELECT NOT pg_is_in_recovery()"
        wait_until(
            lambda: any(value(lab, node, promoted) for node in ("pg2", "pg3")),
            "a replica is promoted",
            limit_s=30,
        )
        process.terminate()
        code = process.wait(20)
        wait_told("STOPPING=1")
    assert code == 0
    assert (lab.directory.parent / "state").stat().st_mode & 0o777 == 0o700


TOKEN = "a-token-of-some-length"


@contextlib.contextmanager
def as_the_server(lab: Lab, *tracer: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server's command as its unit has it, with tokens as systemd hands them over; and its port."""
    directory, (port,) = lab.directory.parent, free_ports(1)
    words = ["--program", str(program(directory)), "--token-file", "/etc/replctl/tokens"]
    inventory = str(write_inventory(lab))
    done = replctl("render-systemd", "-i", inventory, *words, "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    unit = done.stdout.partition("replctl-lab-serve.service\n")[2].replace("%t/", f"{directory}/")
    credentials, (runtime,) = directory / "credentials", re.findall(r"^RuntimeDirectory=(.*)$", unit, re.M)
    for place, mode in ((credentials, 0o755), (directory / runtime, 0o700)):
        place.mkdir(mode=mode)
        if os.geteuid() == 0:
            os.chown(place, NOBODY, NOBODY)
    (credentials / "tokens").write_text(TOKEN)
    (credentials / "tokens").chmod(
        0o444
    )  # systemd's are readable by an ACL, which looks like a group's right
    (before,) = re.findall(r"^ExecStartPre=(.*)$", unit, re.MULTILINE)
    copy = [word.replace("${CREDENTIALS_DIRECTORY}", str(credentials)) for word in shlex.split(before)]
    subprocess.run([*unprivileged(), *copy], check=True, timeout=10)
    with started(lab, unit, *tracer, **more) as process:
        yield process, port


def code(port: int, path: str, token: str = "") -> int:
    """The code of an answer to a browser; 0 = nobody is there."""
    headers = {"Accept": "text/html", **({"Authorization": f"Bearer {token}"} if token else {})}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_the_server_tells_systemd_that_it_is_ready_answers_and_ends_on_sigterm(lab: Lab) -> None:
    with service_manager(lab) as (wait_told, variables), as_the_server(lab, **variables) as (process, port):
        wait_told("READY=1\nSTATUS=answering")
        wait_told("WATCHDOG=1")
        asked = [("/readiness", ""), ("/pg1/primary", ""), ("/metrics", ""), ("/metrics", TOKEN)]
        assert [code(port, path, token) for path, token in asked] == [200, 200, 401, 200]
        process.terminate()
        ended = process.wait(15)  # TimeoutStopSec
        wait_told("STOPPING=1")
    assert ended == 0
    assert list((lab.directory.parent / "state").iterdir()) != []


def test_a_server_that_answers_needs_no_system_call_that_its_unit_forbids(lab: Lab) -> None:
    strace = shutil.which("strace")
    need("strace", strace, "apt-get install strace")
    trace = lab.directory.parent / "state" / "trace"
    tracer = (str(strace), "-f", "-qq", "-s", "20", "-e", "signal=none", "-o", str(trace))

    with as_the_server(lab, *tracer) as (_, port):
        wait_until(lambda: code(port, "/pg1/primary") == 200, "it answers", limit_s=60)
        assert [code(port, path, TOKEN) for path in ("/", "/metrics", "/status.json")] == [200] * 3

    calls = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))
    assert {"connect", "execve", "listen"} <= calls
    unit = systemd.units(systemd.Deployment(cluster="lab", program="/x", inventory="/x"))
    assert calls - allowed(unit["replctl-lab-serve.service"]) == set()
