"""Commands that are imported when they are run: what keeps `--help` and completion fast with many commands.

Typer builds every command of an application before it looks at the command line, with a signature and
a dozen options each. Here the root group holds only names and one-line helps; the module behind a name
is imported when the command line has come to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from replctl.cli.values import settle_plainly

_ROOT_ONLY = ("install_completion", "show_completion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One command of the root group.

    `target` is "module:attribute"; the attribute is the command's function, or a typer.Typer for a
    command with subcommands. `help` is its line in `replctl --help`.
    """

    name: str
    section: str
    target: str
    help: str

    def load(self) -> Any:
        """Import the command and build it."""
        module, attribute = self.target.split(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):
            app = found
            app.rich_markup_mode = None
        else:
            app = typer.Typer(rich_markup_mode=None)
            app.command()(found)
        command: Any = get_command(app)
        command.name = self.name
        command.params = [p for p in command.params if p.name not in _ROOT_ONLY]
        settle_plainly(command)
        return command


def group_of(entries: Iterable[Entry]) -> type[TyperGroup]:
    """The class of a root group with these commands, for `typer.Typer(cls=...)`."""
    registry = {entry.name: entry for entry in entries}

    class LazyGroup(TyperGroup):
        """Holds a stub per command until the command line asks for it."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            settle_plainly(self)
            for entry in registry.values():
                self.add_command(TyperCommand(entry.name, help=entry.help))

        def load(self, name: str) -> None:
            """Put the command in the place of its stub. A name that does not exist is left to Typer."""
            if name in registry:
                self.add_command(registry[name].load(), name)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            self.load(args[0])
            return super().resolve_command(ctx, args)

        def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Click's signature
            for section in dict.fromkeys(entry.section for entry in registry.values()):
                rows = [(e.name, e.help) for e in registry.values() if e.section == section]
                with formatter.section(section):
                    formatter.write_dl(rows)

    return LazyGroup
