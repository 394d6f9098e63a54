"""docker-compose.yml is right, and the scripts of its containers do their work without containers too.

The nodes' script runs with Debian's PostgreSQL as an unprivileged user, each node with directories and a port
of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from replctl.lab.account import Account, server_account
from replctl.lab.ports import Reservation
from tests.live.everybody import open_to_all
from tests.live.servers import SERVERS
from tests.promtool import accept_rules, promtool
from tests.support import ROOT, need, replctl, run, wait_until

pytestmark = pytest.mark.live

DEPLOY = ROOT / "deploy"
SECRETS = ("superuser_password", "replication_password", "replctl_password", "app_password")
MAJOR = 15
NAMES = ("pg1", "pg2", "pg3")


@dataclass
class Nodes:
    """Three nodes, each started by deploy/node.sh as its container starts it."""

    directory: Path
    ports: dict[str, int]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, **more: str) -> None:
        """Begin; what it says goes to NAME.log."""
        account = server_account()
        peers = [f"127.0.0.1:{port}" for other, port in self.ports.items() if other != name]
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "NODE_NAME": name,
            "NODE_PEERS": " ".join(peers),
            "NODE_MEMBERS": " ".join(NAMES),
            "NODE_FIRST": "yes" if name == "pg1" else "no",
            "NODE_FOUND_S": "1",
            "NODE_PORT": str(self.ports[name]),
            "NODE_DATA": str(self.directory / name / "volume"),
            "NODE_RUN": str(self.directory / name / "run"),
            "NODE_SECRETS": str(self.directory / "secrets"),
            "NODE_GRANTS": str(self.directory / "grants.sql"),
            "NODE_BIN": str(SERVERS[MAJOR]),
            **more,
        }
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                ["/bin/sh", str(self.directory / "deploy" / "node.sh")],
                cwd=self.directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )

    def stop(self, name: str, how: signal.Signals = signal.SIGINT) -> int:
        """As Docker stops it, or as a crash ends it. The exit code; waits until nothing of it is left."""
        process = self.running.pop(name)
        process.send_signal(how)
        code = process.wait(30)
        wait_until(lambda: not self.answers(name), f"{name} is down")
        return code

    def end_all_of(self, name: str) -> None:
        """SIGKILL to the script and whatever it runs."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def answers(self, name: str) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.ask(name, "SELECT 1")
            return True
        return False

    def ask(self, name: str, query: str, *, user: str = "replctl") -> Any:
        """The one value of a query over the network, as the user of that secret."""
        password = (self.directory / "secrets" / f"{SECRET_OF[user]}_password").read_text()
        with psycopg.connect(
            host="127.0.0.1",
            port=self.ports[name],
            user=user,
            password=password,
            dbname="app" if user == "app" else "postgres",
            autocommit=True,
            connect_timeout=2,
        ) as connection:
            cursor = connection.execute(query.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def primaries(self) -> list[str]:
        up = [name for name in NAMES if self.answers(name)]
        return [name for name in up if not self.ask(name, "SELECT pg_is_in_recovery()")]

    def followers(self, primary: str) -> str:
        query = """SELECT string_agg(application_name || ' ' || state || ' ' || sync_state, ', '
                   ORDER BY application_name) FROM pg_stat_replication"""
        return str(self.ask(primary, query))

    def wait_cluster(self, primary: str) -> None:
        """Until both others follow, confirmed by a quorum."""
        others = ", ".join(f"{name} streaming quorum" for name in NAMES if name != primary)
        wait_until(
            lambda: self.answers(primary) and self.followers(primary) == others,
            f"the others follow {primary}",
            limit_s=60,
        )
        assert self.primaries() == [primary]

    def data(self, name: str) -> Path:
        return self.directory / name / "volume" / "data"

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")


SECRET_OF = {"replctl": "replctl", "app": "app", "postgres": "superuser"}


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Nothing runs yet; the secrets are made as the user makes them."""
    need(f"PostgreSQL {MAJOR}", MAJOR in SERVERS, "apt-get install postgresql-15")
    with tempfile.TemporaryDirectory(prefix="rc-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copytree(DEPLOY, directory / "deploy", ignore=shutil.ignore_patterns("secrets"))
        open_to_all(directory / "deploy")  # the checkout may be where others cannot enter
        subprocess.run([DEPLOY / "make-secrets.sh", directory / "secrets"], check=True, timeout=10)
        (directory / "secrets").chmod(0o755)  # what Docker, as root, passes by
        (directory / "grants.sql").write_text(grants(MAJOR))
        for node in NAMES:
            (directory / node).mkdir()
            account = server_account()
            if account is not None:
                os.chown(directory / node, account.uid, account.gid)
        with Reservation(3) as reserved:
            made = Nodes(directory, dict(zip(NAMES, reserved.ports, strict=True)))
        yield made
        for node in list(made.running):
            print(f"---- {node}\n{made.log(node)[-3000:]}")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(made.running[node].pid, signal.SIGQUIT)
            made.running[node].wait(30)


def grants(major: int) -> str:
    done = replctl("grants", "--pg", str(major), "--role", "operator")
    assert done.returncode == 0
    return done.stdout


def inventory(nodes: Nodes) -> Path:
    """deploy/replctl.toml with the addresses of this machine, without the proxies."""
    text = (DEPLOY / "replctl.toml").read_text().partition("[pgbouncer]")[0]
    passfile = nodes.directory / "pgpass"
    passfile.write_text(f"*:*:*:replctl:{(nodes.directory / 'secrets/replctl_password').read_text()}\n")
    passfile.chmod(0o600)
    text = text.replace('user = "replctl"', f'user = "replctl"\npassfile = "{passfile}"')
    for name, port in nodes.ports.items():
        text = text.replace(f'host = "{name}"', f'host = "127.0.0.1"\nport = {port}')
    path = nodes.directory / "replctl.toml"
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_the_nodes_make_a_cluster_that_always_has_one_primary(nodes: Nodes) -> None:
    """One cluster from its first start to its end: making one takes most of the time."""
    a_replica_waits_and_an_interrupted_start_is_begun_again(nodes)
    no_password_is_in_a_process_or_a_log(nodes)
    the_proxies_begin_with_what_configure_writes(nodes)
    restarts_change_nothing(nodes)
    env = {"REPLCTL_INVENTORY": str(inventory(nodes)), "REPLCTL_STATE_DIR": str(nodes.directory / "state")}
    nodes.stop("pg1", signal.SIGKILL)
    done = replctl("failover", "--to", "pg2", "--yes", env=env)
    assert done.returncode == 0, done.stderr
    nodes.ask("pg2", "INSERT INTO kept VALUES (2)", user="app")
    an_old_primary_that_cannot_know_waits(nodes)
    assert nodes.ask("pg2", "SELECT sum(x) FROM kept", user="app") == 3
    assert "another node has been promoted" in nodes.log("pg1")
    wait_until(lambda: nodes.ask("pg1", "SELECT sum(x) FROM kept", user="app") == 3, "pg1 has it all")
    an_emptied_first_node_waits_for_the_others(nodes)
    nobody_follows_another_cluster(nodes)


def an_emptied_first_node_waits_for_the_others(nodes: Nodes) -> None:
    """Everything starts again, and pg1, which is up before anybody answers, has lost its volume."""
    stop_all(nodes)
    shutil.rmtree(nodes.data("pg1"))
    nodes.start("pg1", NODE_FOUND_S="20")
    wait_until(lambda: nodes.log("pg1").rstrip().endswith("waiting for the other nodes"), "pg1 waits")
    for name in ("pg2", "pg3"):
        nodes.start(name)
    nodes.wait_cluster("pg2")
    assert nodes.log("pg1").count("making a new cluster") == 2  # one was interrupted
    assert nodes.ask("pg1", "SELECT sum(x) FROM kept", user="app") == 3


def nobody_follows_another_cluster(nodes: Nodes) -> None:
    """pg1 alone is started without its volume: by its timeline it would be an old primary's elder brother."""
    stop_all(nodes)
    shutil.rmtree(nodes.data("pg1"))
    nodes.start("pg1")
    wait_until(lambda: nodes.answers("pg1"), "pg1 has a new cluster")
    for name in ("pg3", "pg2"):
        nodes.start(name)
    wait_until(lambda: nodes.answers("pg2"), "pg2 is the primary")
    wait_until(lambda: nodes.followers("pg2") == "pg3 streaming quorum", "pg3 follows pg2")
    assert "a node of another cluster answers and is ignored" in nodes.log("pg2")
    assert nodes.ask("pg2", "SELECT sum(x) FROM kept", user="app") == 3
    nodes.stop("pg1")
    nodes.start("pg1")
    wait_until(lambda: "a node of another cluster answers and is ignored" in nodes.log("pg1"), "pg1 says so")


def stop_all(nodes: Nodes) -> None:
    for name in ("pg3", "pg1", "pg2"):
        nodes.stop(name)


def a_replica_waits_and_an_interrupted_start_is_begun_again(nodes: Nodes) -> None:
    nodes.start("pg2")
    nodes.start("pg3")
    wait_until(lambda: "waiting for the other nodes" in nodes.log("pg2"), "pg2 waits")
    assert not nodes.data("pg2").exists()
    nodes.start("pg1")
    wait_until((nodes.directory / "pg1/volume/data.new/PG_VERSION").exists, "initdb works")
    nodes.end_all_of("pg1")
    assert not nodes.data("pg1").exists()
    nodes.start("pg1")
    nodes.wait_cluster("pg1")
    assert nodes.ask("pg1", "SHOW synchronous_standby_names") == "ANY 1 (pg1, pg2, pg3)"
    nodes.ask("pg1", "CREATE TABLE kept AS SELECT 1 AS x", user="app")


def no_password_is_in_a_process_or_a_log(nodes: Nodes) -> None:
    secrets = [(nodes.directory / "secrets" / name).read_text() for name in SECRETS]
    shown = subprocess.run(["ps", "axww", "-o", "args="], capture_output=True, text=True, timeout=10).stdout
    logs = "".join(nodes.log(name) for name in NAMES)
    assert [secret for secret in secrets if secret in shown + logs] == []
    for user in ("replctl", "app", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(
                host="127.0.0.1", port=nodes.ports["pg1"], user=user, dbname="postgres", password="x"
            )


def the_proxies_begin_with_what_configure_writes(nodes: Nodes) -> None:
    haproxy, pgbouncer = shutil.which("haproxy"), shutil.which("pgbouncer")
    need("HAProxy and PgBouncer", haproxy and pgbouncer, "apt-get install haproxy pgbouncer")
    with Reservation(3) as reserved:
        pooler, writes, reads = reserved.ports
    config = nodes.directory / "config"
    for name in ("pgbouncer", "haproxy", "prometheus"):
        (config / name).mkdir(parents=True)
    env = container_environment(nodes, writes, reads)
    done = run([str(DEPLOY / "configure.sh")], env=env)
    assert done.returncode == 0, done.stderr
    again = run([str(DEPLOY / "configure.sh")], env=env)
    assert (again.returncode, again.stderr.count("is as it should be")) == (0, 3)
    prometheus_takes_its_rules(config)
    the_server_answers_as_its_container_would(nodes, env)

    scratch = nodes.directory / "pg1" / "run"
    supervisor = scratch / "supervisor.sock"
    commands = (
        [str(nodes.directory / "deploy" / "pgbouncer.sh")],
        [
            str(haproxy),
            "-W",
            "-db",
            "-S",
            f"{supervisor},mode,600",
            "-f",
            str(config / "haproxy/haproxy.cfg"),
        ],
    )
    env |= {"PGBOUNCER_PORT": str(pooler), "PGBOUNCER_RUN": str(scratch)}
    with contextlib.ExitStack() as stack:
        for command in commands:
            stack.enter_context(unprivileged(command, {**env, "PGBOUNCER_ADDRESS": "127.0.0.1"}))
        for port, dbname, replica in (
            (pooler, "app", False),
            (pooler, "app_ro", True),
            (writes, "app", False),
            (reads, "app", True),
        ):
            wait_until(lambda p=port, d=dbname: recovering(nodes, p, d) is not None, f"{dbname} at {port}")
            assert recovering(nodes, port, dbname) is replica
        assert admin_consoles(nodes, pooler) == ("PgBouncer", "Name: HAProxy")
        reload = run([str(DEPLOY / "haproxy-reload.py"), str(supervisor)])
        assert (reload.returncode, reload.stderr) == (0, "")
        wait_until(lambda: recovering(nodes, writes, "app") is False, "HAProxy goes on")
    gone = run([str(DEPLOY / "haproxy-reload.py"), str(supervisor)])
    assert gone.returncode == 1


def prometheus_takes_its_rules(config: Path) -> None:
    own = (DEPLOY / "prometheus.yml").read_text()
    assert own.count("/config/prometheus/replctl.rules.yml") == 1
    file = config / "prometheus.yml"
    file.write_text(own.replace("/config/", f"{config}/"))
    done = promtool("check", "config", str(file))
    assert (done.returncode, "1 rule files found" in done.stdout) == (0, True), done.stderr
    accept_rules(config / "prometheus/replctl.rules.yml")
    # Prometheus runs as another user there.
    assert (config / "prometheus/replctl.rules.yml").stat().st_mode & 0o777 == 0o644


def the_server_answers_as_its_container_would(nodes: Nodes, env: dict[str, str]) -> None:
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["serve"]
    with Reservation(1) as reserved:
        (port,) = reserved.ports
    words = [word.replace("0.0.0.0:8008", f"0.0.0.0:{port}") for word in service["command"]]
    program, option, script = service["healthcheck"]["test"][1:]
    check = [sys.executable, option, script.replace("8008", str(port))]
    assert program == "python"
    assert run(check).returncode != 0
    with started([str(DEPLOY / "replctl.sh"), *words], env):
        wait_until(lambda: run(check).returncode == 0, "its health check is content", limit_s=30)
        assert [asked(port, host) for host in ("serve:8008", "127.0.0.1:8008", "evil.example")] == [
            200,
            200,
            421,
        ]


def asked(port: int, host: str) -> int:
    """The code of /metrics for whoever calls the server so."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics", headers={"Host": host})
        return connection.getresponse().status


def admin_consoles(nodes: Nodes, pooler: int) -> tuple[str, str]:
    """How PgBouncer and HAProxy begin to tell of themselves to replctl, by the ways of the inventory."""
    password = (nodes.directory / "secrets/replctl_password").read_text()
    keys = {"host": "127.0.0.1", "port": pooler, "user": "replctl", "password": password}
    with psycopg.connect(**keys, dbname="pgbouncer", autocommit=True) as console:
        version = console.execute("SHOW VERSION").fetchone()[0]
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.settimeout(5)
        runtime.connect(str(nodes.directory / "pg1/run/admin.sock"))
        runtime.sendall(b"show info\n")
        told = runtime.makefile().readline().strip()
    return version.split()[0], told


def container_environment(nodes: Nodes, writes: int, reads: int) -> dict[str, str]:
    """What the containers have in their environment, with the places of this machine."""
    path = nodes.directory / "compose.toml"
    tables = (DEPLOY / "replctl.toml").read_text().partition("[pgbouncer]")[2]
    tables = tables.replace("/config/", f"{nodes.directory}/config/")
    tables = tables.replace("/run/haproxy/", f"{nodes.directory}/pg1/run/").replace('"2.8"', '"2.6"')
    tables = tables.replace(":5000", f":{writes}").replace(":5001", f":{reads}")
    text = inventory(nodes).read_text().replace(f'passfile = "{nodes.directory}/pgpass"\n', "")
    lines = [line for line in f"{text}[pgbouncer]{tables}".splitlines() if not line.startswith("resolvers")]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o644)
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(nodes.directory),
        "CONFIG": str(nodes.directory / "config"),
        "PGBOUNCER_CONFIG": str(nodes.directory / "config/pgbouncer"),
        "REPLCTL_INVENTORY": str(path),
        "REPLCTL_STATE_DIR": str(nodes.directory / "state"),
        "REPLCTL_SECRETS": str(nodes.directory / "secrets"),
        "PGBOUNCER_SECRETS": str(nodes.directory / "secrets"),
    }


def unprivileged(command: list[str], env: dict[str, str]) -> contextlib.AbstractContextManager[None]:
    """The program as a user without rights, for as long as this lasts."""
    return started(command, env, server_account())


@contextlib.contextmanager
def started(command: list[str], env: dict[str, str], account: Account | None = None) -> Iterator[None]:
    """The program, as this user or as ourselves, for as long as this lasts."""
    process = subprocess.Popen(
        command,
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def recovering(nodes: Nodes, port: int, dbname: str) -> bool | None:
    """Whether what answers there is a replica; None where nothing does."""
    password = (nodes.directory / "secrets/app_password").read_text()
    keys = {"host": "127.0.0.1", "port": port, "user": "app", "password": password, "dbname": dbname}
    with (
        contextlib.suppress(psycopg.OperationalError),
        psycopg.connect(**keys, autocommit=True, connect_timeout=3) as connection,
    ):
        return bool(connection.execute("SELECT pg_is_in_recovery()").fetchone()[0])
    return None


def restarts_change_nothing(nodes: Nodes) -> None:
    for name in ("pg2", "pg1"):
        assert nodes.stop(name) == 0
        nodes.start(name)
        nodes.wait_cluster("pg1")
    assert nodes.ask("pg1", "SELECT sum(x) FROM kept", user="app") == 1


def an_old_primary_that_cannot_know_waits(nodes: Nodes) -> None:
    nodes.stop("pg2")
    nodes.stop("pg3")
    # Nobody else is there: no way to know, no primary.
    nodes.start("pg1", NODE_WAIT_S="2")
    assert nodes.running.pop("pg1").wait(20) == 1
    assert "no node answered as needed within 2 s" in nodes.log("pg1")
    # A replica that knows the newer timeline: not this one, whoever it is.
    nodes.start("pg3")
    wait_until(lambda: nodes.answers("pg3"), "pg3 answers", limit_s=30)
    nodes.start("pg1", NODE_WAIT_S="3")
    assert nodes.running.pop("pg1").wait(20) == 1
    # All at once: who was the primary last is it again, and the old one follows.
    nodes.start("pg1")
    nodes.start("pg2")
    nodes.wait_cluster("pg2")


@pytest.mark.parametrize("bad", ["", "with'quote", "with\nline", "a:b"])
def test_a_secret_that_cannot_be_written_everywhere_is_refused(nodes: Nodes, bad: str) -> None:
    secret = nodes.directory / "secrets/replication_password"
    secret.unlink()
    secret.write_text(bad)
    nodes.start("pg1")

    assert nodes.running.pop("pg1").wait(20) == 1
    assert not nodes.data("pg1").exists()
    assert "the secret replication_password is empty or has other characters" in nodes.log("pg1")


# ---- files


def test_the_grants_are_those_of_the_images_version() -> None:
    assert (DEPLOY / "grants.sql").read_text() == grants(17), "replctl grants --pg 17 > deploy/grants.sql"


def test_the_inventory_is_valid() -> None:
    done = replctl("config", "validate", "-i", str(DEPLOY / "replctl.toml"))

    assert (done.returncode, done.stderr) == (0, "")


def test_the_scripts_are_clean() -> None:
    program = shutil.which("shellcheck")
    need("shellcheck", program, "apt-get install shellcheck")
    scripts = sorted(str(path) for path in DEPLOY.glob("*.sh"))

    done = subprocess.run([str(program), *scripts], capture_output=True, text=True, timeout=60)

    assert (len(scripts), done.stdout) == (5, "")


def test_secrets_are_made_once_and_differ(tmp_path: Path) -> None:
    def make() -> dict[str, str]:
        subprocess.run([DEPLOY / "make-secrets.sh", tmp_path / "s"], check=True, timeout=10)
        return {path.name: path.read_text() for path in (tmp_path / "s").iterdir()}

    first, second = make(), make()

    assert first == second
    assert sorted(first) == sorted(SECRETS)
    assert {len(text) for text in first.values()} == {48}
    assert len(set(first.values())) == 4
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


# ---- the file


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The file as Docker's own program reads it: with its schema, anchors and defaults."""
    program = shutil.which("docker-compose")
    need("docker-compose", program, "apt-get install docker-compose")
    place = tmp_path_factory.mktemp("compose")
    shutil.copy(ROOT / "docker-compose.yml", place)
    done = subprocess.run([str(program), "config"], cwd=place, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    return read


def test_the_file_is_valid_and_has_every_part(composed: dict[str, Any]) -> None:
    assert sorted(composed["services"]) == [
        "configure",
        "controller",
        "haproxy",
        "pg1",
        "pg2",
        "pg3",
        "pgbouncer",
        "prometheus",
        "render-haproxy",
        "render-pgbouncer",
        "serve",
    ]


def test_only_what_people_and_applications_use_is_published_and_only_on_loopback(
    composed: dict[str, Any],
) -> None:
    published = {name: service.get("ports", []) for name, service in composed["services"].items()}
    # Older programs print texts, newer ones tables.
    flat = sorted(
        port if isinstance(port, str) else f"{port['host_ip']}:{port['published']}:{port['target']}"
        for ports in published.values()
        for port in ports
    )

    assert {name for name, ports in published.items() if ports} == {
        "haproxy",
        "pgbouncer",
        "prometheus",
        "serve",
    }
    assert [port.removesuffix("/tcp") for port in flat] == [
        "127.0.0.1:5000:5000",
        "127.0.0.1:5001:5001",
        "127.0.0.1:6432:6432",
        "127.0.0.1:8008:8008",
        "127.0.0.1:9090:9090",
    ]


def test_no_service_has_more_rights_than_it_needs(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service and "network_mode" not in service, name
        assert service.get("restart") == ("on-failure" if name == "configure" else "unless-stopped")
        lasting = name not in ("configure", "render-haproxy", "render-pgbouncer")
        assert ("healthcheck" in service) == lasting, name
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert dockerfile.count("USER 10001:10001") == dockerfile.count("ENTRYPOINT") == 2


def test_every_node_has_its_own_volume_and_knows_the_others(composed: dict[str, Any]) -> None:
    for name in NAMES:
        environment = composed["services"][name]["environment"]
        peers = " ".join(f"{other}:5432" for other in NAMES if other != name)
        assert environment == {
            "NODE_NAME": name,
            "NODE_PEERS": peers,
            "NODE_MEMBERS": "pg1 pg2 pg3",
            **({"NODE_FIRST": "yes"} if name == "pg1" else {}),
        }
        assert f"{name}-data" in str(composed["services"][name]["volumes"])


def test_secrets_are_files_that_the_services_need_and_nothing_in_the_environment(
    composed: dict[str, Any],
) -> None:
    assert {name: Path(secret["file"]).name for name, secret in composed["secrets"].items()} == {
        name: name for name in SECRETS
    }
    assert "PASSWORD" not in str([service.get("environment") for service in composed["services"].values()])
    ignored = [(ROOT / name).read_text().split() for name in (".gitignore", ".dockerignore")]
    assert ["deploy/secrets/" in ignored[0], "deploy/secrets" in ignored[1]] == [True, True]


def test_prometheus_scrapes_the_server_by_its_name_and_what_it_keeps_has_a_volume(
    composed: dict[str, Any],
) -> None:
    services = composed["services"]
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    networks = [set(services[name]["networks"]) for name in (host, "prometheus")]

    assert set.intersection(*networks) == {"monitoring"}
    words = services[host]["command"]
    assert words[words.index("--allow-host") + 1] == host
    assert words[words.index("--listen") + 1] == f"0.0.0.0:{port}"
    assert "prometheus-data" in str(services["prometheus"]["volumes"])
    assert "--storage.tsdb.path=/prometheus" in services["prometheus"]["command"]


def test_every_file_that_a_container_runs_is_there(composed: dict[str, Any]) -> None:
    words = [
        word
        for service in composed["services"].values()
        for key in ("entrypoint", "command")
        for word in service.get(key) or ()
        if word.startswith("/deploy/")
    ]
    words += ["/deploy/haproxy-reload.py", "/deploy/pgbouncer.sh", "/deploy/replctl.sh"]
    scripts = {ROOT / word.removeprefix("/") for word in words}

    assert len(scripts) == 5
    assert [path for path in scripts if not os.access(path, os.X_OK)] == []
