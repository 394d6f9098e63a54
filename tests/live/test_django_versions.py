"""The oldest release of Django that is supported passes the same live tests as the installed one."""

from __future__ import annotations

import pytest

from tests.live.other_versions import passes_with, version_with

pytestmark = [pytest.mark.live, pytest.mark.slow]

# Router, atomic, relations, middleware and raw cursors; the backend with its connections and errors.
SUBSETS = {
    "test_django.py": "cookie or atomic or objects or object_of or leak or raw_cursors or test_cases",
    "test_django_failures.py": "follows_a_switch or server_ended or begin_again or read_only",
}


@pytest.mark.parametrize("release", ["4.2"])
@pytest.mark.parametrize("module", SUBSETS)
def test_an_older_django_passes_the_same_tests(release: str, module: str) -> None:
    requirement = f"django=={release}.*"
    assert version_with(requirement, "django").startswith(f"{release}.")
    # Pools of Django's own came with 5.1.
    passes_with(
        requirement,
        f"tests/live/{module}",
        subset=SUBSETS[module],
        besides="djangos_own_pool",
        limit_s=400,
    )
