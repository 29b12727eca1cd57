"""Fixtures for faults that real daemons meet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import daemon_factory
from tests.support.mounts import Mounts, needs_root

__all__ = ["daemon_factory", "mounts"]


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    """File systems of the test's own."""
    needs_root("mounting")
    mounts = Mounts()
    try:
        yield mounts
    finally:
        mounts.close()
