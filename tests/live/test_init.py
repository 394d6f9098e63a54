"""`replctl init` on real servers: what it finds is what is there, and what it writes can be used."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from replctl.inventory import load
from replctl.lab import Lab
from tests.live.looks import closed_port, silent_host
from tests.support import replctl

pytestmark = pytest.mark.live

SECRET = "sesame-open-4711"


def dsn(lab: Lab, *names: str, **more: str) -> str:
    """One DSN that names these nodes, as whom replctl connects."""
    ports = ",".join(str(lab.nodes[name].port) for name in names)
    hosts = ",".join(["127.0.0.1"] * len(names))
    return " ".join([f"host={hosts} port={ports} user=replctl", *(f"{k}={v}" for k, v in more.items())])


def init(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return replctl("init", "--out", str(out), *arguments)


def said(done: subprocess.CompletedProcess[str]) -> tuple[int, list[str], list[str]]:
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.lab(replicas=3, cascade=True, sync="ANY 1 (pg2, pg3)")
def test_what_it_writes_is_the_cluster_that_is_there(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "orders.toml"

    done = init(out, "--name", "orders", dsn(lab, "pg4", "pg3", "pg2", "pg1"))

    assert said(done) == (
        0,
        [
            f"found primary pg1 at 127.0.0.1:{lab.nodes['pg1'].port}",
            f"found replica pg2 at 127.0.0.1:{lab.nodes['pg2'].port}",
            f"found replica pg3 at 127.0.0.1:{lab.nodes['pg3'].port}",
            f"found replica pg4 at 127.0.0.1:{lab.nodes['pg4'].port}",
            f"wrote {out}",
            f"next: replctl status -i {out}",
        ],
        [],
    )
    assert load(out).document() == {
        "schema": 1,
        "cluster": {"name": "orders"},
        "connection": {"user": "replctl", "dbname": "postgres"},
        "replication": {"user": "replicator", "sslmode": "disable", "slot": "{name}"},
        "nodes": [
            {
                "name": node.name,
                "host": "127.0.0.1",
                "port": node.port,
                "data_directory": str(node.data_directory),
            }
            for node in lab.nodes.values()
        ],
        "failover": {"synchronous": "ANY 1 (pg2, pg3)"},
    }
    assert replctl("check", "-q", "-i", str(out)).stdout == ""


def test_upstreams_are_followed_and_replicas_on_unknown_ports_are_named(
    shared_lab: Lab, tmp_path: Path
) -> None:
    out = tmp_path / "replctl.toml"
    primary = f"127.0.0.1:{shared_lab.nodes['pg1'].port}"

    done = init(out, dsn(shared_lab, "pg3"))

    code, _, complaint = said(done)
    assert (code, [node.name for node in load(out).settings.nodes]) == (4, ["pg1", "pg3"])
    assert complaint == [
        "replctl: [failover] synchronous is not set: 'ANY 1 (pg1, pg2, pg3)' names others than these nodes",
        "replctl: servers were seen that are not in the inventory: "
        f"'pg2' at 127.0.0.1 streams from {primary}, but no server of this cluster was found there: "
        "its port is not known",
        f"hint: name them too: replctl init --force --out {out} DSN DSN...",
    ]
    assert "# Not found: 'pg2' at 127.0.0.1 streams from" in out.read_text()


def test_a_file_is_replaced_only_with_force(shared_lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "replctl.toml"
    out.write_text("mine")

    refused = init(out, dsn(shared_lab, "pg1", "pg2", "pg3"))
    kept = out.read_text()
    forced = init(out, "--force", dsn(shared_lab, "pg1", "pg2", "pg3"))

    assert said(refused) == (
        3,
        [],
        [f"replctl: {out} exists", "hint: write elsewhere with --out FILE, or replace it with --force"],
    )
    assert (kept, forced.returncode, len(load(out).settings.nodes)) == ("mine", 0, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["replctl.toml"]


def test_to_standard_output_goes_the_inventory_and_nothing_else(shared_lab: Lab, tmp_path: Path) -> None:
    done = replctl("init", "--out", "-", dsn(shared_lab, "pg1", "pg2", "pg3"))
    written = tmp_path / "written.toml"
    written.write_text(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert [node.name for node in load(written).settings.nodes] == ["pg1", "pg2", "pg3"]


@pytest.mark.parametrize(
    "form",
    [
        "host=127.0.0.1 port={port} user=replctl password={secret}",
        "postgresql://replctl:{secret}@127.0.0.1:{port}/postgres",
    ],
)
def test_a_password_is_not_written_and_not_repeated(shared_lab: Lab, tmp_path: Path, form: str) -> None:
    out = tmp_path / "replctl.toml"

    done = init(out, form.format(port=shared_lab.nodes["pg1"].port, secret=SECRET))

    assert SECRET not in out.read_text() + done.stdout + done.stderr
    assert (
        "replctl: the password was not written: put it into ~/.pgpass, or give passfile or password_command"
        in done.stderr.splitlines()
    )


def test_a_server_of_another_cluster_is_named_and_left_out(
    shared_lab: Lab, new_lab: Callable[..., Lab], tmp_path: Path
) -> None:
    other = new_lab(replicas=0)
    out = tmp_path / "replctl.toml"

    done = init(out, dsn(shared_lab, "pg1", "pg2", "pg3"), dsn(other, "pg1"))

    assert (done.returncode, len(load(out).settings.nodes)) == (4, 3)
    assert f"127.0.0.1:{other.nodes['pg1'].port} is of another cluster" in done.stderr


def test_who_does_not_answer_is_named_beside_those_who_do(shared_lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "replctl.toml"

    with closed_port() as (_, port):
        done = init(out, dsn(shared_lab, "pg1", "pg2", "pg3"), f"host=127.0.0.1 port={port} user=replctl")

    assert (done.returncode, len(load(out).settings.nodes)) == (4, 3)
    assert f"127.0.0.1:{port}: refused (Connection refused)" in done.stderr


def test_a_silent_host_costs_no_more_than_the_limit(tmp_path: Path) -> None:
    out = tmp_path / "replctl.toml"
    with silent_host() as (_, port):
        began_s = time.monotonic()
        done = init(out, "--timeout", "1s", f"host=127.0.0.1 port={port} user=replctl")
        took_s = time.monotonic() - began_s

    assert said(done) == (
        1,
        [],
        [
            f"replctl: no server answered: 127.0.0.1:{port}: timeout (no time left)",
            "hint: check host, port, role and pg_hba.conf",
        ],
    )
    assert took_s < 5
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            [f"password={SECRET} oh=no"],
            "a DSN cannot be read: it is neither a URI nor a string of keywords that libpq knows",
        ),
        (
            [f"{SECRET}"],
            "a DSN cannot be read: it is neither a URI nor a string of keywords that libpq knows",
        ),
        (["host=a,b port=1,2,3"], "a DSN has ports that do not fit its hosts"),
        (
            ["--name", "my cluster", "host=a"],
            "--name 'my cluster': expected 1 to 63 letters, digits, '_', '.'",
        ),
        (["--timeout", "soon", "host=a"], "--timeout soon: not a number and a unit"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    done = init(tmp_path / "replctl.toml", *arguments)

    assert (done.returncode, done.stdout, SECRET in done.stderr) == (2, "", False)
    assert done.stderr.startswith(f"replctl: {complaint}")


def test_a_place_that_cannot_be_written_is_named(shared_lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "missing" / "replctl.toml"

    done = init(out, dsn(shared_lab, "pg1", "pg2", "pg3"))

    assert said(done) == (
        2,
        [],
        [f"replctl: {out} cannot be written: No such file or directory", "hint: choose another with --out"],
    )
