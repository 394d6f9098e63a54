"""The oldest SQLAlchemy that is supported passes the same live tests as the installed one."""

from __future__ import annotations

import pytest

from tests.live.other_versions import passes_with, version_with

pytestmark = [pytest.mark.live, pytest.mark.slow]

# Binds, flushes, RETURNING, CTEs, savepoints, and the events that guard connections and tell errors.
SUBSETS = {
    "test_sqlalchemy.py": "replicas_in_turn or after_a_flush or returns_an_entity or CTE or savepoint"
    " or bind_of_its_own or fenced or lost_says",
    "test_sqlalchemy_async.py": "flushed or became_of or gives_its_connection_back",
}


@pytest.mark.parametrize("release", ["2.0"])
@pytest.mark.parametrize("module", SUBSETS)
def test_an_older_sqlalchemy_passes_the_same_tests(release: str, module: str) -> None:
    requirement = f"sqlalchemy=={release}.*"
    assert version_with(requirement, "sqlalchemy").startswith(f"{release}.")
    passes_with(requirement, f"tests/live/{module}", subset=SUBSETS[module], limit_s=600)
