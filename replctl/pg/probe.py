"""`--probe`: seconds of lag without a history, by waiting until a replica has what the primary has now."""

from __future__ import annotations

import asyncio
import time

import psycopg

from replctl.core.lag import LagBound, LagSource, Seconds
from replctl.core.model import Lsn
from replctl.core.status import ClusterStatus
from replctl.pg.connect import NodeError, query
from replctl.pg.observe import NodeProbe, Observer
from replctl.pg.queries import REPLAYED

POLL_S = 0.005
ANSWER_LIMIT_S = 0.5  # the last question may be asked just before the time is over


async def probe_replay(observer: Observer, status: ClusterStatus, limit_s: float) -> dict[str, Seconds]:
    """How long each replica that is behind takes to replay what the primary had when it was sampled.

    Exact where it gets there within `limit_s`, else what went by as a lower bound. Writes nothing. What a
    history tells already, and better, is left alone.
    """
    primary = status.primary_node
    if primary is None or primary.facts is None or primary.facts.flush_lsn is None:
        return {}
    target = primary.facts.flush_lsn  # nothing beyond is sent yet
    behind = [n for n in status.replicas if n.lag.lag_bytes and n.lag_bound is not LagBound.EXACT]
    until_s = time.monotonic() + limit_s
    found = await asyncio.gather(
        *(_until_replayed(observer.probes[n.name], target, primary.sampled_at_s, until_s) for n in behind)
    )
    return {n.name: better(n.lag.seconds, seconds) for n, seconds in zip(behind, found, strict=True)}


def better(known: Seconds, probed: Seconds) -> Seconds:
    """What the probe found, unless it is a lower bound below the one that was known."""
    if probed.value_s is None:
        return known
    weaker = (
        probed.bound is LagBound.LOWER
        and known.bound is LagBound.LOWER
        and (known.value_s or 0.0) > probed.value_s
    )
    return known if weaker else probed


async def _until_replayed(probe: NodeProbe, target: Lsn, since_s: float, until_s: float) -> Seconds:
    """Unknown where the replica can no longer be asked."""
    while (connection := probe.connection) is not None:
        asked_s = time.monotonic()
        try:
            text = REPLAYED.for_version(connection.info.server_version)
            rows = await query(connection, text, timeout_s=max(ANSWER_LIMIT_S, until_s - asked_s))
        except (NodeError, psycopg.Error):
            break
        now_s = time.monotonic()
        if (rows[0]["replayed_lsn"] or 0) >= target:
            return Seconds(now_s - since_s, LagSource.PROBE, LagBound.EXACT)
        if now_s + POLL_S >= until_s:
            return Seconds(asked_s - since_s, LagSource.PROBE, LagBound.LOWER)
        await asyncio.sleep(POLL_S)
    return Seconds()
