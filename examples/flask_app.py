"""Notes with Flask: written to the primary, read from replicas, seen at once by whoever wrote them.

Against a cluster on this machine:

    pip install '.[lab,metrics,sqlalchemy]' flask
    replctl lab up --dir /tmp/lab --replicas 2
    export REPLCTL_INVENTORY=/tmp/lab/inventory.toml
    flask --app examples/flask_app.py create-table
    flask --app examples/flask_app.py run --port 8000

    curl -i -b jar -c jar --json '{"text": "tea is out"}' localhost:8000/notes
    curl -i -b jar -c jar localhost:8000/notes    # X-Served-By tells which node has answered
    curl localhost:8000/metrics
"""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, Response, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from replctl.adapters.metrics import metrics_of
from replctl.adapters.sqlalchemy import Router
from replctl.adapters.web import WsgiRouting
from replctl.core.routing import KeyRing
from replctl.errors import NodeSwitched, RefusedError
from replctl.inventory import load_one
from replctl.pg.monitor import Monitor

# Nothing is started or connected to before the first request: safe to load before a server forks.
monitor = Monitor(load_one(Path(os.environ["REPLCTL_INVENTORY"])))
router = Router(monitor, user="postgres", metrics=metrics_of(monitor))
keys = KeyRing((os.environ.get("APP_SECRET", "only good enough for the lab").encode(),))

app = Flask(__name__)
app.wsgi_app = WsgiRouting(app.wsgi_app, monitor, keys, secure=False)  # secure: wherever there is TLS


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@app.cli.command()
def create_table() -> None:
    with router, router.write_session() as session:
        Base.metadata.create_all(session.connection())


@app.errorhandler(NodeSwitched)
@app.errorhandler(RefusedError)  # NoPrimary, NoReplica
def come_back(error: Exception) -> tuple[Response, int, dict[str, str]]:
    return jsonify(error=str(error)), 503, {"Retry-After": "1"}


@app.post("/notes")
def write() -> tuple[Response, int, dict[str, str]]:
    with router.write_session() as session:
        note = Note(text=request.get_json()["text"])
        session.add(note)
        session.flush()
        return jsonify(id=note.id), 201, {"X-Served-By": session.decision.node}


@app.get("/notes")
def read() -> tuple[Response, dict[str, str]]:
    with router.read_session() as session:
        found = list(session.scalars(select(Note.text).order_by(Note.id)))
        return jsonify(found), {"X-Served-By": session.decision.node}


@app.get("/metrics")
def numbers() -> Response:
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)
