"""Health checks: each a function from what was observed to what to say about it.

To add one, write a function under `@check` in the module of its topic; its name, help, thresholds and
documentation come from there. A check leaves to another what that one reports already: a node that does
not answer is `reachable`'s, and no other's. The order of the imports is the order of the output.
"""

from replctl.core.checks import membership, replication, resources, servers  # noqa: F401  they register
from replctl.core.checks.registry import CHECKS, Check, Context, evaluate

__all__ = ["CHECKS", "Check", "Context", "evaluate"]
