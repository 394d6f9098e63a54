"""The oldest release of Django that is supported passes the same live tests as the installed one."""

from __future__ import annotations

import sys

import pytest

from tests.live.other_versions import directory_with, passes_with
from tests.support import run

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.mark.parametrize("release", ["4.2"])
@pytest.mark.parametrize("module", ["test_django.py", "test_django_failures.py"])
def test_an_older_django_passes_the_same_tests(release: str, module: str) -> None:
    requirement = f"django=={release}.*"
    path = {"PYTHONPATH": str(directory_with(requirement))}
    shown = run([sys.executable, "-c", "import django; print(django.__version__)"], env=path)
    assert shown.stdout.startswith(f"{release}.")

    # Pools of Django's own came with 5.1.
    said = passes_with(requirement, f"tests/live/{module}", "-k", "not djangos_own_pool", limit_s=400)
    assert " passed" in said
