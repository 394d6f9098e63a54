"""Values of options and arguments, without waiting for pydantic where there is nothing to convert.

Typer converts every value of a command through pydantic, also one that is absent, and imports pydantic
for it: some 60 ms of each run, which is more than a server takes to answer. `settle_plainly` lets the
values pass that need no conversion. Where the installed Typer keeps its annotations elsewhere, nothing
is plain and all is converted as ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import typer


def settle_plainly(command: Any) -> None:
    """Let the plain values of this command and its subcommands pass without Typer's conversion."""
    parameters_of = command.get_params

    def get_params(ctx: Any) -> list[Any]:
        # Here rather than in command.params, because --help is only in this list.
        parameters: list[Any] = parameters_of(ctx)
        for parameter in parameters:
            if not isinstance(parameter.process_value, _Plainly):
                parameter.process_value = _Plainly(parameter, parameter.process_value)
        return parameters

    command.get_params = get_params
    for subcommand in getattr(command, "commands", {}).values():
        settle_plainly(subcommand)


class _Plainly:
    """Stands in for one parameter's process_value; hands over to it whatever is not plain."""

    def __init__(self, parameter: Any, convert: Callable[[Any, Any], Any]) -> None:
        self.parameter = parameter
        self.convert = convert

    def __call__(self, ctx: Any, value: Any) -> Any:
        try:
            plain = _plain(self.parameter, value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=self.parameter) from None
        if plain is _NOT_PLAIN:
            return self.convert(ctx, value)
        callback = self.parameter.callback
        return plain if callback is None else callback(ctx, self.parameter, plain)


_NOT_PLAIN = object()


def _plain(parameter: Any, value: Any) -> Any:
    """What Typer's conversion of `value` gives, where that is plain to see; else _NOT_PLAIN.

    Text for a text parameter, a flag, an exact choice, a path without conditions, and nothing at all
    for a parameter that may be absent. Raises ValueError for a choice that there is not.
    """
    many = parameter.multiple or parameter.nargs == -1
    if not value and parameter.required:
        return _NOT_PLAIN
    if value is None:
        return () if many else None
    descriptor = getattr(parameter, "type_descriptor", None)
    if descriptor is None or descriptor.parameter_info.parser is not None:
        return _NOT_PLAIN
    wanted = descriptor.annotation
    if many:
        strings = isinstance(value, tuple | list) and all(isinstance(item, str) for item in value)
        is_list_of_text = get_origin(wanted) is list and get_args(wanted) == (str,)
        return list(value) if strings and is_list_of_text else _NOT_PLAIN
    if not isinstance(wanted, type) or parameter.nargs != 1:
        return _NOT_PLAIN
    if type(value) is wanted and (wanted in (str, bool) or value is parameter.default):
        return value
    if issubclass(wanted, Enum):
        return _choice(wanted, value, descriptor.parameter_info.case_sensitive)
    if wanted is Path and isinstance(value, str | Path) and _unconditional(descriptor.parameter_info, value):
        return Path(value)
    return _NOT_PLAIN


def _choice(choices: type[Enum], value: object, case_sensitive: bool) -> Enum:
    if isinstance(value, choices):
        return value
    given = str(value) if case_sensitive else str(value).casefold()
    for choice in choices:
        if given == (choice.value if case_sensitive else str(choice.value).casefold()):
            return choice
    raise ValueError(f"{value!r} is not one of {', '.join(str(choice.value) for choice in choices)}.")


def _unconditional(info: Any, value: str | Path) -> bool:
    """Whether a path has no conditions, or but the default one and meets it: to be readable if it exists."""
    conditions = (info.exists, info.writable, info.resolve_path, info.allow_dash, info.path_type)
    if any(conditions) or not (info.file_okay and info.dir_okay):
        return False
    return not info.readable or not os.path.lexists(value) or os.access(value, os.R_OK)
