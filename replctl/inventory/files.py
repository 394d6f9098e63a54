"""Where inventories are looked for, and how one is loaded."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replctl.errors import InventoryError, UsageError
from replctl.inventory.build import examine
from replctl.inventory.model import Inventory
from replctl.inventory.problems import Problems, nearest, printable
from replctl.inventory.secrecy import check_inventory

SIZE_MAX_BYTES = 4 << 20
NOT_FOUND = "not found"
VARIABLE = "REPLCTL_INVENTORY"
LOCAL = Path("replctl.toml")
SYSTEM = Path("/etc/replctl")
NOT_FOUND_HINT = (
    "`replctl init DSN` writes one from a running cluster; `replctl lab up` makes a local cluster"
)
MEND_HINT = "mend the file, then run `replctl config validate`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One place where inventories are looked for, in order, and what is there."""

    source: str  # --inventory, REPLCTL_INVENTORY, or the place itself
    path: Path
    files: tuple[Path, ...]
    named: bool = False  # the user named it: it has to exist
    error: str | None = None


@dataclass(slots=True)
class Checked:
    """One file, and the inventory in it, or why there is none."""

    path: Path
    inventory: Inventory | None
    problems: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What completion offers."""

    clusters: tuple[str, ...]
    nodes: tuple[str, ...]


def places(explicit: Path | None = None, env: Mapping[str, str] | None = None) -> list[Place]:
    """Every place in the order of the search, whether or not something is there."""
    env = os.environ if env is None else env
    variable = env.get(VARIABLE) or None
    found = []
    if explicit is not None and str(explicit) != variable:
        found.append(_place("--inventory", explicit, named=True))
    if variable is not None:
        found.append(_place(VARIABLE, Path(variable), named=True))
    found.append(_place("working directory", LOCAL))
    config = env.get("XDG_CONFIG_HOME") or ""
    if not config.startswith("/") and env.get("HOME"):
        config = f"{env['HOME']}/.config"
    if config:
        found.append(_place("user", Path(config) / "replctl", directory=True))
    found.append(_place("system", SYSTEM, directory=True))
    return found


def _place(source: str, path: Path, *, named: bool = False, directory: bool = False) -> Place:
    files: tuple[Path, ...] = ()
    error = None
    try:
        if directory or path.is_dir():
            inside = sorted(os.listdir(path))  # noqa: PTH208 - one that cannot be listed has to raise
            files = tuple(path / n for n in inside if n.endswith(".toml") and not n.startswith("."))
        else:
            path.lstat()
            files = (path,)
    except FileNotFoundError:
        error = NOT_FOUND
    except OSError as problem:
        error = problem.strerror
    return Place(source=source, path=path, files=files, named=named, error=error)


def find(explicit: Path | None = None, env: Mapping[str, str] | None = None) -> list[Path]:
    """The inventory files: of the first place that has any. Raises InventoryError naming every place."""
    looked = places(explicit, env)
    for place in looked:
        if place.files:
            return list(place.files)
        if place.named:
            why = place.error or "no *.toml in this directory"
            raise InventoryError(f"{place.path}: {why} (named by {place.source})", hint=NOT_FOUND_HINT)
    lines = []
    for place in looked:
        pattern = place.path if place.path == LOCAL else place.path / "*.toml"
        why = f" ({place.error})" if place.error not in (None, NOT_FOUND) else ""
        lines.append(f"looked for {'./' if place.path == LOCAL else ''}{pattern}{why}")
    raise InventoryError("no inventory found", problems=tuple(lines), hint=NOT_FOUND_HINT)


def load(path: Path, env: Mapping[str, str] | None = None) -> Inventory:
    """The inventory in this file. Raises InventoryError with all of its problems at once."""
    inventory, problems = check(path, env)
    if inventory is None:
        raise unusable(problems)
    return inventory


def check(path: Path, env: Mapping[str, str] | None = None) -> tuple[Inventory | None, list[str]]:
    """The inventory in this file, or None and every problem of it, one line each."""
    env = os.environ if env is None else env
    problems = Problems(printable(path))
    document = _decoded(path, env, problems)
    if document is None:
        return None, problems.lines
    inventory, found = examine(document, path, env, files=True)
    return (inventory if not problems.lines else None), [*problems.lines, *found]


def _decoded(path: Path, env: Mapping[str, str], problems: Problems) -> dict[str, Any] | None:
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would hold us here.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                problems.add("", "cannot be read: not a regular file")
                return None
            check_inventory(status, env, problems)
            content = file.read(SIZE_MAX_BYTES + 1)
    except OSError as error:
        problems.add("", f"cannot be read: {error.strerror}")
        return None
    if len(content) > SIZE_MAX_BYTES:
        problems.add("", f"cannot be read: larger than {SIZE_MAX_BYTES >> 20} MiB")
        return None
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        problems.add("", f"not UTF-8: byte {error.start}")
    except tomllib.TOMLDecodeError as error:
        problems.add("", f"not TOML: {error}")
    except RecursionError:
        problems.add("", "not TOML: nested too deeply")
    return None


def load_all(
    explicit: Path | None = None, env: Mapping[str, str] | None = None, *, cluster: str | None = None
) -> list[Inventory]:
    """Every cluster that the search finds, or the one named. Raises InventoryError and UsageError.

    With `cluster`, a file that cannot be used does not hide another one that is asked for.
    """
    surveyed = survey(find(explicit, env), env)
    inventories = [one.inventory for one in surveyed if one.inventory is not None]
    wanted = [inventory for inventory in inventories if inventory.settings.name == cluster]
    if wanted:
        return wanted
    problems = [line for one in surveyed for line in one.problems]
    if problems:
        raise unusable(problems)
    if cluster is not None:
        raise UsageError(
            f"no cluster {cluster!r} in the inventory", hint=_known_clusters(cluster, inventories)
        )
    return inventories


def survey(files: Iterable[Path], env: Mapping[str, str] | None = None) -> list[Checked]:
    """What is in each of these files. Two clusters of one name are a problem of both files."""
    surveyed = [Checked(path, *check(path, env)) for path in files]
    by_name: dict[str, list[Checked]] = {}
    for one in surveyed:
        if one.inventory is not None:
            by_name.setdefault(one.inventory.settings.name, []).append(one)
    for name, twins in by_name.items():
        for one in twins if len(twins) > 1 else ():
            others = ", ".join(str(twin.path) for twin in twins if twin is not one)
            one.problems.append(
                f'{one.path}: [cluster] name = "{name}": expected a name of its own; also in {others}'
            )
            one.inventory = None
    return surveyed


def load_one(
    explicit: Path | None = None, env: Mapping[str, str] | None = None, *, cluster: str | None = None
) -> Inventory:
    """The one cluster to act on. Raises UsageError where there are several and none was named."""
    inventories = load_all(explicit, env, cluster=cluster)
    if len(inventories) > 1:
        known = ", ".join(i.settings.name for i in inventories)
        raise UsageError(
            f"the inventory has {len(inventories)} clusters ({known})",
            why="this command acts on one",
            hint="name it with --cluster NAME",
        )
    return inventories[0]


def names(explicit: Path | None = None, env: Mapping[str, str] | None = None) -> Names:
    """The names of clusters and nodes, for completion. Raises nothing: what cannot be read has none."""
    clusters: list[str] = []
    nodes: list[str] = []
    try:
        files = find(explicit, env)
    except InventoryError:
        files = []
    for path in files:
        document = _decoded(path, os.environ if env is None else env, Problems(""))
        clusters += _names_in([(document or {}).get("cluster")])
        nodes += _names_in((document or {}).get("nodes"))
    return Names(clusters=tuple(clusters), nodes=tuple(nodes))


def _names_in(tables: Any) -> list[str]:
    rows = tables if isinstance(tables, list) else []
    found = [row.get("name") for row in rows if isinstance(row, dict)]
    return [name for name in found if isinstance(name, str)]


def _known_clusters(cluster: str, inventories: list[Inventory]) -> str:
    known = [i.settings.name for i in inventories]
    close = nearest(cluster, known)
    return f"did you mean {close}?" if close else f"known are {', '.join(known)}"


def unusable(problems: list[str]) -> InventoryError:
    """The error that says all of these problems."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return InventoryError(f"the inventory has {count}", problems=tuple(problems), hint=MEND_HINT)
