"""The answer to "where does this go": a node, or nowhere, and why."""

from __future__ import annotations

from typing import NamedTuple

from replctl.core.model import Lsn
from replctl.core.routing.reasons import Reason


class Decision(NamedTuple):
    """Where to go, and why. `node` None = nowhere; `detail` then says what each node had to say.

    With `wait_s`, only once `node` has replayed up to `wait_lsn`, and to the primary if it has not by then.
    """

    node: str | None
    reason: Reason
    replica: bool = False
    wait_lsn: Lsn | None = None
    wait_s: float = 0.0
    detail: str = ""
