"""What the inventory's schema is made of: keys and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from replctl.inventory.kinds import Kind


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `default` and `example` are TOML; `absent` says what holds where there is no default."""

    name: str
    kind: Kind
    help: str
    default: Any = None
    example: Any = None
    required: bool = False
    absent: str = ""
    environment: str | None = None  # libpq's variable that holds where the file is silent
    secret: bool = False  # never shown: it may lead to a password

    @property
    def sample(self) -> Any:
        """A value for documents."""
        return self.default if self.example is None else self.example


@dataclass(frozen=True, slots=True)
class Table:
    """One table: `("routing",)` is `[routing]`, an array is `[[nodes]]`."""

    path: tuple[str, ...]
    help: str
    keys: tuple[Key, ...]
    array: bool = False

    @property
    def header(self) -> str:
        """As it stands in the file."""
        name = ".".join(self.path)
        return f"[[{name}]]" if self.array else f"[{name}]"

    def key(self, name: str) -> Key:
        """The key of this name. Raises KeyError."""
        for key in self.keys:
            if key.name == name:
                return key
        raise KeyError(name)
