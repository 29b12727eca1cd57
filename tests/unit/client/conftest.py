from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.support.origins import open_descriptors


@pytest.fixture
def level() -> Iterator[None]:
    """No descriptor stays open."""
    before = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() == before
