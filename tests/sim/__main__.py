"""`python -m tests.sim SEED` tells one story; `python -m tests.sim --from N --seeds M` plays a campaign."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.sim.story import build, tell

AT_A_TIME = 200


def main() -> int:
    """Exit code 1 = an invariant was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="tell this story line by line")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many to play (%(default)s)")
    parser.add_argument(
        "--from", dest="first", type=int, help="the first of them; a random number if not given"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    given = parser.parse_args()
    if given.seed is not None:
        return tell_one(given.seed)
    first = random.SystemRandom().randrange(2**32) if given.first is None else given.first
    return campaign(first, given.seeds, given.workers)


def tell_one(seed: int) -> int:
    """Who there was, what happened, and what was wrong with it."""
    story = build(seed)
    failover = story.settings.failover
    print(f"seed {seed}{f', about: {story.theme.name}' if story.theme is not None else ''}")
    print(f"synchronous = {failover.synchronous!r}, fencing = {failover.fencing}, ", end="")
    print(f"fence commands: {', '.join(sorted(story.fence_commands)) or 'none'}")
    for node in story.cluster.nodes.values():
        facts = [f"{word} {node.upstream}" for word in ("follows",) if node.upstream]
        facts += [w for w in ("delayed", "paused", "in_conflict", "deaf") if getattr(node, w)]
        facts += [] if node.is_witness else [f"promote = {story.settings.node(node.name).promote}"]
        facts += ["witness"] if node.is_witness else [f"timeline {node.timeline}"]
        print(f"{node.name}: {', '.join(facts)}")
    story = tell(seed)
    print("\n".join(story.cluster.log))
    primary = story.checkers.newest()
    print(f"in the end {primary.name} is the primary, {'and works' if primary.works else 'and is down'}")
    print("\n".join(story.violations) or "nothing was wrong")
    return 1 if story.violations else 0


def play_block(first: int, count: int) -> tuple[list[str], Counter[str]]:
    """Play some; what was wrong, and what befell them."""
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    for seed in range(first, first + count):
        try:
            story = tell(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        wrong += [f"seed {seed}: {violation}" for violation in story.violations]
        counts.update(story.cluster.counts)
        counts["stories"] += 1
    return wrong, counts


def campaign(first: int, seeds: int, workers: int) -> int:
    """Play many, in several processes; print what was wrong as soon as it is known."""
    print(f"seeds {first} to {first + seeds - 1}", flush=True)
    started_s, wrong, counts = time.monotonic(), 0, Counter[str]()
    blocks = [(at, min(AT_A_TIME, first + seeds - at)) for at in range(first, first + seeds, AT_A_TIME)]
    with ProcessPoolExecutor(max_workers=max(1, workers)) as pool:
        for found, counted in pool.map(play_block, *zip(*blocks, strict=True)):
            wrong += len(found)
            counts.update(counted)
            for line in found:
                print(line, flush=True)
    took_s = time.monotonic() - started_s
    for what, times in sorted(counts.items()):
        print(f"{times:9} {what}")
    print(f"{seeds} seeds in {took_s:.0f} s, {seeds / took_s:.0f} a second; {wrong} violations")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
