"""Fixtures for faults that real daemons meet."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import daemon_factory
from tests.support.mounts import Mounts, needs_root

__all__ = ["daemon_factory", "home", "mounts"]


@pytest.fixture
def mounts(home: Path) -> Iterator[Mounts]:
    """File systems of the test's own, gone before ``home`` is."""
    needs_root("mounting")
    mounts = Mounts()
    try:
        yield mounts
    finally:
        mounts.close()


@pytest.fixture
def home() -> Iterator[Path]:
    """A daemon's directory before it starts; its cache and origin will be ``data/cache`` and ``data/origin``.

    With a short name, since a socket's path may not be long.
    """
    with tempfile.TemporaryDirectory(prefix="ts-", ignore_cleanup_errors=True) as path:
        yield Path(path)
