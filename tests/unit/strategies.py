"""Hypothesis strategies that several tests share: LSNs, names, sizes, times, whole inventories."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

from replctl.core.model import Lsn
from replctl.core.settings import PROFILES
from replctl.core.thresholds import THRESHOLD_KEYS
from replctl.core.units import SIZE_UNITS, TIME_UNITS

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
