"""The memory tier's account: what an entry takes is what it is charged."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from tiered_store.key import Key
from tiered_store.objects import Entry, ObjectInfo
from tiered_store.protocol.messages import encode_info
from tiered_store.tiers.memory import MemoryTier

ENTRIES = 200


@pytest.mark.parametrize(
    ("name", "content_type", "value"),
    [
        ("k/{}", None, None),
        ("k/{}", "text/plain" * 300, None),
        ("k/{}", None, "v" * 4000),
        ("k/{}", None, "\N{GRINNING FACE}" * 1000),
        ("\N{GRINNING FACE}" * 200 + "{}", None, None),
    ],
    ids=["bare", "long type", "metadata", "wide metadata", "wide key"],
)
def test_the_charge_covers_what_an_entry_takes(name: str, content_type: str | None, value: str | None) -> None:
    """With what the door keeps of it for the next reply."""
    tier = MemoryTier(2**30)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(ENTRIES):
            key = Key(name.format(number))
            # Strings of its own, as they come from decoding a frame.
            metadata = {} if value is None else {f"m{number}": f"{value}{number}"}
            own_type = None if content_type is None else f"{content_type}{number}"
            entry = Entry(ObjectInfo(key, 10, "etag", own_type, metadata), bytes(10), validated_at=0.0)
            entry.wire = encode_info(entry.info, "memory", with_key=False)
            tier.put(key, entry)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert tier.stats.entries == ENTRIES
    assert taken <= tier.stats.bytes
