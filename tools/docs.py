"""Write what is generated: commands, inventory keys, checks, refusals, reasons, and output that is shown.

    python -m tools.docs

A page shows output between `<!-- output: replctl ... -->` and `<!-- end output -->`; what stands between
them is run and replaced. tests/test_docs.py fails when a page is not as this writes it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command

from replctl.inventory import reference as inventory
from tools import checks, metrics, refusals, routing

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "commands.md"
GUIDE = ROOT / "docs" / "inventory.md"
CHECKS = ROOT / "docs" / "checks.md"
ROUTING = ROOT / "docs" / "routing.md"
METRICS = ROOT / "docs" / "metrics.md"
FAILOVER = ROOT / "docs" / "failover.md"
EXAMPLE = ROOT / "inventory.example.toml"
WIDTH = 80
RUN_LIMIT_S = 30.0
_SHOWN = re.compile(r"<!-- output: (?P<command>replctl .+?) -->\n.*?<!-- end output -->", re.DOTALL)

REFERENCE_HEAD = """# Commands

Every command with its options, as `--help` prints them. Written by `make docs`; do not edit.

Data goes to standard output, messages to standard error. [Exit codes](exit-codes.md) are the same for all.
"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command as the user calls it: ("lab", "up"); `click` is what Typer built."""

    path: tuple[str, ...]
    click: Any
    help: str

    @property
    def title(self) -> str:
        return " ".join(("replctl", *self.path))

    @property
    def is_group(self) -> bool:
        return hasattr(self.click, "list_commands")


def commands() -> Iterator[Command]:
    """The root, every command and every subcommand, in the order of `--help`."""
    from replctl.cli import app

    yield from _walk(get_command(app), (), None)


def _walk(click: Any, path: tuple[str, ...], parent: Any) -> Iterator[Command]:
    name = path[-1] if path else "replctl"
    context = click.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH)
    with context:
        command = Command(path=path, click=click, help=click.get_help(context))
        yield command
        for name in click.list_commands(context) if command.is_group else []:
            # Not get_command: resolving is what loads a lazy command.
            _, subcommand, _ = click.resolve_command(context, [name])
            yield from _walk(subcommand, (*path, name), context)


def reference() -> str:
    """The text of docs/commands.md."""
    parts = [REFERENCE_HEAD]
    parts += [
        f"{'#' * min(len(c.path) + 1, 3)} {c.title}\n\n```text\n{c.help.strip()}\n```\n" for c in commands()
    ]
    return "\n".join(parts)


def documents() -> list[Path]:
    """Every page of the checkout."""
    return [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), ROOT / "tests" / "README.md"]


def with_shown_output(text: str) -> str:
    """The text of a page with every shown output as it is now."""
    return _SHOWN.sub(lambda found: _show(found["command"]), text)


def _show(command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(WIDTH)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
    )
    return f"<!-- output: {command} -->\n```text\n{done.stdout.rstrip()}\n```\n<!-- end output -->"


def generated() -> dict[Path, str]:
    """What each page should say, for those that hold anything generated."""
    texts = {path: path.read_text(encoding="utf-8") for path in documents() if path != REFERENCE}
    shown = {path: with_shown_output(text) for path, text in texts.items() if _SHOWN.search(text)}
    guide = inventory.document(shown.pop(GUIDE, texts[GUIDE]))
    listed = checks.document(shown.pop(CHECKS, texts[CHECKS]))
    routed = routing.document(shown.pop(ROUTING, texts[ROUTING]))
    measured = metrics.document(shown.pop(METRICS, texts[METRICS]))
    failover = refusals.document(shown.pop(FAILOVER, texts[FAILOVER]))
    return {
        REFERENCE: reference(),
        GUIDE: guide,
        EXAMPLE: inventory.example(),
        CHECKS: listed,
        ROUTING: routed,
        METRICS: measured,
        FAILOVER: failover,
        **shown,
    }


def main() -> None:
    for path, text in generated().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
