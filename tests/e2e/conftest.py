"""Fixtures for tests with real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.daemon import Daemons, RunningDaemon


@pytest.fixture
def daemon_factory() -> Iterator[Callable[..., RunningDaemon]]:
    """Starts real daemons: ``daemon_factory(config=None, env=None, args=(), directory=None)``; see ``Daemons``."""
    daemons = Daemons()
    try:
        yield daemons.start
    finally:
        daemons.close()


@pytest.fixture
def daemon(daemon_factory: Callable[..., RunningDaemon]) -> RunningDaemon:
    """A daemon without any configuration but its places."""
    return daemon_factory()
