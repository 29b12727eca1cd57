"""One daemon for the whole interface, and one test body for both clients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.support.clients import KINDS, connect
from tests.support.daemon import Daemons, RunningDaemon

_numbers = itertools.count()

#: Small tiers, so that sizes round the largest object that memory keeps stay cheap to test.
CONFIG = {
    "memory": {"max_bytes": 16 * 2**20, "max_object_share": 0.125},
    "limits": {"max_object_bytes": 24 * 2**20, "max_metadata_bytes": 4096},
    "log": {"slow_request_s": 60},
}


@pytest.fixture(scope="package")
def daemon() -> Iterator[RunningDaemon]:
    """A daemon that all tests of the interface share; each works below a prefix of its own."""
    with closing(Daemons()) as daemons:
        yield daemons.start(CONFIG)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, daemon: RunningDaemon) -> Iterator[Any]:
    """Either client, connected."""
    with connect(request.param, daemon.socket_path) as client:
        yield client


@pytest.fixture
def prefix() -> str:
    """Where this test's keys are: nobody else's."""
    return f"test-{next(_numbers)}/"
