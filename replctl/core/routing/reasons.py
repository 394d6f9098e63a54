"""Why a node was chosen, and why a node is in the pool or not: two closed sets of words.

They are labels of metrics, fields of JSON and rows of docs/routing.md; `sentence` says each in a sentence.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a decision is as it is."""

    WRITE = "write"
    TRANSACTION = "transaction"
    FORCED = "forced"
    WROTE = "wrote"
    STICKY_WINDOW = "sticky_window"
    MONOTONIC = "monotonic"
    ROUND_ROBIN = "round_robin"
    LEAST_LAG = "least_lag"
    WEIGHTED = "weighted"
    ZONE = "zone"
    OTHER_ZONE = "other_zone"
    LSN_BEHIND = "lsn_behind"
    LSN_WAIT = "lsn_wait"
    LSN_STALE = "lsn_stale"
    OTHER_CLUSTER = "other_cluster"
    TIMELINE_AHEAD = "timeline_ahead"
    NO_REPLICA = "no_replica"
    ALL_UNFIT = "all_unfit"
    SNAPSHOT_STALE = "snapshot_stale"
    NOT_OBSERVED = "not_observed"
    NO_PRIMARY = "no_primary"
    STALE_PRIMARY = "stale_primary"
    TWO_PRIMARIES = "two_primaries"

    @property
    def sentence(self) -> str:
        """The same for people."""
        return _REASONS[self]


class Fitness(StrEnum):
    """Why a node may serve reads as a replica, or may not."""

    FIT = "fit"
    SUSPECT = "suspect"
    PROBATION = "probation"
    HELD = "held"
    DRAINED = "drained"
    WEIGHT_ZERO = "weight_zero"
    DELAYED = "delayed"
    LAG_BYTES = "lag_bytes"
    LAG_S = "lag_s"
    LAG_UNKNOWN = "lag_unknown"
    NOT_STREAMING = "not_streaming"
    UNREACHABLE = "unreachable"
    WRONG_CLUSTER = "wrong_cluster"
    DIVERGED = "diverged"
    OLDER_HISTORY = "older_history"
    NO_PRIVILEGE = "no_privilege"
    PRIMARY = "primary"
    STALE_PRIMARY = "stale_primary"
    FENCED = "fenced"

    @property
    def sentence(self) -> str:
        """The same for people, about the node."""
        return _FITNESS[self]


SOFT = frozenset({Fitness.LAG_BYTES, Fitness.LAG_S, Fitness.LAG_UNKNOWN, Fitness.NOT_STREAMING})
"""What is counted before a node leaves the pool. Whatever else is not FIT takes it out at once."""

# Two dictionaries: a word that is in both sets is one key.
_REASONS = {
    Reason.WRITE: "writes go to the primary",
    Reason.TRANSACTION: "the transaction began on this node and stays there",
    Reason.FORCED: "the caller asked for the primary",
    Reason.WROTE: "this unit of work has written, and where to is not known yet: it reads from the primary",
    Reason.STICKY_WINDOW: "somebody wrote within the sticky window: the primary",
    Reason.MONOTONIC: "monotonic reads: the node that was read from before or, without it, the primary",
    Reason.ROUND_ROBIN: "the next of the fit replicas in turn",
    Reason.LEAST_LAG: "the fit replica with the fewest bytes of lag",
    Reason.WEIGHTED: "the next of the fit replicas by weight",
    Reason.ZONE: "a fit replica in the own zone",
    Reason.OTHER_ZONE: "no replica of the own zone would do: a fit one elsewhere",
    Reason.LSN_BEHIND: "no fit replica has replayed what the token asks for (see on_behind)",
    Reason.LSN_WAIT: "the most advanced replica once it has replayed what the token names, else the primary",
    Reason.LSN_STALE: "no fit replica has replayed what the token asks for, and on_behind accepts that",
    Reason.OTHER_CLUSTER: "the token is of another cluster and says nothing here: the primary",
    Reason.TIMELINE_AHEAD: "the token is of a newer timeline than any node shows: the primary seen is stale",
    Reason.NO_REPLICA: "the inventory has no replica that may be read from: the primary",
    Reason.ALL_UNFIT: "no replica is fit (see on_all_unfit)",
    Reason.SNAPSHOT_STALE: "the last look is too old to trust any replica by it (see on_all_unfit)",
    Reason.NOT_OBSERVED: "the nodes have not been looked at yet",
    Reason.NO_PRIMARY: "no node answers as primary",
    Reason.STALE_PRIMARY: "the only primary that answers is on an older timeline than the newest one seen",
    Reason.TWO_PRIMARIES: "several nodes take writes, and none is proven to be the successor of the others",
}
_FITNESS = {
    Fitness.FIT: "serves reads",
    Fitness.SUSPECT: "serves reads, but its last look was bad; it leaves the pool if the next ones are too",
    Fitness.PROBATION: "is well again, but not yet for enough looks in a row",
    Fitness.HELD: "is well again, but left the pool too short a time ago",
    Fitness.DRAINED: "was taken out by hand (replctl route --undrain NODE)",
    Fitness.WEIGHT_ZERO: "its weight is 0",
    Fitness.DELAYED: "replays with a delay on purpose",
    Fitness.LAG_BYTES: "is too many bytes behind: max_lag_bytes to stay, readmit_lag_bytes to return",
    Fitness.LAG_S: "is too many seconds behind: max_lag_s to stay, readmit_lag_s to return",
    Fitness.LAG_UNKNOWN: "how far it is behind is not known",
    Fitness.NOT_STREAMING: "has not been seen streaming and replaying for longer than max_lag_s",
    Fitness.UNREACHABLE: "does not answer",
    Fitness.WRONG_CLUSTER: "belongs to another cluster",
    Fitness.DIVERGED: "has a history that is not the primary's",
    Fitness.OLDER_HISTORY: "is on an older timeline than the newest one seen",
    Fitness.NO_PRIVILEGE: "does not show enough of itself: its role lacks pg_monitor",
    Fitness.PRIMARY: "is the primary",
    Fitness.STALE_PRIMARY: "takes writes on an older timeline",
    Fitness.FENCED: "is fenced",
}
