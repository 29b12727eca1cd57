"""Cutting many keys and objects into batches that fit a frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.protocol.batches import MAX_BATCH_KEYS

__all__ = ["key_batches", "put_batches"]

#: Half a frame: the other half is for keys and headers.
_BATCH_BYTES: Final = 512 * 1024


def key_batches(keys: Iterable[str]) -> Iterator[list[str]]:
    """Keys in lists that fit one request."""
    batch: list[str] = []
    size = 0
    for key in keys:
        length = len(key)  # at least a quarter of its bytes, so a batch stays within half a frame times four
        if batch and (len(batch) == MAX_BATCH_KEYS or size + length > _BATCH_BYTES // 4):
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += length
    if batch:
        yield batch


def put_batches(items: Mapping[str, bytes]) -> tuple[list[list[tuple[str, bytes]]], list[str]]:
    """Small objects in lists that fit one request, and the keys of those too large for any."""
    batches: list[list[tuple[str, bytes]]] = []
    large: list[str] = []
    size = _BATCH_BYTES
    for key, data in items.items():
        if len(data) > INLINE_MAX_BYTES:
            large.append(key)
            continue
        cost = len(data) + 4 * len(key) + 8
        if size + cost > _BATCH_BYTES or len(batches[-1]) == MAX_BATCH_KEYS:
            batches.append([])
            size = 0
        batches[-1].append((key, data))
        size += cost
    return batches, large
