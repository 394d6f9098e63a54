"""`replctl render-systemd`: the units word for word, and that systemd reads in them what was meant."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from replctl.render import systemd
from tests.support import need, replctl, run

GOLDEN = Path(__file__).parent / "golden"
INSTALL = "apt-get install systemd"
# The exposure that `systemd-analyze security` may find at most: 0 is shut off from everything, 10 is bare.
EXPOSURE_MAX = 1.5

PLAIN = """\
schema = 1
[cluster]
name = "orders"
[connection]
user = "replctl"
[[nodes]]
name = "pg1"
host = "10.0.0.1"
[[nodes]]
name = "pg2"
host = "10.0.0.2"
"""
PROXIES = """\
[pgbouncer]
databases = ["app"]
file = "/etc/pgbouncer/data bases.d/orders.ini"
admin = ["host=10.0.0.5 port=6432 user=replctl"]
[haproxy]
file = "/etc/haproxy/haproxy.cfg"
sockets = ["/run/haproxy/admin.sock"]
reload = ["systemctl", "reload", "haproxy"]
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    return write(tmp_path, PLAIN)


def write(directory: Path, text: str) -> Path:
    path = directory / "orders.toml"
    path.write_text(text)
    path.chmod(0o644)
    return path


def render(inventory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return replctl("render-systemd", "-i", str(inventory), "--program", "/usr/bin/true", *options)


def deployment(**values: object) -> systemd.Deployment:
    given = {
        "cluster": "orders",
        "program": "/usr/local/bin/replctl",
        "inventory": "/etc/replctl/orders.toml",
    }
    return systemd.Deployment(**{**given, **values})


def golden(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


def shown(units: dict[str, str]) -> str:
    return "\n".join(f"# /etc/systemd/system/{name}\n{text}" for name, text in units.items())


def test_the_units_of_a_cluster_without_secret_files_run_as_a_user_of_systemds_own() -> None:
    found = systemd.units(
        deployment(
            passfile="/etc/replctl/pgpass",
            tokens="/etc/replctl/tokens",
            on_failure="replctl-alert.service",
        )
    )

    assert shown(found) == golden("systemd_dynamic.txt")


def test_the_units_of_a_cluster_whose_proxies_have_files_here_run_as_a_real_user() -> None:
    found = systemd.units(
        deployment(
            account="it writes /etc/haproxy/haproxy.cfg",
            user="dba",
            proxies=("pgbouncer", "haproxy"),
            writable=("/etc/haproxy", "/etc/pgbouncer/data bases.d"),
        )
    )

    assert shown(found) == golden("systemd_account.txt")


def test_the_same_inventory_gives_the_same_units(inventory: Path) -> None:
    assert render(inventory).stdout == render(inventory).stdout != ""


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("", None),
        ('[failover.hooks]\nafter = ["/usr/bin/page"]\n', "failover.hooks.after runs a command"),
        ("[haproxy]\n", None),
        (PROXIES, "it writes /etc/pgbouncer/data bases.d/orders.ini"),
        ('[haproxy]\nfile = "/x"\nrun = ["ssh", "lb"]\n', "haproxy.run runs a command"),
        ('[nodes.commands]\nfence = ["fence", "{host}"]\n', "nodes.pg2.commands.fence runs a command"),
    ],
)
def test_the_user_is_made_up_unless_the_inventory_needs_a_real_one(
    tmp_path: Path, more: str, reason: str | None
) -> None:
    text = render(write(tmp_path, PLAIN + more)).stdout

    assert ("DynamicUser=yes" in text) == (reason is None)
    comments = set(re.findall(r"^# The user replctl has to exist: (.*)\.$", text, re.MULTILINE))
    assert len(comments) == (reason is not None)
    assert all(comment.startswith(reason or "") for comment in comments)


def test_a_proxy_that_cannot_be_kept_applied_has_no_unit_and_that_is_said(tmp_path: Path) -> None:
    more = '[pgbouncer]\ndatabases = ["app"]\nfile = "/etc/pgbouncer/app.ini"\n[haproxy]\n'

    found = render(write(tmp_path, PLAIN + more))

    assert (found.returncode, "--watch" in found.stdout, "ReadWritePaths" in found.stdout) == (
        0,
        False,
        False,
    )
    assert "DynamicUser=yes" in found.stdout
    assert [line for line in found.stderr.splitlines() if "no unit" in line] == [
        "replctl: warning: [pgbouncer] has no `admin`: no unit for render-pgbouncer --watch; see "
        "docs/proxies.md",
        "replctl: warning: [haproxy] has no `file` and `sockets`: no unit for render-haproxy --watch; see "
        "docs/proxies.md",
    ]


