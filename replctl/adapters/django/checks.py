"""System checks, run by `manage.py check` and before most commands: what would route wrongly in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Caution
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from replctl.adapters.django.clusters import key_ring
from replctl.adapters.django.databases import ENGINE, KEY
from replctl.adapters.django.middleware import ReadYourWrites
from replctl.adapters.django.router import Router

_SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"


def check_routing(**_: Any) -> list[CheckMessage]:
    """What DATABASES, DATABASE_ROUTERS, MIDDLEWARE and SECRET_KEY have to be for routing."""
    entries = {alias: entry for alias, entry in connections.settings.items() if KEY in entry}
    if not entries:
        return []
    found: list[CheckMessage] = []
    for alias, entry in entries.items():
        found += _entry(alias, entry)
    found += _routers({entry[KEY]["writer"] for entry in entries.values()})
    found += _middleware()
    try:
        key_ring()
    except ImproperlyConfigured as error:
        found.append(Error(str(error), id="replctl.E005"))
    return found


def _entry(alias: str, entry: dict[str, Any]) -> Iterator[CheckMessage]:
    writer = entry[KEY]["writer"]
    if entry["ENGINE"] != ENGINE:
        hint = "Leave ENGINE to databases()."
        yield Error(f"DATABASES[{alias!r}] has another ENGINE than {ENGINE}.", hint=hint, id="replctl.E001")
    mirror = entry["TEST"].get("MIRROR")
    if alias == writer:
        if mirror is not None:
            yield Error(f"DATABASES[{alias!r}] is the writer, and a MIRROR.", id="replctl.E002")
        if entry["ATOMIC_REQUESTS"]:
            what = "ATOMIC_REQUESTS sends all reads of every request to the primary."
            hint = "Use `atomic` around what writes, or @non_atomic_requests on views that only read."
            yield Caution(what, hint=hint, id="replctl.W001")
        return
    if mirror != writer:
        what = f"DATABASES[{alias!r}] is no MIRROR of {writer!r}: tests would make it a database of its own."
        yield Error(what, hint="Leave TEST to databases().", id="replctl.E002")
    if entry["ATOMIC_REQUESTS"]:
        what = f"ATOMIC_REQUESTS for {alias!r} begins a transaction on that node in every request."
        yield Error(what, hint="Leave it to the writer's entry.", id="replctl.E003")


def _routers(writers: set[str]) -> Iterator[CheckMessage]:
    routers = [import_string(r) if isinstance(r, str) else type(r) for r in settings.DATABASE_ROUTERS]
    for writer in sorted(writers - {r.writer for r in routers if issubclass(r, Router)}):
        what = f"No router of replctl serves {writer!r}: all its reads go to the primary."
        hint = 'Add "replctl.adapters.django.Router", or a subclass of it, to DATABASE_ROUTERS.'
        yield Error(what, hint=hint, id="replctl.E004")


def _middleware() -> Iterator[CheckMessage]:
    places = []
    for number, name in enumerate(settings.MIDDLEWARE):
        found = import_string(name)
        if isinstance(found, type) and issubclass(found, ReadYourWrites):
            places.append(number)
    if not places:
        what = "ReadYourWrites is not in MIDDLEWARE: requests read from the primary only."
        hint = 'Put "replctl.adapters.django.ReadYourWrites" first.'
        yield Caution(what, hint=hint, id="replctl.W002")
    elif _SESSIONS in settings.MIDDLEWARE and settings.MIDDLEWARE.index(_SESSIONS) < places[0]:
        what = "SessionMiddleware comes before ReadYourWrites: what it saves is not seen by the next request."
        yield Caution(what, hint="Put ReadYourWrites first.", id="replctl.W003")
