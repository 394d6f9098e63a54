"""How fast replctl starts, beside the least that Typer costs; and `status`, beside one bare query.

    python -m benchmarks.startup [--rounds N] [--inventory FILE] [--print]

Without an inventory, a local cluster of three nodes is made for the second part and taken down again.
The tables are printed and written to docs/benchmarks.md (with --print, only printed).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.timing import Program, in_turn, machine, ratio_table, write_section

PLAIN = "hello-world of Typer, plain"
BARE_QUERY = "Python, psycopg, one query"

HELLO = """
import typer

app = typer.Typer({settings})


@app.command()
def hello(name: str = "world"):
    \"\"\"Greet someone.\"\"\"
    print(f"hello {{name}}")


app(prog_name="hello")
"""
QUERY = """
import sys, psycopg
with psycopg.connect(host=sys.argv[1], port=sys.argv[2], user=sys.argv[3], dbname=sys.argv[4]) as connection:
    print(connection.execute("SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()").fetchone())
"""


def start_programs(folder: Path) -> list[Program]:
    """Help, version and completion of replctl, and the same of two hello-worlds."""
    for name, settings in (("plain", "rich_markup_mode=None"), ("default", "")):
        (folder / f"{name}.py").write_text(HELLO.format(settings=settings), encoding="utf-8")
    plain, default = ([sys.executable, str(folder / f"{name}.py")] for name in ("plain", "default"))
    replctl = [str(Path(sys.executable).parent / "replctl")]
    words = {"COMP_WORDS": "it --he", "COMP_CWORD": "1"}
    return [
        Program(title=PLAIN, command=[*plain, "--help"]),
        Program(title="hello-world of Typer, as it comes", command=[*default, "--help"]),
        Program(title="hello-world of Typer, greeting", command=plain),
        Program(
            title="hello-world of Typer, completion",
            command=plain,
            env={"_HELLO_COMPLETE": "complete_bash", **words},
        ),
        Program(title="`replctl --help`", command=[*replctl, "--help"]),
        Program(title="`replctl --version`", command=[*replctl, "--version"]),
        Program(
            title="`replctl`, completion of an option",
            command=replctl,
            env={"_REPLCTL_COMPLETE": "complete_bash", **words},
        ),
        Program(
            title="`replctl`, completion of a command",
            command=replctl,
            env={"_REPLCTL_COMPLETE": "complete_bash", "COMP_WORDS": "replctl ", "COMP_CWORD": "1"},
        ),
    ]


def status_programs(inventory: Path) -> list[Program]:
    """`replctl status` on all nodes, and a Python process with one query on the first of them."""
    cluster = tomllib.loads(inventory.read_text(encoding="utf-8"))
    node, connection = cluster["nodes"][0], cluster["connection"]
    address = [node["host"], str(node["port"]), connection["user"], connection["dbname"]]
    status = [str(Path(sys.executable).parent / "replctl"), "status", "-i", str(inventory)]
    # A warning is an answer, not a failure of the run.
    check = [*status[:1], "check", "-i", str(inventory), "--fail-on", "critical"]
    nodes = len(cluster["nodes"])
    return [
        Program(title=BARE_QUERY, command=[sys.executable, "-c", QUERY, *address]),
        Program(title=f"`replctl status`, {nodes} nodes", command=status),
        Program(title=f"`replctl status -o json`, {nodes} nodes", command=[*status, "-o", "json"]),
        Program(title=f"`replctl check`, {nodes} nodes, every check", command=check),
    ]


@contextmanager
def cluster_of_three() -> Iterator[Path]:
    """The inventory of a local primary with two replicas, taken down at the end."""
    lab = [sys.executable, "-m", "replctl", "lab"]
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as folder:
        place = ["--dir", f"{folder}/lab"]
        Path(folder).chmod(0o755)  # started as root, the servers run as somebody else
        try:
            subprocess.run([*lab, "up", *place, "--replicas", "2"], check=True, stdout=subprocess.DEVNULL)
            yield Path(folder) / "lab" / "inventory.toml"
        finally:
            subprocess.run([*lab, "down", *place], check=False, stdout=subprocess.DEVNULL)


def measure(programs: list[Program], baseline: str, rounds: int) -> str:
    """The table of these programs and what it was measured on."""
    return f"{ratio_table(in_turn(programs, rounds), baseline)}\n\n{machine()}; {rounds} rounds."


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--inventory", type=Path)
    options.add_argument("--print", action="store_true", dest="only_print")
    chosen = options.parse_args()
    sections = {}
    with tempfile.TemporaryDirectory(prefix="replctl-bench-") as folder:
        sections["startup"] = measure(start_programs(Path(folder)), PLAIN, chosen.rounds)
    print(sections["startup"], "\n", flush=True)
    if chosen.inventory:
        sections["status"] = measure(status_programs(chosen.inventory), BARE_QUERY, chosen.rounds)
    else:
        with cluster_of_three() as inventory:
            sections["status"] = measure(status_programs(inventory), BARE_QUERY, chosen.rounds)
    print(sections["status"])
    if not chosen.only_print:
        for name, content in sections.items():
            write_section(name, content)


if __name__ == "__main__":
    main()
