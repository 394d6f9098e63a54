"""The errors of routing as Django's own: `except OperationalError` catches them, and so does replctl's name.

OperationalError (django.db)
├── NodeSwitched                 begin the transaction again: nothing of it was committed
├── TransactionOutcomeUnknown    look for what it wrote before it is run again
├── NotReplicated                committed, but not known to be replicated: do not run it again
├── NoPrimary                    no node takes writes for certain
└── NoReplica                    no replica may serve this read, and the primary shall not
"""

from __future__ import annotations

from django.db.utils import OperationalError

from replctl import errors


class NodeSwitched(errors.NodeSwitched, OperationalError):  # noqa: N818 - as replctl's
    """The node has changed its role, or is gone. Nothing of the transaction was committed: begin it again."""


class TransactionOutcomeUnknown(errors.TransactionOutcomeUnknown, OperationalError):  # noqa: N818 - as replctl's
    """The connection was lost while a commit was under way: look for what it wrote before it is run again."""


class NotReplicated(errors.NotReplicated, OperationalError):  # noqa: N818 - as replctl's
    """Committed on the primary, but its wait for synchronous replication was cancelled.

    What was registered with `on_commit` has not been called.
    """


class NoPrimary(errors.NoPrimary, OperationalError):  # noqa: N818 - as replctl's
    """No node takes writes for certain. `why` has what each node had to say."""


class NoReplica(errors.NoReplica, OperationalError):  # noqa: N818 - as replctl's
    """No replica may serve this read, and the inventory does not let it go to the primary."""


_KINDS: tuple[type[errors.ReplctlError], ...] = (
    NodeSwitched,
    TransactionOutcomeUnknown,
    NotReplicated,
    NoPrimary,
    NoReplica,
)


def as_django(error: errors.ReplctlError) -> errors.ReplctlError:
    """The same error as one of Django's; itself where it has no part in routing."""
    for kind in _KINDS:
        if type(error) is kind.__bases__[0]:
            return kind(error.what, why=error.why, hint=error.hint)
    return error
