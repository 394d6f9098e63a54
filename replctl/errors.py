"""Every error that replctl raises on purpose, each with its exit code.

    ReplctlError                1   it failed
    ├── UsageError              2   the command line is wrong
    ├── InventoryError          2   the inventory is wrong: all problems of it at once
    ├── RefusedError            3   the cluster is not in a state that allows it; nothing was changed
    │   ├── NoPrimary           3   no node takes writes for certain
    │   └── NoReplica           3   no replica may serve this read, and the primary shall not
    ├── PartialError            4   done in part: what is missing and how to finish is said
    ├── ObserveError            1   a server could not be asked
    ├── MonitorClosed           1   routing was asked of a monitor that was closed
    ├── PoolsClosed             1   a connection was asked of pools that were closed, or of another loop's
    ├── NodeSwitched            1   a transaction was lost with its node: it may begin again
    ├── TransactionOutcomeUnknown 1 the connection was lost while the commit was under way
    ├── NotReplicated           1   committed, but not known to be on the synchronous replicas
    ├── WriteRefused            1   a write was tried where only reads were declared
    └── LabError                1   the local cluster could not be built, broken or mended

An error is one sentence of what, one of why, and one hint with the next command. Only `cli` prints
them; everything below raises.
"""

from __future__ import annotations


class ReplctlError(Exception):
    """What went wrong, why, and what to do next."""

    exit_code = 1

    def __init__(self, what: str, *, why: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return self.what if self.why is None else f"{self.what}: {self.why}"


class UsageError(ReplctlError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = 2


class InventoryError(ReplctlError):
    """The inventory cannot be used. `problems` holds one line per problem found, all of them."""

    exit_code = 2

    def __init__(self, what: str, *, problems: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.problems = problems


class RefusedError(ReplctlError):
    """The cluster is not in a state that allows this. Nothing was changed."""

    exit_code = 3


class NoPrimary(RefusedError):  # noqa: N818 - applications catch it: a state, not a mistake
    """No node takes writes for certain. `why` has what each node had to say."""


class NoReplica(RefusedError):  # noqa: N818 - as above
    """No replica may serve this read, and the inventory does not let it go to the primary."""


class PartialError(ReplctlError):
    """The main thing was done, a follow-up was not."""

    exit_code = 4


class ObserveError(ReplctlError):
    """A server could not be asked at all."""


class MonitorClosed(ReplctlError):  # noqa: N818 - as above
    """Routing was asked of a monitor after it was closed."""


class PoolsClosed(ReplctlError):  # noqa: N818 - as above
    """A connection was asked of pools that were closed, or that belong to another event loop."""


class NodeSwitched(ReplctlError):  # noqa: N818 - as above
    """The node of this transaction takes no writes any more, or is gone. Nothing of it was committed."""


class TransactionOutcomeUnknown(ReplctlError):  # noqa: N818 - as above
    """The connection was lost while a commit was under way, so it may be done: the application must look."""


class NotReplicated(ReplctlError):  # noqa: N818 - as above
    """Committed on the primary, but its wait for synchronous replication was cancelled."""


class WriteRefused(ReplctlError):  # noqa: N818 - as above
    """A write was tried in a session or connection that was declared to read only."""


class LabError(ReplctlError):
    """The local cluster could not be built, broken or mended."""
