"""What a lab is on disk: one directory that says in `lab.json` what was made in it.

    D/lab.json        what this lab consists of: written before anything else is made
    D/lab.lock        held while the lab is built or removed
    D/inventory.toml  for `replctl -i`
    D/server/         a copy of PostgreSQL, only where the servers' account could not reach the original
    D/pg1/            data/, node.conf (its port and name), postgresql.log; one such directory per server
    D/ledger-*.csv    rows that were acknowledged to `lab load`

Paths are always made from names that were checked, never read from lab.json: what is removed lies in D.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from replctl.errors import LabError, RefusedError, UsageError

MARKER = "lab.json"
LOCK = "lab.lock"
INVENTORY = "inventory.toml"
LEDGERS = "ledger-*.csv"
_NAME = re.compile(r"(pg|w)[1-9][0-9]{0,2}")
# These would be read as something else by pg_ctl's shell or as a placeholder by the inventory.
_UNFIT = re.compile(r"[\"'`$\\{}\n]")


@dataclass(slots=True)
class ServerPlan:
    """One server of a lab. `upstream` is whom it was built to stream from."""

    name: str
    port: int
    upstream: str | None = None
    witness: bool = False


@dataclass(slots=True)
class Layout:
    """The content of lab.json, and where things are."""

    directory: Path
    servers: list[ServerPlan]
    version: str
    bin_directory: Path
    account: str | None  # None: the servers run as the lab's owner
    fsync: bool = True
    synchronous: str = ""  # synchronous_standby_names of every node; empty = asynchronous
    made_directory: bool = True
    complete: bool = False

    @property
    def major(self) -> int:
        """The server's major version."""
        return int(re.match(r"\d+", self.version)[0])  # type: ignore[index]

    def home(self, name: str) -> Path:
        """Everything of one server."""
        return self.directory / name

    def data_directory(self, name: str) -> Path:
        """PGDATA of one server."""
        return self.directory / name / "data"

    def log_file(self, name: str) -> Path:
        """What one server logs."""
        return self.directory / name / "postgresql.log"

    def server(self, name: str) -> ServerPlan:
        """One server. Raises UsageError naming those there are."""
        for plan in self.servers:
            if plan.name == name:
                return plan
        known = ", ".join(plan.name for plan in self.servers)
        raise UsageError(f"the lab in {self.directory} has no node {name!r}", why=f"it has {known}")

    def save(self) -> None:
        """Write lab.json in one step."""
        content = asdict(self) | {"schema_version": 1, "bin_directory": str(self.bin_directory)}
        del content["directory"]
        fresh = self.directory / f"{MARKER}.new"
        fresh.write_text(json.dumps(content, indent=2) + "\n")
        fresh.chmod(0o644)
        fresh.replace(self.directory / MARKER)


def default_directory() -> Path:
    """The lab of this user where --dir is not given."""
    return Path(tempfile.gettempdir()) / f"replctl-lab-{os.geteuid()}"


def load(directory: Path) -> Layout:
    """Read lab.json. Raises RefusedError where there is no lab, LabError where it cannot be read."""
    directory = resolved(directory)
    if not (directory / MARKER).is_file():
        raise RefusedError(f"there is no lab in {directory}", hint="replctl lab up" + option(directory))
    check_owner(directory)
    try:
        content = json.loads((directory / MARKER).read_text())
        servers = [ServerPlan(**server) for server in content.pop("servers")]
        content.pop("schema_version")
        content["bin_directory"] = Path(content["bin_directory"])
        layout = Layout(directory=directory, servers=servers, **content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LabError(f"cannot read {directory / MARKER}", why=str(error)) from error
    if not all(_NAME.fullmatch(server.name) for server in layout.servers):
        raise LabError(f"cannot read {directory / MARKER}", why="it names servers that no lab has")
    return layout


def option(directory: Path) -> str:
    """` --dir D` for a hint, or nothing where D is the default."""
    return "" if directory == resolved(default_directory()) else f" --dir {shlex.quote(str(directory))}"


def resolved(directory: Path) -> Path:
    """The absolute path of a lab's directory. Raises UsageError for one that cannot be used."""
    absolute = directory.expanduser().resolve()
    if _UNFIT.search(str(absolute)) or not str(absolute).isprintable():
        raise UsageError(
            f"a lab cannot live in {str(absolute)!r}",
            why="the path holds a quote, $, \\, a brace or a newline",
        )
    return absolute


def check_owner(directory: Path) -> None:
    """Refuse a directory of somebody else's: it names programs that we would run."""
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise RefusedError(
            f"{directory} belongs to another user (uid {status.st_uid})",
            hint="run this as that user, or choose another --dir",
        )
    if status.st_mode & 0o022:
        raise RefusedError(f"{directory} may be written by other users", hint="choose another --dir")


def is_empty(directory: Path) -> bool:
    """Nothing in it but what a `lab up` that was shot in its first moment leaves."""
    return all(entry.name in (LOCK, f"{MARKER}.new") for entry in directory.iterdir())


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep others from building or removing the lab in this directory. Raises RefusedError if they do."""
    try:
        handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LabError(f"cannot write to {directory}", why=error.strerror) from None
    try:
        if not _lock(handle) or not _is(handle, directory / LOCK):
            raise RefusedError(
                f"the lab in {directory} is just being built or removed",
                hint="wait for that to end, or choose another --dir",
            )
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(handle: int, path: Path) -> bool:
    """Whether the path still leads to the open file, and not to nothing or to another one's."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
