"""Batches fit their frame, whatever the keys."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiered_store.client.batching import key_batches, put_batches
from tiered_store.key import MAX_KEY_BYTES
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.protocol.batches import MAX_BATCH_KEYS, encode_keys, encode_pairs
from tiered_store.protocol.frames import Opcode, encode_frame


def request(opcode: Opcode, body: bytes) -> bytes:
    """Raises TooLarge if the batch does not fit."""
    return encode_frame(opcode, 1, body=body)


@pytest.mark.parametrize(("count", "batches"), [(0, 0), (1, 1), (1023, 1), (1024, 1), (1025, 2), (2049, 3)])
def test_keys_by_number(count: int, batches: int) -> None:
    keys = [f"k{number}" for number in range(count)]
    found = list(key_batches(keys))
    assert [key for batch in found for key in batch] == keys
    assert len(found) == batches
    assert all(len(batch) <= MAX_BATCH_KEYS for batch in found)


@pytest.mark.parametrize("character", ["a", "ü", "漢", "🎉"])
def test_keys_of_the_longest_kind(character: str) -> None:
    """Also of 1,024 characters of four bytes, which are no keys: the daemon says so, and stays connected."""
    keys = [character * MAX_KEY_BYTES for _ in range(1500)]
    found = list(key_batches(keys))
    assert sum(len(batch) for batch in found) == 1500
    for batch in found:
        request(Opcode.GET_MANY, encode_keys([key.encode() for key in batch]))


@pytest.mark.parametrize("character", ["a", "ü", "漢", "🎉"])
@pytest.mark.parametrize("size", [0, 1, 1000, INLINE_MAX_BYTES])
def test_objects(character: str, size: int) -> None:
    length = MAX_KEY_BYTES // len(character.encode()) - 4
    items = {f"{character * length}{number:04}": bytes(size) for number in range(1200 if size < 5000 else 50)}
    found, alone = put_batches(items)
    assert alone == []
    assert [item for batch in found for item in batch] == list(items.items())
    for batch in found:
        assert len(batch) <= MAX_BATCH_KEYS
        request(Opcode.PUT_MANY, encode_pairs((key.encode(), data) for key, data in batch))


def test_by_number() -> None:
    found, _ = put_batches({f"k{number}": b"" for number in range(MAX_BATCH_KEYS + 1)})
    assert [len(batch) for batch in found] == [MAX_BATCH_KEYS, 1]


def test_who_goes_alone() -> None:
    items = {
        "fine": b"x",
        "large": bytes(INLINE_MAX_BYTES + 1),
        "x" * (MAX_KEY_BYTES + 1): b"x",
        "ü": b"x",
        "lone \ud800": b"x",
        "inline": bytes(INLINE_MAX_BYTES),
    }
    found, alone = put_batches(items)
    assert [key for batch in found for key, _ in batch] == ["fine", "ü", "inline"]
    assert alone == ["large", "x" * (MAX_KEY_BYTES + 1), "lone \ud800"]


def test_nothing() -> None:
    assert put_batches({}) == ([], [])
    assert list(key_batches(iter([]))) == []


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=50), st.integers(0, INLINE_MAX_BYTES + 10), max_size=60))
def test_nothing_is_lost_and_all_fits(sizes: dict[str, int]) -> None:
    items = {key: bytes(size) for key, size in sizes.items()}
    found, alone = put_batches(items)
    assert sorted([key for batch in found for key, _ in batch] + alone) == sorted(items)
    for batch in found:
        assert batch
        request(Opcode.PUT_MANY, encode_pairs((key.encode(), data) for key, data in batch))
