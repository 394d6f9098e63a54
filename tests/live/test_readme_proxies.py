"""The README's commands put both proxies in front of a lab, and a psql session outlives the primary."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from replctl.lab import remove
from replctl.lab.account import server_account
from tests.live.places import open_directory
from tests.live.proxies import free_ports
from tests.live.servers import SERVERS
from tests.support import ROOT, need, wait_until

pytestmark = pytest.mark.live

SECTION = (
    (ROOT / "README.md").read_text().partition("## Behind PgBouncer and HAProxy\n")[2].partition("\n## ")[0]
)
BLOCKS = re.findall(r"^```(?:sh)?\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
PSQL = "psql -h 127.0.0.1 -p 6432 -U postgres postgres"
MAJOR = 15


@pytest.fixture
def home() -> Iterator[Path]:
    """A home directory; afterwards nothing runs there any more."""
    for program in ("pgbouncer", "haproxy", "psql"):
        need(
            program,
            shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"),
            f"apt-get install {program}",
        )
    need(f"PostgreSQL {MAJOR}", MAJOR in SERVERS, "apt-get install postgresql-15")
    with open_directory() as place:
        if (account := server_account()) is not None:
            make_pgbouncer(place / "bin", account.uid)
        yield place
        run(place, f"cd proxies; {BLOCKS[2]}")
        remove(place / "proxies" / "lab")


def make_pgbouncer(folder: Path, uid: int) -> None:
    """A `pgbouncer` for root, whom the real one refuses: it runs as another user, who may write there."""
    folder.mkdir()
    program = folder / "pgbouncer"
    program.write_text(
        f'#!/bin/sh\nchown {uid} . && exec setpriv --reuid {uid} --clear-groups /usr/sbin/pgbouncer "$@"\n'
    )
    program.chmod(0o755)


def prepared(home: Path, script: str) -> tuple[list[str], dict[str, object]]:
    """A shell with this script in the home directory, and how to start it."""
    path = f"{home}/bin:{Path(sys.executable).parent}:{SERVERS[MAJOR]}:/usr/bin:/bin"
    env = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8"}
    return ["/bin/sh", "-c", script], {"cwd": home, "env": env}


def run(home: Path, script: str, text: str = "") -> subprocess.CompletedProcess[str]:
    argv, how = prepared(home, script)
    with tempfile.TemporaryFile("w+") as said:  # not a pipe: what stays in the background would hold it
        done = subprocess.run(  # type: ignore[call-overload]
            argv, input=text, stdout=said, stderr=subprocess.STDOUT, text=True, timeout=60, **how
        )
        said.seek(0)
        return subprocess.CompletedProcess(argv, done.returncode, said.read(), "")


def test_a_psql_session_through_pgbouncer_goes_on_after_the_primary_is_killed(home: Path) -> None:
    start, session, _ = BLOCKS
    before, last_line = start.rstrip("\n").rsplit("\n", 1)
    assert last_line == PSQL
    ports = dict(zip(("6432", "5000", "5001"), free_ports(3), strict=True))
    for usual, free in ports.items():
        before = re.sub(rf"\b{usual}\b", str(free), before)
    done = run(home, f"set -e\n{before}\n")
    assert done.returncode == 0, done.stdout

    first, kill, again = session.splitlines()
    argv, how = prepared(home, f"cd proxies; exec {PSQL.replace('6432', str(ports['6432']))} -At 2>&1")
    with subprocess.Popen(  # type: ignore[call-overload]
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **how
    ) as psql:
        try:
            psql.stdin.write(f"{first}\n{kill}\n")
            psql.stdin.flush()
            log = home / "proxies" / "controller.log"
            wait_until(lambda: "writes go to pg" in log.read_text(), "the proxies know", limit_s=30)
            psql.stdin.write(f"{again}\n{again}\nCREATE TABLE written ();\n")
            said = psql.communicate(timeout=30)[0]
        finally:
            psql.kill()
            print(log.read_text())
    answers = re.findall(r"^\d+$", said, re.MULTILINE)
    assert len(set(answers)) == 2, said
    assert len(re.findall(r"FATAL|ERROR|server closed the connection", said)) <= 1, said
    assert said.endswith(f"{answers[-1]}\nCREATE TABLE\n"), said
    by_haproxy = f"psql -h 127.0.0.1 -p {ports['5000']} -U postgres -Atc {shlex.quote(first)} postgres"
    wait_until(lambda: run(home, by_haproxy).stdout == f"{answers[-1]}\n", "HAProxy leads there too")
