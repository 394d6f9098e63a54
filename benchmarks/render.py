"""How long it takes to render the proxies' files, beside `replctl status`, and for very many nodes.

    python -m benchmarks.render [--rounds 20] [--nodes 500] [--print]

Each is a whole run of the command. The few nodes are a local primary with two replicas, which are looked at;
the many are rendered from the inventory alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import tomllib
from pathlib import Path

from benchmarks.startup import cluster_of_three
from benchmarks.timing import Program, in_turn, machine, ratio_table, write_section
from replctl.inventory import dump

REPLCTL = str(Path(sys.executable).parent / "replctl")
PROXIES = ("pgbouncer", "haproxy")
TABLES = {"pgbouncer": {"databases": ["app"]}, "haproxy": {}}
STATUS = "`replctl status`, 3 nodes"


def few(inventory: Path, folder: Path) -> list[Program]:
    """`status` and both renderers on a running cluster."""
    path = written({**tomllib.loads(inventory.read_text(encoding="utf-8")), **TABLES}, folder / "few.toml")
    programs = [Program(title=STATUS, command=[REPLCTL, "status", "-i", path])]
    for proxy in PROXIES:
        title = f"`replctl render-{proxy}`, 3 nodes"
        programs.append(Program(title=title, command=[REPLCTL, f"render-{proxy}", "-i", path]))
    return programs


def many(count: int, folder: Path) -> list[Program]:
    """Both renderers, from an inventory of so many nodes alone."""
    nodes = [
        {"name": f"pg{n}", "host": f"10.0.{n // 250}.{1 + n % 250}", "weight": 1 + n % 100}
        for n in range(count)
    ]
    document = {
        "schema": 1,
        "cluster": {"name": "many"},
        "connection": {"user": "replctl"},
        "nodes": nodes,
        "routing": {"policy": "weighted"},
        **TABLES,
    }
    path = written(document, folder / "many.toml")
    return [
        Program(
            title=f"`replctl render-{proxy} --offline`, {count} nodes",
            command=[REPLCTL, f"render-{proxy}", "-i", path, "--offline"],
        )
        for proxy in PROXIES
    ]


def written(document: dict[str, object], path: Path) -> str:
    """An inventory on disk, that others may not write."""
    path.write_text(dump(document), encoding="utf-8")
    path.chmod(0o644)
    return str(path)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--nodes", type=int, default=500)
    options.add_argument("--print", action="store_true", dest="only_print")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as name, cluster_of_three() as inventory:
        programs = [*few(inventory, Path(name)), *many(chosen.nodes, Path(name))]
        medians_s = in_turn(programs, chosen.rounds)
    content = f"{ratio_table(medians_s, STATUS)}\n\n{machine()}; {chosen.rounds} rounds."
    print(content)
    if not chosen.only_print:
        write_section("render", content)


if __name__ == "__main__":
    main()
