"""docs/operations.md explains every number of ``stats``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from tiered_store.stats import (
    CdnStats,
    DialectStats,
    DoorStats,
    HttpStats,
    OriginStats,
    StoreStats,
    TierStats,
    WriteBackStats,
)

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "operations.md"


@pytest.mark.parametrize(
    "section", [TierStats, CdnStats, OriginStats, WriteBackStats, DialectStats, DoorStats, HttpStats, StoreStats]
)
def test_every_counter_is_named(section: type) -> None:
    text = DOCUMENT.read_text()
    names = {field.name for field in fields(section)} - {"origin"}  # a section of its own
    assert {name for name in names if f"`{name}`" not in text} == set()
