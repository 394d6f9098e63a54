"""The inventory: TOML files, one cluster each, and what they mean.

`load` reads one file and raises InventoryError with all of its problems; `find` says which files; `dump`
writes one. Every key is declared once, in `schema`. Secrets stop here: nothing in the core's settings,
and no message, holds a password.
"""

from replctl.core.settings import ReplicationSettings as Replication
from replctl.inventory.build import parse
from replctl.inventory.files import (
    Checked,
    Names,
    Place,
    find,
    load,
    load_all,
    load_one,
    names,
    places,
    survey,
    unusable,
)
from replctl.inventory.model import Connection, Entry, Inventory, NodeCommands
from replctl.inventory.writer import dump

__all__ = [
    "Checked",
    "Connection",
    "Entry",
    "Inventory",
    "Names",
    "NodeCommands",
    "Place",
    "Replication",
    "dump",
    "find",
    "load",
    "load_all",
    "load_one",
    "names",
    "parse",
    "places",
    "survey",
    "unusable",
]
