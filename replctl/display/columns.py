"""The columns of the status table: what each shows of one node, and how soon it yields to a narrow screen.

`-` means that there is nothing to know (a primary has no lag), `?` that it is not known, and a value in
brackets that it is the last one known of a node that does not answer now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from replctl.core.lag import LagBound
from replctl.core.results import Status
from replctl.core.status import NodeState, NodeStatus, Role
from replctl.core.units import format_bytes, format_duration
from replctl.display.sparkline import sparkline
from replctl.display.style import BOLD, DIM, PLAIN, SEVERITY_STYLE, Glyphs, Line, Span

STEADY_BYTES_PER_S = 1024  # less than this is the jitter of sampling, not a trend
CAUGHT_UP_BYTES = 64 * 1024  # neither trend nor ETA below this


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One node as a screen shows it."""

    node: NodeStatus
    severity: Status
    glyphs: Glyphs
    stem: str = ""  # the drawing of the tree before the name
    bytes_at_least: bool = False  # no primary answered: lags are measured against the last that was heard
    last: NodeStatus | None = None  # its last facts, while it does not answer
    silent_s: float | None = None  # how long ago those were
    lags: tuple[int | None, ...] = ()  # lag_bytes of each look so far, the newest last

    @property
    def is_replica(self) -> bool:
        """It answered, and as a replica."""
        return self.node.role is Role.REPLICA


class Column(NamedTuple):
    """One column of the table."""

    key: str
    heading: str
    cell: Callable[[Row], Line]
    right: bool = False
    optional: bool = False  # left out when no row has a value


def _one(text: str, style: str = PLAIN) -> Line:
    return (Span(text, style),)


NONE = _one("-", DIM)
UNKNOWN = _one("?", DIM)


def _known(row: Row, value: str | None, last: str | None, absent: bool = False) -> Line:
    """A fact, or the last one known in brackets, or `?`; `-` where `absent` says that there is none."""
    if row.node.reachable:
        return NONE if absent else _one(value) if value is not None else UNKNOWN
    return _one(f"({last})", DIM) if last is not None else UNKNOWN


def _of_replica(row: Row, text: str | None) -> Line:
    """A number that only replicas have."""
    if row.node.role is Role.PRIMARY:
        return NONE
    return _one(text) if text is not None and row.node.reachable else UNKNOWN


def _node(row: Row) -> Line:
    return (Span(row.stem, DIM), Span(row.node.name, BOLD if row.node.role is Role.PRIMARY else PLAIN))


def _role(row: Row) -> Line:
    return _known(row, row.node.role, row.last.role if row.last else None)


def _state(row: Row) -> Line:
    text = _state_cause(row)[0].text
    if row.node.state is NodeState.UNREACHABLE and row.silent_s is not None:
        text += f" for {format_age(row.silent_s)}"
    return _one(text, SEVERITY_STYLE[row.severity])


def _state_cause(row: Row) -> Line:
    text = row.glyphs.signed(row.severity, row.node.state)
    if row.node.state is NodeState.UNREACHABLE:
        text += f" ({row.node.cause})"
    return _one(text, SEVERITY_STYLE[row.severity])


def _state_word(row: Row) -> Line:
    word = row.node.cause or row.node.state  # who cannot be reached for this reason is unreachable
    return _one(row.glyphs.signed(row.severity, word), SEVERITY_STYLE[row.severity])


def _timeline(row: Row) -> Line:
    last = row.last.timeline if row.last else None
    return _known(row, _text(row.node.timeline), _text(last))


def _upstream(row: Row) -> Line:
    facts = row.node.facts
    from_archive = facts is not None and facts.upstream_known and row.node.upstream is None
    absent = row.node.role is Role.PRIMARY or from_archive
    return _known(row, row.node.upstream, row.last.upstream if row.last else None, absent)


def _sync(row: Row) -> Line:
    connected = row.node.state in (NodeState.STREAMING, NodeState.CATCHUP)
    absent = row.node.sender is None and not connected  # nobody sends to it, so it confirms nothing
    return _known(row, row.node.sync_state, None, absent)


def _lag_bytes(row: Row) -> Line:
    size = row.node.lag.lag_bytes
    bound = row.glyphs.at_least if row.bytes_at_least else ""
    return _of_replica(row, None if size is None else bound + format_bytes(size))


def _lag_s(row: Row) -> Line:
    if row.node.lag_s is None:
        return _of_replica(row, None)
    bounds = {LagBound.LOWER: row.glyphs.at_least, LagBound.UPPER: row.glyphs.at_most}
    bound = bounds.get(row.node.lag_bound or LagBound.EXACT, "")
    return _of_replica(row, bound + format_duration(row.node.lag_s))


def _reads(row: Row) -> Line:
    return _one("yes") if row.node.in_pool else _one(f"no ({row.node.routing_reason})", DIM)


def _trend(row: Row) -> Line:
    trend = row.node.lag_trend_bytes_per_s
    if trend is None:
        return _of_replica(row, None)
    if abs(trend) < STEADY_BYTES_PER_S or _is_caught_up(row):
        return _of_replica(row, f"{row.glyphs.steady} steady".lstrip())
    arrow = row.glyphs.rising if trend > 0 else row.glyphs.falling
    return _of_replica(row, f"{arrow} {format_bytes(round(abs(trend)))}/s")


def _is_caught_up(row: Row) -> bool:
    """So near to the primary that what moves is the jitter of sampling."""
    return row.node.lag.lag_bytes is not None and abs(row.node.lag.lag_bytes) <= CAUGHT_UP_BYTES


