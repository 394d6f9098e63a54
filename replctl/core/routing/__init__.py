"""Which node serves a read or a write: the policy, the pool, tokens, scopes, and `decide`.

Looks become a `Memory` (`advance`, `choose_writer`), a memory becomes a `Snapshot` (`make_snapshot`), and
`decide` answers from that. docs/routing.md has the rules in words.
"""

from replctl.core.routing.decide import READ, WRITE, Need, decide, read_after
from replctl.core.routing.decision import Decision
from replctl.core.routing.policies import POLICIES
from replctl.core.routing.pool import Memory, advance, is_blind
from replctl.core.routing.reasons import Fitness, Reason
from replctl.core.routing.scope import Scope, current_scope, entered
from replctl.core.routing.snapshot import NodeView, Snapshot, make_snapshot
from replctl.core.routing.timelines import went_back
from replctl.core.routing.token import NO_SYSTEM, Claim, KeyRing, Position, fingerprint, parse
from replctl.core.routing.writer import choose_writer

__all__ = [
    "NO_SYSTEM",
    "POLICIES",
    "READ",
    "WRITE",
    "Claim",
    "Decision",
    "Fitness",
    "KeyRing",
    "Memory",
    "Need",
    "NodeView",
    "Position",
    "Reason",
    "Scope",
    "Snapshot",
    "advance",
    "choose_writer",
    "current_scope",
    "decide",
    "entered",
    "fingerprint",
    "is_blind",
    "make_snapshot",
    "parse",
    "read_after",
    "went_back",
]
