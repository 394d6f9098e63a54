"""`replctl render-pgbouncer` and `render-haproxy` as users run them: files, exit codes, messages."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from replctl.cli import COMMANDS
from replctl.cli.render import version_of
from replctl.errors import InventoryError, ReplctlError
from replctl.inventory import dump
from replctl.proxies import console, runtime
from replctl.render import RENDERERS
from tests.support import replctl
from tests.unit.render_cases import GOLDEN, PLAIN

PROXIES = ("pgbouncer", "haproxy")
FIRST_NODE = "replctl: warning: pg1 is taken for the primary, as the first node; --primary names another\n"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    return write(tmp_path)


def write(folder: Path, **tables: dict[str, Any]) -> Path:
    path = folder / "orders.toml"
    path.write_text(dump({**PLAIN, **tables}))
    path.chmod(0o600)
    return path


def render(proxy: str, inventory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return replctl(f"render-{proxy}", "-i", str(inventory), *options)


def golden(proxy: str) -> str:
    # `plain` of pgbouncer has two databases; this one has one.
    if proxy == "pgbouncer":
        return (GOLDEN / "pgbouncer-plain-1.24.ini").read_text()
    return (GOLDEN / "haproxy-plain-2.6.cfg").read_text()


def version(proxy: str) -> tuple[str, str]:
    return (f"--{proxy}-version", "1.24" if proxy == "pgbouncer" else "2.6")


def test_every_renderer_has_its_command() -> None:
    commands = {entry.name for entry in COMMANDS}

    assert {f"render-{name}" for name in RENDERERS} <= commands


@pytest.mark.parametrize("proxy", PROXIES)
def test_offline_the_first_node_writes_and_this_is_said(proxy: str, inventory: Path) -> None:
    done = render(proxy, inventory, "--offline", *version(proxy))

    assert (done.returncode, done.stdout, done.stderr) == (0, golden(proxy), FIRST_NODE)


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_file_is_written_once_and_found_right_after(proxy: str, inventory: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.conf"
    first = render(proxy, inventory, "--offline", "--out", str(out), *version(proxy))
    assert (first.returncode, first.stdout, out.read_text()) == (0, "", golden(proxy))
    assert first.stderr == f"{FIRST_NODE}replctl: {out} is written\n"

    again = render(proxy, inventory, "--offline", "--out", str(out), *version(proxy))
    assert (again.returncode, again.stderr) == (0, f"replctl: {out} is as it should be\n")
    check = render(proxy, inventory, "--offline", "--check", "--out", str(out), *version(proxy))
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")
    assert not (tmp_path / "x.conf.previous").exists()


@pytest.mark.parametrize("proxy", PROXIES)
def test_offline_the_writer_of_the_file_stays_whoever_is_the_first_node(
    proxy: str, inventory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.conf"
    moved = render(proxy, inventory, "--offline", "--primary", "pg2", "--out", str(out), "--yes")
    assert moved.returncode == 0, moved.stderr
    before = out.read_text()

    kept = render(proxy, inventory, "--offline", "--out", str(out))
    assert (kept.returncode, out.read_text()) == (0, before)


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_version_and_the_zone_of_the_file_stay_until_others_are_said(proxy: str, tmp_path: Path) -> None:
    nodes = [{**node, "zone": zone} for node, zone in zip(PLAIN["nodes"], "abc", strict=True)]
    inventory = write(tmp_path, nodes=nodes, routing={"policy": "zone"})
    out, newer = tmp_path / "x.conf", "1.25" if proxy == "pgbouncer" else "3.1"
    options = ["--offline", "--out", str(out)]
    assert render(proxy, inventory, *options, f"--{proxy}-version", newer, "--zone", "b").returncode == 0
    before = out.read_text()
    assert before.splitlines()[1].endswith(f" {newer}; zone b")

    assert render(proxy, inventory, *options, "--check").returncode == 0
    assert render(proxy, inventory, *options).returncode == 0
    assert out.read_text() == before
    assert render(proxy, inventory, *options, "--zone", "").returncode == 0
    assert out.read_text().splitlines()[1].endswith(f" {newer}")
    odd = render(proxy, inventory, *options, "--zone", "b;c")
    assert (odd.returncode, "--zone" in odd.stderr) == (2, True)


def test_offline_with_role_checks_no_writer_need_be_known(tmp_path: Path) -> None:
    inventory = write(tmp_path, haproxy={"write_role_checks": True})
    out = str(tmp_path / "x.conf")
    assert render("haproxy", inventory, "--offline", "--out", out).returncode == 0

    assert render("haproxy", inventory, "--offline", "--check", "--out", out).returncode == 0


@pytest.mark.parametrize("proxy", PROXIES)
def test_an_empty_file_is_filled(proxy: str, inventory: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.conf"
    out.touch(mode=0o640)
    done = render(proxy, inventory, "--offline", "--out", str(out), *version(proxy))

    assert (done.returncode, out.read_text(), out.stat().st_mode & 0o777) == (0, golden(proxy), 0o640)


@pytest.mark.parametrize("proxy", PROXIES)
def test_drift_is_shown_as_a_diff_and_nothing_is_written(proxy: str, inventory: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.conf"
    out.write_text(golden(proxy).replace("10.0.0.3", "10.0.0.9"))
    before = out.read_text()
    done = render(proxy, inventory, "--offline", "--check", "--out", str(out), *version(proxy))

    assert (done.returncode, out.read_text()) == (1, before)
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"--- {out}", f"+++ {out} (rendered)"]
    assert {line[0] for line in lines[2:]} <= {"@", " ", "-", "+"}
    assert any("10.0.0.9" in line and line[0] == "-" for line in lines)


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_missing_file_is_drift(proxy: str, inventory: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.conf"
    done = render(proxy, inventory, "--offline", "--check", "--out", str(out))

    assert done.returncode == 1
    assert not out.exists()


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_inventory_may_name_the_file_to_compare_with(proxy: str, tmp_path: Path) -> None:
    out = tmp_path / "x.conf"
    out.write_text(golden(proxy))
    inventory = write(tmp_path, **{proxy: {**PLAIN[proxy], "file": str(out)}})

    assert render(proxy, inventory, "--offline", "--check", *version(proxy)).returncode == 0
    assert render(proxy, inventory, "--offline", *version(proxy)).stdout == golden(proxy)
    nowhere = render(proxy, write(tmp_path), "--offline", "--check")
    assert (nowhere.returncode, nowhere.stderr.splitlines()[0]) == (
        2,
        "replctl: --check needs a file to compare with",
    )


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_file_of_somebody_else_is_not_replaced_unless_asked(
    proxy: str, inventory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.conf"
    out.write_text("# mine\n")
    refused = render(proxy, inventory, "--offline", "--primary", "pg1", "--out", str(out))
    assert (refused.returncode, out.read_text()) == (3, "# mine\n")
    assert refused.stderr.startswith(f"replctl: {out} was not rendered by this command for this cluster")

    forced = render(proxy, inventory, "--offline", "--primary", "pg1", "--out", str(out), "--force")
    assert forced.returncode == 0, forced.stderr
    assert (tmp_path / "x.conf.previous").read_text() == "# mine\n"


def test_a_whole_file_is_not_replaced_by_a_part_of_it(tmp_path: Path) -> None:
    inventory = write(tmp_path, pgbouncer={"databases": ["app"], "auth_user": "pgbouncer"})
    out = str(tmp_path / "pgbouncer.ini")
    assert render("pgbouncer", inventory, "--offline", "--full", "--out", out).returncode == 0

    assert render("pgbouncer", inventory, "--offline", "--out", out).returncode == 3


@pytest.mark.parametrize("proxy", PROXIES)
def test_without_a_known_writer_the_file_is_left_alone(proxy: str, tmp_path: Path) -> None:
    dead = [{"name": f"pg{n}", "host": "127.0.0.1", "port": n} for n in (1, 2)]
    inventory = write(tmp_path, nodes=dead)
    out = tmp_path / "x.conf"
    done = render(proxy, inventory, "--out", str(out), "--timeout", "5s")

    assert (done.returncode, done.stdout, out.exists()) == (3, "", False)
    assert done.stderr.startswith("replctl: no node answers as primary: pg1 does not answer: refused")


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_file_that_cannot_be_written_is_said(proxy: str, inventory: Path, tmp_path: Path) -> None:
    out = tmp_path / "none" / "x.conf"
    done = render(proxy, inventory, "--offline", "--out", str(out))

    assert done.returncode == 1
    assert f"{out} cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("proxy", PROXIES)
def test_what_cannot_be_meant_is_refused(proxy: str, inventory: Path, tmp_path: Path) -> None:
    cases = {
        ("--primary", "pg1"): "--primary goes with --offline",
        ("--offline", "--primary", "pg9"): "no node 'pg9' in the inventory",
        ("--offline", *version(proxy)[:1], "1.2\n3"): "'1.2\\n3' is not a version",
        ("--offline", *version(proxy)[:1], "0.1"): f"{inventory} has values that cannot go into a rendered",
    }
    for options, told in cases.items():
        done = render(proxy, inventory, *options)
        assert (done.returncode, done.stdout) == (2, ""), options
        assert f"replctl: {told}" in done.stderr

    bare = {name: value for name, value in PLAIN.items() if name not in PROXIES}
    (tmp_path / "bare.toml").write_text(dump(bare))
    (tmp_path / "bare.toml").chmod(0o600)
    done = render(proxy, tmp_path / "bare.toml", "--offline")
    assert (done.returncode, f"has no table [{proxy}]" in done.stderr) == (2, True)


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_that_does_not_tell_its_version_is_written_for_the_oldest(proxy: str, tmp_path: Path) -> None:
    places = {
        "pgbouncer": {"databases": ["app"], "admin": ["host=127.0.0.1 port=1 user=x password=hush"]},
        "haproxy": {"sockets": [str(tmp_path / "none.sock")]},
    }
    inventory = write(tmp_path, **{proxy: places[proxy]})
    offline = render(proxy, inventory, "--offline")
    assert "does not" not in offline.stderr

    def ask(place: str) -> str:
        raise ReplctlError(f"{place} does not answer")

    answers = {"a": "1.24", "b": "1.9"}
    assert version_of(None, None, ("x",), ask, "1.18") == "1.18"
    assert version_of(None, None, ("a", "b"), answers.__getitem__, "1.18") == "1.9"
    assert version_of(None, "1.20", ("a",), answers.__getitem__, "1.18") == "1.20"
    assert version_of("1.21", "1.20", ("a",), answers.__getitem__, "1.18") == "1.21"


def test_a_console_that_is_not_there_is_said_without_its_secrets(tmp_path: Path) -> None:
    with pytest.raises(ReplctlError, match=r"PgBouncer at 127\.0\.0\.1:1 does not answer") as failure:
        console.ask_version("host=127.0.0.1 port=1 user=x password=hush")
    assert "hush" not in str(failure.value)
    with pytest.raises(InventoryError) as refusal:
        console.ask_version("host='hush")
    assert "hush" not in str(refusal.value)
    with pytest.raises(ReplctlError, match=r"HAProxy at .*none\.sock does not answer"):
        runtime.ask_version(str(tmp_path / "none.sock"))


def test_a_proxy_that_accepts_and_says_nothing_is_waited_for_a_limited_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ReplctlError, match=r"does not answer: not within 0\.3 s"):
            asyncio.run(console.ask(f"host=127.0.0.1 port={port} user=x", "SHOW VERSION", limit_s=0.3))
        with pytest.raises(ReplctlError, match="does not answer: timed out"):
            runtime.ask(f"127.0.0.1:{port}", "show info", timeout_s=0.3)


# ---- what is typed wrong


@pytest.mark.parametrize("options", [(), ("--apply",), ("--watch",)])
def test_an_option_that_is_no_version_is_not_blamed_on_the_inventory(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    inventory = write(tmp_path, haproxy={"file": f"{tmp_path}/h", "sockets": [f"{tmp_path}/s"]})

    done = render("haproxy", inventory, "--haproxy-version", "two", *options)

    assert (done.returncode, done.stderr) == (
        2,
        "replctl: 'two' is not a version\nhint: for example 2.8\n",
    )


def test_a_zone_without_a_node_is_warned_of(inventory: Path) -> None:
    done = render("haproxy", inventory, "--offline", "--primary", "pg1", "--zone", "nix")

    assert (done.returncode, done.stderr) == (
        0,
        "replctl: warning: no node is in the zone 'nix'; known: none\n",
    )


@pytest.mark.parametrize("option", ["--apply", "--watch"])
def test_what_lacks_is_said_with_the_option_that_was_typed(inventory: Path, option: str) -> None:
    done = render("haproxy", inventory, option)

    assert (done.returncode, done.stderr.partition(":")[2].splitlines()[0]) == (
        2,
        f" {option} needs [haproxy] sockets: what a running proxy really does is asked there",
    )


def test_a_file_in_the_place_of_a_socket_is_named_so_and_a_bare_word_is_refused(tmp_path: Path) -> None:
    config, plain = tmp_path / "h.cfg", tmp_path / "plain"
    plain.write_text("x\n")
    inventory = write(tmp_path, haproxy={"file": str(config), "sockets": [str(plain)]})
    options = ("--apply", "--offline", "--primary", "pg1")

    done, again = render("haproxy", inventory, *options), render("haproxy", inventory, *options)
    inventory.write_text(inventory.read_text().replace(str(plain), "admin"))
    word = render("haproxy", inventory, *options)

    why = f"the HAProxy at {plain} does not answer: that is a file, not a socket"
    assert (done.returncode, why in done.stderr) == (4, True)
    assert (again.returncode, again.stderr.splitlines()[0]) == (4, f"replctl: {config} is as it should be")
    assert (word.returncode, 'sockets = ["admin"]' in word.stderr) == (2, True)


def test_a_directory_that_is_not_there_is_to_be_made(tmp_path: Path, inventory: Path) -> None:
    out = tmp_path / "none" / "h.cfg"

    done = render("haproxy", inventory, "--offline", "--primary", "pg1", "--out", str(out))

    assert (done.returncode, done.stderr) == (
        1,
        f"replctl: {out} cannot be written: No such file or directory\nhint: make its directory first\n",
    )