def _eta(row: Row) -> Line:
    eta_s, trend = row.node.catch_up_eta_s, row.node.lag_trend_bytes_per_s
    if not row.is_replica or _is_caught_up(row):
        return NONE
    if trend is None:
        return UNKNOWN
    return _one("never" if eta_s is None or trend > -STEADY_BYTES_PER_S else format_duration(eta_s))


def _history(row: Row) -> Line:
    known = [v for v in row.lags if v is not None]
    if not known:
        return _of_replica(row, None)
    return (*_one(sparkline(row.lags, row.glyphs)), Span(f" {format_bytes(max(known))}", DIM))


def _transport(row: Row) -> Line:
    return _of_replica(row, _size(row.node.lag.transport_lag_bytes))


def _apply(row: Row) -> Line:
    return _of_replica(row, _size(row.node.lag.apply_lag_bytes))


def _slot(row: Row) -> Line:
    slot = row.node.slot
    if slot is None:
        wanted = row.node.facts.primary_slot_name if row.node.facts else None
        return _one(f"{wanted} (?)") if wanted else NONE if row.node.reachable else UNKNOWN
    notes = [] if slot.active else ["inactive"]
    notes += [slot.wal_status] if slot.wal_status not in (None, "reserved") else []
    return _one(f"{slot.name} ({', '.join(notes)})" if notes else slot.name)


def _address(row: Row) -> Line:
    host = f"[{row.node.host}]" if ":" in row.node.host else row.node.host
    return _one(f"{host}:{row.node.port}")


def _conflicts(row: Row) -> Line:
    facts = row.node.facts
    return _of_replica(row, None if facts is None else str(sum(facts.conflicts.values())))


def _reply(row: Row) -> Line:
    age_s = row.node.sender.reply_age_s if row.node.sender else None
    return _of_replica(row, _duration(age_s))


def _retained(row: Row) -> Line:
    if row.node.slot is None:
        return NONE if row.node.reachable else UNKNOWN
    return _of_replica(row, _size(row.node.slot.retained_bytes))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _size(value: int | None) -> str | None:
    return None if value is None else format_bytes(value)


def _duration(value: float | None) -> str | None:
    return None if value is None else format_duration(value)


def format_age(seconds: float) -> str:
    """How long ago, in whole seconds: `0 s`, `8 s`, `2 min 5 s`."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 60 else format_duration(whole)


def _fact(read: Callable[[NodeStatus], str | None], only: Role | None = None) -> Callable[[Row], Line]:
    """A column of one fact of every node, or of one role's."""

    def cell(row: Row) -> Line:
        node = row.node if row.node.reachable or row.last is None else row.last
        if only is not None and node.role not in (only, None):
            return NONE
        return _known(row, read(row.node), read(row.last) if row.last else None)

    return cell


def _zone(row: Row) -> Line:
    return _one(row.node.zone) if row.node.zone else NONE


def _delay(row: Row) -> Line:
    return _of_replica(row, _duration(row.node.apply_delay_s)) if row.node.apply_delay_s else NONE


REPLICA, PRIMARY = Role.REPLICA, Role.PRIMARY
COLUMNS = (
    Column("node", "NODE", _node),
    Column("role", "ROLE", _role),
    Column("state", "STATE", _state),
    Column("state_cause", "STATE", _state_cause),
    Column("state_word", "STATE", _state_word),
    Column("timeline", "TL", _timeline, right=True),
    Column("upstream", "UPSTREAM", _upstream),
    Column("sync", "SYNC", _sync),
    Column("lag_bytes", "LAG", _lag_bytes, right=True),
    Column("lag_s", "TIME", _lag_s, right=True),
    Column("reads", "READS", _reads),
    Column("trend", "TREND", _trend, optional=True),
    Column("eta", "ETA", _eta, right=True, optional=True),
    Column("history", "LAG HISTORY", _history, optional=True),
    Column("transport", "TRANSPORT", _transport, right=True),
    Column("apply", "APPLY", _apply, right=True),
    Column("slot", "SLOT", _slot, optional=True),
    Column("address", "ADDRESS", _address),
    Column("zone", "ZONE", _zone, optional=True),
    Column("source", "SOURCE", _fact(lambda n: _text(n.lag_source), REPLICA)),
    Column("write_lsn", "WRITE LSN", _fact(lambda n: _text(n.write_lsn), PRIMARY)),
    Column("received_lsn", "RECEIVED LSN", _fact(lambda n: _text(n.received_lsn), REPLICA)),
    Column("replayed_lsn", "REPLAYED LSN", _fact(lambda n: _text(n.replayed_lsn), REPLICA)),
    Column("delay", "DELAY", _delay, optional=True),
    Column("reply", "REPLY", _reply, right=True),
    Column("retained", "RETAINED", _retained, right=True),
    Column("conflicts", "CONFLICTS", _conflicts, right=True),
    Column("version", "VERSION", _fact(lambda n: n.server_version)),
    Column("skew", "SKEW", _fact(lambda n: _duration(n.clock_skew_s)), right=True),
    Column("round_trip", "ROUND TRIP", _fact(lambda n: _duration(n.round_trip_s)), right=True),
)

# What is shown, from the narrowest screen to the widest. The first is the least that makes sense.
POLICIES = (
    frozenset({"node", "state", "lag_bytes"}),
    _BASIC := frozenset({"node", "role", "state", "lag_bytes", "lag_s"}),
    _REPLICATION := _BASIC | {"timeline", "upstream", "sync"},
    STANDARD := _REPLICATION | {"reads"},
    _MOVEMENT := STANDARD | {"trend", "eta", "history"},
    _MOVEMENT | {"transport", "apply", "slot"},
)
# Where that makes room for more columns, a state says less: not since when; then only why.
STATE_VARIANTS = ("state", "state_cause", "state_word")
WIDE = frozenset(c.key for c in COLUMNS) - set(STATE_VARIANTS[1:])
