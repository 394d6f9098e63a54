"""How long a decision takes, with few replicas and many, alone and in threads; and a whole unit of work.

    python -m benchmarks.routing [--print]

No server is asked: a decision never does. The table is printed and written to docs/benchmarks.md (with
--print, only printed).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from benchmarks.timing import machine, write_section
from replctl.core.lag import LagHistory
from replctl.core.model import ClusterState, Lsn, NodeFacts, Receiver
from replctl.core.routing import (
    READ,
    WRITE,
    KeyRing,
    Memory,
    Need,
    Position,
    Scope,
    Snapshot,
    advance,
    choose_writer,
    current_scope,
    decide,
    entered,
    make_snapshot,
    read_after,
)
from replctl.core.settings import ClusterSettings, NodeSpec, RoutingSettings
from replctl.core.status import assess

REPLICAS = (1, 3, 16, 64)
POLICIES = ("round-robin", "weighted")
CALLS = 50_000
ROUNDS = 5
END = 0x5000000


def facts(name: str, lsn: int, *, in_recovery: bool) -> NodeFacts:
    """A node that is well: the primary, or a replica that streams."""
    receiver = Receiver(
        pid=1,
        status="streaming",
        sender_host="10.0.0.1",
        sender_port=5432,
        slot_name=None,
        received_timeline=1,
        written_lsn=Lsn(lsn),
        flushed_lsn=Lsn(lsn),
        latest_end_lsn=Lsn(lsn),
        latest_end_age_s=0.0,
        last_message_age_s=0.0,
    )
    return NodeFacts(
        node=name,
        server_version_num=180000,
        system_identifier="7300000000000000001",
        in_recovery=in_recovery,
        timeline=1,
        write_lsn=None if in_recovery else Lsn(lsn),
        flush_lsn=None if in_recovery else Lsn(lsn),
        received_lsn=Lsn(lsn) if in_recovery else None,
        replayed_lsn=Lsn(lsn) if in_recovery else None,
        upstream_host="10.0.0.1" if in_recovery else None,
        upstream_port=5432 if in_recovery else None,
        upstream_known=True,
        own_application_name=name,
        primary_slot_name=None,
        receiver=receiver if in_recovery else None,
        replay_pause="not paused",
        settings={"wal_block_size": "8192"},
    )


def snapshot_of(replicas: int, policy: str) -> Snapshot:
    """Every second replica is a little behind."""
    names = [f"pg{i}" for i in range(1, replicas + 2)]
    settings = ClusterSettings(
        name="orders",
        nodes=tuple(
            NodeSpec(name=name, host=f"10.0.0.{i}", application_name=name, weight=100 + i % 3)
            for i, name in enumerate(names, 1)
        ),
        routing=RoutingSettings(policy=policy),  # type: ignore[arg-type]
    )
    nodes = [facts(names[0], END, in_recovery=False)]
    nodes += [facts(name, END - 8 * (i % 2), in_recovery=True) for i, name in enumerate(names[1:])]
    status = assess(ClusterState(nodes=tuple(nodes)), settings, LagHistory())
    memory, write = choose_writer(advance(Memory(), status, 0.0, 0.0), status, 0.0)
    return make_snapshot(memory, status, write, turns=itertools.count(), taken_s=0.0, stale_at_s=1e9)


def decisions_us(need: Need, scope: Scope | None, snapshot: Snapshot) -> list[float]:
    """How long each of CALLS decisions took, in microseconds."""
    clock, taken = time.perf_counter_ns, [0] * CALLS
    gc.disable()
    try:
        for i in range(CALLS):
            began = clock()
            decide(need, scope, snapshot, 1.0)
            taken[i] = clock() - began
    finally:
        gc.enable()
    return [ns / 1000 for ns in taken]


def quantiles(measure: Callable[[], list[float]]) -> tuple[float, float]:
    """Median and 99th percentile: the median of ROUNDS rounds of each."""
    found = []
    for _ in range(ROUNDS):
        taken = sorted(measure())
        found.append((taken[len(taken) // 2], taken[len(taken) * 99 // 100]))
    return statistics.median(m for m, _ in found), statistics.median(p for _, p in found)


def in_threads_us(snapshot: Snapshot, threads: int) -> float:
    """Microseconds of the whole process per decision, while so many threads share a snapshot."""

    def work() -> None:
        for _ in range(CALLS):
            decide(READ, None, snapshot, 1.0)

    running = [threading.Thread(target=work) for _ in range(threads)]
    began_s = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return (time.perf_counter() - began_s) / (threads * CALLS) * 1e6


def unit_of_work_us(snapshot: Snapshot, *, writes: bool) -> float:
    """Microseconds of all that routing does in one request, the median."""
    keys = KeyRing((b"0123456789abcdef", b"fedcba9876543210"))
    position = Position(snapshot.system, 1, Lsn(END - 8))
    token = keys.issue(position, 0.0)

    def issue(found: Position | None) -> str:
        return keys.issue(found or position, 0.0)

    def once() -> str | None:
        claim = keys.verify(token, 0.0)
        scope = Scope.of(claim, window_s=5.0, now_at=0.0, now_s=1.0, received=token, issue=issue)
        with entered("orders", scope):
            if writes:
                scope.note_write()
                decide(WRITE, current_scope("orders"), snapshot, 1.0)
                scope.note_position(position, scope.writes)
            decide(READ, current_scope("orders"), snapshot, 1.0)
            return scope.token

    return statistics.median(_timed_us(once))


def _timed_us(work: Callable[[], object]) -> list[float]:
    """How long each of CALLS / 10 calls took."""
    clock, taken = time.perf_counter_ns, []
    for _ in range(CALLS // 10):
        began = clock()
        work()
        taken.append((clock() - began) / 1000)
    return taken


def table() -> str:
    """Everything, as Markdown."""
    lines = ["| decision | replicas | median | 99 of 100 within |", "|---|---:|---:|---:|"]
    for replicas in REPLICAS:
        for policy in POLICIES:
            snapshot = snapshot_of(replicas, policy)
            half = read_after(Position(snapshot.system, 1, Lsn(END)))
            scope = Scope(half.after)
            needs = {"a write": (WRITE, None), "a read": (READ, None), "a read with a token": (READ, scope)}
            for title, (need, of) in needs.items():
                if policy != POLICIES[0] and title == "a write":
                    continue
                median_us, p99_us = quantiles(lambda n=need, s=snapshot, o=of: decisions_us(n, o, s))
                name = title if title == "a write" else f"{title}, {policy}"
                lines.append(f"| {name} | {replicas} | {median_us:.2f} µs | {p99_us:.2f} µs |")
    snapshot = replace(snapshot_of(16, POLICIES[0]), stale_at_s=1e9)
    lines += ["", "| with 16 replicas | each |", "|---|---:|"]
    lines += [f"| a read, {n} thread(s) | {in_threads_us(snapshot, n):.2f} µs |" for n in (1, 4)]
    lines += [
        f"| a unit of work that reads | {unit_of_work_us(snapshot, writes=False):.1f} µs |",
        f"| a unit of work that writes and reads | {unit_of_work_us(snapshot, writes=True):.1f} µs |",
        "",
        f"{machine()}; the median of {ROUNDS} rounds of {CALLS} decisions.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--print", action="store_true", dest="only_print", help="do not write the page")
    arguments = parser.parse_args()
    content = table()
    print(content)
    if not arguments.only_print:
        write_section("routing", content)


if __name__ == "__main__":
    main()
