"""Fixtures for an application's tests: `pytest_plugins = ["replctl.adapters.django.pytest_plugin"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replctl.adapters.django.testing import collapsed, lagging
from replctl.core.routing import Decision


@pytest.fixture
def collapsed_reads() -> Iterator[list[Decision]]:
    """All reads are served by the writer; what was decided for each of them."""
    with collapsed() as decisions:
        yield decisions


@pytest.fixture
def lagging_replicas() -> Iterator[list[Decision]]:
    """The same, with replicas that have not replayed what was just written."""
    with lagging() as decisions:
        yield decisions
