"""Hypothesis strategies that several tests share: LSNs, names, sizes, times, inventories, situations."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

from replctl.core.detector import Word
from replctl.core.model import Cause, ClusterState, Lsn, NodeFacts, Observation
from replctl.core.settings import PROFILES
from replctl.core.situation import KnownLsn, Position, Request, Situation, Vote, is_cut
from replctl.core.thresholds import THRESHOLD_KEYS
from replctl.core.units import SIZE_UNITS, TIME_UNITS
from tests.unit.builders import END, address, receiver, replica, settings, spec, unreachable

lsns = st.integers(min_value=0, max_value=2**64 - 1).map(Lsn)
names = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=20)
# What a user may call a role or a database: anything printable, but nothing that reads like a secret.
words = st.text(min_size=1, max_size=12).filter(lambda t: t.isprintable() and not set(t) & set("=:"))
size_texts = st.builds(
    "{}{}".format, st.integers(0, 4096), st.sampled_from([*SIZE_UNITS, "kB", "MB", "GB", "TB", "mib"])
)
sizes = st.integers(0, 2**40) | size_texts
time_texts = st.builds("{}{}".format, st.integers(0, 500), st.sampled_from([*TIME_UNITS]))


def times(low_s: float = 0.0, high_s: float = 3600.0) -> st.SearchStrategy[int | float]:
    """Seconds within bounds, as TOML numbers."""
    return st.floats(low_s, high_s, allow_subnormal=False) | st.integers(int(low_s) + 1, int(high_s))


def _some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A table with any subset of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


_argv = st.lists(words, min_size=1, max_size=3).filter(lambda argv: argv[0].strip())
_paths = words.map(lambda word: f"/{word}")
connections = _some(
    user=words,
    dbname=words,
    sslmode=st.sampled_from(["disable", "prefer", "verify-full"]),
    service=words,
    passfile=_paths,
    sslkey=_paths,
    connect_timeout_s=times(0.01),
    query_timeout_s=times(0.01) | st.sampled_from(["500ms", "30s", "5min"]),
    password_command=_argv,
)
commands = _some(
    stop=_argv, start=_argv.map(lambda argv: [*argv, "{host}:{port}", "{{literal}}"]), fence=_argv
)
thresholds = _some(
    **{
        key: st.sampled_from([["never", "never"], [1, 2], ["@1:2", "5"], ["1:", "0:"], ["~:7", "~:8"]])
        for key in THRESHOLD_KEYS
    }
)
routing = _some(
    policy=st.sampled_from(["round-robin", "least-lag", "weighted", "zone"]),
    max_lag_bytes=sizes,
    max_lag_s=times(),
    eject_after=st.integers(1, 9),
    sticky_s=times(),
)
failover = _some(
    profile=st.sampled_from(sorted(PROFILES)),
    failures=st.integers(1, 9),
    interval_s=times(0.05),
    max_loss_bytes=sizes,
    synchronous=st.just(""),
    allow_replay_changes=st.booleans(),
    hooks=_some(before=st.just([]) | _argv, after=_argv),
)
proxies = _some(databases=st.lists(names, max_size=2), pool_size=st.integers(0, 50))


def _nodes(chosen: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = _some(
        port=st.integers(1, 65535),
        zone=names,
        promote=st.sampled_from(["prefer", "neutral", "avoid", "never"]),
        weight=st.integers(0, 10000),
        commands=commands,
        checks=thresholds,
    )
    rows = [st.tuples(connections, row).map(lambda both: both[0] | both[1]) for _ in chosen]
    return st.tuples(*rows).map(
        lambda found: [
            {"name": name, "host": f"10.0.0.{i}"} | keys
            for i, (name, keys) in enumerate(zip(chosen, found, strict=True))
        ]
    )


# Valid documents: what `tomllib` would give for an inventory, without a word about any real file.
inventories: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "schema": st.just(1),
        "cluster": st.fixed_dictionaries({"name": names}),
        "nodes": st.lists(names, min_size=1, max_size=4, unique_by=str.lower).flatmap(_nodes),
    },
    optional={
        "connection": connections,
        "replication": st.fixed_dictionaries({"user": words}, optional={"dbname": words}),
        "routing": routing,
        "checks": thresholds,
        "failover": failover,
        "pgbouncer": proxies,
        "haproxy": _some(check=st.sampled_from(["login", "sql"]), maxconn=st.integers(1, 500)),
    },
)


# ---- situations: everything that a failover is decided from

_FORK = END - 3  # where timeline 1 ended, on clusters that were failed over before


@st.composite
def situations(draw: st.DrawFn, *, automatic: st.SearchStrategy[bool] | None = None) -> Situation:
    """Any cluster of two to six nodes around a primary `pg1` that does not answer.

    Replicas are level or behind, paused, delayed, in conflict, restarted, cut, below each other, silent, on
    an older timeline, or do not let go; the rule, the votes, the wish and what was known before are any.
    """
    names = [f"pg{i}" for i in range(1, draw(st.integers(2, 6)) + 1)]
    cause = draw(st.sampled_from([Cause.REFUSED, Cause.TIMEOUT, Cause.STARTING_UP]))
    timeline = draw(st.sampled_from([1, 1, 2]))
    nodes: list[Observation] = [unreachable(names[0], cause)]
    nodes += [_replica(draw, names[: i + 1], timeline) for i in range(1, len(names))]
    k = draw(st.integers(0, 2))
    method = draw(st.sampled_from(["ANY", "FIRST"]))
    failover = {
        "synchronous": f"{method} {k} ({', '.join(names)})" if k else "",
        "fencing": draw(st.sampled_from(["auto", "auto", "none", "required"])),
        "allow_replay_changes": draw(st.booleans()),
    }
    specs = tuple(
        spec(name, promote=draw(st.sampled_from(["neutral", "neutral", "prefer", "avoid", "never"])))
        for name in names
    )
    facts = [n for n in nodes if isinstance(n, NodeFacts)]
    words = {Cause.REFUSED: Word.REFUSED, Cause.TIMEOUT: Word.SILENT, Cause.STARTING_UP: Word.STARTING_UP}
    return Situation(
        settings=settings(nodes=specs, failover=failover, slot=draw(st.sampled_from([None, "{name}"]))),
        state=ClusterState(nodes=tuple(nodes)),
        request=draw(_requests(names, automatic or st.booleans())),
        word=words[cause],
        votes=draw(st.dictionaries(st.sampled_from(names), st.sampled_from([Vote.HELD, Vote.FREE]))),
        positions={f.node: p for f in facts if is_cut(f) and (p := told(f)) is not None},
        histories={f.node: {1: Lsn(_FORK)} if f.timeline == 2 else {} for f in facts},
        last_known_lsns={n.node: Lsn(END - draw(st.integers(0, 5))) for n in nodes[1:] if n not in facts},
        silence_proven=draw(st.booleans()),
        sync_lowered=draw(st.sampled_from([None, None, None, "1 of 2 replicas stream"])),
        own_cuts=frozenset(f.node for f in facts if is_cut(f) and draw(st.booleans())),
        watched=draw(st.frozensets(st.sampled_from(names[1:]), max_size=2)),
        lost_timeline=draw(st.sampled_from([None, timeline])),
        stubborn=draw(st.frozensets(st.sampled_from(names[1:]), max_size=1)),
        known_lsn=draw(st.sampled_from([None, KnownLsn(lsn=Lsn(END + 9), age_s=1.0, source="a look")])),
        fence_commands=draw(st.sampled_from([frozenset(), frozenset({"pg1"})])),
    )


def told(facts: NodeFacts) -> Position | None:
    """What IDENTIFY_SYSTEM says of a cut node."""
    if facts.received_lsn is None or facts.timeline is None:
        return None
    hides = facts.receive_lsn_known is False and facts.startup_wait_event in (
        "RecoveryApplyDelay",
        "RecoveryPause",
    )
    why = "it was restarted and has not replayed its own WAL yet" if hides else None
    return Position(timeline=facts.timeline, lsn=facts.received_lsn, incomplete=why)


def _requests(names: list[str], automatic: st.SearchStrategy[bool]) -> st.SearchStrategy[Request]:
    some = st.frozensets(st.sampled_from(names[1:]), max_size=1)
    return st.builds(
        Request,
        lost=st.just("pg1"),
        to=st.sampled_from([None, None, names[-1]]),
        fenced=st.sampled_from([frozenset(), frozenset({"pg1"})]),
        without_votes=some,
        allow_loss_bytes=st.sampled_from([None, 0, 8]),
        allow_unknown_loss=st.booleans(),
        allow_replay=some,
        automatic=automatic,
    )


def _replica(draw: st.DrawFn, names: list[str], newest: int) -> Observation:
    """The last of the names, below any that comes before it."""
    name = names[-1]
    if draw(st.integers(0, 5)) == 0:
        return unreachable(name, draw(st.sampled_from([Cause.REFUSED, Cause.TIMEOUT])))
    upstream = draw(st.sampled_from([names[0], names[0], draw(st.sampled_from(names[:-1]))]))
    timeline = draw(st.sampled_from([newest, newest, 1]))
    lsn = draw(st.integers(END - 5, END))
    if timeline < newest:
        lsn = min(lsn, _FORK)
    facts: dict[str, Any] = {
        "lsn": lsn,
        "timeline": timeline,
        "capabilities": draw(st.sampled_from([frozenset(), frozenset({"wal_receiver_timeout_cut"})])),
        "receive_lsn_known": draw(st.sampled_from([None, True, False])),
        "conninfo": {"host": address(upstream), "port": "5432"},
        "primary_slot_name": None,
    }
    connected = draw(st.booleans())
    facts["receiver"] = receiver(upstream, lsn=lsn, received_timeline=timeline) if connected else None
    facts["receiver_processes"] = int(connected)
    facts |= draw(
        st.sampled_from(
            [
                {"startup_wait_event": "RecoveryWalStream"},
                {"startup_wait_event": "RecoveryPause", "replay_pause": "paused"},
                {"startup_wait_event": "RecoveryApplyDelay", "apply_delay_s": 600.0},
                {"startup_wait_event": "RecoveryConflictSnapshot"},
            ]
        )
    )
    if draw(st.integers(0, 3)) == 0:  # cut, by a run that did not come to its end
        facts |= {"conninfo": {}, "upstream_host": None, "upstream_port": None, "receiver": None}
        facts |= {"receiver_processes": 0}
        if facts["startup_wait_event"] == "RecoveryWalStream":
            facts["startup_wait_event"] = "RecoveryRetrieveRetryInterval"
    return replica(name, upstream, **facts)