def test_a_file_and_a_socket_that_the_user_may_not_use_are_said(tmp_path: Path) -> None:
    need("root", os.geteuid() == 0, "run it as root")
    theirs, own = tmp_path / "haproxy.cfg", tmp_path / "databases.ini"
    for path in (theirs, own):
        path.write_text("x")
    os.chown(own, pwd.getpwnam("daemon").pw_uid, 0)
    keys = f"""\
[pgbouncer]
databases = ["app"]
file = "{own}"
admin = ["host=10.0.0.5"]
[haproxy]
file = "{theirs}"
stats_socket = "/run/haproxy/admin.sock"
sockets = ["/run/haproxy/admin.sock"]
"""
    inventory = write(tmp_path, PLAIN + keys)

    found = render(inventory, "--user", "daemon").stderr
    inventory.write_text(f'{inventory.read_text()}stats_group = "daemon"\n')
    os.chown(theirs, pwd.getpwnam("daemon").pw_uid, 0)
    then = render(inventory, "--user", "daemon").stderr

    notes = [
        f"replctl: warning: {theirs} belongs to root, and only its owner can replace it: "
        f"chown daemon: {theirs}",
        "replctl: warning: [haproxy] stats_socket is for the user alone who starts HAProxy; "
        '`stats_group = "daemon"` lets daemon use it',
    ]
    assert [line for line in found.splitlines() if line in notes] == notes
    assert [line for line in then.splitlines() if "belongs to" in line or "stats_socket" in line] == []


def test_a_password_file_of_the_inventory_needs_a_real_user(tmp_path: Path) -> None:
    secret = tmp_path / "pgpass"
    secret.write_text("*:*:*:*:secret\n")
    secret.chmod(0o600)
    text = PLAIN.replace('user = "replctl"', f'user = "replctl"\npassfile = "{secret}"')

    found = render(write(tmp_path, text)).stdout

    assert f"# The user replctl has to exist: {secret} (passfile of pg1) is readable by its owner" in found
    assert "secret" not in found.replace("secret files", "").replace(str(secret), "")


def test_where_patroni_fails_over_no_controller_is_made(tmp_path: Path) -> None:
    text = PLAIN.replace('name = "orders"', 'name = "orders"\nmanager = "patroni"', 1)

    found = render(write(tmp_path, text)).stdout

    assert re.findall(r"^# /etc/systemd/system/(.*)$", found, re.MULTILINE) == [
        "replctl-orders-check.service",
        "replctl-orders-check.timer",
        "replctl-orders-serve.service",
    ]


def serve_unit(**values: object) -> list[str]:
    return systemd.units(deployment(**values))["replctl-orders-serve.service"].splitlines()


def test_the_server_reads_its_tokens_again_at_a_restart_where_systemd_hands_them_over() -> None:
    reload = "ExecReload=/bin/kill -HUP $MAINPID"
    plain, guarded = serve_unit(), serve_unit(tokens="/etc/replctl/tokens", listen="[::1]:9000")

    assert (reload in plain, reload in guarded) == (True, False)
    assert "LoadCredential=tokens:/etc/replctl/tokens" in guarded
    assert [line for line in guarded if line.startswith("ExecStart=")] == [
        'ExecStart=/usr/local/bin/replctl serve --listen "[::1]:9000" --cluster orders'
        " -i /etc/replctl/orders.toml --token-file %t/replctl-orders-serve/tokens"
    ]


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("0.0.0.0:8008", "is not a loopback address: there the server needs a certificate"),
        ("db1:8008", "is not a loopback address"),
        ("8008", "expected an address and a port"),
    ],
)
def test_a_unit_that_the_server_would_refuse_is_not_made(inventory: Path, listen: str, reason: str) -> None:
    done = render(inventory, "--listen", listen)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"--listen {listen}" in done.stderr and reason in done.stderr


def test_servers_of_several_clusters_at_one_address_are_warned_of(tmp_path: Path) -> None:
    write(tmp_path, PLAIN)
    (tmp_path / "bills.toml").write_text(PLAIN.replace('"orders"', '"bills"'))
    (tmp_path / "bills.toml").chmod(0o644)

    several, one = render(tmp_path), render(tmp_path, "--cluster", "bills")

    assert "the servers of 2 clusters would all be at 127.0.0.1:8008" in several.stderr
    assert (several.returncode, one.returncode, "would all be" in one.stderr) == (0, 0, False)


# ---- systemd's own opinion


