"""Why nothing is done: a closed set of codes, each with what it means and what would change it.

The table of docs/failover.md is made from `REFUSALS`; a plan gives the sentence for the cluster at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RefusalCode(StrEnum):
    """Every reason for which a failover is refused."""

    FOREIGN_MANAGER = "FOREIGN_MANAGER"
    NO_REPLICATION_SETTINGS = "NO_REPLICATION_SETTINGS"
    SPLIT_BRAIN = "SPLIT_BRAIN"
    PRIMARY_ALIVE = "PRIMARY_ALIVE"
    PRIMARY_UNKNOWN = "PRIMARY_UNKNOWN"
    SYNC_MISMATCH = "SYNC_MISMATCH"
    SYNC_WILDCARD = "SYNC_WILDCARD"
    SYNC_NAMES = "SYNC_NAMES"
    NO_MAJORITY = "NO_MAJORITY"
    VOTES_TAKEN = "VOTES_TAKEN"
    SILENCE_UNPROVEN = "SILENCE_UNPROVEN"
    FENCE_REQUIRED = "FENCE_REQUIRED"
    TOO_FEW_CUT = "TOO_FEW_CUT"
    TWO_HISTORIES = "TWO_HISTORIES"
    NO_CANDIDATE = "NO_CANDIDATE"
    MAY_BE_AHEAD = "MAY_BE_AHEAD"
    MAY_BE_PROMOTED = "MAY_BE_PROMOTED"
    LOSS_UNKNOWN = "LOSS_UNKNOWN"
    LOSS_TOO_LARGE = "LOSS_TOO_LARGE"


GRANTS = "the rights that replctl grants prints"  # a remedy wherever a node does not show enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why nothing is done, and what would change that."""

    code: RefusalCode
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Meaning:
    """A code for the reader of the documents: what it means, and the remedy in general."""

    meaning: str
    remedy: str


REFUSALS: dict[RefusalCode, Meaning] = {
    RefusalCode.FOREIGN_MANAGER: Meaning(
        "`manager` in the inventory names another program, which has the last word on this cluster; or one "
        "is connected to a node (Patroni, repmgr, pg_auto_failover, an operator).",
        "Use its command, such as `patronictl failover CLUSTER`; or stop it.",
    ),
    RefusalCode.NO_REPLICATION_SETTINGS: Meaning(
        "The inventory does not say as whom replicas log in, so none could be given a new upstream.",
        "Add `[replication]` with `user`; `replctl init` writes it.",
    ),
    RefusalCode.SPLIT_BRAIN: Meaning(
        "Two nodes accept writes on the same timeline. Which one holds the data that is wanted, "
        "only a person can tell.",
        "Stop the writes on the wrong one with `replctl fence NODE`, then rebuild it.",
    ),
    RefusalCode.PRIMARY_ALIVE: Meaning(
        "The primary answers, if only to say that it has no connection left or does not know the password; "
        "or a node answers that `--fenced` calls off. No option overrides this.",
        "Mend what keeps clients away; to move a healthy primary, stop its server, then run this again.",
    ),
    RefusalCode.PRIMARY_UNKNOWN: Meaning(
        "What came back says nothing about the primary: its name is not found, its certificate is not "
        "trusted, or something else answers at its address.",
        "Mend the connection. If the primary is off: `replctl failover --fenced NODE`.",
    ),
    RefusalCode.SYNC_MISMATCH: Meaning(
        "`synchronous_standby_names` of the lost primary was not what the inventory says, or the inventory "
        "says nothing and nobody is there to decide: what is proven from it would be wrong.",
        "Set `[failover] synchronous` to what the server had, or `replctl failover --allow-loss unknown`.",
    ),
    RefusalCode.SYNC_WILDCARD: Meaning(
        "`'*'` in the synchronous rule lets any client confirm a commit, so no number of cut replicas "
        "proves anything.",
        "List the replicas by name; for this time, `replctl failover --allow-loss unknown`.",
    ),
    RefusalCode.SYNC_NAMES: Meaning(
        "A replica confirms commits under a name that the synchronous rule means another node by, or two "
        "nodes share a name of the rule.",
        "Give each node an `application_name` of its own; for this time, "
        "`replctl failover --allow-loss unknown`.",
    ),
    RefusalCode.NO_MAJORITY: Meaning(
        "Fewer than a majority of the voters (nodes and witnesses) give their vote, so another controller "
        "could be at work on the other side.",
        "Bring voters back; `replctl failover --fenced NODE` leaves out a node that you have switched off, "
        "`--without-votes NODE` one whose vote you do without. For the next time, add a witness.",
    ),
    RefusalCode.VOTES_TAKEN: Meaning(
        "Another controller holds votes, and with them a majority is out of reach.",
        "Wait for it. `replctl votes` shows who it is; `replctl votes --break NODE` ends a dead one's vote.",
    ),
    RefusalCode.SILENCE_UNPROVEN: Meaning(
        "Replicas are still connected to the silent primary, and replay of all of them is held up: none can "
        "be made to reconnect, which would show whether it lives.",
        "Resume replay on one of them, or switch the primary off and say `replctl failover --fenced NODE`.",
    ),
    RefusalCode.FENCE_REQUIRED: Meaning(
        "The primary may still accept writes: its death is not evidenced, and replication is asynchronous or "
        'too few replicas are cut to stop it; or `fencing = "required"` asks for a fence command that it '
        "does not have.",
        "Switch it off and say `replctl failover --fenced NODE`; for the next time, give it a fence command "
        "or replicate synchronously.",
    ),
    RefusalCode.TOO_FEW_CUT: Meaning(
        "Fewer synchronous replicas can be cut, with a known position, than prove together that no "
        "acknowledged commit is lost.",
        "Bring the missing ones back; `replctl failover --allow-replay NODE` lets replay of a held-up one "
        "be changed; `replctl failover --allow-loss unknown` gives the proof up.",
    ),
    RefusalCode.TWO_HISTORIES: Meaning(
        "Two replicas are on one timeline by different ways: on which of them the commits are, nobody can "
        "tell.",
        "Decide which one is right, and take the other out of the inventory.",
    ),
    RefusalCode.NO_CANDIDATE: Meaning(
        "No replica may be promoted, or not the one that `--to` names. The ranking says why, for each.",
        "Remove the reason, or leave out `--to`.",
    ),
    RefusalCode.MAY_BE_AHEAD: Meaning(
        "A replica that is not cut may have more WAL than the one that would be promoted.",
        "Bring it back or let it be cut (`replctl failover --allow-replay NODE`); if it is off for good, "
        "`replctl failover --fenced NODE`; or `replctl failover --allow-loss unknown`.",
    ),
    RefusalCode.MAY_BE_PROMOTED: Meaning(
        "A node that does not answer may have been promoted already by a controller that we do not see: "
        "replicas were cut by somebody, or the votes that we can have do not rule it out. Or the lost "
        "primary itself may have been, in place of another silent node: this controller has never seen it.",
        "Bring it back. If it is off: `replctl failover --fenced NODE`, and rejoin it afterwards.",
    ),
    RefusalCode.LOSS_UNKNOWN: Meaning(
        "Replication is asynchronous, and nobody knows how far the lost primary was.",
        "`replctl failover --allow-loss unknown`.",
    ),
    RefusalCode.LOSS_TOO_LARGE: Meaning(
        "Replication is asynchronous, and more WAL is known to be lost than `max_loss_bytes` allows.",
        "Bring a replica back that has more; or `replctl failover --allow-loss BYTES`.",
    ),
}
