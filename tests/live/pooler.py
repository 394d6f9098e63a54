"""A PgBouncer before a server of the lab."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from replctl.inventory import load
from replctl.lab import Lab
from tests.support import wait_until


@contextmanager
def pooled(lab: Lab, program: str, node: str = "pg1") -> Iterator[int]:
    """A PgBouncer before this node; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    path = lab.directory / node / "pgbouncer.ini"
    path.write_text(
        f"[databases]\n* = host=127.0.0.1 port={lab.nodes[node].port} user=replctl\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        "auth_type = any\nunix_socket_dir =\npool_mode = session\n"
    )
    path.chmod(0o644)
    prefix = load(lab.inventory_path).commands[node].run or ()
    process = subprocess.Popen(
        [*prefix, program, str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        wait_until(lambda: listens(port) or process.poll() is not None, "PgBouncer listens")
        assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
