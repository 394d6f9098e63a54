"""Notes with Django, in one file: written to the primary, read from replicas, seen at once by their writer.

Run it:

    pip install '.[lab,django]'
    replctl lab up --dir /tmp/lab --replicas 2 --sync 'ANY 1'
    export REPLCTL_INVENTORY=/tmp/lab/inventory.toml
    python examples/django_app.py create-table
    python examples/django_app.py runserver --noreload 8000

Use it, and break it:

    curl -i -b jar -c jar -d 'text=tea is out' localhost:8000/notes
    curl -i -b jar -c jar localhost:8000/notes    # X-Served-By tells which alias has answered
    curl -i localhost:8000/stale-notes            # may be behind, whoever asks
    replctl lab kill pg1 --dir /tmp/lab
    replctl failover --yes                        # and write again
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.db import OperationalError, connection, models
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from replctl.adapters.django import NodeSwitched, NoPrimary, NoReplica, databases, read_replica

settings.configure(
    SECRET_KEY=os.environ.get("APP_SECRET", "only good enough for the lab"),
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["replctl.adapters.django", __name__],
    # First, above sessions and whatever else there is that uses the database.
    MIDDLEWARE=["replctl.adapters.django.ReadYourWrites", f"{__name__}.ComeBack"],
    DATABASE_ROUTERS=["replctl.adapters.django.Router"],
    # Nothing is started or connected to before the first request: safe to load before a server forks.
    DATABASES=databases(os.environ["REPLCTL_INVENTORY"], NAME="postgres", USER="postgres"),
)
django.setup()


class Note(models.Model):
    text = models.TextField()


class ComeBack:
    """What a client may do when a node is lost: the same again, or look first."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, _request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, OperationalError):
            return None
        # Of these, nothing was committed. TransactionOutcomeUnknown and NotReplicated are not among them.
        again = {"Retry-After": "1"} if isinstance(error, NodeSwitched | NoPrimary | NoReplica) else {}
        return JsonResponse({"error": str(error)}, status=503, headers=again)


def notes(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        note = Note.objects.create(text=request.POST["text"])
        return JsonResponse({"id": note.pk}, status=201)
    found = list(Note.objects.order_by("id"))
    served = found[0]._state.db if found else "unknown"
    return JsonResponse({"notes": [n.text for n in found]}, headers={"X-Served-By": served})


urlpatterns = [path("notes", notes), path("stale-notes", read_replica(notes))]


def create_table() -> None:
    if Note._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Note)


if __name__ == "__main__":
    if sys.argv[1:] == ["create-table"]:
        create_table()
    else:
        execute_from_command_line(sys.argv)
