"""Where a read or a write would go: the document of `route`, and the same for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from replctl.core.routing import Decision, NodeView, Snapshot
from replctl.core.units import format_bytes, format_duration
from replctl.display.document import SCHEMA_VERSION, Document
from replctl.display.rows import plain_table
from replctl.display.serialize import to_csv, to_json, to_yaml

COLUMNS = ("node", "fit", "reason")


def route_document(
    cluster: str, decision: Decision, snapshot: Snapshot, *, age_s: float, write: bool
) -> Document:
    """`fit` of a node is whether it may serve this need."""
    return {
        "schema_version": SCHEMA_VERSION,
        "cluster": cluster,
        "target": decision.node,
        "reason": str(decision.reason),
        "considered": [
            {
                "node": view.name,
                "fit": view.name == snapshot.writer if write else view.fit,
                "reason": str(view.fitness),
            }
            for view in snapshot.nodes
        ],
        "snapshot_age_s": round(age_s, 3),
    }


def routes_text(documents: Sequence[Document], form: str) -> str:
    """All clusters in one format for programs; `form` as in `-o`."""
    if form == "name":
        return "\n".join(d["target"] for d in documents if d["target"] is not None)
    if form == "csv":
        rows = [{"cluster": d["cluster"], **row} for d in documents for row in d["considered"]]
        return to_csv(rows, ("cluster", *COLUMNS))
    whole = documents[0] if len(documents) == 1 else {"schema_version": SCHEMA_VERSION, "clusters": documents}
    return to_json(whole) if form == "json" else to_yaml(whole)


def explanation(document: Document, decision: Decision, snapshot: Snapshot, *, every_node: bool) -> str:
    """Where to and why, in a sentence; with `every_node` also what speaks for and against each."""
    target, reason = decision.node or "nowhere", decision.reason
    first = f"{document['cluster']}: {target} ({reason}): {reason.sentence}"
    if not every_node:
        return first
    rows = [_row(view, row["fit"]) for view, row in zip(snapshot.nodes, document["considered"], strict=True)]
    return f"{first}\n{plain_table(rows, list(rows[0]))}" if rows else first


def _row(view: NodeView, fit: bool) -> dict[str, Any]:
    return {
        "node": view.name,
        "fit": "yes" if fit else "no",
        "reason": view.fitness,
        "timeline": view.timeline,
        "replayed": None if view.replayed_lsn is None else str(view.replayed_lsn),
        "lag": None if view.lag_bytes is None else format_bytes(view.lag_bytes),
        "lag_s": None if view.lag_s is None else format_duration(view.lag_s),
        "what": view.reason,
    }
