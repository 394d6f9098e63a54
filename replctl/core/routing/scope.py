"""What one unit of work (a request, a job) has written and must see: one mutable object for each.

Mutable on purpose, and held by a ContextVar: tasks, threads of a pool and middlewares that were started
inside the unit of work inherit the reference, so a write in any of them is known to all. A value set
in the ContextVar further down would be lost on the way up. A thread that was started bare inherits
nothing; `entered` gives it a scope.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar

from replctl.core.routing.token import Claim, Position, later

Issue = Callable[[Position | None], str]
"""Makes a token of a position; of None, one that says only that something was written just now."""


class Scope:
    """One unit of work.

    - `after`: what its reads must have seen; None = nothing in particular.
    - `sticky_until_s`: until then (monotonic clock) it reads from the primary.
    - `forced`: all of it on the primary, because the caller wants so.
    - `writes`, `positioned`: how many writes were noted, and of how many the position is in `after`.
    - `last_read`: with `monotonic`, the node that it last read from without knowing how far that was.
    """

    __slots__ = (
        "_changed",
        "_issue",
        "after",
        "forced",
        "last_read",
        "monotonic",
        "positioned",
        "received",
        "sticky_until_s",
        "writes",
    )

    def __init__(
        self,
        after: Position | None = None,
        *,
        sticky_until_s: float = -math.inf,
        monotonic: bool = False,
        received: str | None = None,
        issue: Issue | None = None,
    ) -> None:
        self.after = after
        self.sticky_until_s = sticky_until_s
        self.monotonic = monotonic
        self.received = received
        self.forced = False
        self.writes = 0
        self.positioned = 0
        self.last_read: str | None = None
        self._changed = False
        self._issue = issue

    @classmethod
    def of(
        cls,
        claim: Claim | None,
        *,
        window_s: float,
        now_at: float,
        now_s: float,
        received: str | None = None,
        monotonic: bool = False,
        issue: Issue | None = None,
    ) -> Scope:
        """The scope of a unit of work that came with this claim (of the token `received`).

        A window is never longer than `window_s` from now, whatever the clocks of others say.
        """
        if claim is None:
            return cls(monotonic=monotonic, issue=issue)
        until_s = -math.inf
        if claim.position is None:
            until_s = now_s + min(window_s, claim.issued_at + window_s - now_at)
        return cls(
            claim.position, sticky_until_s=until_s, monotonic=monotonic, received=received, issue=issue
        )

    @property
    def is_dirty(self) -> bool:
        """Whether it wrote something whose position is not known: it reads from the primary until it is."""
        return self.writes > self.positioned

    @property
    def has_changed(self) -> bool:
        """Whether the next unit of work must be told more than this one was told: time for a new cookie."""
        return self._changed or self.is_dirty

    def note_write(self) -> None:
        """Something was written, or is being written. Safe to call more often than necessary."""
        self.writes += 1

    def note_position(self, position: Position, writes: int) -> None:
        """Where the WAL ended after the first `writes` writes were committed.

        Read `scope.writes` before asking the server: what another task writes meanwhile is not included.
        """
        self.after = later(self.after, position)
        self.positioned = max(self.positioned, writes)
        self._changed = True

    def note_read(self, node: str, position: Position | None = None) -> None:
        """A read was served by this node. Matters to monotonic reads only.

        `position` is at least what was read: where its replay, or the primary's WAL, was afterwards. Without
        it the unit of work stays with this node, and the next one is told nothing.
        """
        if not self.monotonic:
            return
        self.last_read = node if position is None else None
        if position is not None and position != self.after:
            self.after = later(self.after, position)
            self._changed = True

    @property
    def token(self) -> str | None:
        """What to hand to the next request, job or service; None where there is nothing to tell.

        What this one received goes on unchanged as long as there is nothing newer: a token that were made
        anew by each read would never expire.
        """
        if not self.has_changed or self._issue is None:
            return self.received
        return self._issue(None if self.is_dirty else self.after)


_scopes: ContextVar[Mapping[str, Scope]] = ContextVar("replctl_scopes")


def current_scope(cluster: str) -> Scope | None:
    """The scope of this cluster in the unit of work that runs here; None outside of any."""
    found = _scopes.get(None)
    return None if found is None else found.get(cluster)


class entered:  # noqa: N801 - a context manager, used like a function
    """Make it the scope of this cluster for what runs inside, and the earlier one again afterwards."""

    __slots__ = ("_before", "_cluster", "_scope")

    def __init__(self, cluster: str, scope: Scope) -> None:
        self._cluster = cluster
        self._scope = scope
        self._before: Mapping[str, Scope] = {}

    def __enter__(self) -> Scope:
        self._before = _scopes.get(self._before)
        _scopes.set({**self._before, self._cluster: self._scope})
        return self._scope

    def __exit__(self, *_: object) -> None:
        # Not reset(): some frameworks end a generator in another context than they began it in.
        _scopes.set(self._before)