def analyze() -> str:
    found = shutil.which("systemd-analyze")
    need("systemd-analyze", found, INSTALL)
    return str(found)


def test_systemd_finds_nothing_wrong_with_any_unit(tmp_path: Path) -> None:
    program = analyze()
    units = tmp_path / "units"
    units.mkdir()
    secrets = ("--passfile", "/etc/pgpass", "--token-file", "/etc/tokens")
    render(write(tmp_path, PLAIN + PROXIES), "--out", str(units), *secrets)
    paths = sorted(str(path) for path in units.iterdir())

    done = run([program, "verify", *paths])

    assert [Path(path).name for path in paths] == [
        "replctl-orders-check.service",
        "replctl-orders-check.timer",
        "replctl-orders-controller.service",
        "replctl-orders-render-haproxy.service",
        "replctl-orders-render-pgbouncer.service",
        "replctl-orders-serve.service",
    ]
    said = [line for line in done.stderr.splitlines() if "replctl" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("more", ["", PROXIES])
def test_every_service_is_as_shut_off_as_we_say(tmp_path: Path, more: str) -> None:
    program = analyze()
    render(write(tmp_path, PLAIN + more), "--out", str(tmp_path))
    services = sorted(tmp_path.glob("*.service"))

    levels = {}
    for service in services:
        done = run([program, "security", "--offline=true", "--no-pager", str(service)])
        levels[service.name] = float(re.search(r"exposure level .*: ([0-9.]+)", done.stdout)[1])

    assert len(levels) == (5 if more else 3)
    assert max(levels.values()) <= EXPOSURE_MAX, levels


HOSTILE = [
    "/a b",
    "/%i%%n%h",
    "/$HOME/${HOME}/$$",
    "/\"quoted\" and 'single'",
    "/back\\slash\\x41\\n",
    "/end\\",
    "/;",
    "/#comment",
    "/=[Service]",
    "/ünï-日本",
    "/*?[a]{b}",
    "/-+!@:",
]


@pytest.mark.parametrize("token", HOSTILE)
def test_systemd_reads_a_hostile_path_as_it_is(tmp_path: Path, token: str) -> None:
    found = systemd.units(
        deployment(program="/usr/bin/true", inventory=token, account="of the test", writable=(token,))
    )
    read = loaded_by_systemd(tmp_path, found["replctl-orders-controller.service"])

    words = [word.replace("$$", "$") for word in command_line(read)]
    assert words == ["/usr/bin/true", "failover", "--auto", "--cluster", "orders", "-i", token]
    (line,) = re.findall(r"^\s*ReadWritePaths:\s*(.*)$", read, re.MULTILINE)
    assert line == f"-{token}"


def test_systemd_runs_a_program_with_blanks_and_percent_signs(tmp_path: Path) -> None:
    found = systemd.units(deployment(program="/opt/a b/100%i/replctl"))
    read = loaded_by_systemd(tmp_path, found["replctl-orders-check.service"])

    assert command_line(read)[0] == "/opt/a b/100%i/replctl"


def loaded_by_systemd(directory: Path, text: str) -> str:
    """What the manager itself makes of a unit: it loads it, plans to start it, prints all and ends."""
    manager = Path("/lib/systemd/systemd")
    need("systemd's manager", manager.exists(), INSTALL)
    for place in (directory, directory / "run"):
        place.mkdir(exist_ok=True)
        place.chmod(0o777)
    (directory / "x.service").write_text(text)
    command = [str(manager), "--test", "--user", "--unit=x.service"]
    if os.geteuid() == 0:  # it refuses root; pytest's directories are for their owner alone
        for parent in [*directory.parents][:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    env = {
        "SYSTEMD_UNIT_PATH": f"{directory}:/usr/lib/systemd/user",
        "HOME": str(directory / "run"),
        "XDG_RUNTIME_DIR": str(directory / "run"),
    }
    done = run(command, env=env)
    assert "-> Unit x.service:" in done.stdout, done.stderr
    return done.stdout.partition("-> Unit x.service:")[2].partition("-> Unit ")[0]


def command_line(read: str) -> list[str]:
    """The arguments as the manager prints them, quoted for a shell, `$$` as in the file."""
    line = re.findall(r"Command Line: (.*)", read)[-1]
    return shlex.split(re.sub(r"\\([$`])", r"\1", line))


# ---- what no unit may hold


@pytest.mark.parametrize(
    "bad", ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\u2028", "\u00a0", "\ufeff", "\udcff"]
)
def test_what_could_begin_another_line_is_refused(bad: str) -> None:
    for values in (
        {"inventory": f"/etc/{bad}x"},
        {"program": f"/usr/{bad}x"},
        {"passfile": f"/etc/{bad}x"},
        {"tokens": f"/etc/{bad}x"},
        {"listen": f"[::1]:1{bad}"},
        {"account": "of the test", "writable": (f"/etc/{bad}x",)},
        {"cluster": f"a{bad}"},
        {"user": f"a{bad}"},
        {"on_failure": f"a{bad}.service"},
    ):
        with pytest.raises(ValueError, match=r"name|absolute|characters"):
            systemd.units(deployment(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"program": "replctl"},
        {"program": "/opt/$HOME/replctl"},
        {"program": '/opt/"x"'},
        {"program": "/opt/a\\b"},
        {"passfile": "pgpass"},
        {"passfile": "/etc/a b"},
        {"passfile": "/etc/a:b"},
        {"passfile": "/etc/%h"},
        {"tokens": "tokens"},
        {"tokens": "/etc/a b"},
        {"account": "of the test", "writable": ("etc",)},
        {"user": "root x"},
        {"user": "-x"},
        {"user": ""},
        {"user": "a" * 32},
        {"cluster": "a b"},
        {"cluster": "a/b"},
        {"cluster": ""},
        {"cluster": "a" * 64},
        {"on_failure": "alert"},
        {"on_failure": "a b.service"},
        {"on_failure": "%i.service"},
    ],
)
def test_what_systemd_would_read_otherwise_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not|cannot"):
        systemd.units(deployment(**values))


# ---- files


def test_a_refusal_names_the_option_and_is_a_usage_error(inventory: Path) -> None:
    done = render(inventory, "--user", "no such")

    assert (done.returncode, done.stdout) == (2, "")
    assert "no units for orders: 'no such' is not a user's name" in done.stderr


def test_out_writes_what_differs_and_check_tells(inventory: Path, tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    missing = render(inventory, "--out", str(units), "--check")
    first = render(inventory, "--out", str(units))
    second = render(inventory, "--out", str(units))
    same = render(inventory, "--out", str(units), "--check")
    timer = units / "replctl-orders-check.timer"
    timer.write_text(timer.read_text().replace("minutely", "hourly"))
    other = render(inventory, "--out", str(units), "--check")

    assert missing.returncode == 1
    assert (first.returncode, len(first.stdout.splitlines())) == (0, 4)
    assert (second.returncode, second.stdout) == (0, "")
    assert (same.returncode, same.stdout) == (0, "")
    assert other.returncode == 1
    assert [line for line in other.stdout.splitlines() if re.match(r"[-+]\w", line)] == [
        "-OnCalendar=hourly",
        "+OnCalendar=minutely",
    ]
    assert {oct(path.stat().st_mode) for path in units.iterdir()} == {"0o100644"}


def test_a_directory_that_is_not_there_is_said(inventory: Path, tmp_path: Path) -> None:
    done = render(inventory, "--out", str(tmp_path / "none"))

    assert done.returncode == 1
    assert "No such file or directory" in done.stderr


def test_somebody_elses_unit_is_not_replaced_unless_asked_for(inventory: Path, tmp_path: Path) -> None:
    timer = tmp_path / "replctl-orders-check.timer"
    timer.write_text("[Timer]\nOnCalendar=daily\n")

    refused = render(inventory, "--out", str(tmp_path))
    names = sorted(path.name for path in tmp_path.iterdir())
    forced = render(inventory, "--out", str(tmp_path), "--force")

    assert (refused.returncode, names) == (3, ["orders.toml", timer.name])
    assert "was not rendered by this command for this cluster" in refused.stderr
    assert (forced.returncode, len(forced.stdout.splitlines())) == (0, 4)
    assert (tmp_path / f"{timer.name}.previous").read_text() == "[Timer]\nOnCalendar=daily\n"


def test_check_alone_says_what_it_needs(inventory: Path) -> None:
    done = render(inventory, "--check")

    assert (done.returncode, "--check needs --out DIR" in done.stderr) == (2, True)


def test_what_will_keep_a_unit_from_working_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN + '[nodes.commands]\nfence = ["sudo", "fence"]\n')
    done = replctl("render-systemd", "-i", str(path), "--program", "/home/me/bin/replctl")

    assert done.returncode == 0
    assert "/home/me/bin/replctl: replctl may have no way into that home" in done.stderr
    assert "nodes.pg2.commands.fence: sudo gains no rights in these units" in done.stderr
    assert "ProtectHome=read-only" in done.stdout
